"""Classic mistakes in T5: scores that are scaled, distances of the wrong side, what is shared, and the head's scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from numtx.models.t5 import T5ForConditionalGeneration, T5ForQuestionAnswering, T5Model
from numtx.models.t5_stack import T5LMHead, T5Stack
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case
from numtx.testing.specs.models_t5 import build, build_stack

STACK = "numtx.models.t5_stack.T5Stack"
HEAD = "numtx.models.t5_stack.T5LMHead"
BODY = "numtx.models.t5.T5Model"
MODEL = "numtx.models.t5.T5ForConditionalGeneration"
ANSWERING = "numtx.models.t5.T5ForQuestionAnswering"

right_stack = T5Stack.forward
right_head, right_head_backward = T5LMHead.forward, T5LMHead.backward
right_body, right_body_backward = T5Model.forward, T5Model.backward
right_model_backward = T5ForConditionalGeneration.backward
right_answering = T5ForQuestionAnswering.forward

OPTIONS = {
    "vocab_size": 5,
    "d_model": 4,
    "d_kv": 3,
    "d_ff": 5,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 5,
    "dropout_rate": 0.0,
    "layer_norm_epsilon": 1e-5,
    "feed_forward_proj": "gated-gelu",
}
PLAIN = {"rng": None, "keep": "all"}
IDS = np.array([[1, 3, 0, 2], [2, 2, 1, 4]])
PADDED = np.array([[0, 1, 1, 1], [1, 1, 1, 1]])


def stack_case(*, decoder: bool = False) -> Case:
    """Two sequences of four tokens, and of three in a memory."""
    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.standard_normal((2, 4, 4)),
        "memory": rng.standard_normal((2, 3, 4)) if decoder else None,
    }
    return component_case(build_stack, Draft({**OPTIONS, "decoder": decoder}, inputs, {"mask": None, **PLAIN}))


def model_case(kind: Any, attention_mask: np.ndarray | None = None, **options: Any) -> Case:
    """Two sources and their targets."""
    inputs = {
        "input_ids": IDS,
        "attention_mask": attention_mask,
        "decoder_input_ids": IDS[:, 1:],
        "decoder_attention_mask": None,
    }
    return component_case(build(kind), Draft({**OPTIONS, "num_layers": 1, **options}, inputs, PLAIN))


def language_case() -> Case:
    """A head that is tied."""
    return model_case(T5ForConditionalGeneration, tie_word_embeddings=True, scale_decoder_outputs=None)


def head_case() -> Case:
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((2, 3, 4)), "weight": rng.standard_normal((5, 4))}
    return component_case(lambda dtype, scale: T5LMHead(scale), Draft({"scale": 0.5}, inputs, {}))


def answering_case() -> Case:
    """Two sources, which the decoder reads too."""
    inputs = {"input_ids": IDS, "attention_mask": None}
    options = {**OPTIONS, "num_layers": 1, "decoder_start_token_id": 0}
    return component_case(build(T5ForQuestionAnswering), Draft(options, inputs, PLAIN))


# --- stacks ----------------------------------------------------------------------------------------------------------


@contextmanager
def changed(part: Any, name: str, value: Any) -> Iterator[None]:
    """Another setting for a moment."""
    before = getattr(part, name)
    setattr(part, name, value)
    try:
        yield
    finally:
        setattr(part, name, before)


def scores_scaled(self: Any, *inputs: Any, **settings: Any) -> Any:
    attentions = [layer.attention.sublayer for layer in self.stack.layers]
    for attention in attentions:
        attention.scale = None
    try:
        return right_stack(self, *inputs, **settings)
    finally:
        for attention in attentions:
            attention.scale = 1.0


def other_side(self: Any, *inputs: Any, **settings: Any) -> Any:
    with changed(self.positions, "bidirectional", not self.positions.bidirectional):
        return right_stack(self, *inputs, **settings)


def bias_in_the_first_layer_alone(self: Any, x: Any, memory: Any = None, **settings: Any) -> Any:
    y, cache = right_stack(self, x, memory, **settings)
    if settings.get("rng") is not None or settings.get("kv_cache") is not None:
        return y, cache
    bias, _ = self.positions.forward(x.shape[1])
    masks = {name: settings[name] for name in ("mask", "memory_mask") if settings.get(name) is not None}
    for k, layer in enumerate(self.stack.layers):
        x, _ = layer.forward(x, *([] if memory is None else [memory]), bias if k == 0 else 0 * bias, **masks)
    return self.stack.norm.forward(x)[0], cache


# --- head and models -------------------------------------------------------------------------------------------------


def head_not_scaled(self: Any, x: Any, weight: Any) -> Any:
    with changed(self, "scale", 1.0):
        return right_head(self, x, weight)


def scale_forgotten_in_backward(self: Any, dy: Any, cache: Any) -> Any:
    with changed(self, "scale", 1.0):
        return right_head_backward(self, dy, cache)


def padding_of_the_source_seen(self: Any, *inputs: Any, **settings: Any) -> Any:
    right = self.decoder.forward
    self.decoder.forward = lambda *arrays, memory_mask=None, **given: right(*arrays, **given)
    try:
        return right_body(self, *inputs, **settings)
    finally:
        del self.decoder.forward


def embedding_learns_from_the_decoder_alone(self: Any, doutputs: Any, cache: Any) -> Any:
    _, grads = right_body_backward(self, doutputs, cache)
    _, (embedded, decoder), _ = cache
    (dx, _), _ = self.decoder.backward(doutputs["last_hidden_state"], decoder)
    grads["embedding"] = self.embedding.backward(dx, embedded)[1]
    return None, grads


def memory_without_gradient(self: Any, doutputs: Any, cache: Any) -> Any:
    _, grads = right_body_backward(self, doutputs, cache)
    _, (embedded, decoder), _ = cache
    (dx, _), _ = self.decoder.backward(doutputs["last_hidden_state"], decoder)
    grads["embedding"] = self.embedding.backward(dx, embedded)[1]
    return None, grads | {"encoder": _zeros(grads["encoder"])}


def _zeros(tree: Any) -> Any:
    return {name: _zeros(part) for name, part in tree.items()} if isinstance(tree, dict) else 0 * tree


def head_overwrites_the_table(self: Any, doutputs: Any, cache: Any) -> Any:
    _, grads = right_model_backward(self, doutputs, cache)
    if self.config.tie_word_embeddings:
        (_, dtable), _ = self.head.backward(doutputs["logits"], cache[1])
        grads["body"]["embedding"]["weight"] = dtable
    return None, grads


def reads_in_time(self: Any, input_ids: Any, *inputs: Any, **settings: Any) -> Any:
    return right_answering(self, input_ids, *inputs, decoder_input_ids=input_ids, **settings)


MISTAKES = [
    Mistake(
        name="T5's scores divided by √D",
        of="T5Stack",
        why="Everybody else's are; T5's authors put the factor into the weights they drew, once and for all.",
        hint="Compare the attention weights of one layer: whose are the flatter ones?",
        forward=scores_scaled,
        witness=stack_case,
        owner=STACK,
    ),
    Mistake(
        name="T5's distances of the other stack",
        of="T5Stack",
        why="One function makes the buckets of both stacks, with a switch: the encoder's go both ways.",
        hint="Which distances occur in an encoder, and which in a decoder?",
        forward=other_side,
        witness=stack_case,
        owner=STACK,
    ),
    Mistake(
        name="T5's bias in the first layer alone",
        of="T5Stack",
        why="The file holds the table in the first block, so that it looks like a part of that block alone.",
        hint="How many layers use the table, and how many own it?",
        forward=bias_in_the_first_layer_alone,
        witness=stack_case,
        owner=STACK,
    ),
    Mistake(
        name="T5's output not scaled before the head",
        of="T5LMHead",
        why="A tied head is the embedding's table once more, and the factor 1 / √C is in no picture of it.",
        hint="Compare the size of the logits, not only their order.",
        forward=head_not_scaled,
        witness=head_case,
        owner=HEAD,
    ),
    Mistake(
        name="T5's head forgets its scale in backward",
        of="T5LMHead",
        why="The product's backward is at hand, and the factor before it looks like nothing that has a gradient.",
        hint="y = (s x) W: what is dx?",
        backward=scale_forgotten_in_backward,
        witness=head_case,
        owner=HEAD,
    ),
    Mistake(
        name="T5's decoder sees padding of the source",
        of="T5Model",
        why="The source's mask goes to the encoder; that the decoder looks at the same tokens is easily forgotten.",
        hint="Which keys does cross-attention have?",
        forward=padding_of_the_source_seen,
        witness=lambda: model_case(T5Model, PADDED),
        owner=BODY,
    ),
    Mistake(
        name="T5's embedding learns from the decoder alone",
        of="T5Model",
        why="Encoder and decoder have one table, and `=` is written where `+=` is due.",
        hint="Does a word that stands in the source alone get a gradient?",
        backward=embedding_learns_from_the_decoder_alone,
        witness=lambda: model_case(T5Model),
        owner=BODY,
    ),
    Mistake(
        name="T5's encoder learns nothing through the memory",
        of="T5Model",
        why="The memory is an input of the decoder, and its gradient is thrown away with those of masks and positions.",
        hint="By which way does the loss reach the encoder?",
        backward=memory_without_gradient,
        witness=lambda: model_case(T5Model),
        owner=BODY,
    ),
    Mistake(
        name="T5's head overwrites the embedding's gradient",
        of="T5ForConditionalGeneration",
        why="One table is used three times, and `=` is written where `+=` is due.",
        hint="Compare tied with untied: the tied gradient is a sum.",
        backward=head_overwrites_the_table,
        witness=language_case,
        owner=MODEL,
    ),
    Mistake(
        name="T5 reads the source in time",
        of="T5ForQuestionAnswering",
        why="The decoder is given the source as it stands; in training it read everything behind a start token.",
        hint="What does the decoder read at its first place, when nothing has been said yet?",
        forward=reads_in_time,
        witness=answering_case,
        owner=ANSWERING,
    ),
]
