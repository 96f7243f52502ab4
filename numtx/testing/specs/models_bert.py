"""What is known of BERT and its relatives: the embeddings, the bodies, and a masked language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numtx.models.bert import BertConfig, BertForMaskedLM, BertModel
from numtx.models.bert_body import BertEmbeddings
from numtx.models.distilbert import DistilBertConfig, DistilBertModel
from numtx.models.roberta import RobertaConfig, RobertaModel
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import nn_grouped_attention, nn_heads, nn_layers
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.nn_models import padding

ARGUMENTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
ACTIVATION = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}
# Norms stand behind everything: the eps is not small beside the variance, which may be tiny in a draw.
EPS = (1e-3, 1e-1)


def draw_embeddings(d: Drawer) -> Draft:
    """With segments or without, positions given or not."""
    batch, length, vocabulary = d.sizes(3, 1, 4)
    rate, rng = nn_layers.rates(d)
    segments = d.integer(0, 2)
    options = {
        "vocab_size": vocabulary,
        "width": d.size(3, 5),
        "num_positions": length + 1,
        "num_types": segments,
        "eps": d.choice(EPS),
        "dropout": rate,
    }
    ids = d.ids((batch, length), vocabulary)
    types = d.optional(lambda: d.ids((batch, length), segments)) if segments else None
    settings = {"positions": nn_layers.positions_of(d, batch, length, length + 1), "rng": rng}
    return Draft(options, {"ids": ids, "types": types}, settings)


def embeddings(
    p: plain.Parameters, options: Any, ids: np.ndarray, types: Any, positions: Any = None, rng: Any = None
) -> np.ndarray:
    """The sum of three rows, normed."""
    x = nn_layers.embedding({"weight": p["words.weight"]}, {}, ids)
    x = nn_layers.learned_positions({"weight": p["positions.weight"]}, {}, x, positions)
    if "types.weight" in p:
        for b, t in np.ndindex(ids.shape):
            x[b, t] += p["types.weight"][0 if types is None else types[b, t]]
    return plain.norm(plain.part(p, "norm"), x, options["eps"])


def stack(p: plain.Parameters, x: np.ndarray, mask: Any, *, heads: int, activation: str, eps: float) -> np.ndarray:
    """Layer after layer, each norm behind its sum."""
    given = {"num_heads": heads, "num_kv_heads": None, "scale": None}
    for k in range(len({name.split(".")[1] for name in p})):
        attend, feed = plain.part(p, f"layers.{k}.attention"), plain.part(p, f"layers.{k}.feed_forward")
        h = nn_grouped_attention.grouped(plain.part(attend, "sublayer"), given, x, None, None, None, mask, None)
        x = plain.norm(plain.part(attend, "norm"), x + h, eps)
        h = plain.feed_forward(plain.part(feed, "sublayer"), x, activation)
        x = plain.norm(plain.part(feed, "norm"), x + h, eps)
    return x


def draw_body(d: Drawer) -> Draft:
    """Padded left or right or not; segments and positions given or not."""
    batch, length, vocabulary = d.sizes(3, 1, 4)
    width, heads = d.choice(((4, 2), (6, 3), (3, 1)))
    rate = d.choice((0.0, 0.4))
    options = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": d.integer(1, 2),
        "num_attention_heads": heads,
        "intermediate_size": d.size(2, 5),
        "hidden_act": d.choice(tuple(ACTIVATION)),
        "max_position_embeddings": length + 1,
        "type_vocab_size": 2,
        "layer_norm_eps": d.choice(EPS),
        "hidden_dropout_prob": rate,
        "attention_probs_dropout_prob": rate,
        "pad_token_id": None,
    }
    inputs = {
        "input_ids": d.ids((batch, length), vocabulary),
        "attention_mask": d.optional(lambda: padding(d, batch, length)),
        "token_type_ids": d.optional(lambda: d.ids((batch, length), 2)),
        "position_ids": nn_layers.positions_of(d, batch, length, length + 1),
    }
    return Draft(options, inputs, {"rng": d.optional(d.seed), "keep": d.choice(("all", "inputs"))})


def hidden(p: plain.Parameters, options: Any, ids: Any, mask: Any, types: Any, positions: Any) -> np.ndarray:
    """The last hidden state."""
    eps = options["layer_norm_eps"]
    x = embeddings(plain.part(p, "embeddings"), {"eps": eps}, ids, types, positions)
    heads, activation = options["num_attention_heads"], ACTIVATION[options["hidden_act"]]
    seen = None if mask is None else (mask == 1)[:, None, None, :]
    return stack(plain.part(p, "stack"), x, seen, heads=heads, activation=activation, eps=eps)


def body(p: plain.Parameters, options: Any, *inputs: Any, rng: Any = None, keep: str = "all") -> np.ndarray:
    """The last hidden state and behind it, as one more row, the pooled first one."""
    y = hidden(p, options, *inputs)
    return np.concatenate([y, nn_heads.pooler(plain.part(p, "pooler"), y, "tanh", "first")[:, None]], axis=1)


def both(outputs: Any) -> np.ndarray:
    return np.concatenate([outputs.last_hidden_state, outputs.pooler_output[:, None]], axis=1)


def apart(dy: np.ndarray) -> dict[str, np.ndarray]:
    return {"last_hidden_state": dy[:, :-1], "pooler_output": dy[:, -1]}


def masked_lm(p: plain.Parameters, options: Any, *inputs: Any, rng: Any = None, keep: str = "all") -> np.ndarray:
    """The body without a pooler, and the head over the embedding's table or its own."""
    x = hidden(plain.part(p, "body"), options, *inputs)
    table = p["body.embeddings.words.weight"] if options["tie_word_embeddings"] else p["decoder"]
    head = {"activation": ACTIVATION[options["hidden_act"]], "eps": options["layer_norm_eps"]}
    return nn_heads.masked_lm_head(plain.part(p, "head"), head, x, table)


