"""Classic mistakes in wiring an encoder to a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from numtx import nn
from numtx.models.transformer import Transformer
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case

OWNER = "numtx.models.transformer.Transformer"
right_forward, right_backward = Transformer.forward, Transformer.backward

OPTIONS = {
    "d_model": 4,
    "nhead": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "dim_feedforward": 5,
    "dropout": 0.0,
    "activation": "relu",
    "layer_norm_eps": 1e-5,
    "norm_first": False,
    "bias": True,
    "causal": False,
}


def transformer_case(**masks: Any) -> Case:
    """Three places of a source, two of a target."""
    rng = np.random.default_rng(0)
    inputs = {"src": rng.standard_normal((2, 3, 4)), "tgt": rng.standard_normal((2, 2, 4))}
    settings = {"src_mask": None, "tgt_mask": None, "memory_mask": None, **masks, "rng": None, "keep": "all"}
    return component_case(
        lambda dtype, **options: Transformer(**options, rng=0, dtype=dtype), Draft(OPTIONS, inputs, settings)
    )


def padded() -> np.ndarray:
    """The first source is one place shorter than the second."""
    return np.array([[True, True, False], [True, True, True]])[:, None, None, :]


def memory_mask_dropped(
    self: Any, src: Any, tgt: Any, src_mask: Any = None, tgt_mask: Any = None, memory_mask: Any = None, **settings: Any
) -> Any:
    return right_forward(self, src, tgt, src_mask, tgt_mask, None, **settings)


def target_mask_dropped(
    self: Any, src: Any, tgt: Any, src_mask: Any = None, tgt_mask: Any = None, memory_mask: Any = None, **settings: Any
) -> Any:
    return right_forward(self, src, tgt, src_mask, None, memory_mask, **settings)


def masks_inverted(
    self: Any, src: Any, tgt: Any, src_mask: Any = None, tgt_mask: Any = None, memory_mask: Any = None, **settings: Any
) -> Any:
    masks = (None if mask is None else ~mask for mask in (src_mask, tgt_mask, memory_mask))
    return right_forward(self, src, tgt, *masks, **settings)


def source_for_memory(
    self: Any,
    src: Any,
    tgt: Any,
    src_mask: Any = None,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    rng: Any = None,
    keep: Any = "all",
) -> Any:
    lengths = ((tgt_mask, tgt.shape[1]), (memory_mask, src.shape[1]))
    masks = [self._mask("mask", mask, *tgt.shape[:2], keys) for mask, keys in lengths]
    _, cache = right_forward(self, src, tgt, src_mask, tgt_mask, memory_mask, keep=keep)
    y, decoded = self.decoder.forward(tgt, src, mask=masks[0], memory_mask=masks[1], rng=rng, keep=keep)
    return y, (None if cache is None else (cache[0], decoded))


@contextmanager
def without_norm(stack: nn.Stack) -> Iterator[None]:
    """A stack for a moment without the norm at its end."""
    norm, stack.norm = stack.norm, None
    try:
        yield
    finally:
        stack.norm = norm


def encoder_without_norm(self: Any, *inputs: Any, **settings: Any) -> Any:
    with without_norm(self.encoder):
        return right_forward(self, *inputs, **settings)


def encoder_without_norm_backward(self: Any, dy: Any, cache: Any) -> Any:
    with without_norm(self.encoder):
        return right_backward(self, dy, cache)


def _zeros(tree: Any) -> Any:
    return {k: _zeros(v) if isinstance(v, dict) else np.zeros_like(v) for k, v in tree.items()}


def memory_is_constant(self: Any, dy: Any, cache: Any) -> Any:
    (dsrc, dtgt), grads = right_backward(self, dy, cache)
    return (np.zeros_like(dsrc), dtgt), {**grads, "encoder": _zeros(grads["encoder"])}


def source_gets_gradient_of_memory(self: Any, dy: Any, cache: Any) -> Any:
    (_, dtgt), grads = right_backward(self, dy, cache)
    (_, dmemory, _), _ = self.decoder.backward(dy, cache[1])
    return (dmemory, dtgt), grads


MISTAKES = [
    Mistake(
        name="encoder padding seen by the decoder",
        of="Transformer",
        why="The padding mask is given to the encoder, and cross-attention has a mask argument of its own.",
        hint="Lengthen a source by padding: which results of the decoder move?",
        forward=memory_mask_dropped,
        witness=lambda: transformer_case(src_mask=padded(), memory_mask=padded()),
        owner=OWNER,
    ),
    Mistake(
        name="decoder sees the target that it is asked for",
        of="Transformer",
        why="The decoder's own mask is forgotten, or made and not passed; the training loss is then wonderfully low.",
        hint="Change the last place of the target: do results before it move?",
        forward=target_mask_dropped,
        witness=lambda: transformer_case(tgt_mask=np.tri(2, dtype=bool)),
        owner=OWNER,
    ),
    Mistake(
        name="masks of a transformer read the other way round",
        of="Transformer",
        why="In PyTorch's nn.Transformer True means hidden, in its scaled_dot_product_attention True means seen.",
        hint="Hide one place of the source and see from which one the results come.",
        forward=masks_inverted,
        witness=lambda: transformer_case(src_mask=padded(), memory_mask=padded()),
        owner=OWNER,
    ),
    Mistake(
        name="decoder looks at the source instead of the memory",
        of="Transformer",
        why="Both are (B, T, C), so nothing complains when the encoder's result is not the one that is passed on.",
        hint="Set a weight of the encoder to zero: does the result change?",
        forward=source_for_memory,
        witness=transformer_case,
        owner=OWNER,
    ),
    Mistake(
        name="encoder without the norm at its end",
        of="Transformer",
        why="With post-norm the last layer ends in a norm already; PyTorch's nn.Transformer has one more all the same.",
        hint="Count the norms: two a layer of the encoder, three of the decoder, and ...",
        forward=encoder_without_norm,
        backward=encoder_without_norm_backward,
        witness=transformer_case,
        owner=OWNER,
    ),
    Mistake(
        name="memory taken for a constant",
        of="Transformer",
        why="The memory is ready when the decoder begins, and backward is thought to end at the decoder's own input.",
        hint="Which gradients of the encoder are zero?",
        backward=memory_is_constant,
        witness=transformer_case,
        owner=OWNER,
    ),
    Mistake(
        name="gradient of the memory handed to the source",
        of="Transformer",
        why="It has the source's shape, and the way back through the encoder is easily left out.",
        hint="Compare the gradient of the source with a difference quotient.",
        backward=source_gets_gradient_of_memory,
        witness=transformer_case,
        owner=OWNER,
    ),
]
