"""Which class was taken for which, as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from numtx.plotting.figures import new_figure, save_figure

MOST = 20  # classes whose counts are written into the squares


def save_confusion(path: str | os.PathLike[str], counts: np.ndarray | None, names: Sequence[str]) -> None:
    """Draw counts of classes as a PNG (or what else the name ends in).

    Parameters
    ----------
    path : path
    counts : (classes, classes) int array
        Rows: what is right; columns: what was said. A row's shades are shares of the row.
    names : sequence of str

    Raises
    ------
    ImportError
        If matplotlib is not installed, with the command that brings it.
    ValueError
        If there is not a name for each row and column.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(names),) * 2:
        raise ValueError(f"save_confusion: expected counts {(len(names),) * 2}, got {counts.shape}")
    size = min(3 + 0.5 * len(names), 12)
    figure, axes = new_figure("save_confusion", (size, size))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, [_plain(name) for name in names], rotation=45, ha="right")
    axes.set_yticks(places, [_plain(name) for name in names])
    axes.set_xlabel("said")
    axes.set_ylabel("right")
    if len(names) <= MOST:
        for row in places:
            for column in places:
                shade = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=shade)
    save_figure(figure, path)


def _plain(name: str) -> str:
    """A name as it is: matplotlib reads $ as the begin of maths."""
    return name.replace("$", r"\$")
