"""Embedding: row i of a table for id i."""

import numpy as np

from numtx.functional.door import floating, integers


def embedding(ids, weight):
    """Look up rows of a table: y = W[ids].

    Parameters
    ----------
    ids : (...) integer array, each in [0, V)
    weight : (V, C) floating array, W

    Returns
    -------
    y : (..., C) array
    cache : the ids, and the table for its shape and dtype

    Raises
    ------
    ValueError
        When the ids are not integers or out of range.

    Examples
    --------
    >>> y, cache = embedding(np.array([1, 0, 1]), np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> y
    array([[3., 4.],
           [1., 2.],
           [3., 4.]])
    """
    floating("embedding", weight=weight)
    if weight.ndim != 2:
        raise ValueError(f"embedding: expected weight (V, C), got {weight.shape}")
    ids = integers("embedding", "ids", ids, len(weight))
    return weight[ids], (ids, weight)


def embedding_backward(dy, cache):
    """Return dweight.

    Derivation: y_n = W_{ids_n} is a one-hot product O W with O_nv = [ids_n = v], so dW = Oᵀ dy:

        dW_v = Σ_{n : ids_n = v} dy_n       (an id that stands twice collects twice; `dW[ids] = dy` would lose one)

    The sum runs over ids in sorted order, where equal ids are neighbours: one segment sum a row.

    Examples
    --------
    >>> y, cache = embedding(np.array([1, 0, 1]), np.zeros((2, 1)))
    >>> embedding_backward(np.array([[1.0], [2.0], [10.0]]), cache)
    array([[ 2.],
           [11.]])
    """
    ids, weight = cache
    dweight = np.zeros(weight.shape, weight.dtype)
    if ids.size == 0:
        return dweight
    flat = ids.reshape(-1)  # (N,)
    order = np.argsort(flat, kind="stable")
    used, starts = np.unique(flat[order], return_index=True)
    dweight[used] = np.add.reduceat(dy.reshape(-1, weight.shape[1])[order], starts, axis=0)
    return dweight
