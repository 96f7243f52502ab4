"""Sums of rows as products, which raise no flag that concerns no number, while all other products do."""

import numpy as np
import pytest

from numtx import functional as F
from numtx.functional.blocks import row_sums, weighted_row_sums

rows = np.array([[1.0, 2.0, 4.0], [0.5, 0.25, 0.0]])


def test_sums_are_products():
    np.testing.assert_array_equal(row_sums(rows), [[7.0], [0.75]])
    np.testing.assert_array_equal(weighted_row_sums(rows, np.array([1.0, 10.0, 100.0])), [421.0, 3.0])


@pytest.mark.parametrize("sums", [row_sums, lambda x: weighted_row_sums(x, np.zeros(3))])
def test_no_flag_becomes_a_warning(sums):
    assert np.isnan(sums(np.array([[np.inf, -np.inf, 1.0]]))).all()  # in tests warnings are errors


@pytest.mark.filterwarnings("error")
def test_smoothing_takes_the_sum_that_is_quiet():
    """What a kernel leaves in a flag, here made by numbers: -∞ · 0 of a class without weight."""
    logits, weight = np.array([[-np.inf, 1.0, 0.5]]), np.array([0.0, 1.0, 1.0])
    with np.errstate(all="ignore"):
        expected = F.cross_entropy(logits, np.array([1]), weight, label_smoothing=0.1)[0]
    np.testing.assert_equal(F.cross_entropy(logits, np.array([1]), weight, label_smoothing=0.1)[0], expected)


def test_an_invalid_product_is_an_error_in_tests():
    with pytest.raises(RuntimeWarning, match="invalid value encountered in matmul"):
        np.array([[np.inf, 1.0]]) @ np.zeros((2, 2))
