"""What is known of BART and Marian: their states, logits and scores, what masks promise, decoding step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from numtx import nn
from numtx.models import bart, marian
from numtx.models.bart_body import BartInputs
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds, within
from numtx.testing.op import difference
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import nn_grouped_attention as grouped
from numtx.testing.specs import nn_heads, nn_layers, nn_models
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.nn_attention import keep_changes_nothing, widths

EPS = 1e-5
ACTIVATION = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu", "swish": "silu"}
ARGUMENTS = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
START, END = 1, 0


def draw_inputs(d: Drawer) -> Draft:
    """Both kinds of positions, given or not; scaled or not, with a norm or without."""
    batch, length = d.sizes(2, 1, 4)
    width = d.choice((4, 6))
    rate, rng = nn_layers.rates(d)
    options = {
        "width": width,
        "learned": d.boolean(),
        "normed": d.boolean(),
        "scale": d.choice((1.0, math.sqrt(width))),
        "dropout": rate,
    }
    settings = {"positions": nn_layers.positions_of(d, batch, length, length + 1), "rng": rng}
    return Draft(options, {"x": d.array((batch, length, width))}, settings)


def build_inputs(dtype: Any, *, width: int, learned: bool, normed: bool, **options: Any) -> BartInputs:
    """Ready parts put together."""
    positions = nn.LearnedPositions(5, width, rng=0, dtype=dtype) if learned else nn.SinusoidalPositions(width)
    return BartInputs(positions, nn.LayerNorm(width, EPS, dtype=dtype) if normed else None, **options)


def inputs(p: plain.Parameters, options: Any, x: np.ndarray, positions: Any, rng: Any = None) -> np.ndarray:
    """The scale, the position, and the norm, if there is one."""
    x = options["scale"] * x
    if options["learned"]:
        x = nn_layers.learned_positions(plain.part(p, "positions"), {}, x, positions)
    else:
        given = {"width": options["width"], "layout": "interleaved", "base": 10000.0}
        x = nn_layers.sinusoidal_positions({}, given, x, positions)
    return plain.norm(plain.part(p, "norm"), x, EPS) if options["normed"] else x


def draw_sines(d: Drawer) -> Draft:
    batch, length = d.sizes(2, 1, 4)
    width = 2 * d.size(1, 3)
    settings = {"positions": nn_layers.positions_of(d, batch, length, length + 1)}
    return Draft({"num_positions": length + 1, "width": width}, {"x": d.array((batch, length, width))}, settings)


def sines(p: plain.Parameters, options: Any, x: np.ndarray, positions: Any = None) -> np.ndarray:
    """The right summand is of float32: what the angle has behind its seventh digit is not in the table."""
    given = {"width": x.shape[-1], "layout": "half", "base": 10000.0}
    return x + nn_layers.sinusoidal_positions({}, given, np.zeros(x.shape), positions).astype(np.float32)


# --- models ----------------------------------------------------------------------------------------------------------


def draw_model(d: Drawer, *, translates: bool) -> Draft:
    """Tables tied and not, lengths that differ, each mask or none. No padding is read: its row does not learn."""
    batch, source, target = d.sizes(3, 1, 3)
    vocabulary = d.size(2, 4)
    width, own = widths(d)
    rate, layers = d.choice((0.0, 0.4)), d.choice(((1, 1), (1, 1), (2, 1), (1, 2)))
    options = {
        "translates": translates,
        "vocab_size": vocabulary + 1,
        "pad_token_id": vocabulary,
        "decoder_start_token_id": START,
        "eos_token_id": END,
        "max_position_embeddings": max(source, target) + 1,
        "d_model": width,
        "encoder_attention_heads": own,
        "decoder_attention_heads": d.choice((1, own)),
        "encoder_layers": layers[0],
        "decoder_layers": layers[1],
        "encoder_ffn_dim": d.size(2, 5),
        "decoder_ffn_dim": d.size(2, 5),
        "activation_function": d.choice(tuple(ACTIVATION)),
        "scale_embedding": d.boolean(),
        "tie_word_embeddings": d.boolean(),
        "dropout": rate,
        "attention_dropout": rate,
        "activation_dropout": rate,
    }
    if translates and d.boolean():
        options |= {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": vocabulary + d.size(1, 3)}
    given = {
        "input_ids": d.ids((batch, source), vocabulary),
        "attention_mask": d.optional(lambda: nn_models.padding(d, batch, source)),
        "decoder_input_ids": d.ids((batch, target), vocabulary),
        "decoder_attention_mask": d.optional(lambda: nn_models.padding(d, batch, target)),
    }
    return Draft(options, given, {"rng": d.optional(d.seed), "keep": d.choice(("all", "inputs"))})


def draw_writer(d: Drawer, *, translates: bool) -> Draft:
    """One layer on each side: the body has a spec of its own."""
    draft = draw_model(d, translates=translates)
    return Draft({**draft.options, "encoder_layers": 1, "decoder_layers": 1}, draft.inputs, draft.settings)


def draw_classifier(d: Drawer) -> Draft:
    """The decoder reads the source, one place late, or something of the same length; one end or more in a row."""
    draft = draw_writer(d, translates=False)
    ids, options = draft.inputs["input_ids"], {**draft.options, "tie_word_embeddings": True}
    options |= {"id2label": {k: str(k) for k in range(d.size(1, 3))}, "classifier_dropout": options["dropout"]}
    for row in ids:
        row[d.integer(0, ids.shape[1] - 1)] = END
    target = d.optional(lambda: d.ids(ids.shape, options["pad_token_id"]))
    given = {**draft.inputs, "decoder_input_ids": target, "decoder_attention_mask": None}
    return Draft(options, given, draft.settings)


def embedded(p: plain.Parameters, options: Any, side: str, ids: np.ndarray) -> np.ndarray:
    """A row of the side's own table, or of the one table, √C times or once; the position; BART's norm."""
    table = p.get("encoder_embedding.weight", p["embedding.weight"]) if side == "encoder" else p["embedding.weight"]
    x = nn_layers.embedding({"weight": table}, options, ids)
    x = x * math.sqrt(options["d_model"]) if options["scale_embedding"] else x
    own = plain.part(p, f"{side}_inputs")
    if options["translates"]:
        return sines({}, options, x)
    x = nn_layers.learned_positions(plain.part(own, "positions"), {"offset": 2}, x, None)
    return plain.norm(plain.part(own, "norm"), x, EPS)


def layer(p: plain.Parameters, options: Any, side: str, x: np.ndarray, memory: Any, mask: Any, over: Any) -> np.ndarray:
    """Attention, attention over the memory in a decoder, a feed-forward network; a norm behind each."""

    def attention(name: str, x: np.ndarray, other: Any, mask: Any, causal: bool) -> np.ndarray:
        own = {"num_heads": options[f"{side}_attention_heads"], "num_kv_heads": None, "causal": causal, "scale": None}
        part = plain.part(p, name)
        y = grouped.grouped(plain.part(part, "sublayer"), own, x, other, None, None, mask, None)
        return plain.norm(plain.part(part, "norm"), x + y, EPS)

    x = attention("attention", x, None, mask, side == "decoder")
    if side == "decoder":
        x = attention("cross_attention", x, memory, over, False)
    part = plain.part(p, "feed_forward")
    y = plain.feed_forward(plain.part(part, "sublayer"), x, ACTIVATION[options["activation_function"]])
    return plain.norm(plain.part(part, "norm"), x + y, EPS)


def body(
    p: plain.Parameters, options: Any, ids: Any, mask: Any, target: Any, own_mask: Any, rng: Any = None, keep: str = ""
) -> np.ndarray:
    """The encoder's layers over the source, and the decoder's over the target and what the encoder gave."""
    if target is None:
        target = np.array([[START, *row[:-1]] for row in ids.tolist()])
    source_mask, target_mask = (None if m is None else m[:, None, None, :] == 1 for m in (mask, own_mask))
    memory = embedded(p, options, "encoder", ids)
    for k in range(options["encoder_layers"]):
        memory = layer(plain.part(p, f"encoder.layers.{k}"), options, "encoder", memory, None, source_mask, None)
    x = embedded(p, options, "decoder", target)
    for k in range(options["decoder_layers"]):
        own = plain.part(p, f"decoder.layers.{k}")
        x = layer(own, options, "decoder", x, memory, target_mask, source_mask)
    return x


def logits(p: plain.Parameters, options: Any, *given: Any, **settings: Any) -> np.ndarray:
    """The states times the decoder's table, or one of the head's own, and a bias."""
    table = p["body.embedding.weight"] if options["tie_word_embeddings"] else p["decoder"]
    return plain.affine(
        body(plain.part(p, "body"), options, *given, **settings), table.T, nn_heads.final_bias(len(table))
    )


def classes(p: plain.Parameters, options: Any, ids: Any, *given: Any, **settings: Any) -> np.ndarray:
    """The state at the last end token of the source, a dense layer, tanh, a product."""
    states = body(plain.part(p, "body"), options, ids, *given, **settings)
    rows = np.array([x[max(t for t, k in enumerate(row) if k == END)] for x, row in zip(states, ids, strict=True)])
    return nn_heads.scores(plain.part(p, "head"), {"pooler": True, "pooling": None, "activation": "tanh"}, rows)


# --- what holds besides the numbers ----------------------------------------------------------------------------------


def padding_changes_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Other tokens in the place of the source's padding give the same bits of a target that is given."""
    mask, ids = case.inputs["attention_mask"], case.inputs["input_ids"]
    if mask is None or case.settings["rng"] is not None:
        return
    y, _ = pair.forward(**case.keywords())
    other = np.where(mask == 1, ids, (ids + 1) % case.settings["module"].options["pad_token_id"])
    changed, _ = pair.forward(**case.with_inputs({"input_ids": other}).keywords())
    yield holds("padding changes nothing", "y", np.array_equal(changed, y), "the target saw padding of the source")


