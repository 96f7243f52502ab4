"""Llama's next token, where one text is written on: the same numbers as by its components, with less between them.

Such a step multiplies one vector with every weight, and takes as long as reading them does; of a small model nearly as
long again went into calls. Here a layer is written out as its formulas. The components are the definition, and a test
holds this to them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx import functional as F
from numtx import nn


class LlamaStep:
    """The scores that follow the next token of one row, (1,) -> (1, V), by a cache that holds all before it.

    Of a layer with x (C,), and its norms n₁ and n₂:

        q, k, v = turned(n₁(x) Wqkv)      x ← x + attention(q, keys, values) Wᵒ      x ← x + gate(n₂(x) Wᵍ, n₂(x) Wᵘ) Wᵈ

    The weights are the model's own arrays. Those that lie side by side (`lay_side_by_side`) are read as one matrix.

    Parameters
    ----------
    body : LlamaModel
        One that `suits`.
    table : (V, C) array
        Of the head.
    kv_cache : what the body's `new_cache` made
    """

    def __init__(self, body: Any, table: np.ndarray, kv_cache: list[nn.KVCache]):
        self.table, self.kv_cache = table, kv_cache
        self.embedding, self.norm = body.embedding.weight, body.stack.norm
        self.rotary, self.heads = _rotary(body), _heads(body)
        self.layers = [_Layer(layer) for layer in body.stack.layers]

    @staticmethod
    def suits(body: Any) -> bool:
        """Whether a Llama is what `LlamaStep` computes: no biases, no adapters, nobody who looks on."""
        modules = [module for _, module in body.named_modules()]
        if any("forward" in vars(module) for module in modules):  # a trace
            return False
        plain = nn.Linear, nn.RMSNorm, nn.GroupedQueryAttention, nn.GatedFeedForward, nn.PreNorm, nn.Rotary
        others = nn.EncoderLayer, nn.Stack, nn.ModuleList, nn.Embedding, type(body)
        return all(type(module) in (*plain, *others) for module in modules) and not any(
            isinstance(module, nn.Linear) and module.bias is not None for module in modules
        )

    def __call__(self, token: int) -> np.ndarray:
        """Read a token, and return the scores of what follows."""
        x = self.embedding[token]  # (C,)
        turn = self._turn(len(self.kv_cache[0]), x.dtype)
        for layer, kept in zip(self.layers, self.kv_cache, strict=True):
            x = layer(x, kept, turn, self.heads)
        return (_normed(x, self.norm) @ self.table.T)[None]  # (1, V)

    def _turn(self, position, dtype):
        """Return cos θ and ∓sin θ at a position: of a head (a, b), a cos - b sin and b cos + a sin.

        (H + Hkv, 2, D/2) each; those of queries hold the scale of the scores too.
        """
        heads, kv_heads, width = self.heads
        frequency = F.rotary_frequencies(width, base=self.rotary.base, scaling=self.rotary.scaling, dtype=dtype)
        angle = dtype.type(position) * frequency
        cos, sin = np.cos(angle), np.sin(angle)
        scale = np.ones((heads + kv_heads, 1, 1), dtype)
        scale[:heads] = 1 / math.sqrt(width)
        return scale * np.stack([cos, cos]), scale * np.stack([-sin, sin])


class _Layer:
    """A layer as its matrices."""

    def __init__(self, layer):
        attention, network = layer.attention.sublayer, layer.feed_forward.sublayer
        self.norms = layer.attention.norm, layer.feed_forward.norm
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        self.qkv = joined([projection.weight for projection in projections])
        self.gate_up = joined([network.gate.weight, network.up.weight])
        self.out, self.down = attention.out_proj.weight, network.down.weight
        self.activation, self.hidden = network.activation, len(self.down)

    def __call__(self, x, kept, turn, shape):
        heads, kv_heads, width = shape
        y = _times(_normed(x, self.norms[0]), self.qkv)  # ((H + 2·Hkv)·D,)
        turned = _turned(y[: (heads + kv_heads) * width].reshape(-1, 2, width // 2), turn)  # (H + Hkv, D)
        value = y[(heads + kv_heads) * width :].reshape(1, kv_heads, 1, width)
        keys, values = kept.append(turned[None, heads:, None], value)  # (1, Hkv, T, D)
        p = turned[:heads].reshape(kv_heads, -1, width) @ keys[0].swapaxes(1, 2)  # (Hkv, H/Hkv, T)
        p -= np.maximum.reduce(p, axis=-1, keepdims=True)
        np.exp(p, out=p)
        p /= np.add.reduce(p, axis=-1, keepdims=True)
        x = x + (p @ values[0]).reshape(-1) @ self.out
        y = _times(_normed(x, self.norms[1]), self.gate_up)  # (2·F,)
        return x + self._bent(y[: self.hidden], y[self.hidden :]) @ self.down

    def _bent(self, gate, up):
        if self.activation != "swiglu":
            return getattr(F, self.activation)(gate, up)[0]
        half = gate * 0.5  # g σ(g) = g/2 (1 + tanh(g/2)): no exponential that overflows
        bent = np.tanh(half)
        bent += 1
        bent *= half
        bent *= up
        return bent


def joined(weights: list[np.ndarray]) -> list[np.ndarray]:
    """Return (C, n) matrices as one (C, Σ n) where they lie side by side in memory, else as they are.

    Examples
    --------
    >>> both = np.ones((5, 2))
    >>> [matrix.shape for matrix in joined([both[:3].T, both[3:].T])]
    [(2, 5)]
    >>> len(joined([both[:3].T, both[3:].T.copy()]))
    2
    """
    first, rows = weights[0].T, sum(weight.shape[1] for weight in weights)
    place = first.ctypes.data
    for weight in weights:
        if not weight.T.flags.c_contiguous or weight.ctypes.data != place or weight.dtype != first.dtype:
            return weights
        place += weight.nbytes
    base = first
    while isinstance(base.base, np.ndarray):
        base = base.base
    if place > base.ctypes.data + base.nbytes:  # neighbours by chance
        return weights
    strides = first.strides
    return [np.lib.stride_tricks.as_strided(first, (rows, first.shape[1]), strides, writeable=False).T]


def lay_side_by_side(body: Any) -> None:
    """Move the matrices of the layers into one piece of memory, those together that multiply the same vector.

    One piece has pages of two megabytes where the system gives them, and is read a tenth faster for it. Weights that
    are a file's memory stay where they are: to move them would be to read and copy the file.
    """
    linears = [linear for layer in body.stack.layers for linear in _linears(layer)]
    weights = [linear.weight.T for linear in linears]  # (out, in), as files have them
    if any(_of_a_file(weight) or not weight.flags.c_contiguous for weight in weights):
        return
    memory = np.empty(sum(weight.size for weight in weights), body.dtype)
    start = 0
    while weights:  # each goes when it was copied
        weight = weights.pop(0)
        place = memory[start : start + weight.size].reshape(weight.shape)
        place[...] = weight
        linears.pop(0).weight = place.T
        start += weight.size


def _linears(layer):
    """Return the linear maps of a layer, those together that read the same."""
    attention, network = layer.attention.sublayer, layer.feed_forward.sublayer
    projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj]
    return [*projections, network.gate, network.up, network.down]


def _of_a_file(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return array is not None  # the memory of somebody else


def _times(x, matrices):
    return x @ matrices[0] if len(matrices) == 1 else np.concatenate([x @ matrix for matrix in matrices])


def _normed(x, norm):
    y = x * (1 / math.sqrt(float(x @ x) / len(x) + norm.eps))
    y *= norm.weight
    return y


def _turned(pairs, turn):
    cos, sin = turn
    return (pairs * cos + pairs[:, ::-1] * sin).reshape(len(pairs), -1)


def _rotary(body):
    return body.stack.layers[0].attention.sublayer.rotary


def _heads(body):
    config = body.config
    return config.num_attention_heads, config.num_key_value_heads, config.head_width
