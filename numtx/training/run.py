"""A finished or unfinished run, opened for use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numtx.models.gpt2 import GPT2LMHeadModel
from numtx.text import Tokenizer, load_tokenizer
from numtx.training.config import TrainingConfig
from numtx.training.run_folder import RunFolder


@dataclass(frozen=True)
class Run:
    """What `load_run` gives.

    Attributes
    ----------
    model : GPT2LMHeadModel, with the best weights by evaluation
    tokenizer : Tokenizer or None
    config : TrainingConfig, what the run was asked
    log : list of dict, a row an evaluation
    settings : dict, the content of training.json
    folder : Path
    """

    model: GPT2LMHeadModel
    tokenizer: Tokenizer | None
    config: TrainingConfig
    log: list[dict[str, Any]]
    settings: dict[str, Any]
    folder: Path


def load_run(folder: str | os.PathLike[str], *, dtype: Any = None) -> Run:
    """Open the folder of a run: model, tokenizer, settings and log.

    Parameters
    ----------
    folder : path
    dtype : floating dtype, optional
        Default: what the run was trained in.

    Raises
    ------
    ValueError
        In one line: the folder is missing, half-written, no run, or of another version.
    """
    run = RunFolder.open(folder)
    return Run(
        model=GPT2LMHeadModel.from_pretrained(run.path, dtype=run.dtype if dtype is None else dtype),
        tokenizer=load_tokenizer(run.path) if (run.path / "tokenizer.json").is_file() else None,
        config=run.config(),
        log=run.log(),
        settings=run.settings,
        folder=run.path,
    )
