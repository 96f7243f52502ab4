"""The choice of the next token: the largest score, or one drawn from their softmax."""

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
