"""What is known of scaled dot-product attention: one query at a time, and what a mask promises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx import functional as F
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.statistics import dropout_statistics


def draw(d: Drawer) -> Case:
    """Every setting on and off; sizes that are equal (Qᵀ dS runs there) and distinct (where a wrong axis shows)."""
    B, H = d.sizes(2, 1, 2)
    H, Hkv = d.choice(((H, H), (H, H), (H, 1), (4, 2)))  # repeated and tiled differ from two groups of two on
    Tq, Tk = d.sizes(2, 1, 4)
    D, Dv = d.sizes(2, 1, 3)
    if d.integer(0, 3) == 0:  # as in self-attention, where every wrong transpose runs
        Tq = Tk = D = Dv = d.size(2, 3)
    kind = d.choice(("none", "scores", "distance"))
    bias = None
    if kind == "scores":
        bias = d.array([d.choice((1, size)) for size in (B, H, Tq, Tk)])
    elif kind == "distance":
        bias = d.array((H, Tq + Tk - 1))
    inputs = {
        "query": d.array((B, H, Tq, D)),
        "key": d.array((B, Hkv, Tk, D)),
        "value": d.array((B, Hkv, Tk, Dv)),
        "bias": bias,
    }
    settings = {
        "mask": d.optional(lambda: d.mask([d.choice((1, size)) for size in (B, H, Tq, Tk)])),
        "causal": d.boolean(),
        "window": d.choice((None, None, 1, 2)),
        "scale": d.choice((None, None, 1.0, 0.3)),
        "dropout": d.choice((0.0, 0.5)),
        "rng": None,
    }
    if d.integer(0, 2) == 0:
        settings["rng"] = d.seed()
        settings["window"] = None
        if settings["mask"] is not None:
            settings["mask"][..., 0] = True  # something must be seen, or there is nothing to drop
    return Case(inputs, settings)


def visible(shape: tuple[int, ...], mask: Any, causal: bool, window: int | None) -> Any:
    """Which key each query may see, (B, H, Tq, Tk), from the words of the docstring and one number at a time."""
    Tq, Tk = shape[2:]
    seen = np.zeros(shape, dtype=bool)
    for b, h, i, j in np.ndindex(shape):
        ahead = j - (i + Tk - Tq)  # how far key j stands after query i's own place
        allowed = True if mask is None else bool(at(mask, b, h, i, j))
        if causal:
            allowed = allowed and ahead <= 0
        if window is not None:
            allowed = allowed and abs(ahead) < window
        seen[b, h, i, j] = allowed
    return seen


def at(array: np.ndarray, *place: int) -> Any:
    """An element of an array whose axes of length 1 stand for any length."""
    return array[tuple(0 if size == 1 else n for n, size in zip(place, array.shape, strict=True))]


def weights(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    bias: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    rng: Any = None,
) -> Any:
    """Softmax over the keys that may be seen, each row by itself, before dropout; a row without any is zero.

    The first H / Hkv heads read the first key and value head, the next ones the second, and so on.
    """
    B, H, Tq, D = query.shape
    Hkv, Tk = key.shape[1:3]
    scale = D**-0.5 if scale is None else scale
    seen = visible((B, H, Tq, Tk), mask, causal, window)
    p = np.zeros((B, H, Tq, Tk))
    for b, h, i in np.ndindex(B, H, Tq):
        g = h // (H // Hkv)
        score = {}
        for j in range(Tk):
            if not seen[b, h, i, j]:
                continue
            score[j] = scale * math.fsum(query[b, h, i, c] * key[b, g, j, c] for c in range(D))
            if bias is not None:
                score[j] += bias[h, j - i + Tq - 1] if bias.ndim == 2 else at(bias, b, h, i, j)
        top = max(score.values(), default=0.0)
        total = math.fsum(math.exp(number - top) for number in score.values())
        for j, number in score.items():
            p[b, h, i, j] = math.exp(number - top) / total
    return p


def definition(query: np.ndarray, key: np.ndarray, value: np.ndarray, *others: Any, **settings: Any) -> Any:
    """The values of a query's key and value head, weighted."""
    p = weights(query, key, value, *others, **settings)
    B, H, Tq, Tk = p.shape
    Hkv, _, Dv = value.shape[1:]
    y = np.zeros((B, H, Tq, Dv))
    for b, h, i, c in np.ndindex(y.shape):
        y[b, h, i, c] = math.fsum(p[b, h, i, j] * value[b, h // (H // Hkv), j, c] for j in range(Tk))
    return y


def weights_pair() -> Pair:
    """The weights of a call of attention, which `F.attention_weights` reads in its cache."""

    def forward(**keywords: Any) -> Any:
        _, cache = F.scaled_dot_product_attention(**keywords)
        return F.attention_weights(cache)

    return Pair(forward, None)


def by_some(seen: np.ndarray, kv_heads: int) -> np.ndarray:
    """Which keys some query of some head of their group may see, (B, Hkv, Tk)."""
    group = seen.shape[1] // kv_heads
    heads = [seen[:, g * group : (g + 1) * group].any(axis=(1, 2)) for g in range(kv_heads)]
    return np.stack(heads, axis=1)


def _seen(case: Case) -> Any:
    shape = (*case.inputs["query"].shape[:3], case.inputs["key"].shape[2])
    return visible(shape, *(case.settings[name] for name in ("mask", "causal", "window")))


def unseen_keys_change_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Perturb each key and value in turn: the queries that may not see it give the same bits."""
    seen = _seen(case)
    if seen.all():
        return
    y, _ = pair.forward(**case.keywords())
    for j in range(seen.shape[-1]):
        changed = {name: case.inputs[name].copy() for name in ("key", "value")}
        for array in changed.values():
            array[:, :, j] = 3.0 - 2.0 * array[:, :, j]
        other, _ = pair.forward(**case.with_inputs(changed).keywords())
        same = (y == other).all(axis=-1) | seen[..., j]  # (B, H, Tq)
        if not same.all():
            yield holds("unseen key", "y", False, f"a query that may not see key {j} changes with it")
            return
    yield holds("unseen key", "y", True)


def empty_rows_are_zero(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """A query that may see nothing gives zeros and has a zero gradient; so have keys and values that nobody sees."""
    seen = _seen(case)
    if seen.any(axis=-1).all() and by_some(seen, case.inputs["key"].shape[1]).all():
        return
    y, cache = pair.forward(**case.keywords())
    dquery, dkey, dvalue, _ = pair.backward(np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape), cache)  # type: ignore[misc]
    blind, lonely = ~seen.any(axis=-1), ~by_some(seen, dkey.shape[1])
    for name, array, rows in (
        ("y", y, blind),
        ("query", dquery, blind),
        ("key", dkey, lonely),
        ("value", dvalue, lonely),
    ):
        yield holds("exact zero", name, bool((array[rows] == 0).all()), "a row that sees nothing, or is not seen")


def dropout_of_weights(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Rate, scale and independence of the dropped attention weights, over queries and heads and over the batch.

    Equal scores and one-hot values make y the weights themselves: 1/Tk each, times 96, so 1.5 where nothing is dropped.
    """
    if case.settings["rng"] is None or case.settings["dropout"] == 0:
        return
    for batch, heads in ((1, 2), (2, 1)):

        def weights(x: np.ndarray, dropout: float, rng: Any, sizes: tuple[int, int] = (batch, heads)) -> Any:
            none = np.zeros((*sizes, x.shape[0] // 2, 1))  # (B, H, Tq, 1), and as many rows of weights as x has
            keys = np.zeros((*sizes, x.shape[1], 1))
            values = np.broadcast_to(96.0 * np.eye(x.shape[1]), (*sizes, x.shape[1], x.shape[1]))
            y, cache = pair.forward(query=none, key=keys, value=values, dropout=dropout, rng=rng)
            return y.reshape(x.shape), cache

        yield from dropout_statistics("dropout")(spec, case, Pair(weights, pair.backward))


SPECS = [
    Spec(
        "scaled_dot_product_attention",
        ("query", "key", "value", "bias"),
        draw,
        definition,
        stochastic=True,
        unbiased=True,
        checks=(unseen_keys_change_nothing, empty_rows_are_zero, dropout_of_weights),
    ),
    Spec("attention_weights", (), draw, weights, resolve=weights_pair),
]
