"""Classic mistakes in low-rank updates."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.nn.attention_parts import merge_heads
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes.nn_layers import X
from numtx.testing.spec import Case
from numtx.testing.specs.nn_lora import build_attention

Right = nn.LoRALinear
right_backward, right_attention_backward = Right.backward, nn.LoRAMultiHeadAttention.backward


def linear_case(rng: int | None = None, **options: Any) -> Case:
    """Of four numbers, rank four."""
    options = {"in_features": 4, "out_features": 4, "r": 4, "alpha": 3, "rs": False, "dropout": 0.0, **options}
    draft = Draft(options, {"x": X}, {"rng": rng})
    return component_case(lambda dtype, **given: Right(**given, rng=0, dtype=dtype), draft, scale=1.0)


def cross_case() -> Case:
    """Two heads of two over a memory."""
    options = {"width": 4, "num_heads": 2, "causal": False, "window": None, "r": 2, "alpha": 3, "rs": False}
    inputs = {"x": X, "memory": np.cos(np.arange(24.0)).reshape(2, 3, 4), "bias": None}
    return component_case(build_attention, Draft(options, inputs, {"mask": None, "rng": None}), scale=1.0)


def _with_update(self: Any, x: Any, rng: Any, a: np.ndarray, scale: float) -> Any:
    y, base = F.linear(x, self.weight, self.bias)
    z, drop = F.dropout(x, self.lora_dropout, rng)
    update, low = F.low_rank(z, a, self.lora_B, scale)
    return y + update, (base, (drop, low))


def scaled_by_alpha(self: Any, x: Any, *, rng: Any = None) -> Any:
    return _with_update(self, x, rng, self.lora_A, float(self.lora_alpha))


def a_transposed(self: Any, x: Any, *, rng: Any = None) -> Any:
    square = self.lora_A.shape[0] == self.lora_A.shape[1]
    return _with_update(self, x, rng, self.lora_A.T if square else self.lora_A, self.lora_scale)


def a_transposed_backward(self: Any, dy: Any, cache: Any) -> Any:
    dx, grads = right_backward(self, dy, cache)
    square = self.lora_A.shape[0] == self.lora_A.shape[1]
    return dx, {**grads, "lora_A": grads["lora_A"].T if square else grads["lora_A"]}


def mask_forgotten(self: Any, dy: Any, cache: Any) -> Any:
    base, (_, low) = cache
    _, grads = right_backward(self, dy, cache)
    return F.linear_backward(dy, base)[0] + F.low_rank_backward(dy, low)[0], grads


def a_of_the_queries_alone(self: Any, dy: Any, cache: Any) -> Any:
    (_, lows), attended, out = cache
    dinputs, grads = right_attention_backward(self, dy, cache)
    if len(lows) == 2:
        dout = self.out_proj.backward(dy, out)[0]
        split = dout.reshape(len(dout), dout.shape[1], self.num_heads, -1).swapaxes(1, 2)
        dquery = F.scaled_dot_product_attention_backward(split, attended)[0]
        grads = {**grads, "lora_A": F.low_rank_backward(merge_heads(dquery), lows[0][1])[1]}
    return dinputs, grads


MISTAKES = [
    Mistake(
        name="LoRALinear scales by alpha alone",
        of="LoRALinear",
        why="Alpha is taken for the scale itself; at rank one nothing differs.",
        hint="Compare two ranks at the same alpha.",
        forward=scaled_by_alpha,
        witness=linear_case,
        owner="numtx.nn.LoRALinear",
    ),
    Mistake(
        name="LoRALinear keeps A as (r, in)",
        of="LoRALinear",
        why="PEFT stores it so; where the rank is the width nothing complains.",
        hint="Use a rank other than the width, or set one number of A and see which input it reads.",
        forward=a_transposed,
        backward=a_transposed_backward,
        witness=linear_case,
        owner="numtx.nn.LoRALinear",
    ),
    Mistake(
        name="LoRALinear forgets its dropout in backward",
        of="LoRALinear",
        why="x goes two ways, and only one of them was dropped out.",
        hint="Check dx with a fixed seed and a rate above zero.",
        backward=mask_forgotten,
        witness=lambda: linear_case(rng=3, dropout=0.5),
        owner="numtx.nn.LoRALinear",
    ),
    Mistake(
        name="LoRAMultiHeadAttention teaches A by the queries alone",
        of="LoRAMultiHeadAttention-cross",
        why="B has columns of its own for queries, keys and values; A is one, and the memory went through it too.",
        hint="Check the gradient of A over a memory.",
        backward=a_of_the_queries_alone,
        witness=cross_case,
        owner="numtx.nn.LoRAMultiHeadAttention",
    ),
]
