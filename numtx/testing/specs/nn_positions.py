"""What is known of the components of relative positions: rotary, ALiBi and T5's table."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import nn
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs import position_bias, rotary


def draw_rotary(d: Drawer) -> Draft:
    case = rotary.draw(d)
    return Draft(case.settings, {"x": case.inputs["x"]}, {"positions": case.inputs["positions"]})


def draw_alibi(d: Drawer) -> Draft:
    return Draft({"num_heads": d.integer(1, 6)}, {}, {**position_bias.lengths(d), "dtype": np.float64})


def draw_relative_position_bias(d: Drawer) -> Draft:
    """Few buckets, so that even short sequences share some."""
    buckets = d.choice((4, 6, 8))
    options = {
        "num_buckets": buckets,
        "num_heads": d.integer(1, 3),
        "bidirectional": d.boolean(),
        "max_distance": buckets // 2 + d.integer(1, 4),
    }
    return Draft(options, {}, position_bias.lengths(d))


def relative_position_bias(p: plain.Parameters, options: Any, tq: int, tk: int | None) -> Any:
    """A row of the table for each distance, head by head."""
    kind = {name: options[name] for name in ("bidirectional", "num_buckets", "max_distance")}
    table = p["weight"].tolist()
    return np.array(
        [
            position_bias.by_distance(tq, tk, lambda away, h=h: table[position_bias.bucket(away, **kind)][h])
            for h in range(options["num_heads"])
        ]
    )


SPECS = [
    component_spec(
        "Rotary",
        lambda dtype, **options: nn.Rotary(**options),
        draw_rotary,
        lambda p, options, x, positions: rotary.definition(x, positions, **options),
    ),
    component_spec(
        "ALiBi",
        lambda dtype, **options: nn.ALiBi(**options),
        draw_alibi,
        lambda p, options, **settings: position_bias.alibi(options["num_heads"], **settings),
        positional=(),
    ),
    component_spec(
        "RelativePositionBias",
        lambda dtype, **options: nn.RelativePositionBias(**options, rng=0, dtype=dtype),
        draw_relative_position_bias,
        relative_position_bias,
        positional=(),
    ),
]
