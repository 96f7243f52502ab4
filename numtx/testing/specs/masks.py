"""What is known of the masks: for each query and key, may it be seen?"""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Pair, Spec


def draw_causal(d: Drawer) -> Case:
    """Fewer, as many and more queries than keys."""
    tq, tk = d.sizes(2, 1, 6)
    return Case({}, {"tq": tq, "tk": d.choice((tk, tk, None))})


def causal(tq: int, tk: int | None = None) -> Any:
    """The last query sees the last key, and each query one key more than the query before it."""
    tk = tq if tk is None else tk
    mask = np.zeros((1, 1, tq, tk), dtype=bool)
    for i in range(tq):
        for j in range(tk):
            mask[0, 0, i, j] = tk - j >= tq - i
    return mask


def draw_window(d: Drawer) -> Case:
    """Windows smaller and larger than what there is."""
    tq, tk = d.sizes(2, 1, 6)
    return Case({}, {"tq": tq, "tk": d.choice((tk, tk, None)), "window": d.integer(1, 5), "causal": d.boolean()})


def window(tq: int, tk: int | None = None, *, window: int, causal: bool = True) -> Any:
    """The `window` newest keys, the query's own included; where not causal, as many on the other side."""
    tk = tq if tk is None else tk
    mask = np.zeros((1, 1, tq, tk), dtype=bool)
    for i in range(tq):
        own = tk - tq + i  # where query i stands among the keys
        for step in range(window):
            for j in (own - step,) if causal else (own - step, own + step):
                if 0 <= j < tk:
                    mask[0, 0, i, j] = True
    return mask


def draw_padding(d: Drawer) -> Case:
    """A tokenizer's zeros and ones, padded on either side or anywhere."""
    batch, time = d.sizes(2, 1, 6)
    return Case({"attention_mask": d.mask((batch, time)).astype(d.choice((np.int64, bool)))})


def padding(attention_mask: np.ndarray) -> Any:
    """One axis for the heads and one for the queries, which all see the same keys."""
    batch, time = attention_mask.shape
    mask = np.zeros((batch, 1, 1, time), dtype=bool)
    for b in range(batch):
        for j in range(time):
            mask[b, 0, 0, j] = attention_mask[b, j] == 1
    return mask


def draw_combine(d: Drawer) -> Case:
    """Up to three masks that broadcast to one shape, some absent."""
    full = d.sizes(4, 1, 3)
    shapes = [[d.choice((1, size)) for size in full] for _ in range(3)]
    first = d.mask(shapes[0])
    others = [d.mask(shape) if d.boolean() else None for shape in shapes[1:]]
    return Case(dict(zip(("first", "second", "third"), (first, *others), strict=True)))


def combine(first: np.ndarray, second: np.ndarray | None, third: np.ndarray | None) -> Any:
    """Seen where every mask allows it."""
    masks = [mask for mask in (first, second, third) if mask is not None]
    shape = tuple(max(mask.shape[axis] for mask in masks) for axis in range(4))
    joined = np.zeros(shape, dtype=bool)
    for n in np.ndindex(shape):
        joined[n] = all(mask[tuple(min(i, size - 1) for i, size in zip(n, mask.shape, strict=True))] for mask in masks)
    return joined


def _combine_by_keyword() -> Pair:
    """`combine_masks` takes any number of masks by position; a case gives three by keyword."""
    from numtx import functional

    return Pair(lambda first, second, third: functional.combine_masks(first, second, third), None)


SPECS = [
    Spec("causal_mask", (), draw_causal, causal),
    Spec("sliding_window_mask", (), draw_window, window),
    Spec("padding_mask", (), draw_padding, padding),
    Spec("combine_masks", (), draw_combine, combine, resolve=_combine_by_keyword),
]
