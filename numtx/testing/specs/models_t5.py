"""What is known of T5: its stacks, whose layers share a bias by distance, its head, and the models of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numtx.models.t5 import T5EncoderModel, T5ForConditionalGeneration, T5ForQuestionAnswering, T5Model
from numtx.models.t5_stack import T5Config, T5LMHead, T5Stack
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, within
from numtx.testing.op import difference
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import nn_grouped_attention as grouped
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.feed_forward_gated import gated_feed_forward
from numtx.testing.specs.nn_attention import keep_changes_nothing
from numtx.testing.specs.nn_layers import embedding
from numtx.testing.specs.nn_models import padding
from numtx.testing.specs.norms import rms_norm
from numtx.testing.specs.position_bias import bucket

ACTIVATION = {"relu": "relu", "gelu": "gelu", "gated-gelu": "geglu_tanh", "gated-silu": "swiglu"}
SOURCE = ("input_ids", "attention_mask")
TRANSLATION = (*SOURCE, "decoder_input_ids", "decoder_attention_mask")


def draw_options(d: Drawer) -> dict[str, Any]:
    """Heads that fill the width or do not; few buckets, so that far distances share one."""
    rate, (layers, decoder_layers) = d.choice((0.0, 0.4)), d.choice(((1, 1), (2, 1), (1, 2)))
    return {
        "vocab_size": d.size(3, 5),
        "d_model": d.size(3, 5),
        "d_kv": d.size(1, 3),
        "d_ff": d.size(2, 5),
        "num_layers": layers,
        "num_decoder_layers": decoder_layers,
        "num_heads": d.integer(1, 3),
        "relative_attention_num_buckets": d.choice((4, 8)),
        "relative_attention_max_distance": d.choice((5, 9)),
        "dropout_rate": rate,
        "layer_norm_epsilon": d.choice((1e-5, 1e-3)),
        "feed_forward_proj": d.choice(tuple(ACTIVATION)),
    }


def draw_settings(d: Drawer) -> dict[str, Any]:
    return {"rng": d.optional(d.seed), "keep": d.choice(("all", "inputs"))}


def draw_stack(d: Drawer) -> Draft:
    """The encoder, or the decoder with its memory."""
    options, decoder = draw_options(d), d.boolean()
    batch, length, keys = d.sizes(3, 1, 4)
    memory = d.array((batch, keys, options["d_model"])) if decoder else None
    settings = {"mask": d.optional(lambda: four_axes(padding(d, batch, length))), **draw_settings(d)}
    if decoder:
        settings["memory_mask"] = d.optional(lambda: four_axes(padding(d, batch, keys)))
    inputs = {"x": d.array((batch, length, options["d_model"])), "memory": memory}
    return Draft({**options, "decoder": decoder}, inputs, settings)


def draw_encoder(d: Drawer) -> Draft:
    """Padded on one side or not at all."""
    options = draw_options(d)
    batch, length = d.sizes(2, 1, 4)
    inputs = {
        "input_ids": d.ids((batch, length), options["vocab_size"]),
        "attention_mask": d.optional(lambda: padding(d, batch, length)),
    }
    return Draft(options, inputs, draw_settings(d))


def draw_both(d: Drawer) -> Draft:
    """A source and a target of lengths of their own."""
    draft = draw_encoder(d)
    batch, length = len(draft.inputs["input_ids"]), d.size(1, 4)
    inputs = {
        **draft.inputs,
        "decoder_input_ids": d.ids((batch, length), draft.options["vocab_size"]),
        "decoder_attention_mask": d.optional(lambda: padding(d, batch, length)),
    }
    return Draft(draft.options, inputs, draft.settings)


def draw_language_model(d: Drawer) -> Draft:
    """Tied or not, and scaled or not, each by itself."""
    draft = draw_both(d)
    more = {"tie_word_embeddings": d.boolean(), "scale_decoder_outputs": d.choice((None, True, False))}
    return Draft({**draft.options, **more}, draft.inputs, draft.settings)


def four_axes(mask: Any) -> Any:
    return None if mask is None else (np.asarray(mask) == 1)[:, None, None, :]


def position_bias(table: np.ndarray, options: Any, length: int, *, decoder: bool) -> np.ndarray:
    """The row of each distance, (1, H, T, T)."""
    bias = np.empty((1, table.shape[1], length, length))
    size, most = options["relative_attention_num_buckets"], options["relative_attention_max_distance"]
    for i, j in np.ndindex(length, length):
        bias[0, :, i, j] = table[bucket(j - i, not decoder, size, most)]
    return bias


def layer(
    p: plain.Parameters, options: Any, x: np.ndarray, memory: Any, bias: Any, mask: Any, memory_mask: Any
) -> np.ndarray:
    """Sublayer after sublayer, each of the normed x and added to it."""
    heads = {"num_heads": options["num_heads"], "num_kv_heads": None, "scale": 1.0}

    def normed(name: str, h: np.ndarray) -> np.ndarray:
        return np.asarray(rms_norm(h, p[f"{name}.norm.weight"], options["layer_norm_epsilon"]))

    own = {**heads, "causal": memory is not None}
    attend, h = plain.part(p, "attention.sublayer"), normed("attention", x)
    x = x + grouped.grouped(attend, own, h, None, None, bias, mask, None)
    if memory is not None:
        look, h = plain.part(p, "cross_attention.sublayer"), normed("cross_attention", x)
        x = x + grouped.grouped(look, heads, h, memory, None, None, memory_mask, None)
    feed, activation = plain.part(p, "feed_forward.sublayer"), ACTIVATION[options["feed_forward_proj"]]
    network = gated_feed_forward if options["feed_forward_proj"].startswith("gated") else plain.feed_forward
    return x + network(feed, normed("feed_forward", x), activation)


def stack(
    p: plain.Parameters,
    options: Any,
    x: np.ndarray,
    memory: Any = None,
    *,
    mask: Any = None,
    memory_mask: Any = None,
    rng: Any = None,
    keep: str = "all",
) -> np.ndarray:
    """Layer after layer with one bias, and a norm."""
    bias = position_bias(p["positions.weight"], options, x.shape[1], decoder=memory is not None)
    for k in range(len({name.split(".")[2] for name in p if name.startswith("stack.layers.")})):
        x = layer(plain.part(p, f"stack.layers.{k}"), options, x, memory, bias, mask, memory_mask)
    return np.asarray(rms_norm(x, p["stack.norm.weight"], options["layer_norm_epsilon"]))


def encoder(
    p: plain.Parameters, options: Any, ids: Any, mask: Any = None, rng: Any = None, keep: str = "all"
) -> np.ndarray:
    """The embedding and the encoder's stack."""
    x = embedding(plain.part(p, "embedding"), options, ids)
    return stack(plain.part(p, "encoder"), options, x, mask=four_axes(mask))


