"""What is known of Llama: rotary positions, heads that share keys, gated networks, and the heads that stand on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numtx.models import llama
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, within
from numtx.testing.op import difference
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import nn_grouped_attention as grouped
from numtx.testing.specs import nn_layers, rotary
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.feed_forward_gated import gated_feed_forward
from numtx.testing.specs.nn_models import padding, padding_changes_nothing
from numtx.testing.specs.norms import rms_norm

ARGUMENTS = ("input_ids", "attention_mask", "position_ids")
GATE = {"silu": "swiglu", "gelu": "geglu", "gelu_new": "geglu_tanh"}


def draw_options(d: Drawer, length: int, vocabulary: int) -> dict[str, Any]:
    """Heads that share keys or do not, and fill the width or do not; positions stretched or not."""
    width, heads, shared = d.choice(((4, 2, 1), (4, 1, None), (8, 4, 2), (6, 3, 1)))
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": d.size(2, 5),
        "num_hidden_layers": d.integer(1, 2),
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "head_dim": d.choice((None, 4)),
        "hidden_act": d.choice(tuple(GATE)),
        "max_position_embeddings": length + 1,
        "rms_norm_eps": d.choice((1e-5, 1e-3)),
        "rope_theta": d.choice((10000.0, 100.0)),
        "rope_scaling": rotary.scaling(d),
        "attention_bias": d.boolean(),
        "mlp_bias": d.boolean(),
        "attention_dropout": d.choice((0.0, 0.4)),
        "pad_token_id": None,
    }


def draw_body(d: Drawer) -> Draft:
    """Padded left or right or not, with positions of one's own or not."""
    batch, length, vocabulary = d.sizes(3, 1, 4)
    vocabulary = max(2, vocabulary)  # of one token all values are equal, and the scores' gradient is rounding alone
    inputs = {
        "input_ids": d.ids((batch, length), vocabulary),
        "attention_mask": d.optional(lambda: padding(d, batch, length)),
        "position_ids": nn_layers.positions_of(d, batch, length, length + 1),
    }
    settings = {"rng": d.optional(d.seed), "keep": d.choice(("all", "inputs"))}
    return Draft(draw_options(d, length, vocabulary), inputs, settings)


def draw_language_model(d: Drawer) -> Draft:
    """Tied and untied."""
    draft = draw_body(d)
    return Draft({**draft.options, "tie_word_embeddings": d.boolean()}, draft.inputs, draft.settings)


def draw_sequence_classifier(d: Drawer) -> Draft:
    """Padding is id 0 and nothing else is; the mask hides it, on either side."""
    draft = draw_body(d)
    ids, mask = draft.inputs["input_ids"] + 1, draft.inputs["attention_mask"]
    ids = ids if mask is None else np.where(mask == 1, ids, 0)
    more = {"id2label": dict(enumerate("abc"[: d.size(2, 3)])), "pad_token_id": 0}
    options = {**draft.options, "vocab_size": draft.options["vocab_size"] + 1, **more}
    return Draft(options, {**draft.inputs, "input_ids": ids}, draft.settings)


def body(
    p: plain.Parameters, options: Any, ids: Any, mask: Any, positions: Any, rng: Any = None, keep: str = "all"
) -> np.ndarray:
    """Layer after layer, each sublayer of the normed x and added to it; a norm at the end."""
    x = nn_layers.embedding(plain.part(p, "embedding"), options, ids)
    seen = None if mask is None else (np.asarray(mask) == 1)[:, None, None, :]
    turn = {"layout": "half", "base": options["rope_theta"], "scaling": options["rope_scaling"]}
    heads = {"num_heads": options["num_attention_heads"], "num_kv_heads": options["num_key_value_heads"]}
    own = {**heads, "scale": None, "causal": True, "rotary": turn}
    eps, gate = options["rms_norm_eps"], GATE[options["hidden_act"]]
    for k in range(options["num_hidden_layers"]):
        attend, feed = plain.part(p, f"stack.layers.{k}.attention"), plain.part(p, f"stack.layers.{k}.feed_forward")
        h = np.asarray(rms_norm(x, attend["norm.weight"], eps))
        x = x + grouped.grouped(plain.part(attend, "sublayer"), own, h, None, None, None, seen, None, positions)
        h = np.asarray(rms_norm(x, feed["norm.weight"], eps))
        x = x + gated_feed_forward(plain.part(feed, "sublayer"), h, gate)
    return np.asarray(rms_norm(x, p["stack.norm.weight"], eps))


def language_model(p: plain.Parameters, options: Any, *inputs: Any, rng: Any = None, keep: str = "all") -> np.ndarray:
    """Each hidden state times each row of the embedding, or of a table of its own."""
    x = body(plain.part(p, "body"), options, *inputs)
    return plain.affine(x, p["body.embedding.weight" if options["tie_word_embeddings"] else "decoder"].T)


def of_sequences(p: plain.Parameters, options: Any, *inputs: Any, rng: Any = None, keep: str = "all") -> np.ndarray:
    """x W of the last token that is not padding."""
    x = body(plain.part(p, "body"), options, *inputs)
    last = [max(t for t, token in enumerate(row.tolist()) if token != 0) for row in inputs[0]]
    rows = np.array([x[b, t] for b, t in enumerate(last)])
    return plain.affine(rows, p["head.out_proj.weight"])


def cached_equals_full(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Half at once and the rest token by token, with a cache, gives what all at once gives, to rounding."""
    case = case.with_settings(rng=None)
    full, _ = pair.forward(**case.keywords())
    model = case.settings["module"].at(np.float64)
    kv_cache = getattr(model, "body", model).new_cache()
    ids, mask, positions = (case.inputs[name] for name in ARGUMENTS)
    start, steps = 0, []
    for stop in range((ids.shape[1] + 1) // 2, ids.shape[1] + 1):
        given = {"input_ids": ids[:, start:stop], "attention_mask": None if mask is None else mask[:, :stop]}
        given["position_ids"] = None if positions is None else positions[..., start:stop]
        step = case.with_inputs(given).with_settings(kv_cache=kv_cache)
        steps.append(pair.forward(**step.keywords())[0])
        start = stop
    error = difference(np.concatenate(steps, axis=1), full)
    yield within("cached decoding equals the full forward", "y", error, 1e-12, "a decoding step differs")


def build(kind: Any) -> Callable[..., Any]:
    """A model of a kind."""
    return lambda dtype, **options: kind(llama.LlamaConfig(**options), rng=0, dtype=dtype)


def model_spec(kind: Any, draw: Any, definition: Any, **settings: Any) -> Spec:
    """The spec of a model whose result is its scores."""
    given = {"read": lambda outputs: outputs.logits, "write": lambda dy: {"logits": dy}, **settings}
    return component_spec(
        kind.__name__,
        build(kind),
        draw,
        definition,
        positional=ARGUMENTS,
        differentiable=(),
        stochastic=True,
        kind="model",
        **given,
    )


SPECS = [
    model_spec(
        llama.LlamaModel,
        draw_body,
        body,
        read=lambda outputs: outputs.last_hidden_state,
        write=lambda dy: {"last_hidden_state": dy},
        checks=(padding_changes_nothing, cached_equals_full),
    ),
    model_spec(
        llama.LlamaForCausalLM,
        draw_language_model,
        language_model,
        checks=(padding_changes_nothing, cached_equals_full),
    ),
    model_spec(llama.LlamaForSequenceClassification, draw_sequence_classifier, of_sequences),
]
