"""Classic mistakes of the components of relative positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case

X = np.random.default_rng(0).standard_normal((1, 2, 3, 4))  # (B, H, T, D)


def _rotary_witness(**changed: Any) -> Case:
    options = {"layout": "half", "base": 100.0, "width": None, "scaling": None, **changed}
    return component_case(
        lambda dtype, **given: nn.Rotary(**given), Draft(options, {"x": X}, {"positions": np.array([3, 4, 5])})
    )


def _table_witness(bidirectional: bool, tq: int = 4, tk: int = 6) -> Case:
    options = {"num_buckets": 4, "num_heads": 2, "bidirectional": bidirectional, "max_distance": 4}
    return component_case(
        lambda dtype, **given: nn.RelativePositionBias(**given, rng=0, dtype=dtype),
        Draft(options, {}, {"tq": tq, "tk": tk}),
    )


def _positions_lost(self: nn.Rotary, x: Any, *, positions: Any = None) -> Any:
    return F.rotary(x, layout=self.layout, base=self.base, width=self.width, scaling=self.scaling)


def _base_lost(self: nn.Rotary, x: Any, *, positions: Any = None) -> Any:
    return F.rotary(x, positions, layout=self.layout, width=self.width, scaling=self.scaling)


def _looked_up(self: nn.RelativePositionBias, distances: Any, bidirectional: bool) -> Any:
    buckets = F.relative_position_bucket(
        distances, bidirectional=bidirectional, num_buckets=len(self.weight), max_distance=self.max_distance
    )
    rows, cache = F.embedding(buckets, self.weight)
    return np.ascontiguousarray(rows.T), cache


def _table_top_left(self: nn.RelativePositionBias, tq: int, tk: int | None = None) -> Any:
    return _looked_up(self, np.arange(1 - tq, tq if tk is None else tk), self.bidirectional)


def _table_from_the_key(self: nn.RelativePositionBias, tq: int, tk: int | None = None) -> Any:
    return _looked_up(self, -F.relative_distances(tq, tk), self.bidirectional)


def _table_for_both_sides(self: nn.RelativePositionBias, tq: int, tk: int | None = None) -> Any:
    return _looked_up(self, F.relative_distances(tq, tk), True)


def _last_distance_alone(self: nn.RelativePositionBias, dy: Any, cache: Any) -> Any:
    buckets, weight = cache
    dweight = np.zeros_like(weight)
    dweight[buckets] = dy.T
    return None, {"weight": dweight}


def _mean_of_distances(self: nn.RelativePositionBias, dy: Any, cache: Any) -> Any:
    buckets, weight = cache
    times = np.bincount(buckets, minlength=len(weight))
    return None, {"weight": F.embedding_backward(dy.T, cache) / np.maximum(times, 1)[:, None].astype(dy.dtype)}


def _alibi_top_left(self: nn.ALiBi, tq: int, tk: int | None = None, *, dtype: Any = np.float32) -> Any:
    distances = np.arange(1 - tq, tq if tk is None else tk)
    return F.alibi_slopes(self.num_heads, dtype)[:, None] * -np.abs(distances).astype(dtype), ()


MISTAKES = [
    Mistake(
        name="Rotary does not hand on positions",
        of="Rotary",
        why="A whole sequence starts at 0 anyway; only decoding with a cache and padding need them.",
        hint="Give positions that do not begin at 0.",
        forward=_positions_lost,
        witness=_rotary_witness,
        owner="numtx.nn.Rotary",
    ),
    Mistake(
        name="Rotary does not hand on its base",
        of="Rotary",
        why="The default of the function is so often right that the setting is not handed on.",
        hint="Build it with another base.",
        forward=_base_lost,
        witness=_rotary_witness,
        owner="numtx.nn.Rotary",
    ),
    Mistake(
        name="ALiBi aligned top-left",
        of="ALiBi",
        why="Query i is taken to stand at key i, as it does where there are as many of both.",
        hint="With one new query and a cache of keys, which key has the bias zero?",
        forward=_alibi_top_left,
        witness=lambda: component_case(
            lambda dtype, **options: nn.ALiBi(**options),
            Draft({"num_heads": 2}, {}, {"tq": 1, "tk": 3, "dtype": np.float64}),
        ),
        owner="numtx.nn.ALiBi",
    ),
    Mistake(
        name="relative position bias aligned top-left",
        of="RelativePositionBias",
        why="Query i is taken to stand at key i, as it does where there are as many of both.",
        hint="With one new query and a cache of keys, which key is at distance zero?",
        forward=_table_top_left,
        witness=lambda: _table_witness(False, 1, 3),
        owner="numtx.nn.RelativePositionBias",
    ),
    Mistake(
        name="relative position bias by query minus key",
        of="RelativePositionBias",
        why="How far back a key lies is query minus key; the table was trained on key minus query.",
        hint="Which bucket has the key right before the query?",
        forward=_table_from_the_key,
        witness=lambda: _table_witness(True),
        owner="numtx.nn.RelativePositionBias",
    ),
    Mistake(
        name="relative position bias of both sides in a decoder",
        of="RelativePositionBias",
        why="One module serves encoder and decoder, and its setting stays at the encoder's.",
        hint="In a decoder, how many distances have a bucket of their own?",
        forward=_table_for_both_sides,
        witness=lambda: _table_witness(False),
        owner="numtx.nn.RelativePositionBias",
    ),
    Mistake(
        name="relative position bias learns from one distance a bucket",
        of="RelativePositionBias",
        why="`=` is written where `+=` is due: distances share a bucket, and the last of them overwrites the others.",
        hint="Take a sequence so long that two distances share a bucket, and move that bucket's number.",
        backward=_last_distance_alone,
        witness=lambda: _table_witness(False),
        owner="numtx.nn.RelativePositionBias",
    ),
    Mistake(
        name="relative position bias learns from the mean of a bucket's distances",
        of="RelativePositionBias",
        why="Sharing is taken for averaging.",
        hint="Take a sequence so long that two distances share a bucket, and move that bucket's number.",
        backward=_mean_of_distances,
        witness=lambda: _table_witness(False),
        owner="numtx.nn.RelativePositionBias",
    ),
]
