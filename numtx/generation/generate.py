"""Going on after a prompt beyond the context: the window slides, and each new id is given as soon as it is chosen."""

from collections.abc import Callable, Collection, Iterator

import numpy as np

from numtx.generation.loop import Growing, columns
from numtx.generation.sampling import Sampler
from numtx.generation.steps import DecodingStep
from numtx.generation.stopping import EndToken, MaxLength, Stopping

_GREEDY = Sampler()


def stream(
    start: Callable[[], DecodingStep],
    prompt_ids: np.ndarray,
    *,
    max_new_tokens: int,
    context: int | None = None,
    sampler: Sampler = _GREEDY,
    rng: np.random.Generator | None = None,
    eos_token_id: int | Collection[int] | None = None,
    pad_token_id: int | None = None,
) -> Iterator[np.ndarray]:
    """Write on after a prompt, one token at a time.

    Parameters
    ----------
    start : callable without arguments
        Returns a `DecodingStep` that remembers nothing yet; usually a model's call around a fresh key-value cache.
    prompt_ids : int array of shape (B, T)
    max_new_tokens : int
    context : int, optional
        The most ids a step can remember. Every token is chosen after the last `context` ids at most: once a step is
        full, the window slides, and for each further token the last `context` ids are fed to a new one: positions
        change for all of them, so nothing that was remembered still holds. None: no limit.
    sampler : Sampler
        Chooses the next id of each row; by default the likeliest.
    rng : np.random.Generator, optional
        Handed to the sampler.
    eos_token_id : int or several, optional
        A row ends with such a token; writing ends when all rows did.
    pad_token_id : int, optional
        What a row gets after its end while others go on; by default the end token (the smallest of several).

    Yields
    ------
    int array of shape (B,)
        The new id of each row, as soon as it is chosen.

    Raises
    ------
    ValueError
        At the call, not at the first token: if the prompt is not integers of shape (B, T) with both at least 1, or a
        number is not positive.

    Examples
    --------
    A decoding step that always wants the successor of the last id:

    >>> def start():
    ...     return lambda ids: np.eye(10)[(ids[:, -1] + 1) % 10]
    >>> [ids.tolist() for ids in stream(start, np.array([[3], [7]]), max_new_tokens=3)]
    [[4, 8], [5, 9], [6, 0]]
    """
    ids = _check_prompt(prompt_ids)
    _check_positive(max_new_tokens=max_new_tokens, **({} if context is None else {"context": context}))
    ends = np.array(sorted(_as_collection(eos_token_id)), dtype=np.int64)
    pad = pad_token_id if pad_token_id is not None else (ends[0] if ends.size else 0)
    return _stream(start, ids, max_new_tokens, context, lambda logits: sampler(logits, rng), ends, pad)


def generate(start: Callable[[], DecodingStep], prompt_ids: np.ndarray, **options) -> np.ndarray:
    """Return the prompt and what `stream` writes after it, (B, T + new); the options are those of `stream`.

    Examples
    --------
    >>> generate(lambda: lambda ids: np.eye(10)[ids[:, -1] + 1], np.array([[3, 4]]), max_new_tokens=2)
    array([[3, 4, 5, 6]])
    """
    new = list(stream(start, prompt_ids, **options))
    return np.concatenate([np.asarray(prompt_ids), np.stack(new, axis=1)], axis=1)


def _stream(
    start: Callable[[], DecodingStep],
    ids: np.ndarray,
    max_new_tokens: int,
    context: int | None,
    choice: Callable[[np.ndarray], np.ndarray],
    ends: np.ndarray,
    pad: int,
) -> Iterator[np.ndarray]:
    most = ids.shape[1] + max_new_tokens
    step = SlidingStep(start, most if context is None else context)
    stopping = Stopping([MaxLength(most), EndToken(ends)])
    yield from columns(step, step(ids), Growing(ids, most), choice=choice, stopping=stopping, pad=pad)


class SlidingStep:
    """A decoding step that remembers the last `context` ids at most: where they are more, it reads these anew.

    Examples
    --------
    >>> step = SlidingStep(lambda: lambda ids: print("read", ids[0]), context=3)
    >>> for ids in ([[1, 2]], [[3]], [[4]]):
    ...     step(np.array(ids))
    read [1 2]
    read [3]
    read [2 3 4]
    """

    def __init__(self, start: Callable[[], DecodingStep], context: int):
        self.start, self.context = start, context
        self._step: DecodingStep | None = None
        self._seen: np.ndarray | None = None  # (B, <= context)

    def __call__(self, ids):
        seen = ids if self._seen is None else np.concatenate([self._seen, ids], axis=1)
        self._seen = seen[:, -self.context :]
        if self._step is None or seen.shape[1] > self.context:
            self._step, ids = self.start(), self._seen
        return self._step(ids)


def _as_collection(eos_token_id: int | Collection[int] | None) -> Collection[int]:
    if eos_token_id is None:
        return ()
    return (eos_token_id,) if isinstance(eos_token_id, int | np.integer) else eos_token_id


def _check_prompt(prompt_ids: np.ndarray) -> np.ndarray:
    ids = np.asarray(prompt_ids)
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"generate: expected a prompt of integer ids of shape (B, T), at least (1, 1), "
            f"got {ids.dtype} of shape {ids.shape}"
        )
    return ids


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
            raise ValueError(f"generate: expected {name} as a whole number of at least 1, got {number!r}")
