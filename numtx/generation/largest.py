"""The largest few of very many numbers."""

import numpy as np

BLOCK = 64  # numbers, of which at first only the largest is looked at


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the `count` largest of each row, (B, count), the largest first; of equals, the first.

    The k largest of a row stand in the k blocks whose own largest is largest, so the others need no sorting.

    Parameters
    ----------
    scores : (B, N) array
        Without NaN.
    count : int
        At most N.

    Examples
    --------
    >>> largest(np.array([[1.0, 3.0, 2.0, 3.0]]), 3)
    array([[1, 3, 2]])
    """
    rows, size = scores.shape
    blocks = size // BLOCK
    if blocks <= count:
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]
    tops = scores[:, : blocks * BLOCK].reshape(rows, blocks, BLOCK).max(axis=2)  # (B, N / BLOCK)
    chosen = np.sort(largest(tops, count), axis=1)  # in order: of equals, the first must stay so
    places = (chosen[:, :, None] * BLOCK + np.arange(BLOCK)).reshape(rows, -1)  # (B, count · BLOCK)
    rest = np.broadcast_to(np.arange(blocks * BLOCK, size), (rows, size - blocks * BLOCK))
    places = np.concatenate([places, rest], axis=1)
    best = np.argsort(-np.take_along_axis(scores, places, axis=1), axis=1, kind="stable")[:, :count]
    return np.take_along_axis(places, best, axis=1)
