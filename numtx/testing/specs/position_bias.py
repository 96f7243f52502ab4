"""What is known of biases by distance: every query and key by itself, and T5's buckets in whole numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec


def lengths(d: Drawer) -> dict[str, Any]:
    """Fewer, as many and more queries than keys."""
    tq, tk = d.sizes(2, 1, 6)
    return {"tq": tq, "tk": d.choice((tk, tk, None))}


def draw_distances(d: Drawer) -> Case:
    """Nothing but lengths."""
    return Case({}, lengths(d))


def distance(i: int, j: int, tq: int, tk: int) -> int:
    """From query i to key j, counted from the end, where the last query and the last key stand together."""
    return (tq - 1 - i) - (tk - 1 - j)


def by_distance(tq: int, tk: int | None, value: Any) -> Any:
    """What stands for each query and key, put where attention's bias by distance has it."""
    tk = tq if tk is None else tk
    found: list[Any] = [None] * (tq + tk - 1)
    for i in range(tq):
        for j in range(tk):
            found[j - i + tq - 1] = value(distance(i, j, tq, tk))
    return np.array(found)


def distances(tq: int, tk: int | None = None) -> Any:
    """One for each entry of a bias by distance."""
    return by_distance(tq, tk, lambda away: away)


def draw_slopes(d: Drawer) -> Case:
    """Powers of two and others."""
    return Case({}, {"num_heads": d.integer(1, 20), "dtype": np.float64})


def slopes(num_heads: int, dtype: Any = None) -> Any:
    """2^(-8h/H); where H is no power of two, that of the next smaller one, and half of the rest of the next larger."""
    power = 1
    while power * 2 <= num_heads:
        power *= 2
    first = [2.0 ** (-8.0 * h / power) for h in range(1, power + 1)]
    finer = [2.0 ** (-8.0 * h / (2 * power)) for h in range(1, 2 * power + 1)]
    between = [slope for slope in finer if slope not in first]
    return np.array(first + between[: num_heads - power])


def draw_alibi(d: Drawer) -> Case:
    """A few heads, not only powers of two."""
    return Case({}, {"num_heads": d.integer(1, 6), **lengths(d), "dtype": np.float64})


def alibi(num_heads: int, tq: int, tk: int | None = None, dtype: Any = None) -> Any:
    """A slope times how far apart, downwards."""
    return np.array([by_distance(tq, tk, lambda away, m=m: -m * abs(away) if away else 0.0) for m in slopes(num_heads)])


def buckets_of(d: Drawer) -> dict[str, Any]:
    """Few buckets and many, and a largest distance that some draws exceed."""
    num_buckets = d.choice((4, 8, 12, 32))
    settings = {"bidirectional": d.boolean(), "num_buckets": num_buckets}
    return {**settings, "max_distance": num_buckets // 2 + d.integer(1, 100)}


def draw_buckets(d: Drawer) -> Case:
    """Distances on both sides, near and far."""
    shape = d.sizes(d.integer(1, 2), 1, 5)
    reach = d.choice((6, 40, 300))
    return Case({"distance": d.ids(shape, 2 * reach + 1) - reach}, buckets_of(d))


def bucket(away: int, bidirectional: bool, num_buckets: int, max_distance: int) -> int:
    """The bucket of one distance: k steps up while (max / e)^(k / steps) ≤ n / e, in whole numbers."""
    size = num_buckets // 2 if bidirectional else num_buckets
    first = size if bidirectional and away > 0 else 0
    back = abs(away) if bidirectional else max(-away, 0)
    exact = size // 2
    if back < exact:
        return first + back
    steps, k = size - exact, 0
    while k + 1 < steps and Fraction(max_distance, exact) ** (k + 1) <= Fraction(back, exact) ** steps:
        k += 1
    return first + exact + k


def buckets(distance: np.ndarray, *, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128) -> Any:
    """One by one."""
    found = [bucket(int(away), bidirectional, num_buckets, max_distance) for away in distance.ravel()]
    return np.array(found).reshape(distance.shape)


SPECS = [
    Spec("relative_distances", (), draw_distances, distances),
    Spec("alibi_slopes", (), draw_slopes, slopes),
    Spec("alibi", (), draw_alibi, alibi),
    Spec("relative_position_bucket", (), draw_buckets, buckets),
]