def body(
    p: plain.Parameters,
    options: Any,
    ids: Any,
    mask: Any,
    decoder_ids: Any,
    decoder_mask: Any,
    rng: Any = None,
    keep: str = "all",
) -> np.ndarray:
    """The decoder's stack over what the encoder gives; both have one embedding."""
    memory = encoder(p, options, ids, mask)
    x = embedding(plain.part(p, "embedding"), options, decoder_ids)
    masks = {"mask": four_axes(decoder_mask), "memory_mask": four_axes(mask)}
    return stack(plain.part(p, "decoder"), options, x, memory, **masks)


def language_model(p: plain.Parameters, options: Any, *inputs: Any, rng: Any = None, keep: str = "all") -> np.ndarray:
    """Each hidden state, scaled or not, times each row of the table."""
    x = body(plain.part(p, "body"), options, *inputs)
    scaled, tied = options["scale_decoder_outputs"], options["tie_word_embeddings"]
    table = p["body.embedding.weight"] if tied else p["decoder"]
    return plain.affine(x, table.T) / (np.sqrt(x.shape[2]) if (tied if scaled is None else scaled) else 1)


def draw_answering(d: Drawer) -> Draft:
    """A source alone, which the decoder reads too."""
    draft = draw_encoder(d)
    start = {"decoder_start_token_id": d.integer(0, draft.options["vocab_size"] - 1)}
    return Draft({**draft.options, **start}, draft.inputs, draft.settings)


def answering(
    p: plain.Parameters, options: Any, ids: Any, mask: Any = None, rng: Any = None, keep: str = "all"
) -> np.ndarray:
    """The decoder reads the source one place late, and its states are scored twice: start and end."""
    late = np.array([[options["decoder_start_token_id"], *row[:-1]] for row in ids])
    x = body(plain.part(p, "body"), options, ids, mask, late, None)
    return plain.affine(x, p["head.out_proj.weight"], p["head.out_proj.bias"])


