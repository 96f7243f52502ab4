"""Linear: y = x W + b."""

import numpy as np

from numtx.functional.blocks import column_sums
from numtx.functional.door import floating
from numtx.functional.threads import parallel

LARGE = 1 << 18  # elements of a weight: to copy it, as BLAS does for several rows, costs more than few products
VECTORS = 4  # rows: so many products of a vector and a large matrix take less time than one product of matrices
FEW = 16  # rows: where the weight is an (out, in) file's, so many take less time in slices that BLAS does not copy,
SLICE, SLICE_WORK = 1 << 10, 1_000_000  # which have so many results at most, of so many multiplications
PIECE = 1 << 19  # elements of such a weight that are worth a thread


def linear(x, weight, bias=None, *, frozen=()):
    """Apply an affine map to the last axis: y = x W + b.

    Parameters
    ----------
    x : (..., I) floating array
    weight : (I, O) array, W. PyTorch stores its transpose.
    bias : (O,) array or None
    frozen : names, of "weight" and "bias"
        Whose gradient nobody wants: backward gives None in its place and makes no product for it.

    Returns
    -------
    y : (..., O) array
    cache : x and W, which each other's gradient needs; no x where W is frozen

    Raises
    ------
    ValueError
        When the shapes do not fit or the dtypes differ.

    Examples
    --------
    >>> y, cache = linear(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([0.5]))
    >>> y
    array([[11.5]])
    """
    floating("linear", x=x, weight=weight, bias=bias)
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"linear: expected x (..., I) and weight (I, O), got {x.shape} and {weight.shape}")
    if bias is not None and bias.shape != weight.shape[1:]:
        raise ValueError(f"linear: expected bias {weight.shape[1:]}, got {bias.shape}")
    # One product of two matrices: a stack of small products is many times slower.
    y = _product(x.reshape(-1, x.shape[-1]), weight)  # (N, O)
    if bias is not None:
        y += bias
    cache = (None if "weight" in frozen else x, weight, bias is not None and "bias" not in frozen)
    return y.reshape(*x.shape[:-1], weight.shape[1]), cache


def _product(rows, weight):
    if len(rows) == 1 or len(rows) > FEW or weight.size < LARGE:
        return rows @ weight
    if weight.T.flags.c_contiguous:
        return _in_slices(rows, weight.T)
    if len(rows) > VECTORS:
        return rows @ weight
    y = np.empty((len(rows), weight.shape[1]), rows.dtype)
    for row, y_row in zip(rows, y, strict=True):
        np.matmul(row, weight, out=y_row)
    return y


def _in_slices(rows, matrix):
    """x Mᵀ of few rows (N, I) and a large matrix M (O, I), some rows of M at a time.

    BLAS multiplies small matrices where they lie (OpenBLAS, where there is AVX-512: at twice to four times the speed).
    """
    count, (outputs, inputs) = len(rows), matrix.shape
    size = min(SLICE // count, SLICE_WORK // (count * inputs)) // 8 * 8
    if size == 0:
        return rows @ matrix.T
    y = np.empty((count, outputs), rows.dtype)

    def multiply(piece):
        """Write the columns of y that belong to these rows of the matrix."""
        some, y_some = matrix[piece], y[:, piece]
        whole = len(some) // size * size
        slices = some[:whole].reshape(-1, size, inputs).swapaxes(1, 2)  # (S, I, O/S)
        np.matmul(rows, slices, out=y_some[:, :whole].reshape(count, -1, size).swapaxes(0, 1))
        if whole < len(some):
            np.matmul(rows, some[whole:].T, out=y_some[:, whole:])

    step = max(1, PIECE // (size * inputs)) * size
    parallel(multiply, [slice(start, start + step) for start in range(0, outputs, step)])
    return y


def linear_backward(dy, cache):
    """Return (dx, dweight, dbias); dbias is None where there was no bias, either where it was frozen.

    Derivation, for rows x_n and y_nj = Σ_i x_ni W_ij + b_j:

        dx_ni = Σ_j dy_nj W_ij      so  dx = dy Wᵀ
        dW_ij = Σ_n x_ni dy_nj      so  dW = xᵀ dy   (every row used W: their gradients add)
        db_j  = Σ_n dy_nj

    Examples
    --------
    >>> y, cache = linear(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
    >>> dx, dweight, dbias = linear_backward(np.array([[1.0]]), cache)
    >>> dx, dweight.T, dbias
    (array([[3., 4.]]), array([[1., 2.]]), None)
    """
    x, weight, wants_bias = cache
    shape = (*dy.shape[:-1], len(weight))
    dy = dy.reshape(-1, weight.shape[1])  # (N, O)
    dx = (dy @ weight.T).reshape(shape)
    dweight = None if x is None else x.reshape(-1, len(weight)).T @ dy  # (I, O)
    dbias = column_sums(dy) if wants_bias else None
    return dx, dweight, dbias
