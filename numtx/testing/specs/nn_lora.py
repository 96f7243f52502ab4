"""What is known of the components with an update of low rank: merged, they are what they are an update of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx import nn
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds, within
from numtx.testing.op import difference
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.attention import weights
from numtx.testing.specs.nn_attention import (
    attention,
    cached_equals_full,
    draw_attention,
    memory_projected_once,
    shown_beside,
)
from numtx.testing.specs.nn_layers import rates


def draw_update(d: Drawer) -> dict[str, Any]:
    """Rank, alpha, rank stabilisation. A large update would saturate a softmax, whose gradients are rounding then."""
    return {"r": d.size(1, 4), "alpha": d.choice((0.1, 0.25, 0.5)), "rs": d.boolean()}


def scale(options: Any) -> float:
    """α / r, or α / √r."""
    return float(options["alpha"] / (options["r"] ** 0.5 if options["rs"] else options["r"]))


def draw_linear(d: Drawer) -> Draft:
    rows, columns = d.sizes(2, 1, 4)
    before = d.sizes(d.integer(0, 2), 1, 3)
    rate, rng = rates(d)
    options = {"in_features": rows, "out_features": columns, "bias": d.boolean(), "dropout": rate, **draw_update(d)}
    return Draft(options, {"x": d.array((*before, rows))}, {"rng": rng})


def linear(p: plain.Parameters, options: Any, x: np.ndarray, rng: Any) -> np.ndarray:
    """x W + b, and s (x A) B."""
    update = plain.affine(plain.affine(x, p["lora_A"]), p["lora_B"])
    return plain.affine(x, p["weight"], p.get("bias")) + scale(options) * update


def draw_lora_attention(d: Drawer, cross: bool = False) -> Draft:
    """An attention as it is drawn elsewhere; one rate of dropout for both, so that a seed shows either."""
    draft = draw_attention(d, cross)
    options = {**draft.options, "lora_dropout": draft.options["dropout"], **draw_update(d)}
    return Draft(options, draft.inputs, draft.settings)


def updated(p: plain.Parameters, options: Any) -> dict[str, np.ndarray]:
    """The parameters of a plain attention with W + s A B for W."""
    rows = np.array([plain.affine(row, p["lora_B"]) for row in p["lora_A"]])
    return {**p, "in_proj_weight": p["in_proj_weight"] + scale(options) * rows}


def lora_attention(p: plain.Parameters, options: Any, *inputs: Any, **settings: Any) -> np.ndarray:
    return attention(updated(p, options), options, *inputs, **settings)


def weights_are_shown(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Each head's weights, on demand; without dropout, which goes before them here."""
    case = case.with_settings(rng=None)
    options, given = case.settings["module"].options, dict(case.inputs)
    x, memory, bias = (given.pop(name) for name in ("x", "memory", "bias"))
    made = plain.queries_keys_values(updated(given, options), x, memory, options["num_heads"])
    settings = {key: options[key] for key in ("causal", "window")} | {"scale": options.get("scale")}
    yield from shown_beside(case, pair, weights(*made, bias, mask=case.settings["mask"], **settings))


def merging_changes_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Merged it gives the same to rounding, without dropout; unmerged again the same bits, and so are the weights."""
    keywords = case.with_settings(rng=None).keywords()
    y, _ = pair.forward(**keywords)
    module = keywords.pop("module").at(np.float64)
    names = ("x",) if isinstance(module, nn.Linear) else ("x", "memory", "bias")
    inputs = [keywords[name] for name in names]
    settings = {name: value for name, value in keywords.items() if name == "mask"}
    before = {name: array.copy() for name, array in module.named_parameters()}
    module.merge()
    merged = module(*inputs, **settings)
    module.unmerge()
    size = max(1.0, float(np.max(np.abs(y), initial=0)))
    yield within("merging changes nothing", "y", difference(merged, y, floor=size), 1e-10, "the merged result differs")
    after = dict(module.named_parameters())
    same = all(np.array_equal(after[name], array) for name, array in before.items())
    same = same and np.array_equal(module(*inputs, **settings), y)
    yield holds("merging changes nothing", "y", same, "unmerged, a weight or the result has other bits")


def build_attention(dtype: Any, **options: Any) -> nn.LoRAMultiHeadAttention:
    return nn.LoRAMultiHeadAttention(**options, rng=0, dtype=dtype)


SPECS = [
    component_spec(
        "LoRALinear",
        lambda dtype, **options: nn.LoRALinear(**options, rng=0, dtype=dtype),
        draw_linear,
        linear,
        stochastic=True,
        checks=(merging_changes_nothing,),
    ),
    component_spec(
        "LoRAMultiHeadAttention",
        build_attention,
        draw_lora_attention,
        lora_attention,
        positional=("x", "memory", "bias"),
        stochastic=True,
        checks=(cached_equals_full, weights_are_shown, merging_changes_nothing),
    ),
    component_spec(
        "LoRAMultiHeadAttention-cross",
        build_attention,
        lambda d: draw_lora_attention(d, cross=True),
        lora_attention,
        positional=("x", "memory", "bias"),
        stochastic=True,
        checks=(weights_are_shown, memory_projected_once, merging_changes_nothing),
    ),
]
