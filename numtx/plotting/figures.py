"""A figure begun and written. matplotlib is loaded when the first is drawn."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

from numtx.checkpoints import atomic_write


def new_figure(owner: str, size: tuple[float, float]) -> tuple[Any, Any]:
    """Return a figure and its axes.

    Raises
    ------
    ImportError
        If matplotlib is not installed, with the command that brings it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"{owner}: expected matplotlib; pip install 'numtx[plots]' brings it") from error
    figure = Figure(figsize=size, layout="constrained")  # without pyplot: no window system is asked for
    return figure, figure.add_subplot()


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure as what its name ends in, a PNG where it ends in nothing."""
    data = BytesIO()
    figure.savefig(data, format=Path(path).suffix.removeprefix(".") or "png", dpi=150)
    atomic_write(path, data.getvalue())
