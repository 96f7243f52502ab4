"""What is known of attention with grouped heads: each head by itself, and decoding with a cache of keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx import nn
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, within
from numtx.testing.op import difference
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import attention
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs import rotary as rotary_spec
from numtx.testing.specs.nn_attention import memory_projected_once, shown_beside
from numtx.testing.specs.nn_layers import rates

POSITIONAL = ("x", "memory", "values", "bias")


def build(dtype: Any, *, widths: Any, rotary: Any = None, **options: Any) -> nn.GroupedQueryAttention:
    """An attention, with widths and a rotary of the settings given."""
    made = None if rotary is None else nn.Rotary(**rotary)
    return nn.GroupedQueryAttention(**options, widths=nn.AttentionWidths(**widths), rotary=made, rng=0, dtype=dtype)


def draw_heads(d: Drawer) -> dict[str, Any]:
    """Groups of every kind; heads as wide as they divide the width, or wider or narrower."""
    width, num_heads, num_kv_heads = d.choice(((4, 2, None), (4, 2, 1), (4, 4, 2), (6, 3, 1), (3, 4, 2)))
    head_width = d.choice((2, 4)) if width % num_heads or d.boolean() else None
    return {
        "width": width,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "widths": {"head": head_width, "value_head": d.choice((None, None, 1, 3))},
        "scale": d.choice((None, None, 1.0)),
        "bias": d.choice((True, False, "qkv")),
    }


def draw_mask(d: Drawer, shape: tuple[int, ...]) -> Any:
    """Of keys, or of keys and queries, for all heads."""
    batch, _, queries, keys = shape
    mask = d.mask((batch, 1, d.choice((1, queries)), keys))
    mask[..., 0] = True  # a query sees something, unless a window hides it
    return mask


def draw_bias(d: Drawer, shape: tuple[int, ...]) -> Any:
    """By distance, or a number for each score."""
    _, num_heads, queries, keys = shape
    return d.array((num_heads, queries + keys - 1) if d.boolean() else (1, num_heads, queries, keys))


def draw_self(d: Drawer) -> Draft:
    """Causal, window, rotary in both layouts, positions, mask and bias on and off."""
    options = draw_heads(d)
    batch, length = d.sizes(2, 1, 4)
    rate, rng = rates(d)
    options |= {"causal": d.boolean(), "dropout": rate, "window": d.choice((2, None, 1)) if rng is None else None}
    rotary = None
    if d.integer(0, 3) > 0:
        if options["widths"]["head"] is None and (options["width"] // options["num_heads"]) % 2:
            options["widths"]["head"] = 2
        head_width = options["widths"]["head"] or options["width"] // options["num_heads"]
        rotary = rotary_spec.settings(d, head_width)
    shape = (batch, options["num_heads"], length, length)
    inputs = {
        "x": d.array((batch, length, options["width"])),
        "memory": None,
        "values": None,
        "bias": draw_bias(d, shape) if d.integer(0, 3) == 0 else None,
    }
    mask = draw_mask(d, shape) if d.integer(0, 2) == 0 else None
    positions = None if rotary is None else rotary_spec.positions(d, batch, length)
    return Draft({**options, "rotary": rotary}, inputs, {"mask": mask, "positions": positions, "rng": rng})


def draw_cross(d: Drawer) -> Draft:
    """A memory as wide as x or not; values of the memory, or of their own."""
    options = draw_heads(d)
    batch, queries, keys = d.sizes(3, 1, 4)
    rate, rng = rates(d)
    memory_width = d.choice((None, 5))
    value_width = d.choice((None, 2))
    options |= {"widths": {**options["widths"], "memory": memory_width, "value": value_width}, "dropout": rate}
    memory_width = memory_width or options["width"]
    has_values = value_width is not None or d.boolean()
    shape = (batch, options["num_heads"], queries, keys)
    inputs = {
        "x": d.array((batch, queries, options["width"])),
        "memory": d.array((batch, keys, memory_width)),
        "values": d.array((batch, keys, value_width or memory_width)) if has_values else None,
        "bias": draw_bias(d, shape) if d.integer(0, 3) == 0 else None,
    }
    return Draft(options, inputs, {"mask": draw_mask(d, shape) if d.boolean() else None, "rng": rng})


def projected(
    p: plain.Parameters, options: Any, x: Any, memory: Any, values: Any, positions: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values by head, the first two turned."""
    memory = x if memory is None else memory
    values = memory if values is None else values
    H, rotary = options["num_heads"], options.get("rotary")
    Hkv = options["num_kv_heads"] or H
    made = []
    for name, given, heads in (("q", x, H), ("k", memory, Hkv), ("v", values, Hkv)):
        array = plain.affine(given, p[f"{name}_proj.weight"], p.get(f"{name}_proj.bias"))
        array = plain.heads(array, heads)
        made.append(rotary_spec.definition(array, positions, **rotary) if rotary is not None and name != "v" else array)
    query, key, value = made
    return query, key, value


def settings_of(options: Any) -> dict[str, Any]:
    """What goes on to the scores."""
    return {"causal": options.get("causal", False), "window": options.get("window"), "scale": options["scale"]}


def grouped(
    p: plain.Parameters,
    options: Any,
    x: Any,
    memory: Any,
    values: Any,
    bias: Any,
    mask: Any,
    rng: Any,
    positions: Any = None,
) -> np.ndarray:
    """Each head by itself, side by side, through the last projection."""
    made = projected(p, options, x, memory, values, positions)
    attended = attention.definition(*made, bias, mask=mask, **settings_of(options))
    return plain.affine(plain.merged_heads(attended), p["out_proj.weight"], p.get("out_proj.bias"))


def cached_equals_full(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Half at once and the rest token by token, with a cache, give what all at once gives, to rounding."""
    options, x, bias = case.settings["module"].options, case.inputs["x"], case.inputs["bias"]
    if not options["causal"] or bias is not None or case.settings["mask"] is not None:
        return
    case = case.with_settings(rng=None)
    full, _ = pair.forward(**case.keywords())
    positions, kv_cache, steps = case.settings["positions"], nn.KVCache(), []
    start, length = 0, x.shape[1]
    for stop in range((length + 1) // 2, length + 1):
        step = case.with_inputs({"x": x[:, start:stop]}).with_settings(kv_cache=kv_cache)
        if positions is not None:
            step = step.with_settings(positions=positions[..., start:stop])
        steps.append(pair.forward(**step.keywords())[0])
        start = stop
    error = difference(np.concatenate(steps, axis=1), full)
    yield within("cached decoding equals the full forward", "y", error, 1e-12, "a decoding step differs")


def weights_are_shown(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """As in `nn_attention`."""
    options, given = case.settings["module"].options, dict(case.inputs)
    x, memory, values, bias = (given.pop(name) for name in POSITIONAL)
    made = projected(given, options, x, memory, values, case.settings.get("positions"))
    expected = attention.weights(*made, bias, mask=case.settings["mask"], **settings_of(options))
    yield from shown_beside(case, pair, expected)


SPECS = [
    component_spec(
        "GroupedQueryAttention",
        build,
        draw_self,
        grouped,
        positional=POSITIONAL,
        stochastic=True,
        checks=(cached_equals_full, weights_are_shown),
    ),
    component_spec(
        "GroupedQueryAttention-cross",
        build,
        draw_cross,
        grouped,
        positional=POSITIONAL,
        stochastic=True,
        checks=(weights_are_shown, memory_projected_once),
    ),
]
