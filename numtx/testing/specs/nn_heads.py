"""What is known of the heads: which rows they read, and what they make of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import nn
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.nn_layers import rates
from numtx.testing.specs.pooling import padding, pooling
from numtx.testing.specs.softmax import log_softmax_row

ACTIVATIONS = ("tanh", "relu", "gelu", "gelu_tanh", "silu")


def sequence(d: Drawer, how: Any, width: int) -> tuple[np.ndarray, np.ndarray | None]:
    """An x and a mask for it; without pooling, x pooled already or token by token."""
    batch, length = d.sizes(2, 1, 4)
    if how is None and d.boolean():
        return d.array((batch, width)), None
    return d.array((batch, length, width)), padding(d, batch, length)


def pool(x: np.ndarray, how: Any, mask: np.ndarray | None = None) -> np.ndarray:
    """None hands x on as it is."""
    return x.copy() if how is None else pooling(x, how, mask)


def pooler(p: plain.Parameters, x: np.ndarray, activation: str, how: Any, mask: np.ndarray | None = None) -> np.ndarray:
    """act(pool(x) W + b)."""
    dense = plain.affine(pool(x, how, mask), p["dense.weight"], p["dense.bias"])
    return np.asarray(plain.ACTIVATION[activation](dense))


def scores(p: plain.Parameters, options: Any, x: np.ndarray, mask: Any = None, rng: Any = None) -> np.ndarray:
    """The row that is read, or the pooler's, times W, plus b."""
    how = options.get("pooling")
    if options.get("pooler"):
        row = pooler(plain.part(p, "pooler"), x, options["activation"], how, mask)
    else:
        row = pool(x, how, mask)
    return plain.affine(row, p["out_proj.weight"], p.get("out_proj.bias"))


def log_probabilities(y: np.ndarray) -> np.ndarray:
    """Each row of scores by itself."""
    return np.array([log_softmax_row(row) for row in y.reshape(-1, y.shape[-1]).tolist()]).reshape(y.shape)


def draw_pooling(d: Drawer) -> Draft:
    how = d.choice(("first", "last", "mean", None))
    x, mask = sequence(d, how, d.size(1, 4))
    return Draft({"pooling": how}, {"x": x}, {"mask": mask})


def draw_pooler(d: Drawer) -> Draft:
    width, how = d.size(1, 4), d.choice(("first", "last", "mean", None))
    x, mask = sequence(d, how, width)
    options = {"width": width, "activation": d.choice(ACTIVATIONS), "pooling": how}
    return Draft(options, {"x": x}, {"mask": mask})


def draw_head(d: Drawer, labels: int = 0) -> Draft:
    """Any pooling, with or without a dense layer behind it; `labels` is the least number of them, 0 for none to set."""
    width, num_labels = d.sizes(2, 2, 4)
    rate, rng = rates(d)
    options = {
        "width": width,
        "dropout": rate,
        "pooler": d.boolean(),
        "pooling": d.choice(("first", "last", "mean", None)),
        "activation": d.choice(ACTIVATIONS),
        "bias": d.boolean(),
    }
    if labels:
        options["num_labels"] = max(labels, num_labels)
    x, mask = sequence(d, options["pooling"], width)
    return Draft(options, {"x": x}, {"mask": mask, "rng": rng})


def draw_token_head(d: Drawer, labels: bool = False) -> Draft:
    """Token by token, without settings of pooling."""
    batch, length, width, num_labels = d.sizes(4, 1, 4)
    rate, rng = rates(d)
    options = {"width": width, "dropout": rate} | ({"num_labels": num_labels} if labels else {})
    return Draft(options, {"x": d.array((batch, length, width))}, {"rng": rng})


def draw_sequence_lm_head(d: Drawer) -> Draft:
    batch, width, vocabulary = d.sizes(3, 1, 4)
    x = d.array((*((batch, 2) if d.boolean() else (batch,)), width))
    return Draft({"vocab_size": vocabulary}, {"x": x, "weight": d.array((vocabulary, width))})


def final_bias(size: int) -> np.ndarray:
    """A buffer, and so no parameter of the case: numbers that float32 holds."""
    return np.arange(size) % 5 / 8 - 0.25


def build_sequence_lm_head(dtype: Any, **options: Any) -> nn.Seq2SeqLMHead:
    """A head whose bias is not zero."""
    head = nn.Seq2SeqLMHead(**options, dtype=dtype)
    head.final_logits_bias[:] = final_bias(options["vocab_size"])
    return head


