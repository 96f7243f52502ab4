"""Linear: a few rows against a large matrix go another way, to the same place."""

import importlib

import numpy as np
import pytest

from numtx import functional as F
from numtx.functional.threads import get_num_threads, set_num_threads
from numtx.testing import check

module = importlib.import_module("numtx.functional.linear")  # the package's attribute of this name is the pair


def test_the_battery_holds_where_every_matrix_counts_as_large(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)
    report = check("linear")
    assert report, report


@pytest.mark.parametrize("rows", [*range(1, 7), 15, 16, 17])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("inputs", [400, 2500, 130_000])  # slices of many rows of the matrix, of few, of none
def test_few_rows_give_what_many_give(rows, transposed, inputs):
    rng, outputs = np.random.default_rng(rows), 701 if inputs < 10_000 else 7
    x, weight, bias = rng.normal(size=(1, rows, inputs)), rng.normal(size=(inputs, outputs)), rng.normal(size=outputs)
    assert weight.size > module.LARGE
    many = F.linear(np.concatenate([x, rng.normal(size=(1, 20, inputs))], axis=1), weight, bias)[0][:, :rows]
    few, _ = F.linear(x, np.asfortranarray(weight) if transposed else weight, bias)
    assert few.shape == (1, rows, outputs)
    np.testing.assert_allclose(few, many, rtol=0, atol=1e-14 * inputs)


@pytest.mark.parametrize("transposed", [False, True])
def test_how_few_rows_are_multiplied(monkeypatch, transposed):
    seen = []
    matmul = np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, **settings: (seen.append(a.ndim + b.ndim), matmul(a, b, **settings)))
    weight = np.ones((512, 520), np.float32, order="F" if transposed else "C")
    for rows, one_by_one in ((1, 0), (2, 2), (module.VECTORS, module.VECTORS), (module.VECTORS + 1, 0)):
        seen.clear()
        F.linear(np.ones((rows, 512), np.float32), weight)
        if transposed:
            assert seen == ([] if rows == 1 else [5, 4])  # slices side by side, and what is left over
        else:
            assert seen == [3] * one_by_one
    seen.clear()
    F.linear(np.ones((module.FEW + 1, 512), np.float32), weight)
    assert seen == []


@pytest.mark.parametrize("rows", [2, 16])
def test_threads_change_no_bit_of_few_rows(rows):
    rng, before = np.random.default_rng(rows), get_num_threads()
    x, matrix = rng.normal(size=(rows, 300)).astype(np.float32), rng.normal(size=(6001, 300)).astype(np.float32)
    assert matrix.size > 2 * module.PIECE
    try:
        results = []
        for threads in (1, 2, 3):
            set_num_threads(threads)
            results.append(F.linear(x, matrix.T)[0])
    finally:
        set_num_threads(before)
    np.testing.assert_allclose(results[0], x.astype(float) @ matrix.T.astype(float), rtol=0, atol=2e-4)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
