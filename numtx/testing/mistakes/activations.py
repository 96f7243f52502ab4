"""Classic mistakes of the activations."""

from __future__ import annotations

import math

import numpy as np

from numtx.functional.activations import (
    gelu,
    gelu_backward,
    gelu_tanh,
    gelu_tanh_backward,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    tanh,
    tanh_backward,
)
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case

X = (-1.7, -0.4, 0.3, 1.1, 2.2)


def _witness() -> Case:
    return Case({"x": np.array(X)})


def _keeping_x(forward):
    """The right forward with x alone in its cache, for a backward that works it out for itself."""

    def kept(x):
        return forward(x)[0], (x,)

    return kept


def _relu_open(dy, cache):
    return dy.copy()


def _relu_guided(dy, cache):
    return relu_backward(dy, cache) * (dy > 0)


def _sigmoid_again(dy, cache):
    s = sigmoid(cache[0])[0]
    return dy * (s * (1 - s))


def _tanh_without_square(dy, cache):
    return dy * (1 - cache[0])


def _silu_as_sigmoid(dy, cache):
    s = sigmoid(cache[0])[0]
    return dy * (s * (1 - s))


def _silu_first_term(dy, cache):
    return dy * sigmoid(cache[0])[0]


def _phi(x):
    from scipy.special import erf

    return (1 + erf(x / math.sqrt(2))) / 2


def _density(x):
    return np.exp(-0.5 * np.clip(x, -40, 40) ** 2)


def _gelu_density_lost(dy, cache):
    (x,) = cache
    return dy * _phi(x)


def _gelu_density_unscaled(dy, cache):
    (x,) = cache
    return dy * (_phi(x) + x * _density(x))


def _gelu_without_root(x):
    phi = _phi(x * math.sqrt(2))
    return x * phi, (x, phi)


def _gelu_without_root_backward(dy, cache):
    x, phi = cache
    return dy * (phi + x * _density(x * math.sqrt(2)) / math.sqrt(math.pi))


def _gelu_by_sigmoid(x):
    s = sigmoid(1.702 * x)[0]
    return x * s, (x, s)


def _gelu_by_sigmoid_backward(dy, cache):
    x, s = cache
    return dy * (s + 1.702 * x * s * (1 - s))


def _gelu_of_tanh_form(dy, cache):
    return gelu_tanh_backward(dy, gelu_tanh(cache[0])[1])


def _gelu_tanh_of_exact_form(dy, cache):
    return gelu_backward(dy, gelu(cache[0])[1])


def _tanh_form_slope(cubic: float, chain: bool):
    def backward(dy, cache):
        (x,) = cache
        bounded = np.clip(x, -10, 10)
        t = np.tanh(math.sqrt(2 / math.pi) * (bounded + 0.044715 * bounded**3))
        slope = math.sqrt(2 / math.pi) * (1 + cubic * bounded**2) if chain else 1.0
        return dy * ((1 + t) / 2 + bounded * (1 - t**2) * slope / 2)

    return backward


def _gelu_tanh_unscaled(x):
    t = np.tanh(np.clip(x, -10, 10) + 0.044715 * np.clip(x, -10, 10) ** 3)
    return x * (1 + t) / 2, (x, t)


def _gelu_tanh_unscaled_backward(dy, cache):
    x, t = cache
    bounded = np.clip(x, -10, 10)
    return dy * ((1 + t) / 2 + bounded * (1 - t**2) * (1 + 3 * 0.044715 * bounded**2) / 2)


RELU_SIGMOID_TANH = [
    Mistake(
        name="relu passing gradient at negative inputs",
        of="relu",
        why="Backward returns dy: the gate was applied in forward and is forgotten on the way back.",
        hint="What does the loss gain when an input of -1 moves a little?",
        backward=_relu_open,
        witness=_witness,
    ),
    Mistake(
        name="relu gated by the sign of dy",
        of="relu",
        why="The mask is taken from the array at hand, dy, instead of from x (or it is guided backpropagation).",
        hint="Is a negative incoming gradient allowed to pass where x is positive?",
        backward=_relu_guided,
        witness=_witness,
    ),
    Mistake(
        name="sigmoid derivative from x instead of y",
        of="sigmoid",
        why="y (1 - y) is written with the variable that happens to be cached.",
        hint="In σ' = σ (1 - σ), is the cached number x or σ(x)?",
        forward=_keeping_x(sigmoid),
        backward=sigmoid_backward,
        witness=_witness,
    ),
    Mistake(
        name="sigmoid applied again in backward",
        of="sigmoid",
        why="A helper `sigmoid_derivative(x)` computes σ(x) itself, and is handed y.",
        hint="Count how often σ is applied between x and the derivative.",
        backward=_sigmoid_again,
        witness=_witness,
    ),
    Mistake(
        name="tanh derivative from x instead of y",
        of="tanh",
        why="1 - y² is written with the variable that happens to be cached.",
        hint="In tanh' = 1 - tanh², is the cached number x or tanh x?",
        forward=_keeping_x(tanh),
        backward=tanh_backward,
        witness=_witness,
    ),
    Mistake(
        name="tanh derivative without the square",
        of="tanh",
        why="A slip of the pen: 1 - y for 1 - y².",
        hint="At x = 0 both are 1. Compare at x = 1.",
        backward=_tanh_without_square,
        witness=_witness,
    ),
    Mistake(
        name="silu derivative as sigmoid's",
        of="silu",
        why="The x in x σ(x) is overlooked.",
        hint="silu is a product of two functions of x.",
        forward=_keeping_x(silu),
        backward=_silu_as_sigmoid,
        witness=_witness,
    ),
    Mistake(
        name="silu derivative without its second term",
        of="silu",
        why="The gate σ(x) is taken for a constant.",
        hint="silu is a product of two functions of x: the product rule has two terms.",
        forward=_keeping_x(silu),
        backward=_silu_first_term,
        witness=_witness,
    ),
]

