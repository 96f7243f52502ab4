"""Classic mistakes in components without attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case
from numtx.testing.specs.nn_attention import build_residual

# (B, T, C) = (2, 2, 4)
X = np.array([[[0.3, -1.2, 0.7, 0.1], [1.1, 0.4, -0.9, 0.5]], [[-0.6, 0.2, 1.3, -0.4], [0.8, -0.7, 0.6, 1.0]]])


def case_of(kind: Any, options: dict[str, Any], settings: dict[str, Any] | None = None, x: np.ndarray = X) -> Case:
    """A small case of a component with an x."""
    return component_case(
        lambda dtype, **given: kind(**given, rng=0, dtype=dtype), Draft(options, {"x": x}, settings or {})
    )


def linear_transposed(self: nn.Linear, x: Any) -> Any:
    y, cache = F.linear(x, self.weight.T, self.bias)
    return y, cache


def linear_transposed_backward(self: nn.Linear, dy: Any, cache: Any) -> Any:
    dx, dweight, dbias = F.linear_backward(dy, cache)
    return dx, {"weight": dweight.T} | ({} if dbias is None else {"bias": dbias})


def layer_norm_default_eps(self: nn.LayerNorm, x: Any) -> Any:
    return F.layer_norm(x, self.weight, self.bias)


def dropout_kept_on_self(self: nn.Dropout, x: Any, *, rng: Any = None) -> Any:
    y, self._mask = F.dropout(x, self.p, rng)  # type: ignore[attr-defined]
    return y, ()


def dropout_kept_on_self_backward(self: nn.Dropout, dy: Any, cache: Any) -> Any:
    return F.dropout_backward(dy, self._mask), {}  # type: ignore[attr-defined]


def feed_forward_without_mask(self: nn.FeedForward, dy: Any, cache: Any) -> Any:
    up, act, _, down = cache
    da, g_down = self.down.backward(dy, down)
    dh = getattr(F, f"{self.activation}_backward")(da, act)
    dx, g_up = self.up.backward(dh, up)
    return dx, {"up": g_up, "down": g_down}


OTHER_GELU = {"gelu": "gelu_tanh", "gelu_tanh": "gelu"}


def feed_forward_other_gelu(self: nn.FeedForward, x: Any, *, rng: Any = None) -> Any:
    h, up = self.up.forward(x)
    a, act = getattr(F, OTHER_GELU.get(self.activation, self.activation))(h)
    a, drop = F.dropout(a, self.dropout, rng)
    y, down = self.down.forward(a)
    return y, (up, act, drop, down)


def feed_forward_other_gelu_backward(self: nn.FeedForward, dy: Any, cache: Any) -> Any:
    up, act, drop, down = cache
    da, g_down = self.down.backward(dy, down)
    da = F.dropout_backward(da, drop)
    dh = getattr(F, f"{OTHER_GELU.get(self.activation, self.activation)}_backward")(da, act)
    dx, g_up = self.up.backward(dh, up)
    return dx, {"up": g_up, "down": g_down}


right_learned = nn.LearnedPositions.forward
right_learned_backward = nn.LearnedPositions.backward
right_sinusoidal = nn.SinusoidalPositions.forward


def positions_over_the_batch(self: nn.LearnedPositions, x: Any, *, positions: Any = None) -> Any:
    y, cache = right_learned(self, x, positions=positions)
    rows = y - x  # (B, T, C)
    return (x + rows.swapaxes(0, 1) if x.shape[0] == x.shape[1] else y), cache


def positions_of_the_first_row(self: nn.LearnedPositions, dy: Any, cache: Any) -> Any:
    _, axes = cache
    if axes == 2:
        return right_learned_backward(self, dy, cache)
    first = np.zeros_like(dy)
    first[0] = dy[0]
    return dy, right_learned_backward(self, first, cache)[1]


def _offset_by(self: nn.LearnedPositions, offset: int) -> Any:
    other = object.__new__(nn.LearnedPositions)
    vars(other).update({**vars(self), "offset": offset})
    return other


def positions_without_their_offset(self: nn.LearnedPositions, x: Any, *, positions: Any = None) -> Any:
    return right_learned(_offset_by(self, 0), x, positions=positions)


def positions_from_one(self: nn.SinusoidalPositions, x: Any, *, positions: Any = None) -> Any:
    positions = np.arange(x.shape[1]) if positions is None else np.asarray(positions)
    return right_sinusoidal(self, x, positions=positions + 1)


def head_gradient_only(self: nn.TiedLMHead, dy: Any, cache: Any) -> Any:
    dx, dweight, _ = F.linear_backward(dy, cache)
    return (dx, np.zeros_like(dweight.T)), {}


def pre_norm_without_residual(self: nn.PreNorm, dy: Any, cache: Any) -> Any:
    norm, sub, drop = cache
    dh = F.dropout_backward(dy, drop)
    dinputs, g_sub = self.sublayer.backward(dh, sub)
    first, others = (dinputs[0], dinputs[1:]) if isinstance(dinputs, tuple) else (dinputs, None)
    dx, g_norm = self.norm.backward(first, norm)
    return (dx if others is None else (dx, *others)), {"norm": g_norm, "sublayer": g_sub}


def post_norm_without_residual(self: nn.PostNorm, dy: Any, cache: Any) -> Any:
    norm, sub, drop = cache
    dsum, g_norm = self.norm.backward(dy, norm)
    dinputs, g_sub = self.sublayer.backward(F.dropout_backward(dsum, drop), sub)
    return dinputs, {"norm": g_norm, "sublayer": g_sub}


def residual_case(kind: Any) -> Case:
    """A residual around a feed-forward network."""
    options = {"width": 4, "num_heads": 2, "sublayer": "feed_forward", "dropout": 0.0}
    return component_case(build_residual(kind), Draft(options, {"x": X}, {"rng": None}))


MISTAKES = [
    Mistake(
        name="Linear keeps its weight as (out, in)",
        of="Linear",
        why="PyTorch stores it so; at equal widths nothing complains.",
        hint="Use different numbers of inputs and outputs, or set one weight and see which output moves.",
        forward=linear_transposed,
        backward=linear_transposed_backward,
        witness=lambda: case_of(nn.Linear, {"in_features": 4, "out_features": 4}),
        owner="numtx.nn.Linear",
    ),
    Mistake(
        name="LayerNorm ignores its eps",
        of="LayerNorm",
        why="The default of the function is so often right that the setting is not handed on.",
        hint="Normalise a row of small numbers at two values of eps.",
        forward=layer_norm_default_eps,
        witness=lambda: case_of(nn.LayerNorm, {"width": 4, "eps": 0.1}),
        owner="numtx.nn.LayerNorm",
    ),
    Mistake(
        name="Dropout keeps its mask on self",
        of="Dropout",
        why="Backward needs the mask and the object is at hand; then one object serves two branches, or two calls.",
        hint="Call forward twice, with other numbers and another seed, before backward.",
        forward=dropout_kept_on_self,
        backward=dropout_kept_on_self_backward,
        witness=lambda: component_case(
            lambda dtype, **options: nn.Dropout(**options), Draft({"p": 0.5}, {"x": X}, {"rng": 1})
        ),
        owner="numtx.nn.Dropout",
    ),
    Mistake(
        name="FeedForward forgets its dropout in backward",
        of="FeedForward",
        why="Dropout has no parameters, and tests run without it.",
        hint="Check the gradients with a fixed seed and a rate above zero.",
        backward=feed_forward_without_mask,
        witness=lambda: case_of(
            nn.FeedForward, {"width": 4, "hidden": 5, "activation": "gelu", "dropout": 0.5}, {"rng": 3}
        ),
        owner="numtx.nn.FeedForward",
    ),
    Mistake(
        name="FeedForward takes gelu for gelu_tanh",
        of="FeedForward",
        why="Both are called GELU; they differ by less than one part in a thousand, so every curve looks right.",
        hint="Compare with the formula to ten digits, at inputs around two.",
        forward=feed_forward_other_gelu,
        backward=feed_forward_other_gelu_backward,
        witness=lambda: case_of(nn.FeedForward, {"width": 4, "hidden": 5, "activation": "gelu_tanh"}, {"rng": None}),
        owner="numtx.nn.FeedForward",
    ),
    Mistake(
        name="positions added along the batch",
        of="LearnedPositions",
        why="The rows are broadcast without saying over which axis; where batch and length are equal it runs.",
        hint="Give two equal sequences in one batch: they must stay equal.",
        forward=positions_over_the_batch,
        witness=lambda: case_of(
            nn.LearnedPositions, {"num_positions": 3, "width": 4, "offset": 0}, {"positions": None}
        ),
        owner="numtx.nn.LearnedPositions",
    ),
    Mistake(
        name="positions learn from the first sequence only",
        of="LearnedPositions",
        why="One row serves the whole batch, and its gradient is assigned where it should be summed.",
        hint="Compare the gradient at batch 1 and batch 2.",
        backward=positions_of_the_first_row,
        witness=lambda: case_of(
            nn.LearnedPositions, {"num_positions": 3, "width": 4, "offset": 0}, {"positions": None}
        ),
        owner="numtx.nn.LearnedPositions",
    ),
    Mistake(
        name="LearnedPositions reads the rows before the offset",
        of="LearnedPositions",
        why="BART's table has two rows more than positions, and shapes fit without the two that come first.",
        hint="Which row of the table does the first token read?",
        forward=positions_without_their_offset,
        witness=lambda: case_of(
            nn.LearnedPositions, {"num_positions": 3, "width": 4, "offset": 2}, {"positions": None}
        ),
        owner="numtx.nn.LearnedPositions",
    ),
    Mistake(
        name="SinusoidalPositions counts from one",
        of="SinusoidalPositions",
        why="The paper does not say where positions begin, and other languages count from one.",
        hint="Look at the first row: sin 0 = 0, cos 0 = 1.",
        forward=positions_from_one,
        witness=lambda: component_case(
            lambda dtype, **options: nn.SinusoidalPositions(**options),
            Draft({"width": 4, "layout": "interleaved", "base": 10000.0}, {"x": X}, {"positions": None}),
        ),
        owner="numtx.nn.SinusoidalPositions",
    ),
    Mistake(
        name="tied head does not pass its gradient on",
        of="TiedLMHead",
        why="The table belongs to the embedding, so the head is thought to have nothing to learn.",
        hint="Move one element of the table and watch the logits.",
        backward=head_gradient_only,
        witness=lambda: component_case(lambda dtype: nn.TiedLMHead(), Draft({}, {"x": X, "weight": X[0]}, {})),
        owner="numtx.nn.TiedLMHead",
    ),
    Mistake(
        name="gradient of the residual forgotten before the norm",
        of="PreNorm",
        why="x is used twice, and only the branch has a backward to call.",
        hint="Set the sublayer to zero: what is then the gradient of x?",
        backward=pre_norm_without_residual,
        witness=lambda: residual_case(nn.PreNorm),
        owner="numtx.nn.PreNorm",
    ),
    Mistake(
        name="gradient of the residual forgotten after the norm",
        of="PostNorm",
        why="x is used twice, and only the branch has a backward to call.",
        hint="Set the sublayer to zero: what is then the gradient of x?",
        backward=post_norm_without_residual,
        witness=lambda: residual_case(nn.PostNorm),
        owner="numtx.nn.PostNorm",
    ),
    Mistake(
        name="norm after the residual where it belongs before",
        of="PreNorm",
        why="The figure of the original paper shows it after the residual; GPT-2 and most later models moved it.",
        hint="With a sublayer of zeros the block must be the identity.",
        forward=nn.PostNorm.forward,
        backward=nn.PostNorm.backward,
        witness=lambda: residual_case(nn.PreNorm),
        owner="numtx.nn.PreNorm",
    ),
]
