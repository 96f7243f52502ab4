"""Heads and pooling: padding is kept out to the last bit, and what cannot be is refused in one line."""

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn

B, T, C = 3, 4, 6
REAL = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
MASK = F.padding_mask(REAL)
POOLINGS = ("first", "last", "mean")


def hidden(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape or (B, T, C)).astype(dtype)


HEADS = {
    "Pooler": lambda **s: nn.Pooler(C, **s),
    "SequenceClassificationHead": lambda **s: nn.SequenceClassificationHead(C, 5, **s),
    "ClassificationHead": lambda **s: nn.ClassificationHead(C, 5, **s),
    "ClassifierHead": lambda **s: nn.ClassifierHead(C, 5, **s),
    "RegressorHead": lambda **s: nn.RegressorHead(C, **s),
}
PER_TOKEN = {
    "ValueHead": lambda **s: nn.ValueHead(C, **s),
    "TokenClassificationHead": lambda **s: nn.TokenClassificationHead(C, 5, **s),
    "SpanHead": lambda **s: nn.SpanHead(C, **s),
}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_padding_is_kept_out_to_the_last_bit(make, pooling):
    head, x = make(pooling=pooling, rng=0), hidden()
    y, cache = head.forward(x, mask=MASK)
    changed = np.where(REAL[:, :, None] == 1, x, np.float32(np.nan))  # NaN shows what a product with zero would hide
    np.testing.assert_array_equal(head(changed, mask=MASK), y)
    dx, _ = head.backward(np.ones_like(y), cache)
    assert not dx[REAL == 0].any()
    longer, more = np.pad(x, ((0, 0), (0, 2), (0, 0)), constant_values=7), np.pad(REAL, ((0, 0), (0, 2)))
    np.testing.assert_allclose(head(longer, mask=F.padding_mask(more)), y, rtol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_sequence_without_a_token_pools_to_zeros(pooling):
    real = np.array([[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    y, cache = nn.Pooling(pooling).forward(hidden(), mask=F.padding_mask(real))
    assert y.any(axis=1).tolist() == [False, True, False]
    dx, grads = nn.Pooling(pooling).backward(hidden(B, C), cache)
    assert dx.any(axis=(1, 2)).tolist() == [False, True, False]
    assert grads == {}


def test_which_row_is_read():
    x = np.arange(B * T, dtype=np.float64).reshape(B, T, 1)
    rows = {how: nn.Pooling(how)(x, mask=MASK)[:, 0].tolist() for how in POOLINGS}
    assert rows == {"first": [0, 5, 8], "last": [1, 7, 11], "mean": [0.5, 6, 9.5]}
    assert nn.Pooling("last")(x)[:, 0].tolist() == [3, 7, 11]
    assert nn.Pooling("mean")(x, mask=MASK[:1])[:, 0].tolist() == [0.5, 4.5, 8.5]  # one row for all
    np.testing.assert_array_equal(nn.Pooling(None)(x, mask=MASK), x)


def test_a_mask_of_ones_changes_no_bit():
    x, ones = hidden(), F.padding_mask(np.ones((B, T), int))
    for how in POOLINGS:
        np.testing.assert_array_equal(nn.Pooling(how)(x, mask=ones), nn.Pooling(how)(x))


def test_names_and_shapes_of_the_parameters():
    names = {name: shape.shape for name, shape in nn.SequenceClassificationHead(6, 5).named_parameters()}
    assert names == {
        "pooler.dense.weight": (6, 6), "pooler.dense.bias": (6,), "out_proj.weight": (6, 5), "out_proj.bias": (5,),
    }  # fmt: skip
    assert list(nn.ClassifierHead(6, 5, bias=False).state_dict()) == ["out_proj.weight"]
    assert list(nn.ValueHead(6).state_dict()) == ["out_proj.weight", "out_proj.bias"]
    assert list(nn.Seq2SeqLMHead(5).state_dict()) == ["final_logits_bias"]
    assert not list(nn.Seq2SeqLMHead(5).named_parameters())  # it does not learn
    names = {name: shape.shape for name, shape in nn.MaskedLMHead(6, 5).named_parameters()}
    assert names == {
        "bias": (5,), "dense.weight": (6, 6), "dense.bias": (6,), "norm.weight": (6,), "norm.bias": (6,),
    }  # fmt: skip


@pytest.mark.parametrize("make", [*HEADS.values(), *PER_TOKEN.values()], ids=[*HEADS, *PER_TOKEN])
def test_one_seed_gives_one_draw_in_every_dtype(make):
    one, two, other = make(rng=3), make(rng=3, dtype=np.float64), make(rng=4)
    for name, array in one.named_parameters():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, two.get_parameter(name).astype(np.float32), err_msg=name)
        assert (array != other.get_parameter(name)).any(), name


def test_dropout_stands_before_the_product_and_after_the_pooling():
    head = nn.RegressorHead(C, 0.5, pooling="mean", rng=0, dtype=np.float64)
    x = hidden(dtype=np.float64)
    kept = np.random.default_rng(5).random((B, C), dtype=np.float32) >= 0.5
    expected = (x.mean(axis=1) * kept * 2) @ head.out_proj.weight + head.out_proj.bias
    np.testing.assert_allclose(head.forward(x, rng=np.random.default_rng(5))[0], expected[:, 0], rtol=1e-12)


def test_the_trace_sees_every_part():
    head, x = nn.ClassifierHead(C, 5, pooler=True, rng=0), hidden()
    with nn.trace(head) as t:
        y, cache = head.forward(x, mask=MASK)
        head.backward(np.ones_like(y), cache)
    assert list(t) == [
        "pooler.pooling/pooling", "pooler.pooling", "pooler.dense/linear", "pooler.dense", "pooler/tanh", "pooler",
        "ClassifierHead/dropout", "out_proj/linear", "out_proj", "ClassifierHead/log_softmax", "ClassifierHead",
    ]  # fmt: skip
    assert all(site.dinputs is not None for site in t.sites.values())


REFUSED = {
    "pooling": (lambda: nn.Pooling("max"), r"Pooling: expected a pooling of first, last, mean or None, got 'max'"),
    "head's pooling": (lambda: nn.ClassifierHead(4, 2, pooling="cls"), r"Pooling: expected .*got 'cls'"),
    "activation": (lambda: nn.Pooler(4, "swish"), r"Pooler: expected an activation of tanh, .*got 'swish'"),
    "no labels": (lambda: nn.ClassifierHead(4, 0), r"ClassifierHead: expected num_labels .*got 0"),
    "half a label": (lambda: nn.TokenClassificationHead(4, 2.5), r"TokenClassificationHead: .*got 2\.5"),
    "no width": (lambda: nn.ValueHead(0), r"ValueHead: expected width .*got 0"),
    "rate": (lambda: nn.SpanHead(4, 1.0), r"SpanHead: expected dropout in \[0, 1\), got 1\.0"),
    "vocabulary": (lambda: nn.MaskedLMHead(4, 0), r"MaskedLMHead: expected vocab_size .*got 0"),
    "eps": (lambda: nn.MaskedLMHead(4, 7, eps=-1.0), r"MaskedLMHead: expected eps .*got -1\.0"),
    "masked activation": (lambda: nn.MaskedLMHead(4, 7, "swish"), r"MaskedLMHead: expected an activation .*'swish'"),
    "no vocabulary": (lambda: nn.Seq2SeqLMHead(-1), r"Seq2SeqLMHead: expected vocab_size .*got -1"),
    "dtype": (lambda: nn.Seq2SeqLMHead(3, dtype=np.float16), r"init: expected dtype .*got float16"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_cannot_be_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        make()


def classify(x, mask=None, **settings):
    return nn.ClassifierHead(C, 2, rng=0, **settings)(x, mask=mask)


TABLE = np.ones((7, C), np.float32)
WRONG_INPUTS = {
    "width": (lambda: classify(hidden(B, T, 5)), r"ClassifierHead: expected x \(B, T, 6\), not empty, got \(3, 4, 5\)"),
    "pooled already": (lambda: classify(hidden(B, C)), r"ClassifierHead: expected x \(B, T, 6\), .*got \(3, 6\)"),
    "four axes": (lambda: classify(hidden(1, B, T, C), pooling=None), r"ClassifierHead: expected x \(B, 6\) or .*"),
    "no batch": (lambda: classify(hidden(0, T, C)), r"ClassifierHead: .*not empty, got \(0, 4, 6\)"),
    "no tokens": (lambda: nn.SpanHead(C)(hidden(B, 0, C)), r"SpanHead: .*not empty, got \(3, 0, 6\)"),
    "integers": (lambda: classify(np.ones((B, T, C), int)), r"ClassifierHead: expected x of dtype .*got int64"),
    "dtype": (lambda: classify(hidden(dtype=np.float64)), r"linear: expected one dtype"),
    "a list": (lambda: classify([[1.0]]), r"ClassifierHead: expected x to be a NumPy array, got list"),
    "mask of two axes": (lambda: classify(hidden(), REAL == 1), r"pooling: expected a boolean mask, .*got \(3, 4\)"),
    "mask of numbers": (lambda: classify(hidden(), MASK.astype(int)), r"pooling: .*got int64 \(3, 1, 1, 4\)"),
    "mask of another length": (lambda: classify(hidden(), MASK[..., :3]), r"pooling: .*got \(3, 1, 1, 3\)"),
    "mask of another batch": (lambda: classify(hidden(), MASK[:2]), r"pooling: .*got \(2, 1, 1, 4\)"),
    "causal mask": (lambda: classify(hidden(), F.causal_mask(T)), r"pooling: .*got \(1, 1, 4, 4\)"),
    "mask as a list": (lambda: classify(hidden(), [True]), r"pooling: .*got list \(1,\)"),
    "pooler's width": (lambda: nn.Pooler(C)(hidden(B, T, 5)), r"Pooler: expected x \(B, T, 6\), .*got \(3, 4, 5\)"),
    "bare pooling": (lambda: nn.Pooling("mean")(hidden(B, C)), r"pooling: expected x \(B, T, C\), .*got \(3, 6\)"),
    "table's width": (
        lambda: nn.MaskedLMHead(C, 7)(hidden(), TABLE[:, :5]),
        r"MaskedLMHead: expected the borrowed table \(V, C\) = \(7, 6\), got \(7, 5\)",
    ),
    "table's length": (lambda: nn.MaskedLMHead(C, 7)(hidden(), TABLE[:6]), r"MaskedLMHead: .*got \(6, 6\)"),
    "table's dtype": (
        lambda: nn.Seq2SeqLMHead(7)(hidden(), TABLE.astype(float)),
        r"Seq2SeqLMHead: expected one dtype, got x float32 and weight float64",
    ),
    "masked width": (lambda: nn.MaskedLMHead(C, 7)(hidden(B, 5), TABLE), r"MaskedLMHead: expected x .*got \(3, 5\)"),
    "tied table's width": (
        lambda: nn.TiedLMHead()(hidden(), TABLE[:, :5]),
        r"TiedLMHead: expected the borrowed table \(V, C\) = \(7, 6\), got \(7, 5\)",
    ),
    "tied table's axes": (lambda: nn.TiedLMHead()(hidden(), TABLE[0]), r"TiedLMHead: .*= \(6, 6\), got \(6,\)"),
    "tied table's dtype": (lambda: nn.TiedLMHead()(hidden(), TABLE.astype(float)), r"TiedLMHead: expected one dtype"),
    "sequence table": (lambda: nn.Seq2SeqLMHead(7)(hidden(), TABLE[:6]), r"Seq2SeqLMHead: .*\(7, 6\), got \(6, 6\)"),
}


@pytest.mark.parametrize(("call", "message"), WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_inputs_that_do_not_fit_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        call()
