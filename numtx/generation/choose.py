"""The choice of the next token: the largest score, or one drawn from their softmax; and what it is drawn with."""

from typing import Any

import numpy as np


def choose(scores: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return the chosen ids, int64, (R,).

    Parameters
    ----------
    scores : (R, V) array
        -inf forbids a token.
    rng : np.random.Generator or None
        Gives one number for each row. None: the token of the largest score, the first of equals.

    Raises
    ------
    ValueError
        If a row holds NaN, or there is nothing to draw from.

    Notes
    -----
    With u uniform in [0, 1) the token is the first whose cumulated weight exceeds u times their sum, so never one of
    weight 0. Sums are in float64.

    Examples
    --------
    >>> choose(np.array([[0.1, 2.0, 0.3]]))
    array([1])
    """
    largest = scores.max(axis=-1, keepdims=True)  # NaN if any is
    if np.isnan(largest).any():
        raise ValueError(f"generate: expected scores without NaN, got one in row {int(np.argmax(np.isnan(largest)))}")
    if rng is None:
        return scores.argmax(axis=-1)
    if not np.isfinite(largest).all():
        row = int(np.argmin(np.isfinite(largest)))
        raise ValueError(f"generate: expected a finite largest score to draw by, got {largest[row, 0]} in row {row}")
    cumulative = np.exp(scores.astype(np.float64) - largest).cumsum(axis=-1)  # (R, V)
    drawn = rng.random(len(scores)) * cumulative[:, -1]  # (R,)
    return (cumulative > drawn[:, None]).argmax(axis=-1)


def generator(owner: str, seed: Any, rng: Any) -> np.random.Generator:
    """Return what to draw with: `rng` itself, or a new generator of a seed; a seed of None is another each time.

    Examples
    --------
    >>> int(generator("generate", 1, None).integers(100)) == int(np.random.default_rng(1).integers(100))
    True
    >>> generator("generate", 1, np.random.default_rng())
    Traceback (most recent call last):
    ValueError: generate: expected seed or rng, got both
    """
    if seed is not None and rng is not None:
        raise ValueError(f"{owner}: expected seed or rng, got both")
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise ValueError(f"{owner}: expected rng as an np.random.Generator, got {type(rng).__name__}")
    try:
        return np.random.default_rng(seed if rng is None else rng)
    except (TypeError, ValueError):
        raise ValueError(f"{owner}: expected seed as a whole number of at least 0, got {seed!r}") from None
