"""What is known of the sinusoidal table: there is nothing to learn and so no gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec


def draw(d: Drawer) -> Case:
    """Even widths, both layouts, other bases and a first position as decoding has it."""
    settings = {
        "length": d.size(1, 6),
        "width": 2 * d.size(1, 4),
        "layout": d.choice(("interleaved", "half")),
        "base": d.choice((10000.0, 100.0)),
        "offset": d.choice((0, 0, 3)),
        "dtype": np.float64,
    }
    return Case({}, settings)


def definition(
    length: int, width: int, layout: str = "interleaved", base: float = 10000.0, offset: int = 0, dtype: Any = None
) -> Any:
    """PE(t, 2i) = sin(t / base^(2i/C)) and PE(t, 2i+1) = cos of the same, or the sines first and then the cosines."""
    table = np.empty((length, width))
    for row in range(length):
        for i in range(width // 2):
            angle = (row + offset) * math.exp(-2 * i / width * math.log(base))
            sine_at, cosine_at = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, width // 2 + i)
            table[row, sine_at] = math.sin(angle)
            table[row, cosine_at] = math.cos(angle)
    return table


SPECS = [Spec("sinusoidal_positions", (), draw, definition)]
