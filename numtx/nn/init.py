"""Initialisers. All draw in float64 and round, so that one seed gives the same weights in every dtype."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from numtx.functional.door import WORKING

_UNDRAWN: ContextVar[bool] = ContextVar("undrawn", default=False)


@contextmanager
def undrawn() -> Iterator[None]:
    """For the time of a `with`, nothing is drawn: weights are memory as it lies, for those who put others in its place.

    A model that is opened from a file costs no time and no memory for numbers that nobody reads.

    Examples
    --------
    >>> with undrawn():
    ...     normal((2, 3), 0.02, rng=0).shape
    (2, 3)
    """
    token = _UNDRAWN.set(True)
    try:
        yield
    finally:
        _UNDRAWN.reset(token)


def draws() -> bool:
    """Whether weights are drawn, which they are but inside `undrawn`."""
    return not _UNDRAWN.get()


def working(dtype):
    """Require a dtype that numtx computes in, float32 or float64, and return it."""
    if np.dtype(dtype) not in WORKING:
        raise ValueError(f"init: expected dtype float32 or float64, got {np.dtype(dtype)}")
    return np.dtype(dtype)


def zeros(shape, dtype=np.float32):
    """Return zeros, where biases start."""
    return np.zeros(shape, working(dtype))


def ones(shape, dtype=np.float32):
    """Return ones, where the weights of norms start."""
    return np.ones(shape, working(dtype))


def normal(shape, std, rng, dtype=np.float32):
    """Draw from N(0, std²). GPT-2 uses std 0.02."""
    if not draws():
        return np.empty(shape, working(dtype))
    return (np.random.default_rng(rng).standard_normal(shape) * std).astype(working(dtype))


def uniform(shape, bound, rng, dtype=np.float32):
    """Draw evenly from [-bound, bound)."""
    if not draws():
        return np.empty(shape, working(dtype))
    return np.random.default_rng(rng).uniform(-bound, bound, shape).astype(working(dtype))


def xavier_uniform(shape, rng, dtype=np.float32):
    """Draw evenly with bound √(6 / (fan_in + fan_out)): Glorot and Bengio (2010), eq. 16."""
    return uniform(shape, math.sqrt(6 / sum(shape)), rng, dtype)
