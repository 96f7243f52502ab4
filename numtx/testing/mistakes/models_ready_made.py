"""Classic mistakes in models from ids to log-probabilities: shifting, padding, positions, losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from numtx.models.decoder_only import DecoderOnlyTransformer
from numtx.models.encoder_decoder import EncoderDecoderTransformer
from numtx.models.encoder_only import EncoderOnlyTransformer
from numtx.models.loss import label_loss as right_loss
from numtx.models.loss import label_loss_backward as right_loss_backward
from numtx.models.loss import shift_right as right_shift
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes.models_transformer import memory_mask_dropped
from numtx.testing.spec import Case
from numtx.testing.specs.models_ready_made import build

ENCODER_ONLY = "numtx.models.encoder_only.EncoderOnlyTransformer"
DECODER_ONLY = "numtx.models.decoder_only.DecoderOnlyTransformer"
ENCODER_DECODER = "numtx.models.encoder_decoder.EncoderDecoderTransformer"
LOSS = "numtx.models.loss"

right_encode = EncoderOnlyTransformer.forward
right_decode, right_decode_backward = DecoderOnlyTransformer.forward, DecoderOnlyTransformer.backward
right_translate, right_translate_backward = EncoderDecoderTransformer.forward, EncoderDecoderTransformer.backward

OPTIONS = {
    "d_model": 4,
    "nhead": 2,
    "dim_feedforward": 5,
    "max_length": 5,
    "dropout": 0.0,
    "activation": "relu",
    "layer_norm_eps": 1e-5,
    "norm_first": False,
    "positions": "sinusoidal",
    "scale_embedding": True,
}
IDS = np.array([[1, 3, 2], [2, 2, 1]])
PADDED = np.array([[0, 1, 1], [1, 1, 1]])
LABELS = np.array([[3, 2, 4, 2], [4, 3, 2, -100]])


def encoder_case(attention_mask: np.ndarray | None = None) -> Case:
    """Two sequences to classify."""
    options = {**OPTIONS, "vocab_size": 4, "num_classes": 3, "num_layers": 1, "pooling": "mean", "pad_token_id": None}
    inputs = {"input_ids": IDS, "attention_mask": attention_mask, "position_ids": None}
    return component_case(build(EncoderOnlyTransformer), Draft(options, inputs, {"rng": None, "keep": "all"}))


def decoder_case() -> Case:
    """Two sequences to go on with."""
    options = {**OPTIONS, "vocab_size": 4, "num_layers": 1}
    inputs = {"input_ids": IDS, "attention_mask": None, "position_ids": None}
    return component_case(build(DecoderOnlyTransformer), Draft(options, inputs, {"rng": None, "keep": "all"}))


def translation_case(attention_mask: np.ndarray | None = None) -> Case:
    """Two sources and their targets."""
    options = {**OPTIONS, "src_vocab_size": 4, "tgt_vocab_size": 5, "num_encoder_layers": 1, "num_decoder_layers": 1}
    options |= {"pad_token_id": 0, "decoder_start_token_id": 1}
    inputs = {"input_ids": IDS, "labels": LABELS, "attention_mask": attention_mask, "decoder_attention_mask": None}
    return component_case(build(EncoderDecoderTransformer), Draft(options, inputs, {"rng": None, "keep": "all"}))


def loss_case(num_items: int | None = None) -> Case:
    """Log-probabilities of three tokens each, of which some are asked for nothing."""
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(4), (2, 3)))
    return Case({"log_probs": log_probs, "labels": np.array([[1, 3, 0], [2, -100, -100]])}, {"num_items": num_items})


# --- shifting --------------------------------------------------------------------------------------------------------


def not_shifted(labels: Any, start: int, pad: int) -> Any:
    return np.where(labels == -100, pad, labels)


def rolled(labels: Any, start: int, pad: int) -> Any:
    return np.roll(np.where(labels == -100, pad, labels), 1, axis=1)


def padding_for_the_start(labels: Any, start: int, pad: int) -> Any:
    return right_shift(labels, pad, pad)


def not_shifted_left(labels: Any) -> Any:
    return np.array(labels)


def rolled_left(labels: Any) -> Any:
    return np.roll(labels, -1, axis=1)


# --- losses ----------------------------------------------------------------------------------------------------------


def averaged_over_padding(log_probs: Any, labels: Any, num_items: Any = None) -> Any:
    return right_loss(log_probs, labels, labels.size if num_items is None else num_items)


def own_count(log_probs: Any, labels: Any, num_items: Any = None) -> Any:
    return right_loss(log_probs, labels)


def count_forgotten(dy: Any, cache: Any) -> Any:
    return right_loss_backward(dy * cache[1], cache)


# --- models ----------------------------------------------------------------------------------------------------------


def padding_seen(self: Any, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **given: Any) -> Any:
    return right_encode(self, input_ids, np.ones(np.shape(input_ids), int), position_ids, **given)


@contextmanager
def seeing_the_future(layers: Any) -> Iterator[None]:
    """Layers whose self-attention is not causal for a moment."""
    attentions = [layer.attention.sublayer for layer in layers]
    for attention in attentions:
        attention.causal = False
    try:
        yield
    finally:
        for attention in attentions:
            attention.causal = True


def decoder_sees_the_future(self: Any, *inputs: Any, **settings: Any) -> Any:
    with seeing_the_future(self.stack.layers):
        return right_decode(self, *inputs, **settings)


def decoder_sees_the_future_backward(self: Any, doutputs: Any, cache: Any) -> Any:
    with seeing_the_future(self.stack.layers):
        return right_decode_backward(self, doutputs, cache)


def translator_sees_the_future(self: Any, *inputs: Any, **settings: Any) -> Any:
    with seeing_the_future(self.transformer.decoder.layers):
        return right_translate(self, *inputs, **settings)


def translator_sees_the_future_backward(self: Any, doutputs: Any, cache: Any) -> Any:
    with seeing_the_future(self.transformer.decoder.layers):
        return right_translate_backward(self, doutputs, cache)


def positions_from_zero_after_a_cache(
    self: Any, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **given: Any
) -> Any:
    positions = np.arange(np.shape(input_ids)[1]) if position_ids is None else position_ids
    return right_decode(self, input_ids, attention_mask, positions, **given)


def causal_top_left(
    self: Any, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **given: Any
) -> Any:
    kv_cache = given.get("kv_cache")
    if not kv_cache or attention_mask is not None:
        return right_decode(self, input_ids, attention_mask, position_ids, **given)
    old, (batch, new) = len(kv_cache[0]), np.shape(input_ids)
    positions = np.arange(old, old + new) if position_ids is None else position_ids
    x, _ = self.embedding.forward(input_ids, positions=positions)
    mask = np.broadcast_to(np.tri(new, old + new, dtype=bool), (batch, 1, new, old + new))  # key j ≤ query i of the new
    x, _ = self.stack.forward(x, mask=mask, kv_cache=kv_cache)
    return self._outputs(self.head.forward(x)[0], None, None)


MISTAKES = [
    Mistake(
        name="target not shifted",
        of="shift_right",
        why="Source and target go in side by side; that the target must come one step late is easily forgotten.",
        hint="What has the decoder seen when it is asked for the first token?",
        forward=not_shifted,
        witness=lambda: Case({"labels": LABELS}, {"start": 1, "pad": 0}),
        owner=LOSS,
    ),
    Mistake(
        name="target rolled round its end",
        of="shift_right",
        why="np.roll shifts in one word, and what falls off the end comes back at the beginning.",
        hint="What does the decoder read first?",
        forward=rolled,
        witness=lambda: Case({"labels": LABELS}, {"start": 1, "pad": 0}),
        owner=LOSS,
    ),
    Mistake(
        name="decoder starts with padding",
        of="shift_right",
        why="T5 and Marian start so, and their line is copied to a model that has a start token.",
        hint="What does the decoder read first?",
        forward=padding_for_the_start,
        witness=lambda: Case({"labels": LABELS}, {"start": 1, "pad": 0}),
        owner=LOSS,
    ),
    Mistake(
        name="next token not asked for",
        of="shift_left",
        why="The model is asked for the token that it is looking at, and learns to copy it.",
        hint="Which label belongs to place 0?",
        forward=not_shifted_left,
        witness=lambda: Case({"labels": LABELS}),
        owner=LOSS,
    ),
    Mistake(
        name="last place asked for the first token",
        of="shift_left",
        why="np.roll shifts in one word, and what falls off the beginning comes back at the end.",
        hint="What can the last place be asked for?",
        forward=rolled_left,
        witness=lambda: Case({"labels": LABELS}),
        owner=LOSS,
    ),
    Mistake(
        name="likelihood averaged over padding",
        of="label_loss",
        why="The mean is taken over the array, ignored places included.",
        hint="Add padding: the loss must not change.",
        forward=averaged_over_padding,
        witness=loss_case,
        owner=LOSS,
    ),
    Mistake(
        name="likelihood averaged by every shard alone",
        of="label_loss",
        why="Every shard divides by its own count; with unequal padding the mean of means is no mean.",
        hint="Split a batch with padding in two, and compare with the whole.",
        forward=own_count,
        witness=lambda: loss_case(num_items=9),
        owner=LOSS,
    ),
    Mistake(
        name="likelihood's gradient not divided",
        of="label_loss",
        why="The division comes after the sum and has no backward to call.",
        hint="Give the same batch twice over: loss and gradients must stay.",
        backward=count_forgotten,
        witness=loss_case,
        owner=LOSS,
    ),
    Mistake(
        name="classifier sees padding",
        of="EncoderOnlyTransformer",
        why="The attention mask is taken and not handed on; a batch of one length never shows it.",
        hint="Change the token in a padded place.",
        forward=padding_seen,
        witness=lambda: encoder_case(PADDED),
        owner=ENCODER_ONLY,
    ),
    Mistake(
        name="language model that sees the future",
        of="DecoderOnlyTransformer",
        why="The stack is an encoder's, and an encoder's attention is not causal unless it is told so.",
        hint="Change the last token: do the results before it move?",
        forward=decoder_sees_the_future,
        backward=decoder_sees_the_future_backward,
        witness=decoder_case,
        owner=DECODER_ONLY,
    ),
    Mistake(
        name="positions from zero after a cache",
        of="DecoderOnlyTransformer",
        why="The new token comes alone, and the position of a lone token seems to be 0.",
        hint="Decode token by token and compare with the full forward.",
        forward=positions_from_zero_after_a_cache,
        witness=decoder_case,
        owner=DECODER_ONLY,
    ),
    Mistake(
        name="causal mask aligned top-left after a cache",
        of="DecoderOnlyTransformer",
        why="The triangle of a square is cut to the new rows from its top, where the queries are the newest tokens.",
        hint="Decode token by token: how many keys does the last query see?",
        forward=causal_top_left,
        witness=decoder_case,
        owner=DECODER_ONLY,
    ),
    Mistake(
        name="encoder padding not masked in cross-attention",
        of="EncoderDecoderTransformer",
        why="The padding mask is given to the encoder, and cross-attention has a mask argument of its own.",
        hint="Lengthen a source by padding: which results of the decoder move?",
        forward=memory_mask_dropped,
        witness=lambda: translation_case(PADDED),
        owner="numtx.models.transformer.Transformer",
    ),
    Mistake(
        name="translator that sees the future",
        of="EncoderDecoderTransformer",
        why="In training the whole target is at hand, and nothing but a mask keeps the decoder from reading ahead.",
        hint="Change the last label but one: do results before it move?",
        forward=translator_sees_the_future,
        backward=translator_sees_the_future_backward,
        witness=translation_case,
        owner=ENCODER_DECODER,
    ),
]
