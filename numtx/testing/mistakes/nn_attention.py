"""Classic mistakes in multi-head attention, blocks and stacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.nn.attention_parts import merge_heads, split_heads
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes.nn_layers import X
from numtx.testing.spec import Case
from numtx.testing.specs.nn_attention import build_stack

Attention = nn.MultiHeadAttention
right_forward, right_backward = Attention.forward, Attention.backward
right_block_backward, right_stack_backward = nn.DecoderBlock.backward, nn.Decoder.backward


def attention_case(memory: np.ndarray | None = None, **options: Any) -> Case:
    """Two heads of two; self-attention, or over a memory."""
    options = {"width": 4, "num_heads": 2, "causal": False, "window": None, **options}
    draft = Draft(options, {"x": X, "memory": memory, "bias": None}, {"mask": None, "rng": None})
    return component_case(lambda dtype, **given: Attention(**given, rng=0, dtype=dtype), draft, scale=1.0)


def _forward_through(
    self: Any,
    rearrange: Any,
    scale: Any,
    x: Any,
    memory: Any = None,
    bias: Any = None,
    *,
    mask: Any = None,
    kv_cache: Any = None,
    rng: Any = None,
    need_weights: bool = False,
) -> Any:
    """The right forward, with what comes before the last projection rearranged and the scores scaled as told."""
    query, key, value, projections = self._project(x, memory)
    if kv_cache is not None:
        key, value = kv_cache.append(key, value)
    settings = {"causal": self.causal, "window": self.window, "scale": scale, "dropout": self.dropout}
    y, attended = F.scaled_dot_product_attention(query, key, value, bias, mask=mask, rng=rng, **settings)
    y, out = self.out_proj.forward(rearrange(y))
    result = (y, F.attention_weights(attended)) if need_weights else y
    return result, None if kv_cache is not None else (projections, attended, out)


def merged_as_they_lie(self: Any, *inputs: Any, **settings: Any) -> Any:
    def rearrange(y: Any) -> Any:
        return np.ascontiguousarray(y).reshape(len(y), y.shape[2], self.width)

    return _forward_through(self, rearrange, None, *inputs, **settings)


def merged_as_they_lie_backward(self: Any, dy: Any, cache: Any) -> Any:
    projections, attended, out = cache
    dy, g_out = self.out_proj.backward(dy, out)
    split = dy.reshape(len(dy), self.num_heads, dy.shape[1], -1)
    dquery, dkey, dvalue, dbias = F.scaled_dot_product_attention_backward(split, attended)
    dx, dmemory, grads = self._project_backward(dquery, dkey, dvalue, projections)
    return (dx, dmemory, dbias), grads | {"out_proj": g_out}


def scaled_by_width(self: Any, *inputs: Any, **settings: Any) -> Any:
    return _forward_through(self, merge_heads, self.width**-0.5, *inputs, **settings)


def memory_without_keys(self: Any, dy: Any, cache: Any) -> Any:
    projections, attended, out = cache
    if len(projections) == 1:
        return right_backward(self, dy, cache)
    dout = self.out_proj.backward(dy, out)[0]
    dquery, dkey, dvalue, dbias = F.scaled_dot_product_attention_backward(split_heads(dout, self.num_heads), attended)
    (dx, _, _), grads = right_backward(self, dy, cache)
    dmemory = self._project_backward(dquery, np.zeros_like(dkey), dvalue, projections)[1]
    return (dx, dmemory, dbias), grads


def one_mask_for_two_branches(self: nn.DecoderBlock, dy: Any, cache: Any) -> Any:
    (norm, sub, _), feed_forward = cache
    return right_block_backward(self, dy, ((norm, sub, feed_forward[2]), feed_forward))


def first_branch_only(self: nn.DecoderBlock, dy: Any, cache: Any) -> Any:
    attention, feed_forward = cache
    _, g_feed_forward = self.feed_forward.backward(dy, feed_forward)
    (dx, _, dbias), g_attention = self.attention.backward(dy, attention)
    return (dx, dbias), {"attention": g_attention, "feed_forward": g_feed_forward}


def blocks_in_forward_order(self: nn.Decoder, dy: Any, cache: Any) -> Any:
    keep, kept, _, _, norm, *_ = cache
    if keep == "inputs" or len(self.layers) < 2:
        return right_stack_backward(self, dy, cache)
    dx, g_norm = self.norm.backward(dy, norm)
    grads = {}
    for i, layer in enumerate(self.layers):
        (dx, _), grads[str(i)] = layer.backward(dx, kept[i])
    return dx, {"layers": grads, "norm": g_norm}


def recomputed_with_other_dropout(self: nn.Decoder, dy: Any, cache: Any) -> Any:
    keep, kept, keys, *rest = cache
    others = [None if key is None else key + 1 for key in keys]
    return right_stack_backward(self, dy, (keep, kept, others, *rest))


BLOCK = {"width": 4, "num_heads": 2, "hidden": 5, "activation": "gelu_tanh", "eps": 1e-5}


def block_case(rng: int | None, dropout: float) -> Case:
    """One block, two heads of two."""
    options = {**BLOCK, "dropout": dropout}
    draft = Draft(options, {"x": X, "bias": None}, {"mask": None, "rng": rng})
    return component_case(lambda dtype, **given: nn.DecoderBlock(**given, rng=0, dtype=dtype), draft)


def stack_case(keep: str, rng: int | None) -> Case:
    """Two blocks."""
    options = {**BLOCK, "dropout": 0.5, "layers": 2}
    return component_case(build_stack, Draft(options, {"x": X}, {"mask": None, "rng": rng, "keep": keep}))


MISTAKES = [
    Mistake(
        name="heads merged without transposing back",
        of="MultiHeadAttention",
        why="(B, H, T, D) has as many numbers as (B, T, C), so a reshape alone runs.",
        hint="With identity projections, which token and which columns does an output row come from?",
        forward=merged_as_they_lie,
        backward=merged_as_they_lie_backward,
        witness=attention_case,
        owner="numtx.nn.MultiHeadAttention",
    ),
    Mistake(
        name="scores scaled by the model width",
        of="MultiHeadAttention",
        why="The d of √d is read as the model's width; it is the width of a head.",
        hint="Compare one head with several: the scale depends on their number.",
        forward=scaled_by_width,
        witness=attention_case,
        owner="numtx.nn.MultiHeadAttention",
    ),
    Mistake(
        name="memory learns from the values only",
        of="MultiHeadAttention-cross",
        why="The memory is used twice, for keys and for values, and one of the two gradients is dropped.",
        hint="Perturb the memory where the values' projection is zero.",
        backward=memory_without_keys,
        witness=lambda: attention_case(memory=X[:, ::-1] * 0.7),
        owner="numtx.nn.MultiHeadAttention",
    ),
    Mistake(
        name="one dropout mask for two branches",
        of="DecoderBlock",
        why="One dropout object serves both branches and keeps its last mask for backward.",
        hint="Check the block's gradients with dropout on and a fixed seed.",
        backward=one_mask_for_two_branches,
        witness=lambda: block_case(rng=5, dropout=0.5),
        owner="numtx.nn.DecoderBlock",
    ),
    Mistake(
        name="attention's gradient taken from the block's output",
        of="DecoderBlock",
        why="Both sublayers are given dy; what flows into the first is what the second hands back.",
        hint="Follow the order of forward backwards: whose input is the attention's output?",
        backward=first_branch_only,
        witness=lambda: block_case(rng=None, dropout=0.0),
        owner="numtx.nn.DecoderBlock",
    ),
    Mistake(
        name="blocks run forwards in backward",
        of="Decoder",
        why="The loop is copied from forward.",
        hint="A stack of one block is right; try two.",
        backward=blocks_in_forward_order,
        witness=lambda: stack_case("all", None),
        owner="numtx.nn.Decoder",
    ),
    Mistake(
        name="recomputed with other dropout",
        of="Decoder",
        why="Backward computes the block a second time, and the generator has moved on.",
        hint="Compare the gradients of keep='inputs' with those of keep='all' at one seed.",
        backward=recomputed_with_other_dropout,
        witness=lambda: stack_case("inputs", 4),
        owner="numtx.nn.Decoder",
    ),
]
