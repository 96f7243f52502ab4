"""Batches for training, which depend on seed and step alone, and windows for evaluation, which cover every token."""

from collections.abc import Iterator

import numpy as np

# The third word of the key that draws a batch. Dropout's keys are [seed, step, shard], and [seed, step] would be the
# same stream as that of shard 0.
DATA = 0xDA7A


class TokenBatches:
    """Random stretches of a long text; batch number `step` is a pure function of seed and step.

    Nothing is remembered between batches, so a run that is resumed at step 500 sees what it would have seen.

    Parameters
    ----------
    tokens : int array of shape (N,)
    batch : int
        B, stretches in a batch.
    context : int
        T, tokens of a stretch.
    seed : int

    Raises
    ------
    ValueError
        If `tokens` are not integers of shape (N,) or fewer than T + 1, or a size is not positive.

    Examples
    --------
    >>> ids, labels = TokenBatches(np.arange(100), batch=2, context=4, seed=0).at(step=7)
    >>> ids.shape, bool((labels == ids + 1).all())
    ((2, 4), True)
    """

    def __init__(self, tokens: np.ndarray, batch: int, context: int, seed: int) -> None:
        _check_positive("TokenBatches", batch=batch, context=context)
        self.tokens = _check_tokens("TokenBatches", tokens)
        if self.tokens.size < context + 1:
            raise ValueError(
                f"TokenBatches: expected a text of at least context + 1 = {context + 1} tokens, got {self.tokens.size}"
            )
        if seed < 0:
            raise ValueError(f"TokenBatches: expected a seed of at least 0, got {seed}")
        self.batch = batch
        self.context = context
        self.seed = seed

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``input_ids`` and ``shift_labels`` (the tokens that follow), both (B, T), of batch number `step`."""
        rng = np.random.default_rng([self.seed, step, DATA])
        starts = rng.integers(self.tokens.size - self.context, size=self.batch)
        places = starts[:, None] + np.arange(self.context)  # (B, T)
        return self.tokens[places], self.tokens[places + 1]


def windows(tokens: np.ndarray, context: int, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut tokens into consecutive windows such that every token but the first is predicted exactly once.

    Parameters
    ----------
    tokens : int array of shape (N,)
    context : int
        T, tokens of a window.
    batch : int
        B, the most windows that come together.

    Returns
    -------
    iterator of (input_ids, shift_labels)
        Arrays of shape (≤ B, T), in order; the short rest comes last and alone.

    Raises
    ------
    ValueError
        If there are fewer than two tokens, or a size is not positive.

    Examples
    --------
    >>> [(ids.shape, labels.tolist()) for ids, labels in windows(np.arange(6), context=2, batch=8)]
    [((2, 2), [[1, 2], [3, 4]]), ((1, 1), [[5]])]
    """
    _check_positive("windows", batch=batch, context=context)
    checked = _check_tokens("windows", tokens)
    if checked.size < 2:
        raise ValueError(f"windows: expected at least 2 tokens, one to predict the next from, got {checked.size}")
    return _windows(checked, context, batch)


def _windows(tokens: np.ndarray, context: int, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    predicted = tokens.size - 1
    whole = predicted // context
    ids = tokens[: whole * context].reshape(whole, context)
    labels = tokens[1 : whole * context + 1].reshape(whole, context)
    for start in range(0, whole, batch):
        yield ids[start : start + batch], labels[start : start + batch]
    if predicted % context:
        yield tokens[None, whole * context : -1], tokens[None, whole * context + 1 :]


def _check_positive(component: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{component}: expected {name} of at least 1, got {size}")


def _check_tokens(component: str, tokens: np.ndarray) -> np.ndarray:
    array = np.asarray(tokens)
    if array.ndim != 1:
        raise ValueError(f"{component}: expected tokens of shape (N,), got shape {array.shape}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{component}: expected integer tokens, got dtype {array.dtype}")
    return array
