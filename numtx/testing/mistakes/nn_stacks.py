"""Classic mistakes in stacks of encoder and decoder layers, and in the layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numtx import nn
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes import nn_transformer_layers
from numtx.testing.mistakes.nn_layers import X
from numtx.testing.mistakes.nn_transformer_layers import MEMORY, OPTIONS
from numtx.testing.spec import Case
from numtx.testing.specs.nn_stacks import build_stack

right_stack_forward, right_stack_backward = nn.Stack.forward, nn.Stack.backward

BIAS = np.array([[1.5, -0.5, 0.3], [-1.0, 0.4, 2.0]])  # (H, 2T - 1)


def stack_backward(lent: str, join: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A backward that joins the layers' gradients of the memory or of the bias by `join(so far, one more)`."""

    def backward(self: nn.Stack, dy: Any, cache: Any) -> Any:
        (dx, dmemory, dbias), grads = right_stack_backward(self, dy, cache)
        keep, kept, keys, (given, _, settings), norm, *_ = cache
        dh = dy if self.norm is None else self.norm.backward(dy, norm)[0]
        joined = None
        for layer, layer_cache, key in zip(reversed(self.layers._modules), kept[::-1], keys[::-1], strict=True):
            if keep == "inputs":
                rng = None if key is None else np.random.default_rng(key)
                layer_cache = layer.forward(layer_cache, *given, rng=rng, **settings)[1]
            (dh, *dothers), _ = layer.backward(dh, layer_cache)
            one = dothers[0] if lent == "memory" and dmemory is not None else dothers[-1]
            joined = one if joined is None else join(joined, one)
        if lent == "memory":
            return (dx, None if dmemory is None else joined, dbias), grads
        return (dx, dmemory, joined), grads

    return backward


def bias_for_the_first_layer(self: nn.Stack, x: Any, memory: Any = None, bias: Any = None, **settings: Any) -> Any:
    silenced = None if bias is None else np.zeros_like(bias)
    return _layer_by_layer(self, x, memory, lambda i: bias if i == 0 else silenced, lambda i, h: memory, **settings)


def bias_added_by_every_layer(self: nn.Stack, x: Any, memory: Any = None, bias: Any = None, **settings: Any) -> Any:
    def handed_on(i: int) -> Any:  # layer 0 adds the table once, the next to scores that have it already
        return None if bias is None else np.asarray((i + 1) * bias, bias.dtype)

    return _layer_by_layer(self, x, memory, handed_on, lambda i, h: memory, **settings)


def each_layer_its_own_memory(self: nn.Stack, x: Any, memory: Any = None, bias: Any = None, **settings: Any) -> Any:
    def seen(i: int, h: Any) -> Any:
        return memory if i == 0 or memory is None or memory.shape != h.shape else h

    return _layer_by_layer(self, x, memory, lambda i: bias, seen, **settings)


def _layer_by_layer(
    self: nn.Stack,
    x: Any,
    memory: Any,
    bias_of: Any,
    memory_of: Any,
    *,
    rng: Any = None,
    keep: Any = "all",
    **given: Any,
) -> Any:
    """The right forward, with the bias and the memory of layer i as told; its cache is one of kept caches."""
    kv_cache = given.pop("kv_cache", None)
    keys = [None] * len(self.layers) if rng is None else rng.integers(2**63, size=len(self.layers)).tolist()
    settings = {name: value for name, value in given.items() if value is not None}
    kept = []
    for i, layer in enumerate(self.layers):
        lent = [array for array in (None if memory is None else memory_of(i, x), bias_of(i)) if array is not None]
        own = settings if kv_cache is None else {**settings, "kv_cache": kv_cache[i]}
        x, cache = layer.forward(x, *lent, rng=None if keys[i] is None else np.random.default_rng(keys[i]), **own)
        kept.append(cache)
    lent = [array for array in (memory, bias_of(0)) if array is not None]
    y, norm = (x, None) if self.norm is None else self.norm.forward(x)
    return y, ("all", kept, keys, (lent, memory is not None, settings), norm, y.shape, (0, ()))


