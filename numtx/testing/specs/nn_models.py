"""What is known of whole models: GPT-2's logits, its loss, and the gradients of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx import nn
from numtx.models import loss as loss_pair
from numtx.models.gpt2 import GPT2Config, GPT2LMHeadModel, GPT2Model
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, within
from numtx.testing.op import difference
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.losses import cross_entropy
from numtx.testing.specs.nn_layers import embedding, learned_positions, positions_of

ACTIVATION = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu"}


def draw_logits(d: Drawer) -> Draft:
    """Tied and untied, padded left or right or not, with positions of one's own or not."""
    batch, length, vocabulary = d.sizes(3, 1, 4)
    width, heads = d.choice(((4, 2), (6, 3), (4, 1)))
    rate = d.choice((0.0, 0.4))
    options = {
        "vocab_size": vocabulary,
        "n_positions": length + 1,
        "n_embd": width,
        "n_layer": d.integer(1, 2),
        "n_head": heads,
        "n_inner": d.size(2, 5),
        "activation_function": d.choice(tuple(ACTIVATION)),
        "layer_norm_epsilon": d.choice((1e-5, 1e-3)),
        "tie_word_embeddings": d.boolean(),
        "resid_pdrop": rate,
        "embd_pdrop": rate,
        "attn_pdrop": rate,
    }
    settings = {"rng": d.optional(d.seed), "keep": d.choice(("all", "inputs"))}
    inputs = {
        "input_ids": d.ids((batch, length), vocabulary),
        "attention_mask": d.optional(lambda: padding(d, batch, length)),
        "position_ids": positions_of(d, batch, length, length + 1),
    }
    return Draft(options, inputs, settings)


def padding(d: Drawer, batch: int, length: int) -> np.ndarray:
    """Ones for tokens and zeros for padding, on one side."""
    mask = np.ones((batch, length), dtype=np.int64)
    for row in mask:
        row[: d.integer(0, length - 1)] = 0
    return mask if d.boolean() else np.ascontiguousarray(mask[:, ::-1])


def logits(
    p: plain.Parameters, options: Any, input_ids: Any, attention_mask: Any, position_ids: Any, rng: Any, keep: str
) -> np.ndarray:
    """The last hidden state, and the head: the embedding once more, or a matrix of its own."""
    y = hidden(plain.part(p, "body"), options, input_ids, attention_mask, position_ids, rng, keep)
    return plain.affine(y, p["body.embedding.weight" if options["tie_word_embeddings"] else "decoder"].T)


def hidden(
    p: plain.Parameters, options: Any, input_ids: Any, attention_mask: Any, position_ids: Any, rng: Any, keep: str
) -> np.ndarray:
    """Embedding, positions and the stack."""
    x = embedding(plain.part(p, "embedding"), options, input_ids)
    x = learned_positions(plain.part(p, "positions"), options, x, position_ids)
    mask = None if attention_mask is None else attention_mask[:, None, None, :] == 1
    return plain.decoder(
        plain.part(p, "stack"),
        x,
        layers=options["n_layer"],
        num_heads=options["n_head"],
        activation=ACTIVATION[options["activation_function"]],
        eps=options["layer_norm_epsilon"],
        mask=mask,
    )


def build(dtype: Any, **options: Any) -> GPT2LMHeadModel:
    """The model."""
    return GPT2LMHeadModel(GPT2Config(**options), rng=0, dtype=dtype)


def padding_changes_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Other tokens in the place of padding, and more padding on the right, change no logits of real tokens."""
    mask = case.inputs["attention_mask"]
    if mask is None or case.settings["rng"] is not None:
        return
    y, _ = pair.forward(**case.keywords())
    real, ids = mask == 1, case.inputs["input_ids"]
    vocabulary = case.settings["module"].options["vocab_size"]
    other = case.with_inputs({"input_ids": np.where(real, ids, (ids + 1) % vocabulary)})
    changed, _ = pair.forward(**other.keywords())
    yield within("padding changes nothing", "y", difference(changed[real], y[real]), 1e-12, "a real token saw padding")
    positions = case.inputs["position_ids"]
    longer = {
        "input_ids": np.pad(ids, ((0, 0), (0, 1))),
        "attention_mask": np.pad(mask, ((0, 0), (0, 1))),
        "position_ids": None if positions is None else np.pad(positions, ((0, 0),) * (positions.ndim - 1) + ((0, 1),)),
    }
    longer_y, _ = pair.forward(**case.with_inputs(longer).keywords())
    error = difference(longer_y[:, :-1][real], y[real])
    yield within("padding changes nothing", "y", error, 1e-12, "more padding changed a real token")


def cached_equals_full(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Decoding token by token with a key-value cache gives the logits of the full forward, to rounding."""
    if any(case.inputs[name] is not None for name in ("attention_mask", "position_ids")):
        return
    plain_case = case.with_settings(rng=None)
    full, _ = pair.forward(**plain_case.keywords())
    kv_cache = [nn.KVCache() for _ in range(case.settings["module"].options["n_layer"])]
    steps = []
    for t in range(full.shape[1]):
        ids = case.inputs["input_ids"][:, t : t + 1]
        step = plain_case.with_inputs({"input_ids": ids}).with_settings(kv_cache=kv_cache)
        steps.append(pair.forward(**step.keywords())[0])
    error = difference(np.concatenate(steps, axis=1), full)
    yield within("cached decoding equals the full forward", "y", error, 1e-12, "a decoding step differs")


