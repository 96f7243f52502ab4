"""Classic mistakes of the update of low rank."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.functional.low_rank import low_rank_backward
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


def _witness() -> Case:
    numbers = np.random.default_rng(4)
    x, a, b = (numbers.standard_normal(shape) for shape in ((2, 3, 4), (4, 2), (2, 5)))
    return Case({"x": x, "a": a, "b": b}, {"scale": 0.25})


def _unscaled_on_the_way_to_a(dy: Any, cache: Any) -> Any:
    down, up, _ = cache
    return low_rank_backward(dy, (down, up, 1.0))


def _unscaled_in_front_of_b(dy: Any, cache: Any) -> Any:
    dx, da, db = low_rank_backward(dy, cache)
    return dx, da, db / cache[-1]


MISTAKES = [
    Mistake(
        name="low_rank forgets the scale on the way to A",
        of="low_rank",
        why="The scale stands once in the forward, and is met once in the gradient of B; A and x need it too.",
        hint="Check the gradients at a scale other than one.",
        backward=_unscaled_on_the_way_to_a,
        witness=_witness,
    ),
    Mistake(
        name="low_rank forgets the scale in the gradient of B",
        of="low_rank",
        why="What goes into B is kept before it is scaled.",
        hint="y = (s x A) B: what stands in front of B?",
        backward=_unscaled_in_front_of_b,
        witness=_witness,
    ),
]
