"""Sums of rows and of columns, as products."""

import numpy as np

from numtx.functional.blocks import column_sums, row_sums

rows = np.array([[1.0, 2.0, 4.0], [0.5, 0.25, 0.0]])


def test_sums_are_products():
    np.testing.assert_array_equal(row_sums(rows), [[7.0], [0.75]])
    np.testing.assert_array_equal(column_sums(rows), [1.5, 2.25, 4.0])
