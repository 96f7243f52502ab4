"""Sums of rows as products, which raise no flag that concerns no number, while all other products do."""

import sys

import numpy as np
import pytest

from numtx import functional as F
from numtx.functional.blocks import column_sums, row_sums, weighted_row_sums

rows = np.array([[1.0, 2.0, 4.0], [0.5, 0.25, 0.0]])


def test_sums_are_products():
    np.testing.assert_array_equal(row_sums(rows), [[7.0], [0.75]])
    np.testing.assert_array_equal(column_sums(rows), [1.5, 2.25, 4.0])
    np.testing.assert_array_equal(weighted_row_sums(rows, np.array([1.0, 10.0, 100.0])), [421.0, 3.0])


@pytest.mark.parametrize("sums", [row_sums, lambda x: weighted_row_sums(x, np.zeros(3)), lambda x: column_sums(x.T)])
def test_no_flag_becomes_a_warning(sums):
    assert np.isnan(sums(np.array([[np.inf, -np.inf, 1.0]]))).all()  # in tests warnings are errors


@pytest.mark.filterwarnings("error")
def test_smoothing_takes_the_sum_that_is_quiet():
    """What a kernel leaves in a flag, here made by numbers: -∞ · 0 of a class without weight."""
    logits, weight = np.array([[-np.inf, 1.0, 0.5]]), np.array([0.0, 1.0, 1.0])
    with np.errstate(all="ignore"):
        expected = F.cross_entropy(logits, np.array([1]), weight, label_smoothing=0.1)[0]
    np.testing.assert_equal(F.cross_entropy(logits, np.array([1]), weight, label_smoothing=0.1)[0], expected)


X, W, LABELS = np.array([[1.0, 2.0, 4.0], [0.5, 0.25, 0.0]]), np.array([1.0, 2.0, 3.0]), np.array([0, 1])
SUMS = {
    "layer_norm": ("norms", lambda: F.layer_norm_backward(X, F.layer_norm(X, W, W)[1]), 4),
    "rms_norm": ("norms", lambda: F.rms_norm_backward(X, F.rms_norm(X, W)[1]), 1),
    "linear": ("linear", lambda: F.linear_backward(X, F.linear(X, np.eye(3), W)[1]), 1),
    "classes": ("linear_cross_entropy", lambda: F.linear_cross_entropy(X, X.T, LABELS), 1),
    "smoothing": ("linear_cross_entropy", lambda: F.linear_cross_entropy(X, X.T, LABELS, label_smoothing=0.1), 2),
}


@pytest.mark.parametrize(("module", "op", "times"), SUMS.values(), ids=SUMS)
def test_sums_of_ops_are_the_quiet_ones(module, op, times, monkeypatch):
    """A flag that a kernel leaves cannot be made by numbers here without making others, which are rightly told."""
    taken, module = [], sys.modules[f"numtx.functional.{module}"]
    for name in ("column_sums", "row_sums", "weighted_row_sums"):
        if hasattr(module, name):
            quiet = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *given, quiet=quiet: taken.append(quiet) or quiet(*given))
    op()
    assert len(taken) == times


def test_an_invalid_product_is_an_error_in_tests():
    with pytest.raises(RuntimeWarning, match="invalid value encountered in matmul"):
        np.array([[np.inf, 1.0]]) @ np.zeros((2, 2))