def draw_head(d: Drawer) -> Draft:
    batch, length, width = d.sizes(3, 1, 4)
    inputs = {"x": d.array((batch, length, width)), "weight": d.array((d.size(2, 5), width))}
    return Draft({"scale": d.choice((1.0, 0.5, width**-0.5))}, inputs, {})


def padding_changes_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Other tokens in the place of padding, of source or target, change nothing at real places."""
    if case.settings["rng"] is not None:
        return
    y, _ = pair.forward(**case.keywords())
    vocabulary = case.settings["module"].options["vocab_size"]
    changed = {}
    for ids, mask in (TRANSLATION[:2], TRANSLATION[2:]):
        if case.inputs.get(mask) is not None:
            changed[ids] = np.where(case.inputs[mask] == 1, case.inputs[ids], (case.inputs[ids] + 1) % vocabulary)
    other, _ = pair.forward(**case.with_inputs(changed).keywords())
    of = "decoder_attention_mask" if "decoder_input_ids" in case.inputs else "attention_mask"
    real = np.ones(y.shape[:2], bool) if case.inputs[of] is None else case.inputs[of] == 1
    error = difference(other[real], y[real])
    yield within("padding changes nothing", "y", error, 1e-12, "a real token saw padding")


def cached_equals_full(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Token by token over a memory that was made once, the decoder gives what it gives at once, to rounding."""
    case = case.with_settings(rng=None)
    full, _ = pair.forward(**case.keywords())
    model = case.settings["module"].at(np.float64)  # with the case's weights, since that call
    memory = model.encode(*(case.inputs[name] for name in SOURCE))
    kv_cache, steps = model.new_cache(), []
    ids, mask = case.inputs["decoder_input_ids"], case.inputs["decoder_attention_mask"]
    for t in range(ids.shape[1]):
        seen = None if mask is None else mask[:, : t + 1]
        step = case.with_inputs({"decoder_input_ids": ids[:, t : t + 1], "decoder_attention_mask": seen})
        step = step.with_settings(encoder_outputs=memory, kv_cache=kv_cache)
        steps.append(pair.forward(**step.keywords())[0])
    error = difference(np.concatenate(steps, axis=1), full)
    yield within("cached decoding equals the full forward", "y", error, 1e-12, "a decoding step differs")


def build(kind: Any) -> Callable[..., Any]:
    """A model of a kind."""
    return lambda dtype, **options: kind(T5Config(**options), rng=0, dtype=dtype)


def build_stack(dtype: Any, *, decoder: bool, **options: Any) -> T5Stack:
    """The encoder's or the decoder's."""
    return T5Stack(T5Config(**options), decoder=decoder, rng=0, dtype=dtype)


HIDDEN: dict[str, Any] = {
    "read": lambda outputs: outputs.last_hidden_state,
    "write": lambda dy: {"last_hidden_state": dy},
}
MODEL: dict[str, Any] = {"differentiable": (), "stochastic": True, "kind": "model"}
SPECS = [
    component_spec(
        "T5Stack",
        build_stack,
        draw_stack,
        stack,
        positional=("x", "memory"),
        stochastic=True,
        checks=(keep_changes_nothing,),
    ),
    component_spec(
        "T5LMHead",
        lambda dtype, scale: T5LMHead(scale),
        draw_head,
        lambda p, options, x, weight: plain.affine(options["scale"] * x, weight.T),
        positional=("x", "weight"),
    ),
    component_spec(
        "T5EncoderModel",
        build(T5EncoderModel),
        draw_encoder,
        encoder,
        positional=SOURCE,
        checks=(padding_changes_nothing,),
        **HIDDEN,
        **MODEL,
    ),
    component_spec(
        "T5Model",
        build(T5Model),
        draw_both,
        body,
        positional=TRANSLATION,
        checks=(padding_changes_nothing, cached_equals_full),
        **HIDDEN,
        **MODEL,
    ),
    component_spec(
        "T5ForConditionalGeneration",
        build(T5ForConditionalGeneration),
        draw_language_model,
        language_model,
        positional=TRANSLATION,
        read=lambda outputs: outputs.logits,
        write=lambda dy: {"logits": dy},
        checks=(cached_equals_full,),
        **MODEL,
    ),
    component_spec(
        "T5ForQuestionAnswering",
        build(T5ForQuestionAnswering),
        draw_answering,
        answering,
        positional=SOURCE,
        read=lambda outputs: np.stack([outputs.start_logits, outputs.end_logits], axis=-1),
        write=lambda dy: {"start_logits": dy[..., 0], "end_logits": dy[..., 1]},
        **MODEL,
    ),
]