def draw_classification_head(d: Drawer) -> Draft:
    """Any pooling."""
    width, num_labels = d.sizes(2, 1, 4)
    rate, rng = rates(d)
    options = {
        "width": width,
        "num_labels": num_labels,
        "dropout": rate,
        "pooling": d.choice(("first", "last", "mean", None)),
        "activation": d.choice(ACTIVATIONS),
    }
    x, mask = sequence(d, options["pooling"], width)
    return Draft(options, {"x": x}, {"mask": None if options["pooling"] is None else mask, "rng": rng})


def draw_masked_lm_head(d: Drawer) -> Draft:
    # LayerNorm of dead or tiny rows amplifies what finite differences miss: the eps is not small beside the variance.
    width, vocabulary = d.sizes(2, 3, 5)
    options = {
        "width": width,
        "vocab_size": vocabulary,
        "activation": d.choice(ACTIVATIONS),
        "eps": d.choice((1e-3, 1e-1)),
    }
    shape = (*d.sizes(d.integer(1, 2), 1, 3), width)
    return Draft(options, {"x": d.array(shape), "weight": d.array((vocabulary, width))})


def masked_lm_head(p: plain.Parameters, options: Any, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    hidden = plain.ACTIVATION[options["activation"]](plain.affine(x, p["dense.weight"], p["dense.bias"]))
    return plain.affine(plain.norm(plain.part(p, "norm"), np.asarray(hidden), options["eps"]), weight.T, p["bias"])


def span(p: plain.Parameters, options: Any, x: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    y = scores(p, options, x)
    start, end = np.empty(x.shape[:2]), np.empty(x.shape[:2])
    for b, t in np.ndindex(x.shape[:2]):
        start[b, t], end[b, t] = y[b, t].tolist()
    return start, end


def first_column(y: np.ndarray) -> np.ndarray:
    """The one number of each row."""
    return np.array([row[0] for row in y.reshape(-1, y.shape[-1]).tolist()]).reshape(y.shape[:-1])


def build(kind: Any) -> Any:
    """How the adapter makes one: from a seed, in a dtype."""
    return lambda dtype, **options: kind(**options, rng=0, dtype=dtype)


SPECS = [
    component_spec(
        "Pooling",
        lambda dtype, **options: nn.Pooling(**options),
        draw_pooling,
        lambda p, options, x, mask: pool(x, options["pooling"], mask),
    ),
    component_spec(
        "Pooler",
        build(nn.Pooler),
        draw_pooler,
        lambda p, options, x, mask: pooler(p, x, options["activation"], options["pooling"], mask),
    ),
    component_spec(
        "SequenceClassificationHead",
        build(nn.SequenceClassificationHead),
        lambda d: draw_head(d, labels=1),
        scores,
        stochastic=True,
    ),
    component_spec(
        "ClassificationHead",
        build(nn.ClassificationHead),
        draw_classification_head,
        lambda p, options, x, mask, rng: scores(p, {**options, "pooler": True}, x, mask),
        stochastic=True,
    ),
    component_spec(
        "ClassifierHead",
        build(nn.ClassifierHead),
        lambda d: draw_head(d, labels=2),
        lambda p, options, x, mask, rng: log_probabilities(scores(p, options, x, mask)),
        stochastic=True,
    ),
    component_spec(
        "RegressorHead",
        build(nn.RegressorHead),
        draw_head,
        lambda p, options, x, mask, rng: first_column(scores(p, options, x, mask)),
        stochastic=True,
    ),
    component_spec(
        "ValueHead",
        build(nn.ValueHead),
        draw_token_head,
        lambda p, options, x, rng: first_column(scores(p, options, x)),
        stochastic=True,
    ),
    component_spec(
        "TokenClassificationHead",
        build(nn.TokenClassificationHead),
        lambda d: draw_token_head(d, labels=True),
        scores,
        stochastic=True,
    ),
    component_spec("SpanHead", build(nn.SpanHead), draw_token_head, span, stochastic=True),
    component_spec(
        "Seq2SeqLMHead",
        build_sequence_lm_head,
        draw_sequence_lm_head,
        lambda p, options, x, weight: plain.affine(x, weight.T, final_bias(len(weight))),
        positional=("x", "weight"),
    ),
    component_spec(
        "MaskedLMHead",
        build(nn.MaskedLMHead),
        draw_masked_lm_head,
        masked_lm_head,
        positional=("x", "weight"),
    ),
]
