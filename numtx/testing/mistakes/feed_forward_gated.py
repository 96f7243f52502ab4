"""Classic mistakes of the gated feed-forward network."""

from __future__ import annotations

from typing import Any

from numtx import functional as F
from numtx import nn
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes.nn_layers import case_of
from numtx.testing.spec import Case

OWNER = "numtx.nn.GatedFeedForward"


def _case(**changed: Any) -> Case:
    options = {"width": 4, "hidden": 5, "activation": "swiglu", "dropout": 0.0, "bias": True, **changed}
    return case_of(nn.GatedFeedForward, options, {"rng": 3})


def _swapped(self: nn.GatedFeedForward, x: Any, *, rng: Any = None) -> Any:
    g, gate = self.up.forward(x)
    h, up = self.gate.forward(x)
    a, act = getattr(F, self.activation)(g, h)
    a, drop = F.dropout(a, self.dropout, rng)
    y, down = self.down.forward(a)
    return y, (gate, up, act, drop, down)


def _swapped_backward(self: nn.GatedFeedForward, dy: Any, cache: Any) -> Any:
    gate, up, act, drop, down = cache
    da, g_down = self.down.backward(dy, down)
    dg, dh = getattr(F, f"{self.activation}_backward")(F.dropout_backward(da, drop), act)
    dx_gate, g_up = self.up.backward(dg, gate)
    dx_up, g_gate = self.gate.backward(dh, up)
    return dx_gate + dx_up, {"gate": g_gate, "up": g_up, "down": g_down}


def _one_branch(self: nn.GatedFeedForward, dy: Any, cache: Any) -> Any:
    gate, up, act, drop, down = cache
    da, g_down = self.down.backward(dy, down)
    dg, dh = getattr(F, f"{self.activation}_backward")(F.dropout_backward(da, drop), act)
    _, g_gate = self.gate.backward(dg, gate)
    dx, g_up = self.up.backward(dh, up)
    return dx, {"gate": g_gate, "up": g_up, "down": g_down}


def _without_mask(self: nn.GatedFeedForward, dy: Any, cache: Any) -> Any:
    gate, up, act, _, down = cache
    da, g_down = self.down.backward(dy, down)
    dg, dh = getattr(F, f"{self.activation}_backward")(da, act)
    dx_gate, g_gate = self.gate.backward(dg, gate)
    dx_up, g_up = self.up.backward(dh, up)
    return dx_gate + dx_up, {"gate": g_gate, "up": g_up, "down": g_down}


def _always_swiglu(self: nn.GatedFeedForward, x: Any, *, rng: Any = None) -> Any:
    g, gate = self.gate.forward(x)
    h, up = self.up.forward(x)
    a, act = F.swiglu(g, h)
    a, drop = F.dropout(a, self.dropout, rng)
    y, down = self.down.forward(a)
    return y, (gate, up, act, drop, down)


def _always_swiglu_backward(self: nn.GatedFeedForward, dy: Any, cache: Any) -> Any:
    gate, up, act, drop, down = cache
    da, g_down = self.down.backward(dy, down)
    dg, dh = F.swiglu_backward(F.dropout_backward(da, drop), act)
    dx_gate, g_gate = self.gate.backward(dg, gate)
    dx_up, g_up = self.up.backward(dh, up)
    return dx_gate + dx_up, {"gate": g_gate, "up": g_up, "down": g_down}


MISTAKES = [
    Mistake(
        name="GatedFeedForward with gate and up swapped",
        of="GatedFeedForward",
        why="Two matrices of one shape, called w1 and w3, wi_0 and wi_1, or one above the other in a single array.",
        hint="Set the bias of the gate far below zero: the result must be the bias of down alone.",
        forward=_swapped,
        backward=_swapped_backward,
        witness=_case,
        owner=OWNER,
    ),
    Mistake(
        name="GatedFeedForward with the gradient of x from one branch",
        of="GatedFeedForward",
        why="x goes into two products, and the second assignment to dx overwrites the first.",
        hint="How often is x used in forward?",
        backward=_one_branch,
        witness=_case,
        owner=OWNER,
    ),
    Mistake(
        name="GatedFeedForward forgets its dropout in backward",
        of="GatedFeedForward",
        why="Dropout has no parameters, and tests run without it.",
        hint="Check the gradients with a fixed seed and a rate above zero.",
        backward=_without_mask,
        witness=lambda: _case(dropout=0.5),
        owner=OWNER,
    ),
    Mistake(
        name="GatedFeedForward always with swiglu",
        of="GatedFeedForward",
        why="Llama's is the one everybody knows; the setting is accepted and not used.",
        hint="Build it with glu and with swiglu, give both the same weights, and compare.",
        forward=_always_swiglu,
        backward=_always_swiglu_backward,
        witness=lambda: _case(activation="glu"),
        owner=OWNER,
    ),
]
