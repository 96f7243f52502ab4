"""What is known of rotary positions: every pair of numbers turned by itself, with a sine and a cosine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec


def scaling(d: Drawer) -> dict[str, Any] | None:
    """None, or one of the two ways; llama3's bands lie so that a few pairs meet all three."""
    kind = d.choice(("none", "linear", "llama3"))
    if kind == "none":
        return None
    if kind == "linear":
        return {d.choice(("rope_type", "type")): "linear", "factor": d.choice((2.0, 0.5))}
    return {
        "rope_type": "llama3",
        "factor": d.choice((8.0, 3.0)),
        "low_freq_factor": 1.0,
        "high_freq_factor": d.choice((4.0, 2.0)),
        "original_max_position_embeddings": d.choice((64, 16)),
    }


def settings(d: Drawer, width: int) -> dict[str, Any]:
    """Either layout, the whole of a head of this width or some of it, other bases, scaled or not."""
    return {
        "layout": d.choice(("half", "interleaved")),
        "base": d.choice((10000.0, 100.0)),
        "width": d.choice((None, 2 * d.integer(1, width // 2))),
        "scaling": scaling(d),
    }


def positions(d: Drawer, batch: int, length: int) -> np.ndarray | None:
    """Not given, going on after a cache, or any: one row for all, or a row each."""
    kind = d.choice(("none", "cached", "row", "rows"))
    if kind == "none":
        return None
    if kind == "cached":
        return np.arange(length) + d.integer(1, 5)
    return d.ids((length,) if kind == "row" else (batch, length), 9)


def draw(d: Drawer) -> Case:
    """All sizes that a head has; an even width."""
    batch, heads, length = d.sizes(3, 1, 4)
    width = 2 * d.size(1, 4)
    inputs = {"x": d.array((batch, heads, length, width)), "positions": positions(d, batch, length)}
    return Case(inputs, settings(d, width))


def frequency(pair: int, width: int, base: float, scaling: dict[str, Any] | None) -> float:
    """One frequency, by the wavelength that decides in which band it lies."""
    angle = math.exp(-2 * pair / width * math.log(base))
    kind = "default" if scaling is None else scaling.get("rope_type", scaling.get("type"))
    if scaling is None or kind == "default":
        return angle
    if kind == "linear":
        return angle / float(scaling["factor"])
    length, low, high = (
        float(scaling[name]) for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    wavelength = 2 * math.pi / angle
    if wavelength < length / high:
        return angle
    if wavelength > length / low:
        return angle / float(scaling["factor"])
    smooth = (length / wavelength - low) / (high - low)
    return angle * ((1 - smooth) / float(scaling["factor"]) + smooth)


def definition(
    x: np.ndarray,
    positions: np.ndarray | None = None,
    *,
    layout: str,
    base: float = 10000.0,
    width: int | None = None,
    scaling: dict[str, Any] | None = None,
) -> Any:
    """(a, b) → (a cos - b sin, a sin + b cos) of position times frequency, pair by pair."""
    width = x.shape[3] if width is None else width
    y = x.copy()
    for n, h, t in np.ndindex(x.shape[:3]):
        position = t if positions is None else int(positions[t] if positions.ndim == 1 else positions[n, t])
        for pair in range(width // 2):
            a, b = (pair, pair + width // 2) if layout == "half" else (2 * pair, 2 * pair + 1)
            angle = position * frequency(pair, width, base, scaling)
            first, second = float(x[n, h, t, a]), float(x[n, h, t, b])
            y[n, h, t, a] = first * math.cos(angle) - second * math.sin(angle)
            y[n, h, t, b] = first * math.sin(angle) + second * math.cos(angle)
    return y


def draw_frequencies(d: Drawer) -> Case:
    """Even widths, other bases, scaled or not."""
    width, base = 2 * d.size(1, 6), d.choice((10000.0, 100.0))
    return Case({}, {"width": width, "base": base, "scaling": scaling(d), "dtype": np.float64})


def frequencies(width: int, base: float = 10000.0, scaling: dict[str, Any] | None = None, dtype: Any = None) -> Any:
    """One by one."""
    return np.array([frequency(pair, width, base, scaling) for pair in range(width // 2)])


SPECS = [
    Spec("rotary_frequencies", (), draw_frequencies, frequencies),
    Spec("rotary", ("x",), draw, definition),
]
