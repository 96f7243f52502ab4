"""`check`, `check_pair` and `diagnose`: the table, and what a failure says."""

import subprocess
import sys

import numpy as np
import pytest

from numtx import functional as F
from numtx.functional import attention, blocks
from numtx.testing import (
    MISTAKES,
    SPECS,
    Report,
    Row,
    cases,
    check,
    check_pair,
    diagnose,
    planted,
    rejection,
    small_blocks,
)
from numtx.testing.findings import Finding
from numtx.testing.report import tabulate


def test_one_op_by_name():
    report = check("layer_norm", count=3)
    assert report
    assert [row.gradient for row in report] == ["y", "x", "weight", "bias"]
    assert {row.what for row in report} == {"layer_norm"}
    assert all(row.error < 1e-6 for row in report)


def test_several_names():
    report = check(["relu", "softmax"], count=2)
    assert report
    assert [(row.what, row.gradient) for row in report] == [
        ("relu", "y"),
        ("relu", "x"),
        ("softmax", "y"),
        ("softmax", "x"),
    ]


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_a_sum_over_blocks_that_keeps_only_the_last_is_seen(name, monkeypatch):
    """Arrays of a check fill no block of the real size, and are right there."""
    right = getattr(F, name + "_backward")

    def last_block_only(dy, cache):
        dx, dweight, *rest = right(dy, cache)
        for dy_, xhat_ in blocks.row_blocks(dy, cache[0]):
            dweight[...] = np.sum(dy_ * xhat_, axis=0)
        return dx, dweight, *rest

    monkeypatch.setattr(F, name + "_backward", last_block_only)
    spec = SPECS[name]
    assert all(rejection(spec, case) is None for case in cases(spec, 12))
    assert [row.gradient for row in check(name, count=4) if not row.ok] == ["weight"]


@pytest.mark.parametrize("gradient", ["key", "value", "bias"])
def test_a_sum_over_blocks_of_attention_that_keeps_only_the_last_is_seen(gradient, monkeypatch):
    """Blocks of queries, and of rows of the batch."""
    name = "scaled_dot_product_attention"
    right = F.scaled_dot_product_attention_backward

    def overwriting(dy, cache):
        """What the last block alone adds: the incoming gradient of all others is zero."""
        found = dict(zip(("query", "key", "value", "bias"), right(dy, cache), strict=True))
        if found[gradient] is not None:
            *_, (rows, queries, _) = attention._blocks(*dy.shape[:3], cache[1].shape[2], cache[5])
            last = np.zeros_like(dy)
            last[rows, :, queries] = dy[rows, :, queries]
            part = dict(zip(found, right(last, cache), strict=True))[gradient]
            found[gradient][...] = part
        return tuple(found.values())

    monkeypatch.setattr(F, name + "_backward", overwriting)
    assert all(rejection(SPECS[name], case) is None for case in cases(SPECS[name], 12))
    assert [row.gradient for row in check(name) if not row.ok] == [gradient]


def test_small_blocks_last_as_long_as_their_with():
    before = blocks.BLOCK, attention.QUERIES, attention.SCORES
    assert min(before) > 60
    with small_blocks(5, 4, 3):
        assert len(list(blocks.row_blocks(np.ones((7, 2))))) == 4
        assert len(list(attention._blocks(2, 1, 8, 8, True))) == 4
    with pytest.raises(ZeroDivisionError), small_blocks():
        1 / 0  # noqa: B018
    assert before == (blocks.BLOCK, attention.QUERIES, attention.SCORES)


def test_a_planted_mistake_fails_by_name():
    with planted(MISTAKES["softmax backward divided by the batch"]):
        report = check("softmax", count=6)
    assert not report
    (row,) = [row for row in report if not row.ok]
    assert (row.what, row.gradient) == ("softmax", "x")
    assert row.verdict.startswith("FAILED: gradient")
    assert row.error > 0.1
    assert check("softmax", count=2)


def test_own_code_is_told_which_mistake_it_is():
    def own_forward(x, axis=-1):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        p = e / e.sum(axis=axis, keepdims=True)
        return p, {"p": p, "axis": axis}

    def own_backward(dy, cache):
        p, axis = cache["p"], cache["axis"]
        return p * (dy - (dy * p).sum(axis=axis, keepdims=True)) / len(dy)

    mistake = diagnose("softmax", own_forward, own_backward)
    assert mistake is not None
    assert mistake.name == "softmax backward divided by the batch"
    report = check_pair("softmax", own_forward, own_backward)
    assert not report
    assert mistake.name in str(report)
    assert mistake.hint in report.hint


def test_a_fault_of_its_own_kind_gets_no_name():
    def own_backward(dy, cache):
        return F.softmax_backward(dy, cache) * 1.7

    assert diagnose("softmax", F.softmax, own_backward) is None
    report = check_pair("softmax", F.softmax, own_backward)
    assert not report
    assert report.hint == ""


def test_right_code_is_no_mistake():
    assert diagnose("softmax", F.softmax, F.softmax_backward) is None
    assert check_pair("layer_norm", F.layer_norm, F.layer_norm_backward)


def test_an_empty_report_is_not_a_success():
    assert not Report(())


def test_the_worst_error_is_shown_and_nan_is_the_worst():
    found = [
        [Finding("gradient", "x", 1e-9, True), Finding("definition", "y", 0.0, True)],
        [Finding("gradient", "x", float("nan"), False, "not a number")],
        [Finding("gradient", "x", 1e-3, False, "later")],
    ]
    y, x = tabulate("op", found)
    assert (y.gradient, y.verdict, y.cases) == ("y", "ok", 1)
    assert np.isnan(x.error)
    assert (x.cases, x.verdict, x.note) == (3, "FAILED: gradient", "not a number")
    assert not Report((y, x))


def test_the_table_is_aligned():
    report = Report(
        (Row("a", "x", 1e-9, 3, "ok"), Row("a much longer name", "weight", 0.5, 12, "FAILED: gradient", "so"))
    )
    lines = str(report).splitlines()
    assert lines[2].index("x") == lines[3].index("weight") == lines[0].index("gradient")
    assert lines[-1] == "a much longer name, weight: so"


def test_testing_needs_neither_hypothesis_nor_torch_nor_typer():
    code = (
        "import sys, numtx.testing; "
        "bad = {'hypothesis', 'torch', 'typer', 'rich', 'pytest', 'matplotlib', 'transformers'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
