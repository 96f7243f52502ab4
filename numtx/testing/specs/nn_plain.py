"""The definitions of components, composed of plain ones: every sum by itself, parameters by dotted name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from numtx.testing.specs import attention
from numtx.testing.specs.activations import SPECS as ACTIVATIONS
from numtx.testing.specs.norms import layer_norm

Parameters = Mapping[str, np.ndarray]
ACTIVATION = {spec.name: spec.definition for spec in ACTIVATIONS}


def part(p: Parameters, prefix: str) -> dict[str, np.ndarray]:
    """The parameters below a dotted prefix, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in p.items() if name.startswith(prefix + ".")}


def affine(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """x W + b over the last axis, one sum at a time."""
    y = np.empty((*x.shape[:-1], weight.shape[1]))
    for n in np.ndindex(x.shape[:-1]):
        row = x[n].tolist()
        for j, column in enumerate(weight.T.tolist()):
            y[(*n, j)] = math.fsum(a * b for a, b in zip(row, column, strict=True))
            if bias is not None:
                y[(*n, j)] += bias[j]
    return y


def norm(p: Parameters, x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """LayerNorm."""
    return np.asarray(layer_norm(x, p["weight"], p.get("bias"), eps))


def feed_forward(p: Parameters, x: np.ndarray, activation: str) -> np.ndarray:
    """act(x W₁ + b₁) W₂ + b₂."""
    hidden = ACTIVATION[activation](affine(x, p["up.weight"], p.get("up.bias")))
    return affine(hidden, p["down.weight"], p.get("down.bias"))


def heads(x: np.ndarray, num_heads: int) -> np.ndarray:
    """(B, T, C) -> (B, H, T, D): head h has the columns h·D to (h + 1)·D."""
    batch, length, width = x.shape
    size = width // num_heads
    y = np.empty((batch, num_heads, length, size))
    for b, h, t, d in np.ndindex(y.shape):
        y[b, h, t, d] = x[b, t, h * size + d]
    return y


def queries_keys_values(
    p: Parameters, x: np.ndarray, memory: np.ndarray | None, num_heads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries from x, keys and values from the memory (or x), by head."""
    width = x.shape[-1]
    source = x if memory is None else memory
    projected: list[np.ndarray] = []
    for k, given in enumerate((x, source, source)):  # columns of queries, keys, values stand side by side
        columns = slice(k * width, (k + 1) * width)
        shift = p["in_proj_bias"][columns] if "in_proj_bias" in p else None
        projected.append(heads(affine(given, p["in_proj_weight"][:, columns], shift), num_heads))
    query, key, value = projected
    return query, key, value


def merged_heads(attended: np.ndarray) -> np.ndarray:
    """(B, H, T, D) -> (B, T, H·D): the heads of a token side by side."""
    batch, num_heads, length, size = attended.shape
    merged = np.empty((batch, length, num_heads * size))
    for b, t, c in np.ndindex(merged.shape):
        merged[b, t, c] = attended[b, c // size, t, c % size]
    return merged


def multi_head_attention(
    p: Parameters,
    x: np.ndarray,
    memory: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    *,
    num_heads: int,
    **settings: Any,
) -> np.ndarray:
    """Queries from x, keys and values from the memory (or x); each head by itself, side by side, through W_o."""
    attended = attention.definition(*queries_keys_values(p, x, memory, num_heads), bias, **settings)
    return affine(merged_heads(attended), p["out_proj.weight"], p.get("out_proj.bias"))


def decoder_block(
    p: Parameters,
    x: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    num_heads: int,
    activation: str,
    eps: float,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """x + attention(norm(x)), then h + feed-forward(norm(h))."""
    attend, feed = part(p, "attention"), part(p, "feed_forward")
    normed = norm(part(attend, "norm"), x, eps)
    settings: dict[str, Any] = {"num_heads": num_heads, "mask": mask, "causal": True}
    h = x + multi_head_attention(part(attend, "sublayer"), normed, None, bias, **settings)
    return h + feed_forward(part(feed, "sublayer"), norm(part(feed, "norm"), h, eps), activation)


def decoder(p: Parameters, x: np.ndarray, *, layers: int, eps: float, **settings: Any) -> np.ndarray:
    """Block after block, and a norm at the end."""
    for k in range(layers):
        x = decoder_block(part(p, f"layers.{k}"), x, eps=eps, **settings)
    return norm(part(p, "norm"), x, eps)