def the_future_changes_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Other target tokens from place t on leave what comes before as it is."""
    ids = case.inputs["decoder_input_ids"]
    y, _ = pair.forward(**case.keywords())
    for t in range(1, ids.shape[1]):
        changed = ids.copy()
        changed[:, t:] = (changed[:, t:] + 1) % case.settings["module"].options["pad_token_id"]
        other, _ = pair.forward(**case.with_inputs({"decoder_input_ids": changed}).keywords())
        same = np.array_equal(other[:, :t], y[:, :t])
        yield holds("the future changes nothing", "y", same, f"a place before {t} depends on a token from there on")


def decoded_equals_taught(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Encoding once and decoding one token and then two at a time gives what the forward gives at once."""
    full, _ = pair.forward(**case.with_settings(rng=None).keywords())
    model = case.settings["module"].at(np.float64)  # the pair has put the parameters of the case into it
    ids, mask, target, own_mask = (case.inputs[name] for name in ARGUMENTS)
    memory, kv_cache, steps = model.encode(ids, mask), model.new_cache(), []
    for a, b in pairwise((0, *range(1, target.shape[1], 2), target.shape[1])):
        seen = None if own_mask is None else own_mask[:, :b]
        settings = {"attention_mask": mask, "decoder_attention_mask": seen, "kv_cache": kv_cache}
        steps.append(model.decode(target[:, a:b], memory, **settings))
    error = difference(np.concatenate(steps, axis=1), full)
    yield within("cached decoding equals the full forward", "y", error, 1e-12, "a decoding step differs")


