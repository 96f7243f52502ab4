"""The global norm of gradients, and clipping by it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx import nn
from numtx.functional.blocks import BLOCK
from numtx.training.flat import buffer_of, pieces
from numtx.training.threads import Workers


def gradient_norm(grads: Any, *, workers: Workers | None = None) -> float:
    """Return the L2 norm of all gradients together, √(Σ g²), accumulated in float64.

    Parameters
    ----------
    grads : tree of arrays, FlatGradients, or one flat array
    workers : Workers, optional
        Threads to share a long flat array; the result is the same without.

    Examples
    --------
    >>> gradient_norm({"weight": np.array([[3.0]]), "bias": np.array([4.0])})
    5.0
    """
    with np.errstate(over="ignore"):  # the norm says it
        return math.sqrt(math.fsum(square for array in _flat_arrays(grads) for square in _squares(array, workers)))


def clip_grad_norm(grads: Any, max_norm: float, *, workers: Workers | None = None) -> float:
    """Scale gradients in place so that their global norm is at most `max_norm`, and return the norm before.

        g ← g · max_norm / (‖g‖ + 1e-6)    where ‖g‖ > max_norm

    Parameters
    ----------
    grads : tree of arrays, FlatGradients, or one flat array
    max_norm : float
    workers : Workers, optional

    Returns
    -------
    float
        The norm before clipping. If it is not finite nothing is scaled: there is nothing to save in such gradients, and
        the caller sees the norm.

    Notes
    -----
    Pascanu et al. (2013), algorithm 1; the 1e-6 is that of `torch.nn.utils.clip_grad_norm_`.

    Examples
    --------
    >>> grads = {"weight": np.array([30.0, 40.0])}
    >>> clip_grad_norm(grads, 1.0), grads["weight"].round(4)
    (50.0, array([0.6, 0.8]))
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm: expected a positive max_norm, got {max_norm}")
    norm = gradient_norm(grads, workers=workers)
    scale_gradients(grads, clip_factor(norm, max_norm), workers=workers)
    return norm


def scale_gradients(grads: Any, scale: float, *, workers: Workers | None = None) -> None:
    """Multiply all gradients by `scale`, in place, where it is under 1."""
    if scale < 1:
        arrays = {(array.ctypes.data, array.size): array for array in _flat_arrays(grads)}  # one at two names: once
        for array in arrays.values():
            count = workers.worth(array.size) if workers else 1
            parts = [array[slice(*cut)] for cut in pieces(0, array.size, count, BLOCK)]
            (workers or Workers(1)).map(lambda part: np.multiply(part, scale, out=part), parts)


def clip_factor(norm: float, max_norm: float) -> float:
    """Return what gradients of this norm are multiplied by: 1 where they are left as they are."""
    return min(1.0, max_norm / (norm + 1e-6)) if math.isfinite(norm) else 1.0


def _flat_arrays(grads: Any) -> list[np.ndarray]:
    """Return views, each of one axis, of all the gradients' arrays."""
    flat = buffer_of(grads)
    if flat is not None:
        return [flat]
    arrays = nn.flatten(grads).values()
    views = []
    for array in arrays:
        view = array.ravel(order="K")
        if view.size and not np.shares_memory(view, array):
            raise ValueError("clip_grad_norm: expected gradients without gaps in memory, got a strided array")
        views.append(view)
    return views


def _squares(array: np.ndarray, workers: Workers | None) -> list[float]:
    count = workers.worth(array.size) if workers else 1
    parts = [array[slice(*cut)] for cut in pieces(0, array.size, count, BLOCK)]
    return [square for part in (workers or Workers(1)).map(squares_of_blocks, parts) for square in part]


def squares_of_blocks(array: np.ndarray) -> list[float]:
    """Return Σ g² of each block of a flat array, in float64. Blocks are of one length, so that whoever shares them out
    does not change the sum.
    """
    scratch = np.empty(min(BLOCK, array.size), np.float64)
    squares = []
    for start in range(0, array.size, BLOCK):
        block = array[start : start + BLOCK]
        wide = scratch[: block.size]
        np.copyto(wide, block)
        squares.append(float(wide @ wide))
    return squares
