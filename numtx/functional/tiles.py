"""The arrays of tiled attention: cut into blocks and joined, turned, laid side by side, and multiplied."""

import math

import numpy as np

from numtx.functional.memory import aligned


def cut(array, blocks):
    """(g, rows, ...) -> (g, blocks, rows of a block, ...)."""
    return array.reshape(len(array), blocks, -1, *array.shape[2:])


def joined(array):
    """(g, blocks, rows of a block, ...) -> (g, rows, ...)."""
    return array.reshape(len(array), -1, array.shape[-1])


def over_blocks(array):
    """Sum over the heads of a group and the blocks of queries: (2, g, n, keys, D) -> (2, keys, D)."""
    two, g, n, *shape = array.shape
    return array.reshape(two, g * n, -1).sum(axis=1).reshape(two, *shape)


def product(a, b, room):
    """a @ b, in memory that is used again for the next tile: `room` holds it, as a whole and cut to shapes."""
    shape = *b.shape[:-2], a.shape[-2], b.shape[-1]
    if shape not in room:
        size = math.prod(shape)
        if not room or room[None].size < size:  # the first tile is the largest but for a few
            room.clear()
            room[None] = aligned((size,), b.dtype)
        room[shape] = room[None][:size].reshape(shape)
    return np.matmul(a, b, out=room[shape])


def transposed_copy(array, last=None):
    """The last two axes exchanged, as a copy in C order, which BLAS multiplies faster; with one more row of `last`."""
    *shape, rows, width = array.shape
    copy = aligned((*shape, width + (last is not None), rows), array.dtype)
    copy[..., :width, :] = array.swapaxes(-1, -2)
    if last is not None:
        copy[..., width:, :] = last
    return copy


def side_by_side(first, second, widest, transposed=False, one=None):
    """Two arrays (..., rows, D) as one (2, ..., rows, widest), a copy; with a last column of `one`; or transposed with
    room for a last row.
    """
    shape = first.shape[:-2] or (1, 1)
    rows, columns = first.shape[-2], widest + (transposed or one is not None)
    both = aligned((2, *shape, *((columns, rows) if transposed else (rows, columns))), first.dtype, zero=True)
    for half, array in zip(both, (first, second), strict=True):
        half = half.swapaxes(-1, -2) if transposed else half
        half[..., : array.shape[-1]] = array
        if one is not None:
            half[..., -1] = one
    return both
