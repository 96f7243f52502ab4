"""The update of low rank, as LoRA has it beside a matrix: y = s x A B."""

from numtx.functional.door import floating
from numtx.functional.linear import linear, linear_backward


def low_rank(x, a, b, scale=1.0, *, frozen=()):
    """Apply two narrow matrices to the last axis: y = s x A B.

    For N rows these are 2 N r (I + O) operations; x (A B) takes 2 N I O, and 2 I r O for the product.

    Parameters
    ----------
    x : (..., I) floating array
    a : (I, r) array, A
    b : (r, O) array, B
    scale : float, s
        LoRA's is α / r.
    frozen : names, of "a" and "b"
        Whose gradient nobody wants: backward gives None in its place and makes no product for it.

    Returns
    -------
    y : (..., O) array
    cache : x and A, s x A and B, which each other's gradients need; s

    Raises
    ------
    ValueError
        When the shapes do not fit or the dtypes differ.

    Notes
    -----
    PEFT holds A as (r, I) and B as (O, r). Some codes scale the result, some the weights, which is the same to
    rounding; scaled here are the (..., r) numbers between the two, the fewest. Hu et al. (2021), eq. 3.

    Examples
    --------
    >>> import numpy as np
    >>> y, cache = low_rank(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([[1.0, 0.0, 2.0]]), scale=0.5)
    >>> y
    array([[ 5.5,  0. , 11. ]])
    """
    floating("low_rank", x=x, a=a, b=b)
    if a.ndim != 2 or b.ndim != 2 or x.ndim == 0 or (x.shape[-1], len(b)) != a.shape:
        raise ValueError(
            f"low_rank: expected x (..., I), a (I, r) and b (r, O), got {x.shape}, {a.shape} and {b.shape}"
        )
    scale = float(scale)  # a float64 would raise the dtype
    h, down = linear(x, a, frozen=("weight",) if "a" in frozen else ())  # (..., r)
    y, up = linear(h * scale, b, frozen=("weight",) if "b" in frozen else ())  # (..., O)
    return y, (down, up, scale)


def low_rank_backward(dy, cache):
    """Return (dx, da, db); None for what was frozen.

    Derivation, with h = s x A:

        y = h B          so  dB = hᵀ dy           dh = dy Bᵀ
        h = s x A        so  dA = xᵀ (s dh)       dx = s dh Aᵀ

    While B is zero, as LoRA starts, dA is zero too: B moves first.

    Examples
    --------
    >>> import numpy as np
    >>> y, cache = low_rank(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([[0.0, 1.0]]), scale=0.5)
    >>> dx, da, db = low_rank_backward(np.array([[0.0, 2.0]]), cache)
    >>> dx, da.T, db
    (array([[3., 4.]]), array([[1., 2.]]), array([[ 0., 11.]]))
    """
    down, up, scale = cache
    dh, db, _ = linear_backward(dy, up)
    dx, da, _ = linear_backward(dh * scale, down)
    return dx, da, db