def build(kind: Any) -> Callable[..., Any]:
    """A model of a kind, whose bias of logits, if it has one, is not zero."""

    def made(dtype: Any, *, translates: bool, **options: Any) -> Any:
        model = kind(kind.config_class(**options), rng=0, dtype=dtype)
        if isinstance(model, bart.BartForConditionalGeneration):
            model.head.final_logits_bias[:] = nn_heads.final_bias(len(model.head.final_logits_bias))
        return model

    return made


def model_spec(kind: Any, draw: Any, definition: Any, field: str, checks: Any = ()) -> Any:
    """The spec of a model, by the field of its output that is looked at."""
    return component_spec(
        kind.__name__,
        build(kind),
        draw,
        definition,
        positional=ARGUMENTS,
        differentiable=(),
        stochastic=True,
        kind="model",
        read=lambda outputs: outputs[field],
        write=lambda dy: {field: dy},
        checks=checks,
    )


FULL = (keep_changes_nothing, padding_changes_nothing, the_future_changes_nothing, decoded_equals_taught)
SPECS = [
    component_spec("BartInputs", build_inputs, draw_inputs, inputs, stochastic=True),
    component_spec(
        "MarianPositions", lambda dtype, **options: marian.MarianPositions(**options, dtype=dtype), draw_sines, sines
    ),
    model_spec(bart.BartModel, lambda d: draw_model(d, translates=False), body, "last_hidden_state", checks=FULL),
    model_spec(
        bart.BartForConditionalGeneration, lambda d: draw_writer(d, translates=False), logits, "logits", checks=FULL
    ),
    model_spec(bart.BartForSequenceClassification, draw_classifier, classes, "logits"),
    model_spec(marian.MarianModel, lambda d: draw_model(d, translates=True), body, "last_hidden_state", checks=FULL),
    model_spec(marian.MarianMTModel, lambda d: draw_writer(d, translates=True), logits, "logits", checks=FULL),
]
