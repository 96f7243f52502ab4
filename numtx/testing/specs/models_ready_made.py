"""What is known of the ready-made transformers: their log-probabilities, their losses, padding and decoding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from numtx import nn
from numtx.models import loss as targets
from numtx.models.decoder_only import DecoderOnlyTransformer
from numtx.models.encoder_decoder import EncoderDecoderTransformer
from numtx.models.encoder_only import EncoderOnlyTransformer
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds, within
from numtx.testing.op import difference
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import models_embedding, nn_layers, nn_models
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.models_transformer import stack, transformer
from numtx.testing.specs.nn_attention import widths

IGNORED = -100
SOURCE = ("input_ids", "attention_mask", "position_ids")
TRANSLATION = ("input_ids", "labels", "attention_mask", "decoder_attention_mask")


def draw_options(d: Drawer, length: int) -> dict[str, Any]:
    """The settings that all have."""
    width, heads = widths(d)
    return {
        "d_model": width,
        "nhead": heads,
        "dim_feedforward": d.size(2, 5),
        "max_length": length + 1,
        "dropout": d.choice((0.0, 0.4)),
        "activation": d.choice(("relu", "gelu")),
        "layer_norm_eps": d.choice((1e-5, 1e-3)),
        "norm_first": d.boolean(),
        "positions": d.choice(("sinusoidal", "learned")),
        "scale_embedding": d.boolean(),
    }


def draw_settings(d: Drawer) -> dict[str, Any]:
    return {"rng": d.optional(d.seed), "keep": d.choice(("all", "inputs"))}


def draw_encoder_only(d: Drawer) -> Draft:
    """Padding by a mask, by its id, or none; every pooling."""
    batch, length, vocabulary = d.sizes(3, 2, 4)
    options = {
        **draw_options(d, length),
        "vocab_size": vocabulary,
        "num_classes": d.size(2, 3),
        "num_layers": d.integer(1, 2),
        "pooling": d.choice(("mean", "first", "last", None)),
        "pad_token_id": d.choice((None, 0)),
    }
    inputs = {
        "input_ids": d.ids((batch, length), vocabulary),
        "attention_mask": d.optional(lambda: nn_models.padding(d, batch, length)),
        "position_ids": nn_layers.positions_of(d, batch, length, length + 1),
    }
    return Draft(options, inputs, draw_settings(d))


def draw_decoder_only(d: Drawer) -> Draft:
    batch, length, vocabulary = d.sizes(3, 2, 4)
    options = {**draw_options(d, length), "vocab_size": vocabulary, "num_layers": d.integer(1, 2)}
    inputs = {
        "input_ids": d.ids((batch, length), vocabulary),
        "attention_mask": d.optional(lambda: nn_models.padding(d, batch, length)),
        "position_ids": nn_layers.positions_of(d, batch, length, length + 1),
    }
    return Draft(options, inputs, draw_settings(d))


def draw_encoder_decoder(d: Drawer) -> Draft:
    """Lengths and vocabularies that differ; targets with -100 at their end or anywhere."""
    batch, source, target = d.sizes(3, 2, 4)
    options = {
        **draw_options(d, max(source, target)),
        "src_vocab_size": d.size(2, 4),
        "tgt_vocab_size": d.size(3, 5),
        "num_encoder_layers": d.integer(1, 2),
        "num_decoder_layers": d.integer(1, 2),
        "pad_token_id": d.integer(0, 1),
        "decoder_start_token_id": d.integer(1, 2),
    }
    labels = d.ids((batch, target), options["tgt_vocab_size"])
    inputs = {
        "input_ids": d.ids((batch, source), options["src_vocab_size"]),
        "labels": np.where(d.mask(labels.shape, d.choice((1.0, 0.7))), labels, IGNORED),
        "attention_mask": d.optional(lambda: nn_models.padding(d, batch, source)),
        "decoder_attention_mask": d.optional(lambda: nn_models.padding(d, batch, target)),
    }
    return Draft(options, inputs, draw_settings(d))


def token_embedding(p: plain.Parameters, options: Any, ids: np.ndarray, positions: Any = None) -> np.ndarray:
    """That of a model with these settings."""
    given = {"width": options["d_model"], "positions": options["positions"], "scale": options["scale_embedding"]}
    return models_embedding.token_embedding(p, given, ids, positions=positions)


def head(p: plain.Parameters, x: np.ndarray) -> np.ndarray:
    """Logarithms of the softmax of x W + b, row by row."""
    scores = plain.affine(x, p["out_proj.weight"], p["out_proj.bias"])
    y = np.empty(scores.shape)
    for n in np.ndindex(scores.shape[:-1]):
        y[n] = scores[n] - math.log(math.fsum(math.exp(score) for score in scores[n].tolist()))
    return y


def pooled(x: np.ndarray, real: np.ndarray, pooling: str | None) -> np.ndarray:
    """The mean of the real tokens, or the first or last of them; zeros where there is none."""
    if pooling is None:
        return x
    y = np.zeros((x.shape[0], x.shape[2]))
    for b, row in enumerate(x):
        tokens = [row[t] for t in range(len(row)) if real[b, t]]
        if tokens:
            y[b] = {"mean": sum(tokens) / len(tokens), "first": tokens[0], "last": tokens[-1]}[pooling]
    return y


def four_axes(mask: Any) -> Any:
    return None if mask is None else (np.asarray(mask) == 1)[:, None, None, :]


def encoder_only(
    p: plain.Parameters, options: Any, ids: Any, mask: Any, positions: Any, rng: Any = None, keep: str = "all"
) -> np.ndarray:
    """Embedding, encoder, pooling, head."""
    if mask is None:
        mask = np.ones(ids.shape) if options["pad_token_id"] is None else ids != options["pad_token_id"]
    x = token_embedding(plain.part(p, "embedding"), options, ids, positions)
    x = stack(plain.part(p, "stack"), options, x, mask=four_axes(mask))
    return head(plain.part(p, "head"), pooled(x, mask == 1, options["pooling"]))


def decoder_only(
    p: plain.Parameters, options: Any, ids: Any, mask: Any, positions: Any, rng: Any = None, keep: str = "all"
) -> np.ndarray:
    """Embedding, a stack that does not see the future, head."""
    x = token_embedding(plain.part(p, "embedding"), options, ids, positions)
    x = stack(plain.part(p, "stack"), options, x, mask=four_axes(mask), causal=True)
    return head(plain.part(p, "head"), x)


def encoder_decoder(
    p: plain.Parameters, options: Any, ids: Any, labels: Any, mask: Any, target_mask: Any, rng: Any, keep: str
) -> np.ndarray:
    """The decoder reads the start, then the target; padding where the target has -100."""
    pad, start = options["pad_token_id"], options["decoder_start_token_id"]
    seen = four_axes(ids != pad if mask is None else mask)
    src = token_embedding(plain.part(p, "src_embedding"), options, ids)
    tgt = token_embedding(plain.part(p, "tgt_embedding"), options, shift_right(labels, start, pad))
    x = transformer(plain.part(p, "transformer"), options, src, tgt, seen, four_axes(target_mask), seen, causal=True)
    return head(plain.part(p, "head"), x)


# --- what holds besides the numbers ----------------------------------------------------------------------------------


def padding_changes_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Other tokens in the place of the source's padding give the same bits, but for what stands there itself."""
    mask, ids = case.inputs["attention_mask"], case.inputs["input_ids"]
    if mask is None or case.settings["rng"] is not None:
        return
    options = case.settings["module"].options
    y, _ = pair.forward(**case.keywords())
    vocabulary = options.get("src_vocab_size", options.get("vocab_size"))
    other = case.with_inputs({"input_ids": np.where(mask == 1, ids, (ids + 1) % vocabulary)})
    changed, _ = pair.forward(**other.keywords())
    by_token = y.ndim == 3 and y.shape[:2] == mask.shape and "labels" not in case.inputs
    compared = mask == 1 if by_token else np.ones(len(y), bool)
    same = np.array_equal(changed[compared], y[compared])
    yield holds("padding changes nothing", "y", same, "a result saw padding")


