"""The report of a fine-tuning: what stands in it, and that no text can steer it."""

import json

import numpy as np
import pytest

from numtx.cli.report import write_metrics, write_report
from numtx.training.tasks import Findings, Table

LOG = [
    {"step": 5, "loss": 0.75},
    {"step": 5, "eval_loss": 0.5, "eval_accuracy": 0.625, "eval_runtime": 0.1},
    {"step": 10, "loss": 0.25},
    {"step": 10, "eval_loss": 0.4, "eval_accuracy": 0.75},
]


def report(tmp_path, findings, **changed):
    given = {"log": LOG, "settings": {"lr": 1e-4, "columns": {"text": "a_b"}}, "names": ["x", "y"]} | changed
    write_report(tmp_path, "Title", [("task", "t")], {"loss": 0.4, "accuracy": 0.75}, findings, **given)
    return (tmp_path / "report.md").read_text(encoding="utf-8")


def test_tables_and_values(tmp_path):
    text = report(tmp_path, Findings({"accuracy": 0.75}, {"accuracy": 0.5}))
    assert "| accuracy | 0.75 | 0.5 |" in text
    assert "| loss | 0.4 |  |" in text
    assert "The baseline says what is most usual" in text
    assert "| 5 | 0.75 | 0.5 | 0.625 |" in text
    assert "| 10 | 0.25 | 0.4 | 0.75 |" in text
    assert "runtime" not in text
    assert "| lr | 0.0001 |" in text
    assert "| columns | text=a_b |" in text
    assert "| Python |" in text


def test_a_text_stays_in_its_cell(tmp_path):
    ugly = "a|b\n# no heading `x` <b> [y](z) " + "long " * 100
    text = report(tmp_path, Findings(tables=[Table("Rows", ("text", "n"), [(ugly, 1)])]))
    (line,) = [one for one in text.splitlines() if one.startswith("| a\\")]
    assert line.startswith(r"| a\|b # no heading \`x\` &lt;b> \[y](z) long")
    assert line.endswith("... | 1 |")
    assert len(line) < 200


def test_pictures_of_curve_and_confusion(tmp_path):
    pytest.importorskip("matplotlib")
    counts = np.array([[3, 1], [0, 4]])
    findings = Findings(tables=[Table("Confusion", ("", "x", "y"), [("x", 3, 1), ("y", 0, 4)])], confusion=counts)
    text = report(tmp_path, findings)
    for name in ("curves", "confusion"):
        assert f"![{name}]({name}.png)" in text
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_one_evaluation_makes_no_curve(tmp_path):
    assert "## Curves" not in report(tmp_path, Findings(), log=LOG[:2])


def test_metrics_are_json(tmp_path):
    write_metrics(tmp_path, {"loss": np.float32(0.5), "perplexity": float("inf")}, {"accuracy": 0.5}, 7)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found == {"loss": 0.5, "perplexity": None, "best_step": 7, "baseline": {"accuracy": 0.5}}
