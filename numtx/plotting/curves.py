"""Figures as files. matplotlib is loaded when the first is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from numtx.checkpoints import atomic_write


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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("save_loss_curve: expected matplotlib; pip install 'numtx[plots]' brings it") from error
    figure = Figure(figsize=(7, 4), layout="constrained")  # without pyplot: no window system is asked for
    axes = figure.add_subplot()
    for key, name in (("loss", "training"), ("eval_loss", "held-out text")):
        points = [(row["step"], row[key]) for row in log if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    data = BytesIO()
    figure.savefig(data, format=Path(path).suffix.removeprefix(".") or "png", dpi=150)
    atomic_write(path, data.getvalue())
