"""Classic mistakes in grouped attention, in cross-attention with widths of its own, and with rotary positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import nn
from numtx.nn.attention_parts import split_heads
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes.nn_layers import X
from numtx.testing.spec import Case
from numtx.testing.specs.nn_grouped_attention import build

Right = nn.GroupedQueryAttention
right_forward, right_backward = Right.forward, Right.backward
LONG = np.concatenate([X, 0.8 * X[::-1, ::-1]], axis=1)  # (2, 4, 4)
OWNER = "numtx.nn.GroupedQueryAttention"


class _Tiled(Right):
    """Every key head for every second query head, where two heads share one."""

    def _project(self, x, memory, values, rng=None):
        query, key, value, projections = super()._project(x, memory, values, rng)
        key, value = (np.tile(a, (1, self.num_heads // self.num_kv_heads, 1, 1)) for a in (key, value))
        return query, key, value, projections

    def _project_backward(self, dquery, dkey, dvalue, projections):
        def untiled(d):
            return d.reshape(len(d), -1, self.num_kv_heads, *d.shape[2:]).sum(axis=1)

        return super()._project_backward(dquery, untiled(dkey), untiled(dvalue), projections)


class _HeadsLast(Right):
    def _project(self, x, memory, values, rng=None):
        query, key, value, projections = super()._project(x, memory, values, rng)
        batch, heads, length, width = query.shape
        query = query.swapaxes(1, 2).reshape(batch, length, width, heads).transpose(0, 3, 1, 2)
        return query, key, value, projections

    def _project_backward(self, dquery, dkey, dvalue, projections):
        batch, heads, length, width = dquery.shape
        flat = dquery.transpose(0, 2, 3, 1).reshape(batch, length, heads * width)
        return super()._project_backward(split_heads(flat, heads), dkey, dvalue, projections)


class _ScaledByWidth(Right):
    @property
    def scale(self):
        given = vars(self)["scale"]
        return self.width**-0.5 if given is None else given


class _KeysOfX(Right):
    def _project(self, x, memory, values, rng=None):
        if memory is None or memory.shape[2] != x.shape[2] or memory.shape[1] != x.shape[1]:
            return super()._project(x, memory, values, rng)
        query, key, value, (q, k, v, given) = super()._project(x, x, memory if values is None else values, rng)
        return query, key, value, (q, k, v, (*given, values is not None))

    def _project_backward(self, dquery, dkey, dvalue, projections):
        q, k, v, given = projections
        if len(given) == 2:
            return super()._project_backward(dquery, dkey, dvalue, projections)
        (dx, dkeys, dvalues), grads = super()._project_backward(dquery, dkey, dvalue, (q, k, v, (True, True)))
        inputs = (dx + dkeys, np.zeros_like(dkeys), dvalues) if given[2] else (dx + dkeys, dvalues, None)
        return inputs, grads


class _KeysOnly(Right):
    def _project_backward(self, dquery, dkey, dvalue, projections):
        q, k, v, (has_memory, has_values) = projections
        (dx, dmemory, dvalues), grads = super()._project_backward(dquery, dkey, dvalue, (q, k, v, (True, True)))
        if not has_memory:
            dx, dmemory = dx + dmemory + (0 if has_values else dvalues), None
        return (dx, dmemory, dvalues if has_values else None), grads


class _ValuesTurned(Right):
    def _project(self, x, memory, values, rng=None):
        query, key, value, projections = super()._project(x, memory, values, rng)
        turn = None
        if self.rotary is not None and _may_turn(self.rotary, value):
            value, turn = self.rotary.forward(value)
        return query, key, value, (*projections, turn)

    def _project_backward(self, dquery, dkey, dvalue, projections):
        *projections, turn = projections
        dvalue = dvalue if turn is None else self.rotary.backward(dvalue, turn)[0]
        return super()._project_backward(dquery, dkey, dvalue, projections)


def _may_turn(rotary, value):
    width = value.shape[3] if rotary.width is None else rotary.width
    return width % 2 == 0 and width <= value.shape[3]


class _QueriesTurned(Right):
    def _turn(self, query, key, positions, old):
        turned, _, turns = super()._turn(query, key, positions, old)
        return turned, key, turns

    def _turn_backward(self, dquery, dkey, turns):
        return super()._turn_backward(dquery, dkey, turns)[0], dkey


class _NotTurnedBack(Right):
    def _turn_backward(self, dquery, dkey, turns):
        return dquery, dkey


class _PositionsIgnored(Right):
    def _turn(self, query, key, positions, old):
        return super()._turn(query, key, None, old)


class _CountedFromZero(Right):
    def _turn(self, query, key, positions, old):
        return super()._turn(query, key, positions, 0)


class _OffByOne(Right):
    def _turn(self, query, key, positions, old):
        return super()._turn(query, key, positions, old - 1 if old else 0)


class _TurnedInCache(nn.KVCache):
    """A cache that turns all it holds, once more at every step."""

    def __init__(self, cache, rotary):
        self.cache, self.rotary = cache, rotary

    def __len__(self):
        return len(self.cache)

    def append(self, key, value):
        key, value = self.cache.append(key, value)
        return (self.rotary.forward(key)[0] if self.rotary is not None else key), value


def turned_in_cache(self: Any, *inputs: Any, kv_cache: Any = None, **settings: Any) -> Any:
    if kv_cache is not None:
        kv_cache = _TurnedInCache(kv_cache, self.rotary)
    return right_forward(self, *inputs, kv_cache=kv_cache, **settings)


def _seen_as(kind: type, attention: Any) -> Any:
    """The same attention with a step of `kind`'s in the place of the right one."""
    other: Any = object.__new__(kind)
    vars(other).update({name: value for name, value in vars(attention).items() if name not in ("forward", "backward")})
    return other


