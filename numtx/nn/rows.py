"""A batch in pieces of whole rows, shared out over threads: for inference, where no row waits for another."""

import numpy as np

from numtx.functional.threads import parallel

TOKENS = 512  # in a piece, about: enough for fast products, few enough for their results to stay near a core


def row_pieces(batch, length):
    """Return the slices that cut `batch` rows of `length` tokens into pieces, the same on any number of threads.

    Examples
    --------
    >>> row_pieces(10, 128)
    [slice(0, 4, None), slice(4, 8, None), slice(8, 12, None)]
    """
    rows = max(1, TOKENS // max(1, length))
    return [slice(start, start + rows) for start in range(0, batch, rows)]


def by_rows(function, x, inputs, settings):
    """Return function(x, *inputs, **settings), computed in pieces of the rows of x (B, T, C), or None.

    None means that it must be computed at once: x is a single piece, or `function` refused a piece. What is wrong is
    then said with the shapes of the whole.

    Parameters
    ----------
    function : callable
        Returns an array with a row for each of x's. It is called by several threads at once.
    x : (B, T, C) array
    inputs : list of arrays
        (B, ...) or (1, ...); those of fewer than three axes are for all rows.
    settings : dict of arrays
        As inputs; integers (B, T), positions, have a row for each too.
    """
    if getattr(x, "ndim", 0) != 3 or len(pieces := row_pieces(*x.shape[:2])) < 2:
        return None
    lent = [*inputs, *settings.values()]
    batched = [_per_row(each, *x.shape[:2]) for each in lent]

    def part(rows):
        own = [each[rows] if each_row else each for each, each_row in zip(lent, batched, strict=True)]
        return function(x[rows], *own[: len(inputs)], **dict(zip(settings, own[len(inputs) :], strict=True)))

    try:
        return np.concatenate(parallel(part, pieces))
    except ValueError:
        return None


def _per_row(array, batch, length):
    shape = np.shape(array)
    if len(shape) >= 3:
        return shape[0] == batch
    return shape == (batch, length) and array.dtype.kind in "iu"  # else numbers by distance, (H, Tq + Tk - 1)


def by_length(function, x, mask):
    """Return function(x, mask=mask) at the real tokens and zeros at padding; what of it stands last is not computed.

    Rows of like length go together, each piece cut to its longest, on all threads.

    Parameters
    ----------
    function : callable
        Takes and gives (B, T, C), as an encoder's stack does: nothing at a real token may depend on padding. It is
        called by several threads at once.
    x : (B, T, C) array
    mask : (B, 1, 1, T) boolean array
        As `F.padding_mask` makes it.

    Examples
    --------
    >>> x, mask = np.ones((2, 3, 1)), np.array([[True, True, False], [True, True, True]])[:, None, None]
    >>> by_length(lambda x, mask: 2 * x, x, mask)[..., 0]
    array([[2., 2., 0.],
           [2., 2., 2.]])
    """
    real = mask[:, 0, 0]  # (B, T)
    lengths = np.where(real.any(axis=1), real.shape[1] - real[:, ::-1].argmax(axis=1), 0)
    order = np.argsort(-lengths, kind="stable")
    pieces = []
    while len(order):
        longest = max(1, lengths[order[0]])
        count = max(1, TOKENS // longest)
        pieces.append((order[:count], longest))
        order = order[count:]
    y = np.zeros(x.shape, x.dtype)

    def part(piece):
        rows, longest = piece
        result = function(x[rows, :longest], mask=mask[rows, ..., :longest])
        y[rows, :longest] = np.where(real[rows, :longest, None], result, np.zeros((), x.dtype))

    parallel(part, pieces)
    return y
