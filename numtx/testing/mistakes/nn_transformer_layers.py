"""Classic mistakes in encoder and decoder layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes.nn_layers import X, residual_case
from numtx.testing.spec import Case
from numtx.testing.specs.nn_stacks import build_layer

right_encoder_forward, right_decoder_forward = nn.EncoderLayer.forward, nn.DecoderLayer.forward
SWAPPED = {nn.PreNorm: nn.PostNorm, nn.PostNorm: nn.PreNorm}

MEMORY = np.concatenate([0.7 * X[:, ::-1], X[::-1, :1] - 0.2], axis=1)  # (B, Tk, C) = (2, 3, 4)
PADDED = np.array([[True, True, False], [False, True, True]])[:, None, None, :]


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
]
