"""Classic mistakes of the sinusoidal table."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.functional.positions import sinusoidal_positions
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


def _witness(**changed: Any) -> Case:
    settings = {"length": 4, "width": 8, "layout": "interleaved", "base": 100.0, "offset": 3, "dtype": np.float64}
    return Case({}, {**settings, **changed})


def _table(angle, layout, dtype, first, second):
    """A table of two functions of the angles (T, C/2) in either layout."""
    table = np.empty((len(angle), 2 * angle.shape[1]), dtype)
    if layout == "interleaved":
        table[:, 0::2], table[:, 1::2] = first(angle), second(angle)
    else:
        table[:, : angle.shape[1]], table[:, angle.shape[1] :] = first(angle), second(angle)
    return table


def _angles(length, width, base, offset, exponent):
    return np.arange(offset, offset + length)[:, None] / base ** (exponent * np.arange(width // 2) / width)


def _swapped(length, width, *, layout="interleaved", base=10000.0, offset=0, dtype=np.float32):
    return _table(_angles(length, width, base, offset, 2), layout, dtype, np.cos, np.sin)


def _exponent(factor: int):
    def forward(length, width, *, layout="interleaved", base=10000.0, offset=0, dtype=np.float32):
        return _table(_angles(length, width, base, offset, factor), layout, dtype, np.sin, np.cos)

    return forward


def _exponent_by_column(length, width, *, layout="interleaved", base=10000.0, offset=0, dtype=np.float32):
    column = np.arange(width)
    angle = np.arange(offset, offset + length)[:, None] / base ** (column / width)  # (T, C): one a column, not a pair
    sine = column % 2 == 0 if layout == "interleaved" else column < width // 2
    return np.where(sine, np.sin(angle), np.cos(angle)).astype(dtype)


def _along_width(length, width, *, layout="interleaved", base=10000.0, offset=0, dtype=np.float32):
    table = sinusoidal_positions(width, length + length % 2, layout=layout, base=base, offset=offset, dtype=dtype)
    return np.ascontiguousarray(table.T[:length])


def _other_layout(length, width, *, layout="interleaved", **others):
    return sinusoidal_positions(length, width, layout="half" if layout == "interleaved" else "interleaved", **others)


def _from_one(length, width, *, offset=0, **others):
    return sinusoidal_positions(length, width, offset=offset + 1, **others)


def _from_zero(length, width, *, offset=0, **others):
    return sinusoidal_positions(length, width, **others)


def _fixed_base(length, width, *, base=10000.0, **others):
    return sinusoidal_positions(length, width, **others)


MISTAKES = [
    Mistake(
        name="positions with sin and cos swapped",
        of="sinusoidal_positions",
        why="Both are half of the columns, and nothing fails.",
        hint="What should position 0 look like?",
        forward=_swapped,
        witness=_witness,
    ),
    Mistake(
        name="positions with exponent i for 2i",
        of="sinusoidal_positions",
        why="The paper's 2i is the number of the column; i counts pairs.",
        hint="Which power of the base should the last pair of columns have?",
        forward=_exponent(1),
        witness=_witness,
    ),
    Mistake(
        name="positions with exponent 4i for 2i",
        of="sinusoidal_positions",
        why="The loop already goes in steps of two, and the formula doubles once more.",
        hint="Which power of the base should the last pair of columns have?",
        forward=_exponent(4),
        witness=_witness,
    ),
    Mistake(
        name="positions with an angle for each column",
        of="sinusoidal_positions",
        why="The exponent is the column's number over C, without rounding down to the pair.",
        hint="sin² + cos² of a pair of columns should be 1.",
        forward=_exponent_by_column,
        witness=_witness,
    ),
    Mistake(
        name="positions along the wrong axis",
        of="sinusoidal_positions",
        why="The table is broadcast or transposed the wrong way; with as many positions as columns it fits.",
        hint="Along which axis do the first two columns oscillate fastest?",
        forward=_along_width,
        witness=lambda: _witness(length=8),
    ),
    Mistake(
        name="positions in the other layout",
        of="sinusoidal_positions",
        why="Marian and tensor2tensor put all sines first, the paper's formula alternates.",
        hint="Compare row 1 with the formula, column by column.",
        forward=_other_layout,
        witness=_witness,
    ),
    Mistake(
        name="positions counted from one",
        of="sinusoidal_positions",
        why="Some models offset their learned positions; the sinusoids of the paper start at 0.",
        hint="What should position 0 look like?",
        forward=_from_one,
        witness=_witness,
    ),
    Mistake(
        name="positions starting over after a cache",
        of="sinusoidal_positions",
        why="In decoding one new token arrives at a time, and each is given position 0.",
        hint="What is the first row's position?",
        forward=_from_zero,
        witness=_witness,
    ),
    Mistake(
        name="positions with the base fixed at 10000",
        of="sinusoidal_positions",
        why="The constant stands in the formula and the argument is not used.",
        hint="Try another base.",
        forward=_fixed_base,
        witness=_witness,
    ),
]
