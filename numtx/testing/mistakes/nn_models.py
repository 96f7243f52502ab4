"""Classic mistakes in a language model and its loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import functional as F
from numtx.models.gpt2 import GPT2LMHeadModel
from numtx.models.loss import next_token_loss as right_loss
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case
from numtx.testing.specs.nn_models import build

right_forward, right_backward = GPT2LMHeadModel.forward, GPT2LMHeadModel.backward

OPTIONS = {
    "vocab_size": 4,
    "n_positions": 5,
    "n_embd": 4,
    "n_layer": 1,
    "n_head": 2,
    "n_inner": 5,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
IDS = np.array([[1, 3, 0], [2, 2, 1]])


def model_case(attention_mask: np.ndarray | None = None, **options: Any) -> Case:
    """A GPT-2 of one layer."""
    inputs = {"input_ids": IDS, "attention_mask": attention_mask, "position_ids": None}
    return component_case(build, Draft({**OPTIONS, **options}, inputs, {"rng": None, "keep": "all"}))


def loss_case(labels: list[list[int]] | None = None, num_items: int | None = None) -> Case:
    """Logits of two sequences, with a label that is ignored."""
    scores = np.random.default_rng(0).standard_normal((2, 3, 4))
    given = np.array(labels if labels is not None else [[1, 3, 0], [2, -100, -100]])
    return Case({"logits": scores, "labels": given, "shift_labels": None}, {"num_items": num_items})


def head_overwrites_embedding(self: GPT2LMHeadModel, doutputs: Any, cache: Any) -> Any:
    _, grads = right_backward(self, doutputs, cache)
    if self.config.tie_word_embeddings:
        (_, dtable), _ = self.head.backward(doutputs["logits"], cache[1])
        grads["body"]["embedding"]["weight"] = dtable
    return None, grads


def head_forgotten(self: GPT2LMHeadModel, doutputs: Any, cache: Any) -> Any:
    _, grads = right_backward(self, doutputs, cache)
    if self.config.tie_word_embeddings:
        (_, dtable), _ = self.head.backward(doutputs["logits"], cache[1])
        grads["body"]["embedding"]["weight"] = grads["body"]["embedding"]["weight"] - dtable
    return None, grads


def padding_seen(self: GPT2LMHeadModel, *inputs: Any, rng: Any = None, keep: Any = "all", **settings: Any) -> Any:
    input_ids, _, position_ids = _three(*inputs)
    return right_forward(self, input_ids, None, position_ids, rng=rng, keep=keep, **settings)


def off_by_one_after_cache(
    self: GPT2LMHeadModel, *inputs: Any, rng: Any = None, keep: Any = "all", **settings: Any
) -> Any:
    input_ids, attention_mask, position_ids = _three(*inputs)
    old = len(settings["kv_cache"][0]) if settings.get("kv_cache") is not None else 0
    if old and position_ids is None:
        position_ids = np.arange(old - 1, old - 1 + np.shape(input_ids)[1])
    return right_forward(self, input_ids, attention_mask, position_ids, rng=rng, keep=keep, **settings)


def _three(input_ids: Any, attention_mask: Any = None, position_ids: Any = None) -> tuple[Any, Any, Any]:
    return input_ids, attention_mask, position_ids


def _summed(logits: Any, labels: Any, num_items: Any) -> Any:
    total, cache = F.cross_entropy(logits, labels, reduction="sum")
    return total / logits.dtype.type(num_items), (cache, num_items)


def _shifted(labels: Any, shift_labels: Any) -> Any:
    if shift_labels is not None:
        return shift_labels
    shifted = np.full_like(labels, -100)
    shifted[:, :-1] = labels[:, 1:]
    return shifted


def labels_not_shifted(logits: Any, labels: Any = None, shift_labels: Any = None, num_items: Any = None) -> Any:
    return right_loss(logits, shift_labels=labels if shift_labels is None else shift_labels, num_items=num_items)


def averaged_over_padding(logits: Any, labels: Any = None, shift_labels: Any = None, num_items: Any = None) -> Any:
    targets = _shifted(labels, shift_labels)
    return _summed(logits, targets, targets.size if num_items is None else num_items)


def mean_of_means(logits: Any, labels: Any = None, shift_labels: Any = None, num_items: Any = None) -> Any:
    return right_loss(logits, labels=labels, shift_labels=shift_labels)


MISTAKES = [
    Mistake(
        name="head's gradient overwrites the embedding's",
        of="GPT2LMHeadModel",
        why="One table is used twice, and `=` is written where `+=` is due.",
        hint="Compare tied with untied: the tied gradient is the sum of the two.",
        backward=head_overwrites_embedding,
        witness=model_case,
        owner="numtx.models.gpt2.GPT2LMHeadModel",
    ),
    Mistake(
        name="embedding learns from its rows only",
        of="GPT2LMHeadModel",
        why="The tied head borrows the table and hands no gradient back.",
        hint="Does a word that is not in the input get a gradient? It should.",
        backward=head_forgotten,
        witness=model_case,
        owner="numtx.models.gpt2.GPT2LMHeadModel",
    ),
    Mistake(
        name="padding attended to",
        of="GPT2LMHeadModel",
        why="The attention mask is taken and not handed on; a batch of one length never shows it.",
        hint="Change the token in a padded place.",
        forward=padding_seen,
        witness=lambda: model_case(attention_mask=np.array([[0, 1, 1], [1, 1, 1]])),
        owner="numtx.models.gpt2.GPT2LMHeadModel",
    ),
    Mistake(
        name="position off by one after a cache",
        of="GPT2LMHeadModel",
        why="The new token's position is the number of old ones, not the last old position.",
        hint="Decode token by token and compare with the full forward.",
        forward=off_by_one_after_cache,
        witness=model_case,
        owner="numtx.models.gpt2.GPT2LMHeadModel",
    ),
    Mistake(
        name="labels not shifted",
        of="next_token_loss",
        why="The model is asked for the token it is looking at, and learns to copy it.",
        hint="A loss that falls to zero at once is no triumph: which label belongs to position 0?",
        forward=labels_not_shifted,
        witness=loss_case,
        owner="numtx.models.loss",
    ),
    Mistake(
        name="loss averaged over padding",
        of="next_token_loss",
        why="The sum is divided by the size of the array, ignored places included.",
        hint="Add padding: the loss must not change.",
        forward=averaged_over_padding,
        witness=loss_case,
        owner="numtx.models.loss",
    ),
    Mistake(
        name="mean of shard means",
        of="next_token_loss",
        why="Every shard divides by its own count; with unequal padding the mean of means is no mean.",
        hint="Split a batch with padding in two, and compare with the whole.",
        forward=mean_of_means,
        witness=lambda: loss_case(num_items=9),
        owner="numtx.models.loss",
    ),
]