GELU = [
    Mistake(
        name="gelu replaced by gelu_tanh",
        of="gelu",
        why="Both are called GELU. BERT's is the exact one, GPT-2's the approximation.",
        hint="Read the config: `gelu` is x Φ(x) with erf; `gelu_new` and `gelu_pytorch_tanh` are the tanh form.",
        forward=gelu_tanh,
        backward=gelu_tanh_backward,
        witness=_witness,
    ),
    Mistake(
        name="gelu with the derivative of gelu_tanh",
        of="gelu",
        why="The forward was made exact later and the backward stayed.",
        hint="Differentiate the formula that the forward computes.",
        forward=_keeping_x(gelu),
        backward=_gelu_of_tanh_form,
        witness=_witness,
    ),
    Mistake(
        name="gelu by the sigmoid approximation",
        of="gelu",
        why="x σ(1.702 x) stands in the paper too (and in OpenAI's CLIP as `quick_gelu`); it is off by up to 0.02.",
        hint="Which of the paper's three formulas is it?",
        forward=_gelu_by_sigmoid,
        backward=_gelu_by_sigmoid_backward,
        witness=_witness,
    ),
    Mistake(
        name="gelu without sqrt(2) in erf",
        of="gelu",
        why="Φ and erf are taken for the same function.",
        hint="Φ(1) is 0.8413. What does your gate give at 1?",
        forward=_gelu_without_root,
        backward=_gelu_without_root_backward,
        witness=_witness,
    ),
    Mistake(
        name="gelu derivative without x times the density",
        of="gelu",
        why="The gate Φ(x) is taken for a constant.",
        hint="The product rule has two terms.",
        forward=_keeping_x(gelu),
        backward=_gelu_density_lost,
        witness=_witness,
    ),
    Mistake(
        name="gelu density without 1/sqrt(2 pi)",
        of="gelu",
        why="exp(-x²/2) is remembered, its factor is not.",
        hint="What is the derivative of Φ at 0?",
        forward=_keeping_x(gelu),
        backward=_gelu_density_unscaled,
        witness=_witness,
    ),
    Mistake(
        name="gelu_tanh replaced by gelu",
        of="gelu_tanh",
        why="Both are called GELU. GPT-2's is the tanh form (`gelu_new`); a library's default is the exact one.",
        hint="Read the config: `gelu_new` and `gelu_pytorch_tanh` are the tanh form, `gelu` is exact.",
        forward=gelu,
        backward=gelu_backward,
        witness=_witness,
    ),
    Mistake(
        name="gelu_tanh with the derivative of gelu",
        of="gelu_tanh",
        why="The approximation is good to 5e-4, so its derivative is taken from the exact form.",
        hint="Differentiate the formula that the forward computes.",
        forward=_keeping_x(gelu_tanh),
        backward=_gelu_tanh_of_exact_form,
        witness=_witness,
    ),
    Mistake(
        name="gelu_tanh derivative without the 3 of the cube",
        of="gelu_tanh",
        why="0.044715 x³ is differentiated to 0.044715 x².",
        hint="Write u'(x) for u = √(2/π) (x + 0.044715 x³).",
        forward=_keeping_x(gelu_tanh),
        backward=_tanh_form_slope(0.044715, chain=True),
        witness=_witness,
    ),
    Mistake(
        name="gelu_tanh derivative without the inner one",
        of="gelu_tanh",
        why="1 - tanh² is remembered, the chain rule's factor u' is not.",
        hint="tanh stands around u(x), not around x.",
        forward=_keeping_x(gelu_tanh),
        backward=_tanh_form_slope(0.0, chain=False),
        witness=_witness,
    ),
    Mistake(
        name="gelu_tanh without sqrt(2/pi)",
        of="gelu_tanh",
        why="The factor before the bracket is left out in both directions.",
        hint="gelu_tanh(1) is 0.841192.",
        forward=_gelu_tanh_unscaled,
        backward=_gelu_tanh_unscaled_backward,
        witness=_witness,
    ),
]

MISTAKES = RELU_SIGMOID_TANH + GELU
