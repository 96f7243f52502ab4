"""The loss over a large vocabulary: the two pairs it stands for, blocks at their own size, and what is refused."""

import importlib
import tracemalloc

import numpy as np
import pytest

from numtx import functional as F
from numtx.testing import small_blocks

BLOCKS = importlib.import_module("numtx.functional.linear_cross_entropy")  # the package's attribute is the pair
NUMBERS = np.random.default_rng(0)
X, WEIGHT, BIAS = (NUMBERS.standard_normal(shape) for shape in ((3, 4, 5), (5, 9), (9,)))
TARGET = NUMBERS.integers(0, 9, (3, 4))
TARGET[[0, 2], [1, 3]] = -100


def in_two_pairs(x, weight, target, bias=None, dy=1.0, **settings):
    """The loss and its gradients by way of all logits."""
    logits, inner = F.linear(x, weight, bias)
    loss, cache = F.cross_entropy(logits, target, **settings)
    return loss, F.linear_backward(F.cross_entropy_backward(dy, cache), inner)


def assert_equal(got, expected, rtol=1e-12):
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.shape == theirs.shape
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * np.abs(theirs).max())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("bias", [None, BIAS], ids=["no-bias", "bias"])
@pytest.mark.parametrize("logits", [1, 10, 50, 1000])
def test_it_is_cross_entropy_of_linear_in_blocks_of_any_size(logits, bias, reduction, smoothing):
    settings = {"reduction": reduction, "label_smoothing": smoothing}
    expected, gradients = in_two_pairs(X, WEIGHT, TARGET, bias, dy=-1.7, **settings)
    for classes in (1, 2, 9, 20):
        with small_blocks(logits=logits, classes=classes):
            loss, cache = F.linear_cross_entropy(X, WEIGHT, TARGET, bias, **settings)
        np.testing.assert_allclose(loss, expected, rtol=1e-12)
        assert_equal(F.linear_cross_entropy_backward(-1.7, cache), gradients)


@pytest.mark.parametrize("order", ["C", "F"])
def test_blocks_at_their_own_size_in_float32(order, monkeypatch):
    """Some blocks of classes, the last of them short, and some of rows."""
    monkeypatch.setattr(BLOCKS, "LOGITS", 1 << 16)
    numbers = np.random.default_rng(1)
    x, weight = numbers.standard_normal((2, 70, 16)), numbers.standard_normal((16, 2 * BLOCKS.COLUMNS + 77))
    target = numbers.integers(0, weight.shape[1], (2, 70))
    expected, gradients = in_two_pairs(x, weight, target)
    x, weight = x.astype(np.float32), weight.astype(np.float32, order=order)
    loss, cache = F.linear_cross_entropy(x, weight, target)
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    got = F.linear_cross_entropy_backward(1.0, cache)
    assert got[1].flags[f"{order}_CONTIGUOUS"]  # as the weight lies: they are added and copied together
    assert_equal(got, [g if g is None else g.astype(np.float32) for g in gradients], rtol=1e-5)


@pytest.mark.parametrize("op", [F.linear_cross_entropy, in_two_pairs], ids=["one-pair", "two-pairs"])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_what_a_nearly_certain_label_costs_keeps_its_digits(op, smoothing):
    """In float32, where 1 + exp(-20) is 1; the gradients of the label's own logit too, where 1 - p is."""
    x, weight, target = np.array([[4.0]]), np.array([[5.0, 0.0, -1.0, -2.0]]), np.array([0])
    rest = np.exp([0.0, -4.0, -8.0]) @ np.ones(3) * np.exp(-20.0)
    mean = (5 - 1 - 2) / 4 * 4.0
    loss = np.log1p(rest) + smoothing * (20.0 - mean)
    dz = np.exp([0.0, -20.0, -24.0, -28.0]) / (1 + rest) - smoothing / 4
    dz[0] = smoothing - rest / (1 + rest) - smoothing / 4
    for classes in (1, 2, 4):
        with small_blocks(classes=classes):
            got, kept = op(x.astype(np.float32), weight.astype(np.float32), target, label_smoothing=smoothing)
        _, dweight, _ = F.linear_cross_entropy_backward(1.0, kept) if op is F.linear_cross_entropy else kept
        np.testing.assert_allclose(got, loss, rtol=1e-6)
        np.testing.assert_allclose(dweight[0], 4 * dz, rtol=1e-5)


def test_parts_of_a_batch_add():
    """Each divides by the items of the whole."""
    loss, cache = F.linear_cross_entropy(X, WEIGHT, TARGET, BIAS)
    items = int((TARGET != -100).sum())
    parts = [F.linear_cross_entropy(X[k : k + 1], WEIGHT, TARGET[k : k + 1], BIAS, num_items=items) for k in range(3)]
    np.testing.assert_allclose(sum(part for part, _ in parts), loss, rtol=1e-12)
    dx, dweight, dbias = zip(*(F.linear_cross_entropy_backward(1.0, part) for _, part in parts), strict=True)
    assert_equal((np.concatenate(dx), sum(dweight), sum(dbias)), F.linear_cross_entropy_backward(1.0, cache))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_where_all_is_ignored_loss_and_gradients_are_zero(reduction):
    loss, cache = F.linear_cross_entropy(X, WEIGHT, np.full((3, 4), 7), BIAS, ignore_index=7, reduction=reduction)
    assert loss == 0
    for gradient, array in zip(F.linear_cross_entropy_backward(1.0, cache), (X, WEIGHT, BIAS), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros_like(array))