def draw_masked_lm(d: Drawer) -> Draft:
    """Tied and untied."""
    draft = draw_body(d)
    return Draft({**draft.options, "tie_word_embeddings": d.boolean()}, draft.inputs, draft.settings)


def draw_roberta(d: Drawer) -> Draft:
    """Padding is id 1, hidden by the mask, anywhere but in front; the positions come from the ids, or are given."""
    draft = draw_body(d)
    ids = draft.inputs["input_ids"] + 2
    mask = d.optional(lambda: d.mask(ids.shape, 0.6).astype(np.int64))
    if mask is not None:
        mask[:, 0] = 1
        ids = np.where(mask == 1, ids, 1)
    length = ids.shape[1]
    size = {"vocab_size": draft.options["vocab_size"] + 2, "max_position_embeddings": length + 2, "pad_token_id": 1}
    positions = d.optional(lambda: np.where(ids == 1, 1, d.ids(ids.shape, length) + 2))
    inputs = {**draft.inputs, "input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return Draft({**draft.options, **size}, inputs, draft.settings)


def roberta(
    p: plain.Parameters, options: Any, ids: Any, mask: Any, types: Any, positions: Any, rng: Any, keep: str
) -> np.ndarray:
    """The pooled row, which padding does not reach: the rows of tables that belong to padding do not learn."""
    if positions is None:
        pad, positions = options["pad_token_id"], np.array(ids)
        for b, row in enumerate(ids.tolist()):
            for t, token in enumerate(row):
                positions[b, t] = pad if token == pad else pad + sum(other != pad for other in row[: t + 1])
    y = hidden(p, options, ids, mask, types, positions)
    return nn_heads.pooler(plain.part(p, "pooler"), y, "tanh", "first")


def draw_distilbert(d: Drawer) -> Draft:
    """As a BERT, without segments."""
    draft = draw_body(d)
    options = draft.options
    renamed = {
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "max_position_embeddings": "max_position_embeddings",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "pad_token_id": "pad_token_id",
    }
    inputs = {name: draft.inputs[name] for name in ARGUMENTS if name != "token_type_ids"}
    return Draft({new: options[old] for old, new in renamed.items()}, inputs, draft.settings)


def distilbert(
    p: plain.Parameters, options: Any, ids: Any, mask: Any, positions: Any, rng: Any, keep: str
) -> np.ndarray:
    """The last hidden state; every eps is 1e-12."""
    named = {
        "num_attention_heads": options["n_heads"], "hidden_act": options["activation"], "layer_norm_eps": 1e-12,
    }  # fmt: skip
    return hidden(p, named, ids, mask, None, positions)


def padding_changes_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Other tokens in the place of padding give the same bits at real tokens."""
    mask, ids = case.inputs["attention_mask"], case.inputs["input_ids"]
    if mask is None or case.settings["rng"] is not None:
        return
    y, _ = pair.forward(**case.keywords())
    vocabulary = case.settings["module"].options["vocab_size"]
    other = case.with_inputs({"input_ids": np.where(mask == 1, ids, (ids + 1) % vocabulary)})
    changed, _ = pair.forward(**other.keywords())
    real, length = mask == 1, mask.shape[1]
    same = np.array_equal(changed[:, :length][real], y[:, :length][real])
    yield holds("padding changes nothing", "y", same, "a real token saw padding")


def build(kind: Any, config: Any) -> Callable[..., Any]:
    """A model of a kind."""
    return lambda dtype, **options: kind(config(**options), rng=0, dtype=dtype)


MODEL: dict[str, Any] = {"differentiable": (), "stochastic": True, "kind": "model"}
SPECS = [
    component_spec(
        "BertEmbeddings",
        lambda dtype, **options: BertEmbeddings(**options, rng=0, dtype=dtype),
        draw_embeddings,
        embeddings,
        positional=("ids", "types"),
        differentiable=(),
        stochastic=True,
    ),
    component_spec(
        "BertModel",
        build(BertModel, BertConfig),
        draw_body,
        body,
        positional=ARGUMENTS,
        read=both,
        write=apart,
        checks=(padding_changes_nothing,),
        **MODEL,
    ),
    component_spec(
        "BertForMaskedLM",
        build(BertForMaskedLM, BertConfig),
        draw_masked_lm,
        masked_lm,
        positional=ARGUMENTS,
        read=lambda outputs: outputs.logits,
        write=lambda dy: {"logits": dy},
        checks=(padding_changes_nothing,),
        **MODEL,
    ),
    component_spec(
        "RobertaModel",
        build(RobertaModel, RobertaConfig),
        draw_roberta,
        roberta,
        positional=ARGUMENTS,
        read=lambda outputs: outputs.pooler_output,
        write=lambda dy: {"pooler_output": dy},
        **MODEL,
    ),
    component_spec(
        "DistilBertModel",
        build(DistilBertModel, DistilBertConfig),
        draw_distilbert,
        distilbert,
        positional=tuple(name for name in ARGUMENTS if name != "token_type_ids"),
        read=lambda outputs: outputs.last_hidden_state,
        write=lambda dy: {"last_hidden_state": dy},
        checks=(padding_changes_nothing,),
        **MODEL,
    ),
]
