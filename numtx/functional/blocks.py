"""Work in pieces that stay in the cache.

A formula of ten NumPy calls walks ten times over its arrays. Over a large array each walk goes to main memory; over a
piece of it all but the first stay in a core's own cache, which is several times faster.
"""

BLOCK = 65_536  # elements: 256 KiB in float32, so that a formula's handful of arrays fits a second-level cache


def blocks(*arrays):
    """Yield matching flat pieces of arrays of one shape.

    Those that are written to must be in C order; of others, other orders are copied.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.ones((300, 200)), np.empty((300, 200))
    >>> for x_, y_ in blocks(x, y):
    ...     y_[:] = 2 * x_
    >>> y.sum()
    np.float64(120000.0)
    """
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK):
        yield tuple(array[start : start + BLOCK] for array in flat)


def row_blocks(*arrays):
    """Yield matching pieces (rows, last axis) of arrays that agree in all axes but the last; else as `blocks`."""
    rows = [array.reshape(-1, array.shape[-1]) for array in arrays]
    step = max(1, BLOCK // rows[0].shape[1])
    for start in range(0, len(rows[0]), step):
        yield tuple(array[start : start + step] for array in rows)