class LossOf:
    """A model as a component whose result is its loss: `loss_and_grads` gives both at once."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        self.model = model
        self.named_parameters, self.set_parameter = model.named_parameters, model.set_parameter
        self.named_modules, self.owner = model.named_modules, model.owner
        self.trainable_parameters = model.trainable_parameters

    def forward(self, *inputs: Any, rng: Any, keep: str, num_items: int | None) -> tuple[Any, Any]:
        """The loss of a batch."""
        names = ("input_ids", "attention_mask", "position_ids", "labels", "shift_labels")
        batch = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
        return self.model.loss_and_grads(batch, rng=rng, keep=keep, num_items=num_items)

    def backward(self, dy: Any, cache: Any) -> tuple[None, Any]:
        """Its gradients, times dy."""
        return None, nn.unflatten({name: dy * g for name, g in nn.flatten(cache).items()})


def draw_loss(d: Drawer) -> Draft:
    """Labels shifted or not, with ignored ones; a count of one's own in some draws."""
    draft = draw_logits(d)
    ids = draft.inputs["input_ids"]
    labels = np.where(d.mask(ids.shape, 0.8), ids, -100)
    name, other = d.choice((("labels", "shift_labels"), ("shift_labels", "labels")))
    inputs = {**draft.inputs, "labels": None, "shift_labels": None, name: labels, other: None}
    return Draft(draft.options, inputs, {**draft.settings, "num_items": d.choice((None, 7))})


def mean_loss(logits_: np.ndarray, labels: Any, shift_labels: Any, num_items: int | None) -> float:
    """Cross-entropy of each position with the next token, over the number of real labels."""
    total, count = 0.0, 0
    for b, t in np.ndindex(logits_.shape[:2]):
        if shift_labels is not None:
            label = int(shift_labels[b, t])
        else:
            label = int(labels[b, t + 1]) if t + 1 < logits_.shape[1] else -100
        if label != -100:
            total += float(cross_entropy(logits_[b, t], np.asarray(label), reduction="sum"))
            count += 1
    return total / (num_items or max(count, 1))


def loss(
    p: plain.Parameters,
    options: Any,
    input_ids: Any,
    attention_mask: Any,
    position_ids: Any,
    labels: Any,
    shift_labels: Any,
    rng: Any,
    keep: str,
    num_items: Any,
) -> float:
    """The mean loss of the plain model's logits."""
    scores = logits(p, options, input_ids, attention_mask, position_ids, rng, keep)
    return mean_loss(scores, labels, shift_labels, num_items)


def draw_next_token_loss(d: Drawer) -> Case:
    """Labels shifted or not; all of them ignored now and then."""
    batch, length, vocabulary = d.sizes(3, 1, 4)
    ids = d.ids((batch, length), vocabulary)
    labels = np.where(d.mask((batch, length), d.choice((1.0, 0.7, 0.0))), ids, -100)
    shifted = d.boolean()
    inputs = {
        "logits": d.array((batch, length, vocabulary)),
        "labels": None if shifted else labels,
        "shift_labels": labels if shifted else None,
    }
    return Case(inputs, {"num_items": d.choice((None, 3))})


SPECS = [
    Spec(
        "next_token_loss",
        ("logits",),
        draw_next_token_loss,
        lambda logits, labels, shift_labels, num_items: mean_loss(logits, labels, shift_labels, num_items),
        resolve=lambda: Pair(loss_pair.next_token_loss, loss_pair.next_token_loss_backward),
    ),
    component_spec(
        "GPT2Model",
        lambda dtype, **options: GPT2Model(GPT2Config(**options), rng=0, dtype=dtype),
        draw_logits,
        hidden,
        positional=("input_ids", "attention_mask", "position_ids"),
        differentiable=(),
        stochastic=True,
        kind="model",
        read=lambda output: output.last_hidden_state,
        write=lambda dy: {"last_hidden_state": dy},
        checks=(padding_changes_nothing, cached_equals_full),
    ),
    component_spec(
        "GPT2LMHeadModel",
        build,
        draw_logits,
        logits,
        positional=("input_ids", "attention_mask", "position_ids"),
        differentiable=(),
        stochastic=True,
        kind="model",
        read=lambda output: output.logits,
        write=lambda dy: {"logits": dy},
        checks=(padding_changes_nothing, cached_equals_full),
    ),
    component_spec(
        "GPT2LMHeadModel-loss",
        lambda dtype, **options: LossOf(build(dtype, **options)),
        draw_loss,
        loss,
        positional=("input_ids", "attention_mask", "position_ids", "labels", "shift_labels"),
        differentiable=(),
        stochastic=True,
        kind="model",
    ),
]
