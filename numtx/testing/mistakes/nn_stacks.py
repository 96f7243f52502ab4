"""Classic mistakes in encoder and decoder layers and in stacks of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes.nn_layers import X, residual_case
from numtx.testing.spec import Case
from numtx.testing.specs.nn_stacks import build_layer, build_stack

right_decoder_forward, right_decoder_backward = nn.DecoderLayer.forward, nn.DecoderLayer.backward
right_encoder_forward, right_encoder_backward = nn.EncoderLayer.forward, nn.EncoderLayer.backward
right_stack_forward, right_stack_backward = nn.Stack.forward, nn.Stack.backward
SWAPPED = {nn.PreNorm: nn.PostNorm, nn.PostNorm: nn.PreNorm}

MEMORY = np.concatenate([0.7 * X[:, ::-1], X[::-1, :1] - 0.2], axis=1)  # (B, Tk, C) = (2, 3, 4)
PADDED = np.array([[True, True, False], [False, True, True]])[:, None, None, :]
BIAS = np.array([[1.5, -0.5, 0.3], [-1.0, 0.4, 2.0]])  # (H, 2T - 1)


def cross_attention_to_itself(self: nn.DecoderLayer, x: Any, memory: Any, bias: Any = None, **settings: Any) -> Any:
    memory_mask = settings.pop("memory_mask", None)
    rng = settings.pop("rng", None)
    h, attention = self.attention.forward(x, bias=bias, rng=rng, **settings)
    fits = memory_mask is None or (memory_mask.shape[2] == 1 and memory_mask.shape[3] == x.shape[1])
    g, cross = self.cross_attention.forward(h, h, rng=rng, mask=memory_mask if fits else None)
    y, feed_forward = self.feed_forward.forward(g, rng=rng)
    return y, (attention, cross, feed_forward, memory)


def cross_attention_to_itself_backward(self: nn.DecoderLayer, dy: Any, cache: Any) -> Any:
    attention, cross, feed_forward, memory = cache
    dg, g_feed_forward = self.feed_forward.backward(dy, feed_forward)
    (dquery, dkeys, *_), g_cross = self.cross_attention.backward(dg, cross)
    (dx, *_, dbias), g_attention = self.attention.backward(dquery + dkeys, attention)
    grads = {"attention": g_attention, "cross_attention": g_cross, "feed_forward": g_feed_forward}
    return (dx, np.zeros_like(memory), dbias), grads


def memory_mask_lost(self: nn.DecoderLayer, *inputs: Any, memory_mask: Any = None, **settings: Any) -> Any:
    return right_decoder_forward(self, *inputs, **settings)


def cross_attention_causal(self: nn.DecoderLayer, x: Any, memory: Any, *others: Any, **settings: Any) -> Any:
    mask = F.combine_masks(settings.pop("memory_mask", None), F.causal_mask(x.shape[1], memory.shape[1]))
    return right_decoder_forward(self, x, memory, *others, memory_mask=mask, **settings)


def memory_normed(self: nn.DecoderLayer, x: Any, memory: Any, *others: Any, **settings: Any) -> Any:
    cross = self.cross_attention
    normed = cross.norm(memory) if isinstance(cross, nn.PreNorm) else memory
    return right_decoder_forward(self, x, normed, *others, **settings)


def cross_attention_without_residual(self: nn.DecoderLayer, dy: Any, cache: Any) -> Any:
    attention, cross, feed_forward = cache
    dg, g_feed_forward = self.feed_forward.backward(dy, feed_forward)
    (dh, dmemory, *_), g_cross = self.cross_attention.backward(dg, cross)
    kind = self.cross_attention
    dh = dh - (dg if isinstance(kind, nn.PreNorm) else kind.norm.backward(dg, cross[0])[0])
    (dx, *_, dbias), g_attention = self.attention.backward(dh, attention)
    grads = {"attention": g_attention, "cross_attention": g_cross, "feed_forward": g_feed_forward}
    return (dx, dmemory, dbias), grads


def mask_lost(self: nn.EncoderLayer, *inputs: Any, mask: Any = None, **settings: Any) -> Any:
    return right_encoder_forward(self, *inputs, **settings)


def positions_lost(self: nn.EncoderLayer, *inputs: Any, positions: Any = None, **settings: Any) -> Any:
    return right_encoder_forward(self, *inputs, **settings)


def norm_on_the_other_side(self: nn.EncoderLayer, x: Any, bias: Any = None, *, rng: Any = None, **settings: Any) -> Any:
    other = SWAPPED[type(self.attention)]
    h, attention = other.forward(self.attention, x, bias=bias, rng=rng, **settings)
    y, feed_forward = other.forward(self.feed_forward, h, rng=rng)
    return y, (attention, feed_forward)


def norm_on_the_other_side_backward(self: nn.EncoderLayer, dy: Any, cache: Any) -> Any:
    attention, feed_forward = cache
    other = SWAPPED[type(self.attention)]
    dh, g_feed_forward = other.backward(self.feed_forward, dy, feed_forward)
    (dx, *_, dbias), g_attention = other.backward(self.attention, dh, attention)
    return (dx, dbias), {"attention": g_attention, "feed_forward": g_feed_forward}


def feed_forward_beside_attention(
    self: nn.EncoderLayer, x: Any, bias: Any = None, *, rng: Any = None, **settings: Any
) -> Any:
    h, attention = self.attention.forward(x, bias=bias, rng=rng, **settings)
    y, feed_forward = self.feed_forward.forward(x, rng=rng)
    return h + y - x, (attention, feed_forward)


def feed_forward_beside_attention_backward(self: nn.EncoderLayer, dy: Any, cache: Any) -> Any:
    attention, feed_forward = cache
    dx, g_feed_forward = self.feed_forward.backward(dy, feed_forward)
    (dx_too, *_, dbias), g_attention = self.attention.backward(dy, attention)
    return (dx + dx_too - dy, dbias), {"attention": g_attention, "feed_forward": g_feed_forward}


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


def weights_exchanged(self: nn.DecoderLayer, x: Any, memory: Any, *others: Any, **settings: Any) -> Any:
    result, cache = right_decoder_forward(self, x, memory, *others, **settings)
    return ((result[0], result[1][::-1]) if settings.get("need_weights") else result), cache


def weights_of_all_heads(self: nn.EncoderLayer, *inputs: Any, **settings: Any) -> Any:
    result, cache = right_encoder_forward(self, *inputs, **settings)
    if not settings.get("need_weights"):
        return result, cache
    y, weights = result
    return (y, np.broadcast_to(weights.mean(axis=1, keepdims=True), weights.shape)), cache


OPTIONS = {
    "width": 4,
    "num_heads": 2,
    "hidden": 5,
    "norm": "LayerNorm",
    "activation": "gelu",
    "grouped": False,
    "dropout": 0.0,
}


def encoder_case(grouped: bool = False, **settings: Any) -> Case:
    """Two heads of two, norm first."""
    options = {**OPTIONS, "norm_first": True, "causal": False, "grouped": grouped}
    draft = Draft(options, {"x": X, "bias": None}, {"mask": None, "rng": None, **settings})
    return component_case(build_layer(memory=False), draft, scale=1.0)


def decoder_case(norm_first: bool = False, memory: Any = MEMORY, **settings: Any) -> Case:
    """Two tokens over a memory of three, of which one is padding."""
    options = {**OPTIONS, "norm_first": norm_first, "causal": True}
    draft = Draft(
        options, {"x": X, "memory": memory, "bias": None}, {"mask": None, "memory_mask": None, "rng": None, **settings}
    )
    return component_case(build_layer(memory=True), draft, scale=1.0)


def stack_case(memory: np.ndarray | None = None, bias: np.ndarray | None = None, keep: str = "all") -> Case:
    """Two layers and a norm."""
    options = {**OPTIONS, "norm_first": True, "causal": False, "layers": 2, "final": True}
    draft = Draft(options, {"x": X, "memory": memory, "bias": bias}, {"mask": None, "rng": None, "keep": keep})
    return component_case(build_stack(memory is not None), draft, scale=1.0)


MISTAKES = [
    Mistake(
        name="norm before the sublayer where it belongs after the residual",
        of="PostNorm",
        why="Most later models have it before; the original paper, BERT and BART have it after.",
        hint="What are mean and variance of a row of the output, where the norm's weight is one and its bias zero?",
        forward=nn.PreNorm.forward,
        backward=nn.PreNorm.backward,
        witness=lambda: residual_case(nn.PostNorm),
        owner="numtx.nn.PostNorm",
    ),
    Mistake(
        name="encoder layer does not hand its mask on",
        of="EncoderLayer",
        why="The layer is written first without padding; the argument is added to it and not to the call inside.",
        hint="Change the numbers of a padded token: nothing else may move.",
        forward=mask_lost,
        witness=lambda: encoder_case(mask=PADDED[..., :2] & np.array([True, False])),
        owner="numtx.nn.EncoderLayer",
    ),
    Mistake(
        name="encoder layer does not hand positions on",
        of="EncoderLayer",
        why="Without padding they are what attention counts by itself, and so they are right in every first test.",
        hint="Shift the positions of one token alone: the output must move.",
        forward=positions_lost,
        witness=lambda: encoder_case(grouped=True, positions=np.array([0, 3])),
        owner="numtx.nn.EncoderLayer",
    ),
    Mistake(
        name="norm_first the wrong way round",
        of="EncoderLayer",
        why="The flag of one library is the default of another; either order trains.",
        hint="With sublayers of zeros, is the layer the identity or a norm?",
        forward=norm_on_the_other_side,
        backward=norm_on_the_other_side_backward,
        witness=encoder_case,
        owner="numtx.nn.EncoderLayer",
    ),
    Mistake(
        name="feed-forward network beside attention, not after it",
        of="EncoderLayer",
        why="GPT-J and GPT-NeoX compute both from the layer's input and add them; the others one after the other.",
        hint="Does the feed-forward network see what attention has found?",
        forward=feed_forward_beside_attention,
        backward=feed_forward_beside_attention_backward,
        witness=encoder_case,
        owner="numtx.nn.EncoderLayer",
    ),
    Mistake(
        name="cross-attention given the decoder's own keys",
        of="DecoderLayer",
        why="The call is copied from self-attention; where both lengths are equal nothing complains.",
        hint="Change the memory: the output must move.",
        forward=cross_attention_to_itself,
        backward=cross_attention_to_itself_backward,
        witness=decoder_case,
        owner="numtx.nn.DecoderLayer",
    ),
    Mistake(
        name="padding of the encoder seen in cross-attention",
        of="DecoderLayer",
        why="The encoder was given the padding mask, so its output is thought to be clean; padded tokens have one too.",
        hint="Make the source longer by padding: the output must not move.",
        forward=memory_mask_lost,
        witness=lambda: decoder_case(memory_mask=PADDED),
        owner="numtx.nn.DecoderLayer",
    ),
    Mistake(
        name="cross-attention causal too",
        of="DecoderLayer",
        why="One mask is handed to both attentions of the decoder; the source may be seen whole.",
        hint="Does the first output depend on the last token of the memory?",
        forward=cross_attention_causal,
        witness=decoder_case,
        owner="numtx.nn.DecoderLayer",
    ),
    Mistake(
        name="the decoder's norm applied to the memory",
        of="DecoderLayer",
        why="With the norm first, queries are normed before cross-attention, and the memory is taken along.",
        hint="Multiply the memory by two: do the scores double?",
        forward=memory_normed,
        witness=lambda: decoder_case(norm_first=True),
        owner="numtx.nn.DecoderLayer",
    ),
    Mistake(
        name="gradient of the residual forgotten around cross-attention",
        of="DecoderLayer",
        why="Cross-attention hands back two gradients, and the third way, past it, is overlooked.",
        hint="Set the memory's values to zero: what is then the gradient of x?",
        backward=cross_attention_without_residual,
        witness=decoder_case,
        owner="numtx.nn.DecoderLayer",
    ),
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
        name="weights of self-attention and over the memory exchanged",
        of="DecoderLayer",
        why="Both have one shape where target and memory are of one length, and the order is a convention.",
        hint="Which of the two is causal?",
        forward=weights_exchanged,
        witness=lambda: decoder_case(memory=MEMORY[:, :2]),
        owner="numtx.nn.DecoderLayer",
    ),
    Mistake(
        name="weights shown as the mean over the heads",
        of="EncoderLayer",
        why="PyTorch's attention gives that unless told not to average; Transformers gives those of each head.",
        hint="Do two heads show the same weights?",
        forward=weights_of_all_heads,
        witness=encoder_case,
        owner="numtx.nn.EncoderLayer",
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
