"""A run as the commands that use one open it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numtx.text import Tokenizer
    from numtx.training import Run


def opened_run(folder: Path) -> tuple[Run, Tokenizer]:
    """Return a run and its tokenizer.

    Raises
    ------
    ValueError
        If the run is not whole, or has no tokenizer.
    """
    from numtx.training import load_run

    run = load_run(folder)
    if run.tokenizer is None:
        raise ValueError(f"run: expected a run with a tokenizer, got '{folder}' without tokenizer.json")
    return run, run.tokenizer
