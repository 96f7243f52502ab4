"""What is known of the components without attention: their parameters and how they use the pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx import nn
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.norms import rms_norm


def rates(d: Drawer) -> tuple[float, Any]:
    """A rate of dropout and a seed: none of the two in half of the draws."""
    return d.choice((0.0, 0.3, 0.5)), d.optional(d.seed)


def draw_linear(d: Drawer) -> Draft:
    rows, columns = d.sizes(2, 1, 4)
    before = d.sizes(d.integer(0, 2), 1, 3)
    options = {"in_features": rows, "out_features": columns, "bias": d.boolean()}
    return Draft(options, {"x": d.array((*before, rows))})


def draw_embedding(d: Drawer) -> Draft:
    size, width = d.sizes(2, 1, 5)
    shape = d.sizes(d.integer(1, 2), 1, 4)
    return Draft({"num_embeddings": size, "embedding_dim": width}, {"ids": d.ids(shape, size)})


def embedding(p: plain.Parameters, options: Any, ids: np.ndarray) -> np.ndarray:
    return np.array([p["weight"][k].tolist() for k in ids.ravel()]).reshape(*ids.shape, -1)


def draw_layer_norm(d: Drawer) -> Draft:
    width = d.size(3, 5)
    options = {"width": width, "eps": d.choice((1e-5, 1e-2)), "bias": d.boolean()}
    return Draft(options, {"x": d.array((*d.sizes(d.integer(0, 2), 1, 3), width))})


def draw_rms_norm(d: Drawer) -> Draft:
    width = d.size(2, 5)
    options = {"width": width, "eps": d.choice((1e-6, 1e-2))}
    return Draft(options, {"x": d.array((*d.sizes(d.integer(0, 2), 1, 3), width))})


def draw_dropout(d: Drawer) -> Draft:
    p, rng = rates(d)
    return Draft({"p": p}, {"x": d.array(d.sizes(2, 1, 5))}, {"rng": rng})


def draw_feed_forward(d: Drawer) -> Draft:
    width, hidden = d.sizes(2, 2, 4)
    rate, rng = rates(d)
    options = {
        "width": width,
        "hidden": hidden,
        "activation": d.choice(("relu", "gelu", "gelu_tanh", "silu")),
        "dropout": rate,
        "bias": d.boolean(),
    }
    return Draft(options, {"x": d.array((*d.sizes(2, 1, 3), width))}, {"rng": rng})


def positions_of(d: Drawer, batch: int, length: int, limit: int) -> np.ndarray | None:
    """Positions: not given, one row for all, or a row each; repeated ones too."""
    shape = d.choice((None, (length,), (batch, length)))
    return None if shape is None else d.ids(shape, limit)


def draw_learned_positions(d: Drawer) -> Draft:
    batch, length, width = d.sizes(3, 1, 4)
    limit = length + d.integer(0, 2)
    settings = {"positions": positions_of(d, batch, length, limit)}
    options = {"num_positions": limit, "width": width, "offset": d.choice((0, 2))}
    return Draft(options, {"x": d.array((batch, length, width))}, settings)


def learned_positions(p: plain.Parameters, options: Any, x: np.ndarray, positions: Any) -> np.ndarray:
    y = np.empty(x.shape)
    for b, t, c in np.ndindex(x.shape):
        y[b, t, c] = x[b, t, c] + p["weight"][_position(positions, b, t) + options.get("offset", 0), c]
    return y


def _position(positions: Any, b: int, t: int) -> int:
    return t if positions is None else int(positions[t] if positions.ndim == 1 else positions[b, t])


def draw_sinusoidal_positions(d: Drawer) -> Draft:
    batch, length = d.sizes(2, 1, 4)
    width = 2 * d.size(1, 3)
    options = {"width": width, "layout": d.choice(("interleaved", "half")), "base": d.choice((10000.0, 10.0))}
    return Draft(options, {"x": d.array((batch, length, width))}, {"positions": positions_of(d, batch, length, 9)})


def sinusoidal_positions(p: plain.Parameters, options: Any, x: np.ndarray, positions: Any) -> np.ndarray:
    width, interleaved = options["width"], options["layout"] == "interleaved"
    y = np.empty(x.shape)
    for b, t, c in np.ndindex(x.shape):
        i = c // 2 if interleaved else c % (width // 2)
        is_sine = c % 2 == 0 if interleaved else c < width // 2
        angle = _position(positions, b, t) / options["base"] ** (2 * i / width)
        y[b, t, c] = x[b, t, c] + (math.sin(angle) if is_sine else math.cos(angle))
    return y


def draw_tied_head(d: Drawer) -> Draft:
    batch, width, vocabulary = d.sizes(3, 1, 4)
    return Draft({}, {"x": d.array((batch, 2, width)), "weight": d.array((vocabulary, width))})


SPECS = [
    component_spec(
        "Linear",
        lambda dtype, **options: nn.Linear(**options, rng=0, dtype=dtype),
        draw_linear,
        lambda p, options, x: plain.affine(x, p["weight"], p.get("bias")),
    ),
    component_spec(
        "Embedding",
        lambda dtype, **options: nn.Embedding(**options, rng=0, dtype=dtype),
        draw_embedding,
        embedding,
        positional=("ids",),
        differentiable=(),
    ),
    component_spec(
        "LayerNorm",
        lambda dtype, **options: nn.LayerNorm(**options, rng=0, dtype=dtype),
        draw_layer_norm,
        lambda p, options, x: plain.norm(p, x, options["eps"]),
    ),
    component_spec(
        "RMSNorm",
        lambda dtype, **options: nn.RMSNorm(**options, rng=0, dtype=dtype),
        draw_rms_norm,
        lambda p, options, x: rms_norm(x, p["weight"], options["eps"]),
    ),
    component_spec(
        "Dropout",
        lambda dtype, **options: nn.Dropout(**options),
        draw_dropout,
        lambda p, options, x, rng: x.copy(),
        stochastic=True,
    ),
    component_spec(
        "FeedForward",
        lambda dtype, **options: nn.FeedForward(**options, rng=0, dtype=dtype),
        draw_feed_forward,
        lambda p, options, x, rng: plain.feed_forward(p, x, options["activation"]),
        stochastic=True,
    ),
    component_spec(
        "LearnedPositions",
        lambda dtype, **options: nn.LearnedPositions(**options, rng=0, dtype=dtype),
        draw_learned_positions,
        learned_positions,
    ),
    component_spec(
        "SinusoidalPositions",
        lambda dtype, **options: nn.SinusoidalPositions(**options),
        draw_sinusoidal_positions,
        sinusoidal_positions,
    ),
    component_spec(
        "TiedLMHead",
        lambda dtype: nn.TiedLMHead(),
        draw_tied_head,
        lambda p, options, x, weight: plain.affine(x, weight.T),
        positional=("x", "weight"),
    ),
]