def wrong(name: str, kind: type, why: str, hint: str, case: Any, of: str = "GroupedQueryAttention") -> Mistake:
    """A mistake that is one step overridden."""
    return Mistake(
        name=name,
        of=of,
        why=why,
        hint=hint,
        forward=lambda self, *inputs, **settings: right_forward(_seen_as(kind, self), *inputs, **settings),
        backward=lambda self, dy, cache: right_backward(_seen_as(kind, self), dy, cache),
        witness=case,
        owner=OWNER,
    )


def attention_case(
    x: np.ndarray = X, memory: Any = None, values: Any = None, positions: Any = None, **options: Any
) -> Case:
    """Four heads of two, each two of which share a key."""
    options = {"num_kv_heads": 2, "widths": {"head": 2}, "scale": None, "causal": True, **options}
    options = {"width": 4, "num_heads": 4, **options}
    inputs = {"x": x, "memory": memory, "values": values, "bias": None}
    return component_case(build, Draft(options, inputs, {"mask": None, "positions": positions, "rng": None}), scale=1.0)


def rotary_case(positions: Any = None) -> Case:
    """With rotary positions of a low base, so that both pairs of numbers turn visibly."""
    return attention_case(LONG, rotary={"layout": "half", "base": 10.0}, positions=positions)


def memory_case(values: Any = None) -> Case:
    """Over a memory as long and as wide as x."""
    return attention_case(memory=X[:, ::-1] * 0.7, values=values, causal=False)


MISTAKES = [
    wrong(
        "GroupedQueryAttention tiles key heads for repeating them",
        _Tiled,
        "np.tile and np.repeat give arrays of one shape; heads 0 1 0 1 for 0 0 1 1.",
        "Of four heads and two key heads: which key head does the second query head read?",
        attention_case,
    ),
    wrong(
        "GroupedQueryAttention splits queries with the head axis last",
        _HeadsLast,
        "(B, T, D, H) has as many numbers as (B, T, H, D), so a reshape in the wrong order runs.",
        "Which columns of the query's projection belong to the first head?",
        attention_case,
    ),
    wrong(
        "GroupedQueryAttention scaled by the model width",
        _ScaledByWidth,
        "The d of √d is read as the model's width; it is the width of a head.",
        "Compare one head with several: the scale depends on their number.",
        attention_case,
    ),
    wrong(
        "GroupedQueryAttention takes keys from x instead of the memory",
        _KeysOfX,
        "Self-attention is copied, and only the values are taken from the memory; at equal lengths it runs.",
        "Change the memory where the values' projection is zero: does the result change?",
        memory_case,
        of="GroupedQueryAttention-cross",
    ),
    wrong(
        "GroupedQueryAttention's memory learns from the keys only",
        _KeysOnly,
        "The memory is used twice, for keys and for values, and one of the two gradients is dropped.",
        "Perturb the memory where the keys' projection is zero.",
        memory_case,
        of="GroupedQueryAttention-cross",
    ),
    wrong(
        "GroupedQueryAttention turns values too",
        _ValuesTurned,
        "Queries, keys and values go through the same lines, and rotary with them.",
        "A query that sees one key alone: may its result depend on the position?",
        rotary_case,
    ),
    wrong(
        "GroupedQueryAttention turns queries alone",
        _QueriesTurned,
        "The rotation of the keys is lost, or comes too late, when they go into a cache first.",
        "Shift all positions by one: may a score change?",
        rotary_case,
    ),
    wrong(
        "GroupedQueryAttention's gradients not turned back",
        _NotTurnedBack,
        "A rotation keeps lengths, so the gradient looks right; it points elsewhere.",
        "What is the gradient of x in y = R x?",
        rotary_case,
    ),
    wrong(
        "GroupedQueryAttention ignores the positions given",
        _PositionsIgnored,
        "Positions count from 0 in every test; with padding on the left they do not.",
        "Give positions that leave a gap.",
        lambda: rotary_case(np.array([0, 2, 3, 7])),
    ),
    wrong(
        "GroupedQueryAttention counts from zero after a cache",
        _CountedFromZero,
        "The default positions are those of the new tokens alone.",
        "Decode token by token, and compare with the whole sequence at once.",
        rotary_case,
    ),
    wrong(
        "GroupedQueryAttention off by one after a cache",
        _OffByOne,
        "The position of the newest token is taken for the number of tokens before it, less one.",
        "Which position has the first token after a prompt of five?",
        rotary_case,
    ),
    Mistake(
        name="GroupedQueryAttention turns what comes out of the cache",
        of="GroupedQueryAttention",
        why="Keys went into the cache turned, and are turned again with all the rest at every step.",
        hint="How often is the first key turned after three steps?",
        forward=turned_in_cache,
        witness=rotary_case,
        owner=OWNER,
    ),
]