def final_norm_forgotten(self: nn.Stack, *inputs: Any, **settings: Any) -> Any:
    y, cache = right_stack_forward(self, *inputs, **settings)
    if self.norm is None:
        return y, cache
    norm, self.norm = self.norm, None
    try:
        return right_stack_forward(self, *inputs, **settings)[0], cache
    finally:
        self.norm = norm


def last_state_before_the_norm(self: nn.Stack, *inputs: Any, **settings: Any) -> Any:
    result, cache = right_stack_forward(self, *inputs, **settings)
    if not settings.get("output_hidden_states") or self.norm is None:
        return result, cache
    norm, self.norm = self.norm, None
    try:
        before = right_stack_forward(self, *inputs, **settings)[0].y
    finally:
        self.norm = norm
    return result._replace(hidden_states=(*result.hidden_states[:-1], before)), cache


def stack_case(memory: np.ndarray | None = None, bias: np.ndarray | None = None, keep: str = "all") -> Case:
    """Two layers and a norm."""
    options = {**OPTIONS, "norm_first": True, "causal": False, "layers": 2, "final": True}
    draft = Draft(options, {"x": X, "memory": memory, "bias": bias}, {"mask": None, "rng": None, "keep": keep})
    return component_case(build_stack(memory is not None), draft, scale=1.0)


MISTAKES = [
    *nn_transformer_layers.MISTAKES,
    Mistake(
        name="memory learns from the last layer only",
        of="Stack-memory",
        why="Backward meets the last layer first, and what the others give is not added.",
        hint="A stack of one layer is right; try two.",
        backward=stack_backward("memory", lambda so_far, one: so_far),
        witness=lambda: stack_case(memory=MEMORY),
        owner="numtx.nn.Stack",
    ),
    Mistake(
        name="memory learns from the first layer only",
        of="Stack-memory",
        why="`=` stands where `+=` is due: each layer overwrites what the one above it gave.",
        hint="A stack of one layer is right; try two.",
        backward=stack_backward("memory", lambda so_far, one: one),
        witness=lambda: stack_case(memory=MEMORY),
        owner="numtx.nn.Stack",
    ),
    Mistake(
        name="each layer attends to its own input for a memory",
        of="Stack-memory",
        why="The loop overwrites the variable that holds the memory.",
        hint="Which layers move when the memory moves, with their own attention off?",
        forward=each_layer_its_own_memory,
        witness=lambda: stack_case(memory=MEMORY[:, :2]),
        owner="numtx.nn.Stack",
    ),
    Mistake(
        name="bias that is lent to all layers learns from one",
        of="Stack",
        why="The table lies in the first layer's file, so its gradient is taken there; every layer used it.",
        hint="Compare its gradient in stacks of one layer and of two.",
        backward=stack_backward("bias", lambda so_far, one: one),
        witness=lambda: stack_case(bias=BIAS),
        owner="numtx.nn.Stack",
    ),
    Mistake(
        name="bias used in the first layer only",
        of="Stack",
        why="T5's files hold the table of positions in block 0; the other blocks are to use the same.",
        hint="Set the first layer's attention to zero: does the bias still matter?",
        forward=bias_for_the_first_layer,
        witness=lambda: stack_case(bias=BIAS),
        owner="numtx.nn.Stack",
    ),
    Mistake(
        name="bias table used once per layer instead of once per stack",
        of="Stack",
        why="In T5 the bias is handed from layer to layer; one that adds the table to what it is handed adds it again.",
        hint="Double the number of layers: are the scores of the last one biased by twice as much?",
        forward=bias_added_by_every_layer,
        witness=lambda: stack_case(bias=BIAS),
        owner="numtx.nn.Stack",
    ),
    Mistake(
        name="last hidden state before the final norm",
        of="Stack",
        why="The states are gathered in the loop over layers, and the norm comes after it.",
        hint="Is the last of the hidden states what the head reads?",
        forward=last_state_before_the_norm,
        witness=stack_case,
        owner="numtx.nn.Stack",
    ),
    Mistake(
        name="final norm forgotten",
        of="Stack",
        why="With the norm last in every layer none is needed at the end; with the norm first one is.",
        hint="What are mean and variance of a row of the output, where the norm's weight is one and its bias zero?",
        forward=final_norm_forgotten,
        witness=stack_case,
        owner="numtx.nn.Stack",
    ),
]