def test_ignored_rows_may_hold_anything():
    x = X.copy()
    x[TARGET == -100] = np.nan
    loss, cache = F.linear_cross_entropy(x, WEIGHT, TARGET, BIAS)
    clean_loss, clean = F.linear_cross_entropy(X, WEIGHT, TARGET, BIAS)
    assert loss == clean_loss
    assert_equal(F.linear_cross_entropy_backward(1.0, cache), F.linear_cross_entropy_backward(1.0, clean), rtol=0)


def test_classes_that_cannot_be():
    """A bias of -inf rules a class out, and whole blocks of them too."""
    bias = BIAS.copy()
    bias[:5] = -np.inf
    target = np.where(TARGET == -100, -100, 5 + TARGET % 4)
    with small_blocks(classes=2):
        loss, cache = F.linear_cross_entropy(X, WEIGHT, target, bias)
    expected, (dx, dweight, dbias) = in_two_pairs(
        X, WEIGHT[:, 5:], np.where(target == -100, -100, target - 5), bias[5:]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    got = F.linear_cross_entropy_backward(1.0, cache)
    assert_equal((got[0], got[1][:, 5:], got[2][5:]), (dx, dweight, dbias))
    assert not got[1][:, :5].any()
    assert not got[2][:5].any()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_row_that_is_not_finite_makes_the_loss_so(poison):
    x = X.copy()
    x[0, 0, 0] = poison
    with np.errstate(all="ignore"):
        loss, _ = F.linear_cross_entropy(x, WEIGHT, TARGET)
    assert not np.isfinite(loss)


def test_a_small_integer_type_of_targets(monkeypatch):
    monkeypatch.setattr(BLOCKS, "COLUMNS", 300)
    weight = NUMBERS.standard_normal((5, 700))
    target = np.array([[3, 200, 255, 0]] * 3, dtype=np.uint8)
    loss, _ = F.linear_cross_entropy(X, weight, target)
    assert loss == F.linear_cross_entropy(X, weight, target.astype(int))[0]


def test_the_logits_are_never_held_all_at_once():
    """The memory that is taken is that of the blocks and of the gradients, whatever the number of rows."""
    numbers = np.random.default_rng(2)
    weight = numbers.standard_normal((4, 30_000), dtype=np.float32)
    peaks = []
    for rows in (200, 800):
        x, target = numbers.standard_normal((rows, 4), dtype=np.float32), numbers.integers(0, 30_000, rows)
        with small_blocks(logits=1 << 20, classes=1024):
            tracemalloc.start()
            F.linear_cross_entropy(x, weight, target)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 0.4 * rows * weight.shape[1] * 4


def test_no_backward_without_the_gradients():
    loss, cache = F.linear_cross_entropy(X, WEIGHT, TARGET, keep=None)
    assert loss == F.linear_cross_entropy(X, WEIGHT, TARGET)[0]
    with pytest.raises(ValueError, match=r"^linear_cross_entropy: expected a forward with keep='all'"):
        F.linear_cross_entropy_backward(1.0, cache)


BAD = {
    "target shape": ({"target": TARGET[0]}, ["(3, 4)", "(4,)"]),
    "target too large": ({"target": np.full((3, 4), 9)}, ["[0, 9) or -100", "got 9"]),
    "target negative": ({"target": TARGET, "ignore_index": 0}, ["got -100"]),
    "float target": ({"target": TARGET * 1.0}, ["float64"]),
    "empty": ({"x": X[:0], "target": TARGET[:0]}, ["(0, 4, 5)"]),
    "a number": ({"x": np.float64(1.0), "target": np.array(0)}, ["()"]),
    "the table itself": ({"weight": WEIGHT.T}, ["(3, 4, 5)", "(9, 5)"]),
    "bias": ({"bias": BIAS[:3]}, ["(9,)", "(3,)"]),
    "dtypes": ({"weight": WEIGHT.astype(np.float32)}, ["x float64", "weight float32"]),
    "reduction": ({"reduction": "none"}, ["'none'"]),
    "smoothing": ({"label_smoothing": 1.5}, ["1.5"]),
    "items": ({"num_items": 0}, ["num_items", "got 0"]),
    "items of a sum": ({"num_items": 3, "reduction": "sum"}, ["'sum'"]),
    "keep": ({"keep": "inputs"}, ["'inputs'"]),
}


@pytest.mark.parametrize("what", BAD)
def test_refused_in_one_line(what):
    changed, words = BAD[what]
    with pytest.raises(ValueError, match=r"^linear_cross_entropy: expected [^\n]*$") as raised:
        F.linear_cross_entropy(**{"x": X, "weight": WEIGHT, "target": TARGET, **changed})
    for word in words:
        assert word in str(raised.value)