def the_future_changes_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Other targets from place t on leave the results up to and with t as they are."""
    labels = case.inputs["labels"]
    y, _ = pair.forward(**case.keywords())
    for t in range(labels.shape[1]):
        changed = labels.copy()
        changed[:, t:] = (changed[:, t:] + 1) % case.settings["module"].options["tgt_vocab_size"]
        other, _ = pair.forward(**case.with_inputs({"labels": changed}).keywords())
        same = np.array_equal(other[:, : t + 1], y[:, : t + 1])
        yield holds("the future changes nothing", "y", same, f"a result up to place {t} depends on a target from there")


def cached_equals_full(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Decoding with a key-value cache, one token and then two at a time, gives what the full forward gives.

    The mask of a step covers the old tokens too, the positions only the new ones.
    """
    plain_case = case.with_settings(rng=None)
    full, _ = pair.forward(**plain_case.keywords())
    kv_cache = [nn.KVCache() for _ in range(case.settings["module"].options["num_layers"])]
    ids, mask, positions = (case.inputs[name] for name in SOURCE)
    steps = []
    for a, b in pairwise((0, *range(1, ids.shape[1], 2), ids.shape[1])):
        new = {
            "input_ids": ids[:, a:b],
            "attention_mask": None if mask is None else mask[:, :b],
            "position_ids": None if positions is None else positions[..., a:b],
        }
        step = plain_case.with_inputs(new).with_settings(kv_cache=kv_cache)
        steps.append(pair.forward(**step.keywords())[0])
    error = difference(np.concatenate(steps, axis=1), full)
    yield within("cached decoding equals the full forward", "y", error, 1e-12, "a decoding step differs")


