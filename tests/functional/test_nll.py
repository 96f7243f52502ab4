"""The negative log-likelihood: cross-entropy in two steps, ignored targets, and what is refused."""

import numpy as np
import pytest

from numtx import functional as F

NUMBERS = np.random.default_rng(0)
LOGITS, TARGET = NUMBERS.standard_normal((3, 4, 5)), NUMBERS.integers(0, 5, (3, 4))
TARGET[[0, 2], [1, 3]] = -100
WEIGHT = NUMBERS.uniform(0.5, 2.0, 5)
REDUCTIONS = ("mean", "sum", "none")


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_after_log_softmax_it_is_cross_entropy(reduction, weight):
    loss, whole = F.cross_entropy(LOGITS, TARGET, weight, reduction=reduction)
    log_probs, inner = F.log_softmax(LOGITS)
    steps, cache = F.nll_loss(log_probs, TARGET, weight, reduction=reduction)
    np.testing.assert_allclose(steps, loss, rtol=1e-13)
    dy = NUMBERS.standard_normal(loss.shape)
    dlogits = F.log_softmax_backward(F.nll_loss_backward(dy, cache), inner)
    np.testing.assert_allclose(dlogits, F.cross_entropy_backward(dy, whole), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_targets_ignored(reduction):
    """Zero, with zero gradients; not NaN."""
    loss, cache = F.nll_loss(LOGITS, np.full((3, 4), 7), ignore_index=7, reduction=reduction)
    assert np.shape(loss) == ((3, 4) if reduction == "none" else ())
    assert (np.asarray(loss) == 0).all()
    assert (F.nll_loss_backward(np.ones_like(loss), cache) == 0).all()


@pytest.mark.parametrize("poison", [np.nan, -np.inf])
def test_ignored_targets_may_stand_at_anything(poison):
    log_probs = LOGITS.copy()
    log_probs[TARGET == -100] = poison
    with np.errstate(all="ignore"):
        loss, cache = F.nll_loss(log_probs, TARGET, WEIGHT)
    assert loss == F.nll_loss(LOGITS, TARGET, WEIGHT)[0]
    assert np.isfinite(F.nll_loss_backward(1.0, cache)).all()


def test_a_class_that_cannot_be_costs_nothing_where_it_is_not_the_label():
    loss, cache = F.nll_loss(np.array([[0.0, -np.inf]]), np.array([0]))
    assert loss == 0
    np.testing.assert_array_equal(F.nll_loss_backward(1.0, cache), [[-1, 0]])


def test_float32_stays():
    loss, cache = F.nll_loss(LOGITS.astype(np.float32), TARGET, WEIGHT.astype(np.float32))
    assert loss.dtype == np.float32
    assert F.nll_loss_backward(1.0, cache).dtype == np.float32


BAD = {
    "target shape": (lambda: F.nll_loss(LOGITS, TARGET[0]), ["(3, 4, 5)", "(4,)"]),
    "target too large": (lambda: F.nll_loss(LOGITS[..., :4], np.full((3, 4), 4)), ["[0, 4) or -100", "got 4"]),
    "target negative": (lambda: F.nll_loss(LOGITS, TARGET, ignore_index=0), ["got -100"]),
    "float target": (lambda: F.nll_loss(LOGITS, TARGET * 1.0), ["float64"]),
    "empty": (lambda: F.nll_loss(LOGITS[:0], TARGET[:0]), ["(0, 4, 5)"]),
    "a number": (lambda: F.nll_loss(np.float64(1.0), np.array(0)), ["()"]),
    "class weights": (lambda: F.nll_loss(LOGITS, TARGET, WEIGHT[:3]), ["(5,)", "(3,)"]),
    "dtypes": (lambda: F.nll_loss(LOGITS, TARGET, WEIGHT.astype(np.float32)), ["log_probs float64", "weight float32"]),
    "integers": (lambda: F.nll_loss(LOGITS.astype(int), TARGET), ["int64"]),
    "reduction": (lambda: F.nll_loss(LOGITS, TARGET, reduction="batchmean"), ["'batchmean'"]),
    "list": (lambda: F.nll_loss([[0.0]], TARGET), ["list"]),
}


@pytest.mark.parametrize("what", BAD)
def test_refused_in_one_line(what):
    call, words = BAD[what]
    with pytest.raises(ValueError, match=r"^nll_loss: expected [^\n]*$") as raised:
        call()
    for word in words:
        assert word in str(raised.value)
