"""Classic mistakes of the gated linear units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numtx.functional.activations import (
    gelu,
    gelu_backward,
    gelu_tanh,
    gelu_tanh_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
)
from numtx.functional.gated import (
    geglu,
    geglu_backward,
    geglu_tanh,
    geglu_tanh_backward,
    glu,
    glu_backward,
    swiglu,
    swiglu_backward,
)
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case

GATE = (-1.7, -0.4, 0.3, 1.1, 2.2)
UP = (0.6, -1.3, 0.8, 1.9, -0.7)


def _witness() -> Case:
    return Case({"gate": np.array(GATE), "up": np.array(UP)})


def _swapped(forward: Callable[..., Any], backward: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The pair with its two arguments in the other order."""

    def wrong_backward(dy, cache):
        dup, dgate = backward(dy, cache)
        return dgate, dup

    return {"forward": lambda gate, up: forward(up, gate), "backward": wrong_backward}


def _step_by_step(
    activation: Callable[..., Any],
    slope: Callable[..., Any],
    dup: Callable[..., Any] = lambda dy, gate, a: dy * a,
    into: Callable[..., Any] = lambda dy, up: dy * up,
) -> dict[str, Callable[..., Any]]:
    """The pair written with the activation's own pair, right as it stands; each mistake changes one of its steps."""

    def forward(gate, up):
        a, act = activation(gate)
        return a * up, (gate, up, a, act)

    def backward(dy, cache):
        gate, up, a, act = cache
        return slope(into(dy, up), act), dup(dy, gate, a)

    return {"forward": forward, "backward": backward}


def _both_bent(gate, up):
    a, act = silu(gate)
    b, bct = silu(up)
    return a * b, (a, act, b, bct)


def _both_bent_backward(dy, cache):
    a, act, b, bct = cache
    return silu_backward(dy * b, act), silu_backward(dy * a, bct)


def _bent_product(gate, up):
    a, act = gelu(gate * up)
    return a, (gate, up, act)


def _bent_product_backward(dy, cache):
    gate, up, act = cache
    dproduct = gelu_backward(dy, act)
    return dproduct * up, dproduct * gate


def _slope_as_gate(dy, act):
    """σ for σ': the gate handed on as its own derivative."""
    return dy * act[0]


def _mistake(
    of: str,
    name: str,
    why: str,
    hint: str,
    forward: Callable[..., Any] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Mistake:
    return Mistake(f"{of} {name}", of, why, hint, _witness, forward, backward)


SWAPPED_WHY = "Both come out of one product, or of two alike; which of them is the gate is a matter of convention."
SWAPPED_HINT = "Let the gate be far below zero, and then the other one: which of the two shuts?"
UP_LOST_WHY = "The derivative of the activation is remembered, and that the activation was then multiplied is not."
UP_LOST_HINT = "Set up to zero: can the gate still change the result?"
BENT_LOST_WHY = "Each factor receives the other one; the other is what the activation gives, not what it is given."
BENT_LOST_HINT = "Let the gate be far below zero: how much does the result still change with up?"

MISTAKES = [
    _mistake("glu", "with gate and up swapped", SWAPPED_WHY, SWAPPED_HINT, **_swapped(glu, glu_backward)),
    _mistake("swiglu", "with gate and up swapped", SWAPPED_WHY, SWAPPED_HINT, **_swapped(swiglu, swiglu_backward)),
    _mistake("geglu", "with gate and up swapped", SWAPPED_WHY, SWAPPED_HINT, **_swapped(geglu, geglu_backward)),
    _mistake(
        "geglu_tanh",
        "with gate and up swapped",
        SWAPPED_WHY,
        SWAPPED_HINT,
        **_swapped(geglu_tanh, geglu_tanh_backward),
    ),
    _mistake(
        "glu",
        "backward with the gate for its slope",
        "σ is at hand in the cache, and σ' is σ (1 - σ).",
        "Where the gate is wide open, moving it changes nothing.",
        **_step_by_step(sigmoid, _slope_as_gate),
    ),
    _mistake(
        "glu",
        "backward with dgate not multiplied by up",
        UP_LOST_WHY,
        UP_LOST_HINT,
        **_step_by_step(sigmoid, sigmoid_backward, into=lambda dy, up: dy),
    ),
    _mistake(
        "glu",
        "with silu for the sigmoid",
        "Swish-gated units are what most models have, and they are called GLU for short.",
        "What does a gate of 100 let through?",
        forward=swiglu,
        backward=swiglu_backward,
    ),
    _mistake(
        "swiglu",
        "with the sigmoid for silu",
        "A gate is a sigmoid elsewhere (in LSTMs, in the original GLU).",
        "What does a gate of 100 let through?",
        forward=glu,
        backward=glu_backward,
    ),
    _mistake(
        "swiglu",
        "backward with dup not bent",
        BENT_LOST_WHY,
        BENT_LOST_HINT,
        **_step_by_step(silu, silu_backward, dup=lambda dy, gate, a: dy * gate),
    ),
    _mistake(
        "swiglu",
        "backward with dgate not multiplied by up",
        UP_LOST_WHY,
        UP_LOST_HINT,
        **_step_by_step(silu, silu_backward, into=lambda dy, up: dy),
    ),
    _mistake(
        "swiglu",
        "backward without the second term of silu's slope",
        "The share σ(gate) is taken for a constant.",
        "silu is a product of two functions of the gate: its derivative has two terms.",
        **_step_by_step(lambda gate: (silu(gate)[0], gate), lambda dy, gate: dy * sigmoid(gate)[0]),
    ),
    _mistake(
        "swiglu",
        "with the activation on both halves",
        "A feed-forward network bends all that its first product gives, so both halves are.",
        "Is the result linear in up?",
        forward=_both_bent,
        backward=_both_bent_backward,
    ),
    _mistake(
        "geglu",
        "with the activation after the product",
        "The activation comes after the hidden layer elsewhere.",
        "Is the result linear in up?",
        forward=_bent_product,
        backward=_bent_product_backward,
    ),
    _mistake(
        "geglu",
        "backward with dgate not multiplied by up",
        UP_LOST_WHY,
        UP_LOST_HINT,
        **_step_by_step(gelu, gelu_backward, into=lambda dy, up: dy),
    ),
    _mistake(
        "geglu",
        "with gelu_tanh for gelu",
        "Both are called GELU, and T5's `gated-gelu` is the tanh form.",
        "Compare with the formula to ten digits, at a gate around two.",
        forward=geglu_tanh,
        backward=geglu_tanh_backward,
    ),
    _mistake(
        "geglu_tanh",
        "with gelu for gelu_tanh",
        "Both are called GELU, and a library's default is the exact one.",
        "Compare with the formula to ten digits, at a gate around two.",
        forward=geglu,
        backward=geglu_backward,
    ),
    _mistake(
        "geglu_tanh",
        "backward with dup not bent",
        BENT_LOST_WHY,
        BENT_LOST_HINT,
        **_step_by_step(gelu_tanh, gelu_tanh_backward, dup=lambda dy, gate, a: dy * gate),
    ),
]
