"""Figures as files."""

import sys

import pytest

from numtx.plotting import save_loss_curve

LOG = [{"step": 10, "loss": 3.0, "eval_loss": 2.9}, {"step": 20, "loss": 2.0, "eval_loss": 2.1}]


def test_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    save_loss_curve(tmp_path / "loss.png", LOG)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    save_loss_curve(tmp_path / "plain.png", [{"step": row["step"], "loss": row["loss"]} for row in LOG])
    assert (tmp_path / "plain.png").stat().st_size != (tmp_path / "loss.png").stat().st_size
    assert "matplotlib.pyplot" not in sys.modules  # which would look for a window system


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'numtx\[plots\]'"):
        save_loss_curve(tmp_path / "loss.png", LOG)
    assert not list(tmp_path.iterdir())
