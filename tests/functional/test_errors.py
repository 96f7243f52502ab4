"""Bad input is refused at the door: a ValueError of one line that names the op, what it expected and what it got."""

from functools import partial

import numpy as np
import pytest
from refusals import refused_in_one_line

from numtx import functional as F

X = np.ones((2, 3))
W = np.ones(3)
HEADS = np.ones((2, 2, 4, 3))
KEYS = np.ones((2, 2, 5, 3))
IDS = np.array([[0, 1, 2], [2, 1, 0]])
MASK = np.ones((2, 1, 1, 5), dtype=bool)
f32 = np.float32


def attention(query=HEADS, key=KEYS, value=KEYS, bias=None, **settings):
    return F.scaled_dot_product_attention(query, key, value, bias, **settings)


def entropy(logits=np.ones((2, 3, 4)), target=IDS, weight=None, **settings):  # noqa: B008  (never changed)
    return F.cross_entropy(logits, target, weight, **settings)


def binary(input=X, target=X, *others, **settings):
    return F.binary_cross_entropy_with_logits(input, target, *others, **settings)


# What is wrong, the call, the op that must name itself, and what the line must contain.
BAD = {
    "linear width": (lambda: F.linear(X, np.ones((4, 2))), "linear", ["(2, 3)", "(4, 2)"]),
    "linear weight of three axes": (lambda: F.linear(X, np.ones((1, 3, 2))), "linear", ["(1, 3, 2)"]),
    "linear of a number": (lambda: F.linear(np.ones(()), np.ones((1, 2))), "linear", ["()"]),
    "linear bias": (lambda: F.linear(X, np.ones((3, 2)), np.ones(3)), "linear", ["(2,)", "(3,)"]),
    "linear integers": (lambda: F.linear(X.astype(int), np.ones((3, 2))), "linear", ["int64"]),
    "linear mixed dtypes": (lambda: F.linear(X, np.ones((3, 2), f32)), "linear", ["float64", "float32"]),
    "linear list": (lambda: F.linear([[1.0]], np.ones((1, 2))), "linear", ["list"]),
    "low_rank widths": (lambda: F.low_rank(X, np.ones((4, 2)), np.ones((2, 5))), "low_rank", ["(2, 3)", "(4, 2)"]),
    "low_rank ranks": (lambda: F.low_rank(X, np.ones((3, 2)), np.ones((1, 5))), "low_rank", ["(3, 2)", "(1, 5)"]),
    "low_rank of a number": (lambda: F.low_rank(np.ones(()), np.ones((1, 2)), np.ones((2, 1))), "low_rank", ["()"]),
    "low_rank of vectors": (lambda: F.low_rank(X, W, W), "low_rank", ["(3,)"]),
    "low_rank mixed dtypes": (lambda: F.low_rank(X, np.ones((3, 2), f32), np.ones((2, 1))), "low_rank", ["float32"]),
    "embedding id too large": (lambda: F.embedding(IDS, np.ones((2, 4))), "embedding", ["[0, 2)", "got 2"]),
    "embedding id negative": (lambda: F.embedding(np.array([0, -1]), np.ones((2, 4))), "embedding", ["got -1"]),
    "embedding float ids": (lambda: F.embedding(np.array([0.0]), np.ones((2, 4))), "embedding", ["float64"]),
    "embedding bool ids": (lambda: F.embedding(np.array([True]), np.ones((2, 4))), "embedding", ["bool"]),
    "embedding weight": (lambda: F.embedding(IDS, np.ones(4)), "embedding", ["(4,)"]),
    "embedding integer weight": (lambda: F.embedding(IDS, np.ones((3, 4), int)), "embedding", ["int64"]),
    "softmax axis": (lambda: F.softmax(X, axis=2), "softmax", ["2", "(2, 3)"]),
    "softmax nothing": (lambda: F.softmax(np.ones((2, 0))), "softmax", ["(2, 0)"]),
    "softmax number": (lambda: F.softmax(np.ones(())), "softmax", ["()"]),
    "log_softmax axis": (lambda: F.log_softmax(X, axis=-3), "log_softmax", ["-3"]),
    "log_softmax nothing": (lambda: F.log_softmax(np.ones(0)), "log_softmax", ["(0,)"]),
    "layer_norm weight": (lambda: F.layer_norm(X, np.ones(2)), "layer_norm", ["(2,)", "(2, 3)"]),
    "layer_norm weight of two axes": (lambda: F.layer_norm(X, X), "layer_norm", ["weight", "(2, 3)"]),
    "layer_norm bias": (lambda: F.layer_norm(X, W, np.ones(1)), "layer_norm", ["bias", "(1,)"]),
    "layer_norm mixed dtypes": (lambda: F.layer_norm(X, W.astype(f32)), "layer_norm", ["float32"]),
    "rms_norm weight": (lambda: F.rms_norm(X, np.ones(4)), "rms_norm", ["(4,)"]),
    "rms_norm integers": (lambda: F.rms_norm(X.astype(int), W), "rms_norm", ["int64"]),
    "dropout of everything": (lambda: F.dropout(X, 1.0), "dropout", ["[0, 1)", "1.0"]),
    "dropout negative": (lambda: F.dropout(X, -0.1), "dropout", ["-0.1"]),
    "dropout nan": (lambda: F.dropout(X, float("nan")), "dropout", ["nan"]),
    "positions odd width": (lambda: F.sinusoidal_positions(4, 5), "sinusoidal_positions", ["even", "5"]),
    "positions without width": (lambda: F.sinusoidal_positions(4, 0), "sinusoidal_positions", ["0"]),
    "positions negative": (lambda: F.sinusoidal_positions(-1, 4), "sinusoidal_positions", ["-1"]),
    "positions fraction": (lambda: F.sinusoidal_positions(2.5, 4), "sinusoidal_positions", ["2.5"]),
    "positions layout": (lambda: F.sinusoidal_positions(4, 4, layout="halves"), "sinusoidal_positions", ["halves"]),
    "causal negative": (lambda: F.causal_mask(-1), "causal_mask", ["-1"]),
    "window of nothing": (lambda: F.sliding_window_mask(3, window=0), "sliding_window_mask", ["0"]),
    "window fraction": (lambda: F.sliding_window_mask(3, window=1.5), "sliding_window_mask", ["1.5"]),
    "padding axes": (lambda: F.padding_mask(np.ones(3, int)), "padding_mask", ["(3,)"]),
    "padding values": (lambda: F.padding_mask(np.array([[0, 2]])), "padding_mask", ["0 and 1"]),
    "combine integers": (lambda: F.combine_masks(MASK, MASK.astype(int)), "combine_masks", ["int64"]),
    "combine two axes": (lambda: F.combine_masks(MASK[0, 0]), "combine_masks", ["(1, 5)"]),
    "combine list": (lambda: F.combine_masks([[True]]), "combine_masks", ["list"]),
    "combine shapes": (
        lambda: F.combine_masks(MASK, np.ones((3, 1, 1, 5), bool)),
        "combine_masks",
        ["(2, 1, 1, 5)", "(3, 1, 1, 5)"],
    ),
    "attention three axes": (lambda: attention(HEADS[0]), "scaled_dot_product_attention", ["(2, 4, 3)"]),
    "attention heads": (lambda: attention(HEADS[:, :1]), "scaled_dot_product_attention", ["(2, 1, 4, 3)"]),
    "attention widths": (lambda: attention(HEADS[..., :2]), "scaled_dot_product_attention", ["(2, 2, 4, 2)"]),
    "attention values": (lambda: attention(value=HEADS), "scaled_dot_product_attention", ["value (2, 2, 4, 3)"]),
    "attention no key": (
        lambda: attention(key=KEYS[:, :, :0], value=KEYS[:, :, :0]),
        "scaled_dot_product_attention",
        ["(2, 2, 0, 3)"],
    ),
    "attention mixed dtypes": (lambda: attention(HEADS.astype(f32)), "scaled_dot_product_attention", ["float32"]),
    "attention bias": (lambda: attention(bias=np.ones((2, 7))), "scaled_dot_product_attention", ["(2, 8)", "(2, 7)"]),
    "attention bias heads": (lambda: attention(bias=np.ones((3, 8))), "scaled_dot_product_attention", ["(3, 8)"]),
    "attention bias shape": (
        lambda: attention(bias=np.ones((2, 2, 5, 4))),
        "scaled_dot_product_attention",
        ["(2, 2, 5, 4)"],
    ),
    "attention bias of five axes": (
        lambda: attention(bias=np.ones((1, 2, 2, 4, 5))),
        "scaled_dot_product_attention",
        ["(1, 2, 2, 4, 5)"],
    ),
    "attention mask of two axes": (
        lambda: attention(mask=np.ones((4, 5), bool)),
        "scaled_dot_product_attention",
        ["four axes", "(4, 5)"],
    ),
    "attention mask of integers": (lambda: attention(mask=MASK.astype(int)), "scaled_dot_product_attention", ["int64"]),
    "attention mask of floats": (lambda: attention(mask=MASK * 1.0), "scaled_dot_product_attention", ["float64"]),
    "attention mask list": (lambda: attention(mask=MASK.tolist()), "scaled_dot_product_attention", ["list"]),
    "attention mask shape": (
        lambda: attention(mask=MASK[..., :4]),
        "scaled_dot_product_attention",
        ["(2, 2, 4, 5)", "(2, 1, 1, 4)"],
    ),
    "attention window": (lambda: attention(window=0), "scaled_dot_product_attention", ["window", "0"]),
    "attention dropout": (lambda: attention(dropout=1.0), "scaled_dot_product_attention", ["dropout", "1.0"]),
    "entropy target shape": (lambda: entropy(target=IDS[0]), "cross_entropy", ["(2, 3, 4)", "(3,)"]),
    "entropy target too large": (lambda: entropy(target=IDS + 2), "cross_entropy", ["[0, 4)", "got 4"]),
    "entropy target negative": (lambda: entropy(target=IDS - 1), "cross_entropy", ["got -1"]),
    "entropy float target": (lambda: entropy(target=IDS * 1.0), "cross_entropy", ["float64"]),
    "entropy empty": (lambda: entropy(np.ones((0, 4)), np.ones(0, int)), "cross_entropy", ["(0, 4)"]),
    "entropy class weights": (lambda: entropy(weight=np.ones(3)), "cross_entropy", ["(4,)", "(3,)"]),
    "entropy smoothing": (lambda: entropy(label_smoothing=1.5), "cross_entropy", ["1.5"]),
    "entropy reduction": (lambda: entropy(reduction="average"), "cross_entropy", ["'average'"]),
    "entropy list": (lambda: entropy([[1.0]], np.array([0])), "cross_entropy", ["list"]),
    "mse shapes": (lambda: F.mse_loss(X, X[:1]), "mse_loss", ["(2, 3)", "(1, 3)"]),
    "mse empty": (lambda: F.mse_loss(X[:0], X[:0]), "mse_loss", ["(0, 3)"]),
    "mse reduction": (lambda: F.mse_loss(X, X, "batchmean"), "mse_loss", ["'batchmean'"]),
    "mse dtypes": (lambda: F.mse_loss(X, X.astype(f32)), "mse_loss", ["float32"]),
    "binary shapes": (lambda: binary(target=W), "binary_cross_entropy_with_logits", ["(2, 3)", "(3,)"]),
    "binary integer target": (lambda: binary(target=X.astype(int)), "binary_cross_entropy_with_logits", ["int64"]),
    "binary weight": (lambda: binary(X, X, np.ones(4)), "binary_cross_entropy_with_logits", ["weight", "(4,)"]),
    "binary weight larger": (
        lambda: binary(X, X, np.ones((5, 2, 3))),
        "binary_cross_entropy_with_logits",
        ["weight", "(5, 2, 3)"],
    ),
    "binary pos_weight": (
        lambda: binary(X, X, None, np.ones(2)),
        "binary_cross_entropy_with_logits",
        ["pos_weight", "(2,)"],
    ),
    "binary reduction": (lambda: binary(reduction="no"), "binary_cross_entropy_with_logits", ["'no'"]),
}
for op in (F.relu, F.gelu, F.gelu_tanh, F.silu, F.tanh, F.sigmoid):
    BAD[f"{op.__name__} integers"] = (partial(op, X.astype(int)), op.__name__, ["int64"])
    BAD[f"{op.__name__} list"] = (partial(op, [1.0]), op.__name__, ["list"])