def decoded_equals_taught(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Encoding once and decoding token by token gives what the taught decoder gives at once."""
    if case.inputs["decoder_attention_mask"] is not None:
        return
    full, _ = pair.forward(**case.with_settings(rng=None).keywords())
    model = case.settings["module"].at(np.float64)  # the pair has put the parameters of the case into it
    ids, labels, mask = (case.inputs[name] for name in ("input_ids", "labels", "attention_mask"))
    mask = ids != model.config.pad_token_id if mask is None else mask
    memory = model.encode(ids, mask)
    kv_cache = [nn.KVCache() for _ in range(model.config.num_decoder_layers)]
    read = shift_right(labels, model.config.decoder_start_token_id, model.config.pad_token_id)
    steps = [model.decode(read[:, t : t + 1], memory, mask, kv_cache=kv_cache).log_probs for t in range(read.shape[1])]
    error = difference(np.concatenate(steps, axis=1), full)
    yield within("cached decoding equals the full forward", "y", error, 1e-12, "a decoding step differs")


# --- losses ----------------------------------------------------------------------------------------------------------


def shift_left(labels: np.ndarray) -> np.ndarray:
    """Each place is asked for what stands at the next one; the last for nothing."""
    return np.array([[*row[1:], IGNORED] for row in labels.tolist()])


def shift_right(labels: np.ndarray, start: int, pad: int) -> np.ndarray:
    """Each place reads what stands at the one before; the first the start, and padding where nothing is asked."""
    return np.array([[start, *(pad if label == IGNORED else label for label in row[:-1])] for row in labels.tolist()])


def draw_shift(d: Drawer, *, right: bool) -> Case:
    """Some labels are -100."""
    batch, length = d.sizes(2, 1, 4)
    labels = np.where(d.mask((batch, length), 0.8), d.ids((batch, length), 9) + 2, IGNORED)
    return Case({"labels": labels}, {"start": 1, "pad": 0} if right else {})


def mean_loss(log_probs: np.ndarray, labels: np.ndarray, num_items: int | None) -> float:
    """Minus the log-probability of each label that is not -100, over their number."""
    terms = [-float(log_probs[n][labels[n]]) for n in np.ndindex(labels.shape) if labels[n] != IGNORED]
    return math.fsum(terms) / (num_items or max(len(terms), 1))


def draw_label_loss(d: Drawer) -> Case:
    """Labels of sequences or of their tokens; all of them ignored now and then."""
    *before, classes = d.sizes(d.integer(2, 3), 1, 4)
    labels = np.where(d.mask(before, d.choice((1.0, 0.7, 0.0))), d.ids(before, classes), IGNORED)
    return Case({"log_probs": d.array((*before, classes)), "labels": labels}, {"num_items": d.choice((None, 3))})


class LossOf(nn_models.LossOf):
    """A ready-made model as a component whose result is its loss."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__(model)
        self.names = names

    def forward(self, *inputs: Any, rng: Any, keep: str, num_items: int | None) -> tuple[Any, Any]:
        """The loss of a batch."""
        batch = dict(zip(self.names, inputs, strict=True))
        return self.model.loss_and_grads(batch, rng=rng, keep=keep, num_items=num_items)


def with_labels(draw: Callable[[Drawer], Draft], d: Drawer) -> Draft:
    """Labels under either name, some ignored; of a classifier one a sequence, or one a token."""
    draft = draw(d)
    ids, options = draft.inputs["input_ids"], draft.options
    shape = ids.shape[:1] if options.get("pooling") is not None else ids.shape
    labels = draft.inputs.get("labels")
    if labels is None:
        drawn = d.ids(shape, options["num_classes" if "num_classes" in options else "vocab_size"])
        labels = np.where(d.mask(shape, 0.8), drawn, IGNORED)
    name, other = d.choice((("labels", "shift_labels"), ("shift_labels", "labels")))
    inputs = {**draft.inputs, "labels": None, "shift_labels": None, name: labels, other: None}
    few = {key: 1 for key in options if key.startswith("num_") and key.endswith("layers")}  # the model has its own spec
    return Draft({**options, **few}, inputs, {**draft.settings, "num_items": d.choice((None, 7))})


def loss_of(
    definition: Callable[..., np.ndarray], p: plain.Parameters, options: Any, *inputs: Any, **given: Any
) -> Any:
    """The mean loss of what a definition gives. A decoder alone is asked for the next token."""
    num_items, (*others, labels, shift_labels) = given.pop("num_items"), inputs
    asked = labels if shift_labels is None else shift_labels
    if definition is encoder_decoder:
        return mean_loss(definition(p, options, others[0], asked, *others[1:], **given), asked, num_items)
    if definition is decoder_only and shift_labels is None:
        asked = shift_left(labels)
    return mean_loss(definition(p, options, *others, **given), asked, num_items)


def build(kind: Any) -> Callable[..., Any]:
    """A model of a kind."""
    return lambda dtype, **options: kind(**options, rng=0, dtype=dtype)


def model_specs(kind: Any, draw: Any, definition: Any, positional: tuple[str, ...], checks: Any) -> list[Spec]:
    """The spec of a model, and of its loss."""
    others = tuple(name for name in positional if name != "labels")
    names = (*others, "labels", "shift_labels")

    def draw_loss(d: Drawer) -> Draft:
        draft = with_labels(draw, d)
        return Draft(draft.options, {name: draft.inputs[name] for name in names}, draft.settings)

    return [
        component_spec(
            kind.__name__,
            build(kind),
            draw,
            definition,
            positional=positional,
            differentiable=(),
            stochastic=True,
            kind="model",
            read=lambda output: output.log_probs,
            write=lambda dy: {"log_probs": dy},
            checks=checks,
        ),
        component_spec(
            f"{kind.__name__}-loss",
            lambda dtype, **options: LossOf(build(kind)(dtype, **options), names),
            draw_loss,
            lambda p, options, *inputs, **given: loss_of(definition, p, options, *inputs, **given),
            positional=names,
            differentiable=(),
            stochastic=True,
            kind="model",
        ),
    ]


SPECS = [
    Spec(
        "shift_left",
        (),
        lambda d: draw_shift(d, right=False),
        shift_left,
        resolve=lambda: Pair(targets.shift_left, None),
    ),
    Spec(
        "shift_right",
        (),
        lambda d: draw_shift(d, right=True),
        shift_right,
        resolve=lambda: Pair(targets.shift_right, None),
    ),
    Spec(
        "label_loss",
        ("log_probs",),
        draw_label_loss,
        lambda log_probs, labels, num_items: mean_loss(log_probs, labels, num_items),
        resolve=lambda: Pair(targets.label_loss, targets.label_loss_backward),
    ),
    *model_specs(EncoderOnlyTransformer, draw_encoder_only, encoder_only, SOURCE, (padding_changes_nothing,)),
    *model_specs(
        DecoderOnlyTransformer, draw_decoder_only, decoder_only, SOURCE, (padding_changes_nothing, cached_equals_full)
    ),
    *model_specs(
        EncoderDecoderTransformer,
        draw_encoder_decoder,
        encoder_decoder,
        TRANSLATION,
        (padding_changes_nothing, the_future_changes_nothing, decoded_equals_taught),
    ),
]
