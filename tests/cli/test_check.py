"""numtx check: a table, and an exit code one can rely on."""

import re

import pytest

import numtx.functional as F
from numtx.testing import SPECS


def test_one_op(numtx):
    ran = numtx("check", "layer_norm", "--draws", 6)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert re.split(r" {2,}", lines[0]) == ["what", "gradient", "worst relative error", "cases", "verdict"]
    rows = [line.split() for line in lines[2:] if line.startswith("layer_norm  ")]
    assert [row[1] for row in rows] == ["y", "x", "weight", "bias"]
    assert all(float(row[2]) < 1e-6 and 0 < int(row[3]) <= 6 and row[4] == "ok" for row in rows)
    assert "all 4 rows are right" in lines[-1]
    assert "\x1b" not in ran.out


def test_seed_and_draws_decide_the_cases(numtx):
    def table(*options):
        return numtx("check", "softmax", *options).out.splitlines()[:-1]

    assert table("--draws", 3) == table("--draws", 3, "--seed", 0) != table("--draws", 3, "--seed", 1)


def test_a_wrong_gradient_is_one(numtx, monkeypatch):
    right = F.softmax_backward
    monkeypatch.setattr(F, "softmax_backward", lambda dy, cache: right(dy, cache) * (1 + 1e-5))
    ran = numtx("check", "softmax", "--draws", 3)
    assert ran.code == 1
    assert re.search(r"^softmax +x .*FAILED: gradient", ran.out, re.MULTILINE)
    assert re.search(r"^softmax +y .* ok$", ran.out, re.MULTILINE)
    assert "1 of 2 rows FAILED" in ran.out.splitlines()[-1]


def test_a_nan_is_one(numtx, monkeypatch):
    right = F.softmax_backward
    monkeypatch.setattr(F, "softmax_backward", lambda dy, cache: right(dy, cache) * float("nan"))
    assert numtx("check", "softmax", "--draws", 1).code == 1


@pytest.mark.parametrize(("name", "near"), [("layr_norm", "layer_norm"), ("sofmax", "softmax")])
def test_an_unknown_name_is_one_line_with_near_ones(numtx, name, near):
    numtx("check", name).refused(2, near, repr(name))


def test_without_a_name_it_is_everything(numtx, monkeypatch):
    """The whole battery has tests of its own; here only that none is left out, and that one failure is enough."""
    from numtx.testing import Row

    seen = []

    def quick(spec, *, count, seed):
        seen.append((spec.name, count, seed))
        return [Row(spec.name, "y", 0.0, 1, "FAILED: gradient" if spec.name == "gelu" else "ok", "")]

    monkeypatch.setattr("numtx.testing.check_spec", quick)
    ran = numtx("check", "--draws", 2, "--seed", 5)
    assert seen == [(name, 2, 5) for name in SPECS]
    assert ran.code == 1
    assert f"1 of {len(SPECS)} rows FAILED" in ran.out
