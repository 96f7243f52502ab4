"""Classic mistakes in Llama: the rotary layout, the gate's place, padding, the last token, and the tied table."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.models import llama
from numtx.models.output import BaseModelOutput
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case
from numtx.testing.specs.models_llama import build

BODY = "numtx.models.llama.LlamaModel"

right_body = llama.LlamaModel.forward
right_language_backward = llama.LlamaForCausalLM.backward
right_classifier = llama.LlamaForSequenceClassification.forward

OPTIONS = {
    "vocab_size": 5,
    "hidden_size": 8,
    "intermediate_size": 5,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 6,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "pad_token_id": None,
}
IDS = np.array([[1, 3, 2], [2, 2, 1]])
PLAIN = {"rng": None, "keep": "all"}


def model_case(
    kind: Any = llama.LlamaModel, ids: np.ndarray = IDS, mask: np.ndarray | None = None, **options: Any
) -> Case:
    """Two sequences."""
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": None}
    return component_case(build(kind), Draft({**OPTIONS, **options}, inputs, PLAIN))


def classifier_case() -> Case:
    """One of the two sequences is padded on the right."""
    ids = np.array([[1, 3, 0], [2, 2, 1]])
    options = {"pad_token_id": 0, "id2label": {0: "a", 1: "b"}}
    return model_case(llama.LlamaForSequenceClassification, ids, (ids > 0).astype(int), **options)


def other_layout(self: Any, *inputs: Any, **settings: Any) -> Any:
    turns = [layer.attention.sublayer.rotary for layer in self.stack.layers]
    for turn in turns:
        turn.layout = "interleaved"
    try:
        return right_body(self, *inputs, **settings)
    finally:
        for turn in turns:
            turn.layout = "half"


def gate_exchanged(self: Any, *inputs: Any, **settings: Any) -> Any:
    networks = [layer.feed_forward.sublayer for layer in self.stack.layers]
    for network in networks:
        network.gate, network.up = network.up, network.gate
    try:
        return right_body(self, *inputs, **settings)
    finally:
        for network in networks:
            network.gate, network.up = network.up, network.gate


def padding_seen(self: Any, *inputs: Any, **settings: Any) -> Any:
    ids, _, *positions = inputs
    return right_body(self, ids, None, *positions, **settings)


def final_norm_forgotten(self: Any, *inputs: Any, **settings: Any) -> Any:
    norm, self.stack.norm = self.stack.norm, None
    try:
        y = right_body(self, *inputs, **settings | {"keep": None, "kv_cache": None, "rng": None})[0]
    finally:
        self.stack.norm = norm
    if settings.get("rng") is not None or settings.get("kv_cache") is not None:
        return right_body(self, *inputs, **settings)
    return BaseModelOutput(y.last_hidden_state), right_body(self, *inputs, **settings)[1]


def head_overwrites_the_table(self: Any, doutputs: Any, cache: Any) -> Any:
    _, grads = right_language_backward(self, doutputs, cache)
    if self.config.tie_word_embeddings:
        (_, dtable), _ = self.head.backward(doutputs["logits"], cache[1])
        grads["body"]["embedding"]["weight"] = dtable
    return None, grads


def last_column_read(self: Any, *inputs: Any, **settings: Any) -> Any:
    outputs, cache = right_classifier(self, *inputs, **settings)
    if settings.get("rng") is not None:
        return outputs, cache
    hidden = self.body(*inputs).last_hidden_state[:, -1]
    return type(outputs)(logits=self.head.out_proj(hidden)), cache


MISTAKES = [
    Mistake(
        name="Llama's rotary positions in pairs of neighbours",
        of="LlamaModel",
        why="Meta's files and the paper pair neighbours; Transformers' files have queries and keys permuted to halves.",
        hint="Which two numbers of a head does one angle turn?",
        forward=other_layout,
        witness=model_case,
        owner=BODY,
    ),
    Mistake(
        name="Llama's gate and way up exchanged",
        of="LlamaModel",
        why="Both are matrices of one shape, and w1, w2, w3 do not say which of them is bent.",
        hint="Set one of the two matrices to zero: when is the result zero, and why?",
        forward=gate_exchanged,
        witness=model_case,
        owner=BODY,
    ),
    Mistake(
        name="Llama attends to padding",
        of="LlamaModel",
        why="The attention mask is taken and not handed on: right padding under a causal mask never shows it.",
        hint="Pad on the left, and change the token there.",
        forward=padding_seen,
        witness=lambda: model_case(mask=np.array([[0, 1, 1], [1, 1, 1]])),
        owner=BODY,
    ),
    Mistake(
        name="Llama without its last norm",
        of="LlamaModel",
        why="Each layer begins with its norms; the one behind the last layer belongs to none of them.",
        hint="What is the mean of the squares of the last hidden state?",
        forward=final_norm_forgotten,
        witness=model_case,
        owner=BODY,
    ),
    Mistake(
        name="Llama's head overwrites the embedding's gradient",
        of="LlamaForCausalLM",
        why="Where one table is used twice, `=` is written where `+=` is due.",
        hint="Compare tied with untied: the tied gradient is the sum of the two.",
        backward=head_overwrites_the_table,
        witness=lambda: model_case(llama.LlamaForCausalLM, tie_word_embeddings=True),
        owner="numtx.models.llama.LlamaForCausalLM",
    ),
    Mistake(
        name="Llama classifies by the last column",
        of="LlamaForSequenceClassification",
        why="With left padding, or without any, the last column is the last token.",
        hint="Pad a sequence on the right: do its scores change?",
        forward=last_column_read,
        witness=classifier_case,
        owner="numtx.models.llama.LlamaForSequenceClassification",
    ),
]
