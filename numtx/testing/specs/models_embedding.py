"""What is known of the way from ids to what the first layer reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx.models.token_embedding import TokenEmbedding
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import nn_layers
from numtx.testing.specs import nn_plain as plain


def draw(d: Drawer) -> Draft:
    """Both kinds of positions, given or not, scaled or not."""
    batch, length, vocabulary = d.sizes(3, 1, 4)
    rate, rng = nn_layers.rates(d)
    options = {
        "vocab_size": vocabulary,
        "width": 2 * d.size(1, 3),
        "max_length": length + 1,
        "positions": d.choice(("sinusoidal", "learned")),
        "scale": d.boolean(),
        "dropout": rate,
    }
    settings = {"positions": nn_layers.positions_of(d, batch, length, length + 1), "rng": rng}
    return Draft(options, {"ids": d.ids((batch, length), vocabulary)}, settings)


def build(dtype: Any, **options: Any) -> TokenEmbedding:
    """The component."""
    return TokenEmbedding(**options, rng=0, dtype=dtype)


def token_embedding(
    p: plain.Parameters, options: Any, ids: np.ndarray, *, positions: Any = None, rng: Any = None
) -> np.ndarray:
    """A row of the table, √C times or once, and the position."""
    width = options["width"]
    x = nn_layers.embedding({"weight": p["embedding.weight"]}, options, ids)
    x = x * math.sqrt(width) if options["scale"] else x
    if options["positions"] == "learned":
        return nn_layers.learned_positions({"weight": p["positions.weight"]}, options, x, positions)
    given = {"width": width, "layout": "interleaved", "base": 10000.0}
    return nn_layers.sinusoidal_positions({}, given, x, positions)


def dropout_covers_the_sum(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """What is dropped is exactly zero, position and all; the rest is what it is without dropout, over 1 - p."""
    rate = case.settings["module"].options["dropout"]
    if case.settings["rng"] is None or not rate:
        return
    whole, _ = pair.forward(**case.with_settings(rng=None).keywords())
    y, _ = pair.forward(**case.keywords())
    error = np.minimum(np.abs(y), np.abs(y - whole / (1 - rate)))
    same = bool((error <= 1e-12 * np.abs(whole)).all())
    yield holds("dropout covers the sum", "y", same, "a number is neither zero nor the whole one over 1 - p")


SPECS = [
    component_spec(
        "TokenEmbedding",
        build,
        draw,
        token_embedding,
        positional=("ids",),
        differentiable=(),
        stochastic=True,
        checks=(dropout_covers_the_sum,),
    ),
]
