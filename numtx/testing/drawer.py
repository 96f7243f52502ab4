"""Where drawn cases get their sizes, choices and numbers from.

A spec's ``draw(d)`` asks a drawer; it never rolls dice itself. So one description serves Hypothesis (which drives a
drawer in the tests and shrinks what fails), `numtx check` and the vectors for ports (which need no extra package and
want the same numbers every time).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

# Wrong backwards hid at 0.02 (errors below an absolute tolerance) and at large scales (a saturated softmax).
SCALES = (0.02, 0.5, 1.0)


class Drawer:
    """A source of sizes, choices and arrays for one case.

    Everything is derived from one primitive, `integer(low, high)`, both ends included. `Drawer(seed)` takes it from a
    seeded generator; a test hands over Hypothesis's: ``Drawer(integer=lambda a, b: data.draw(integers(a, b)))``.

    Parameters
    ----------
    seed : int
        Seed of the numbers when `integer` is not given. Equal seeds give equal cases.
    integer : callable, optional
        ``integer(low, high)`` gives an integer in [low, high]; replaces the seeded generator.
    scale : float, optional
        Standard deviation of `array` for the whole case; None draws one of `SCALES` when it is first needed.
    small : bool
        Keep every drawn size within one of its minimum (and at most 3), for checks that cost the square of the size.

    Examples
    --------
    >>> d = Drawer(7, scale=0.5)
    >>> d.array((2, 3)).shape
    (2, 3)
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        integer: Callable[[int, int], int] | None = None,
        scale: float | None = None,
        small: bool = False,
    ) -> None:
        if integer is None:
            numbers = np.random.default_rng(seed)

            def integer(low: int, high: int) -> int:
                return int(numbers.integers(low, high + 1))

        self._integer = integer
        self._scale = scale
        self.small = small

    # ---------------------------------------------------------------- choices

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high], both included."""
        return int(self._integer(low, high))

    def size(self, low: int = 1, high: int = 5) -> int:
        """The length of one axis, in [low, high]."""
        if self.small:
            high = min(high, max(low, min(low + 1, 3)))
        return self.integer(low, high)

    def sizes(self, count: int, low: int = 1, high: int = 5) -> tuple[int, ...]:
        """Lengths of `count` axes: all equal in one draw of three, otherwise all distinct where the range allows.

        Equal sizes hide a transposed axis and distinct ones hide nothing, but some faults (a product that runs only
        at Tq = Tk) show in equal sizes alone.
        """
        if self.integer(0, 2) == 0:
            return (self.size(low, high),) * count
        top = min(high, max(low, 3)) if self.small else high
        pool = list(range(low, top + 1))
        chosen = []
        for _ in range(count):
            if not pool:
                pool = list(range(low, top + 1))
            chosen.append(pool.pop(self.integer(0, len(pool) - 1)))
        return tuple(chosen)

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.integer(0, len(options) - 1)]

    def boolean(self) -> bool:
        """True or False."""
        return self.integer(0, 1) == 1

    def seed(self) -> int:
        """An integer for a setting called ``rng``: it becomes ``np.random.default_rng(seed)`` afresh at every call."""
        return self.integer(0, 2**31 - 1)

    # ---------------------------------------------------------------- arrays

    @property
    def scale(self) -> float:
        """The standard deviation of this case's arrays; one for the whole case."""
        if self._scale is None:
            self._scale = self.choice(SCALES)
        return self._scale

    def generator(self) -> np.random.Generator:
        """A NumPy generator of this case's own, for numbers that no other method draws."""
        return np.random.default_rng(self.seed())

    def array(self, shape: Sequence[int], scale: float | None = None, mean: float = 0.0) -> np.ndarray:
        """Normal float64 numbers around `mean`, standard deviation `scale` (default: the case's own, `self.scale`)."""
        scale = self.scale if scale is None else scale
        return np.asarray(mean + scale * self.generator().standard_normal(tuple(shape)))

    def near_one(self, shape: Sequence[int]) -> np.ndarray:
        """Norm weights: float64 in [0.5, 1.5], never all ones (a γ of ones hides the classic LayerNorm mistake)."""
        return np.asarray(self.generator().uniform(0.5, 1.5, tuple(shape)))

    def uniform(self, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Uniform float64 numbers in [low, high), for targets that are probabilities, or class weights."""
        return np.asarray(self.generator().uniform(low, high, tuple(shape)))

    def ids(self, shape: Sequence[int], high: int) -> np.ndarray:
        """Integers in [0, high), int64; repeats are likely, and are wanted."""
        return np.asarray(self.generator().integers(0, high, tuple(shape)))

    def mask(self, shape: Sequence[int], keep: float = 0.7) -> np.ndarray:
        """Booleans, True with probability `keep`; nothing prevents a row of False."""
        return np.asarray(self.generator().random(tuple(shape)) < keep)

    def optional(self, make: Callable[[], Any]) -> Any:
        """`make()` or None, for an optional input."""
        return make() if self.boolean() else None
