"""Curves drawn with characters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Points = Sequence[tuple[float, float]]


def line_plot(
    series: Mapping[str, Points], *, width: int = 56, height: int = 10, x_label: str = "", unicode: bool = True
) -> list[str]:
    """Return curves as lines of text, with both axes and a legend.

    Parameters
    ----------
    series : dict of name -> [(x, y), ...]
        At most three, x ascending. Points that are not finite are left out; a later curve covers an earlier one.
    width, height : int
        Of the field inside the axes, in characters.
    x_label : str
    unicode : bool
        False draws with ASCII alone.

    Raises
    ------
    ValueError
        If there is no finite point, or there are too many curves.

    Examples
    --------
    >>> print("\\n".join(line_plot({"loss": [(0, 4), (10, 1)]}, width=8, height=4, x_label="step", unicode=False)))
    4.00 |oo
         |  oo
         |    oo
    1.00 |      oo
         +--------
          0     10  step
    o loss
    """
    marks = "·•×" if unicode else ".o+"
    marks = marks[1:] + marks[:1] if len(series) == 1 else marks
    if len(series) > len(marks):
        raise ValueError(f"line_plot: expected at most {len(marks)} curves, got {len(series)}")
    kept = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()
    }
    every = [point for points in kept.values() for point in points]
    if not every:
        raise ValueError("line_plot: expected at least one finite point, got none")
    (left, low), (right, high) = np.min(every, axis=0), np.max(every, axis=0)
    field = [[" "] * width for _ in range(height)]
    for mark, points in zip(marks, kept.values(), strict=False):
        for column, y in _columns(points, left, right, width):
            row = round((high - y) / ((high - low) or 1) * (height - 1))
            field[row][column] = mark
    upright, corner, along = "│└─" if unicode else "|+-"
    labels = _labels(low, high, height)
    margin = max(map(len, labels))
    lines = [f"{label:>{margin}} {upright}{''.join(row).rstrip()}" for label, row in zip(labels, field, strict=True)]
    ends = f"{left:g}{right:>{width - len(f'{left:g}')}g}" if right > left else f"{left:g}"
    legend = "   ".join(f"{mark} {name}" for mark, name in zip(marks, kept, strict=False))
    lines += [f"{'':{margin}} {corner}{along * width}", f"{'':{margin}}  {ends}  {x_label}".rstrip(), legend]
    return lines


def _columns(points: Points, left: float, right: float, width: int) -> list[tuple[int, float]]:
    """Return (column, y) of a curve, straight between its points."""
    if not points:
        return []
    xs, ys = np.array(points, dtype=float).T
    if right == left:
        return [(0, float(ys[-1]))]
    at = np.linspace(left, right, width)
    step = (right - left) / (width - 1)
    inside = (at >= xs[0] - step / 2) & (at <= xs[-1] + step / 2)
    found = np.interp(at, xs, ys)
    return [(int(column), float(found[column])) for column in np.flatnonzero(inside)]


def _labels(low: float, high: float, height: int) -> list[str]:
    """Return what stands left of each row: the highest and the lowest value, and those between where there is room."""
    marked = {0, height - 1} | ({(height - 1) // 2} if height >= 7 else set())
    values = np.linspace(high, low, height)
    return [f"{values[row]:.2f}" if row in marked else "" for row in range(height)]
