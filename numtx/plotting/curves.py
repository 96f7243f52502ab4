"""Curves as files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from numtx.plotting.figures import new_figure, save_figure


def save_loss_curve(path: str | os.PathLike[str], log: Sequence[Mapping[str, Any]]) -> None:
    """Draw the losses of a training as a PNG (or what else the name ends in).

    Parameters
    ----------
    path : path
    log : sequence of dict
        Rows with `step`, `loss` and, where there is held-out text, `eval_loss`, in nats per token: the log of a run.

    Raises
    ------
    ImportError
        If matplotlib is not installed, with the command that brings it.
    OSError
        If the file cannot be written.
    """
    names = (("loss", "training"), ("eval_loss", "held-out text"))
    curves = {name: [(row["step"], row[key]) for row in log if row.get(key) is not None] for key, name in names}
    save_curves(path, curves, y_label="loss (nats per token)", owner="save_loss_curve")


def save_curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    y_label: str = "loss",
    owner: str = "save_curves",
) -> None:
    """Draw curves over steps as a PNG (or what else the name ends in).

    Parameters
    ----------
    path : path
    curves : dict of name -> [(step, value), ...]
        Empty ones are left out.
    y_label, owner : str

    Raises
    ------
    ImportError
        If matplotlib is not installed, with the command that brings it.
    OSError
        If the file cannot be written.
    """
    figure, axes = new_figure(owner, (7, 4))
    for name, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
