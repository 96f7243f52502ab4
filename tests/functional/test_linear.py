"""Linear: a few rows against a large matrix go another way, to the same place."""

import importlib

import numpy as np
import pytest

from numtx import functional as F
from numtx.testing import check

module = importlib.import_module("numtx.functional.linear")  # the package's attribute of this name is the pair


def test_the_battery_holds_where_every_matrix_counts_as_large(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)
    report = check("linear")
    assert report, report


@pytest.mark.parametrize("rows", range(1, 7))
@pytest.mark.parametrize("transposed", [False, True])
def test_few_rows_give_what_many_give(rows, transposed):
    rng = np.random.default_rng(rows)
    x, weight, bias = rng.normal(size=(1, rows, 400)), rng.normal(size=(400, 700)), rng.normal(size=700)
    assert weight.size > module.LARGE
    many = F.linear(np.concatenate([x, rng.normal(size=(1, 20, 400))], axis=1), weight, bias)[0][:, :rows]
    few, _ = F.linear(x, np.asfortranarray(weight) if transposed else weight, bias)
    assert few.shape == (1, rows, 700)
    np.testing.assert_allclose(few, many, rtol=0, atol=1e-12)


def test_how_many_rows_go_one_by_one(monkeypatch):
    seen = []
    matmul = np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, **settings: (seen.append(a.shape), matmul(a, b, **settings)))
    weight = np.ones((512, 512), np.float32)
    for rows, one_by_one in ((1, 0), (2, 2), (module.FEW, module.FEW), (module.FEW + 1, 0)):
        seen.clear()
        F.linear(np.ones((rows, 512), np.float32), weight)
        assert seen == [(512,)] * one_by_one