@pytest.mark.parametrize("what", BAD)
def test_refused_in_one_line(what):
    refused_in_one_line(*BAD[what])


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        (lambda: F.linear(X[:0], np.ones((3, 2)))[0], (0, 2)),
        (lambda: F.low_rank(X[:0], np.ones((3, 2)), np.ones((2, 4)))[0], (0, 4)),
        (lambda: F.embedding(IDS[:0], np.ones((3, 4)))[0], (0, 3, 4)),
        (lambda: F.layer_norm(X[:0], W)[0], (0, 3)),
        (lambda: F.softmax(X[:0])[0], (0, 3)),
        (lambda: F.gelu_tanh(X[:0])[0], (0, 3)),
        (lambda: F.dropout(X[:0], 0.5, np.random.default_rng(0))[0], (0, 3)),
        (lambda: F.sinusoidal_positions(0, 4), (0, 4)),
    ],
)
def test_no_rows_are_no_error(call, shape):
    """Nothing to do is not wrong, where a result without rows means something."""
    assert call().shape == shape


def test_all_targets_ignored():
    """Zero, with zero gradients; not NaN."""
    for smoothing in (0.0, 0.1):
        for reduction in ("mean", "sum"):
            loss, cache = entropy(target=np.full((2, 3), -100), label_smoothing=smoothing, reduction=reduction)
            assert loss == 0.0
            assert (F.cross_entropy_backward(1.0, cache) == 0).all()


def test_the_loss_at_ignored_targets_may_be_anything():
    """Logits at padding are nobody's business: NaN and infinity there do not reach the loss."""
    logits, target = np.random.default_rng(0).standard_normal((4, 3)), np.array([1, -100, 0, -100])
    expected = F.cross_entropy(logits[[0, 2]], target[[0, 2]], label_smoothing=0.1)[0]
    for poison in (np.nan, np.inf, -np.inf):
        logits[[1, 3]] = poison
        with np.errstate(all="ignore"):
            loss, _ = F.cross_entropy(logits, target, label_smoothing=0.1)
        assert abs(loss - expected) < 1e-15
