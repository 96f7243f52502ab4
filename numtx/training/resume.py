"""Whether a run may go on as asked: nothing that decides its numbers may have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from numtx.checkpoints import read_json
from numtx.training.run_folder import RunFolder

if TYPE_CHECKING:
    from numtx.training.trainer import Trainer

FREE = ("threads",)  # settings that change the speed of a run and none of its numbers


def refuse_changes(saved: Mapping[str, Any], wanted: Mapping[str, Any], free: tuple[str, ...] = FREE) -> None:
    """Refuse to go on with a run under other settings than it began with.

    Parameters
    ----------
    saved, wanted : dict
        Settings by name; of `wanted`, None is a setting like any other, and a name it lacks is not compared.
    free : tuple of str
        Names that may differ.

    Raises
    ------
    ValueError
        In one line, with each setting that differs and both its values.

    Examples
    --------
    >>> refuse_changes({"lr": 0.001, "threads": 2}, {"lr": 0.001, "threads": 4})
    >>> refuse_changes({"lr": 0.001}, {"lr": 0.01})
    Traceback (most recent call last):
        ...
    ValueError: resume: expected the settings of the run, got lr 0.01 (began with 0.001); only threads may differ
    """
    wanted = json.loads(json.dumps(wanted))  # tuples are lists on disk
    differing = [name for name in wanted if name not in free and (name not in saved or saved[name] != wanted[name])]
    if differing:
        said = ", ".join(f"{name} {wanted[name]} (began with {saved.get(name, 'none')})" for name in differing)
        raise ValueError(f"resume: expected the settings of the run, got {said}; only {', '.join(free)} may differ")


def run_settings(trainer: Trainer) -> dict[str, Any]:
    """Return what a run keeps of what decides its numbers, besides the model's own config: JSON's types."""
    return {
        "training": asdict(trainer.config),
        "dtype": str(trainer.model.dtype),
        "data": trainer.data,
        "tokens": {"train": fingerprint(trainer.train_data), "validation": fingerprint(trainer.validation)},
    }


def fingerprint(tokens: Any) -> str | None:
    """Return a hash of an array of tokens, None for anything else.

    Examples
    --------
    >>> fingerprint(np.arange(3))[:16], fingerprint([])
    ('3 tokens, sha256', None)
    """
    if not isinstance(tokens, np.ndarray):
        return None
    digest = hashlib.sha256(np.ascontiguousarray(tokens, dtype="<i8").tobytes()).hexdigest()
    return f"{tokens.size} tokens, sha256 {digest}"


def go_on(trainer: Trainer, run: RunFolder) -> None:
    """Put the newest checkpoint of a run into a trainer, if it asks for the run that began there.

    Raises
    ------
    ValueError
        In one line: a setting, the model's config, the dtype or the text differs, or no checkpoint is whole.
    """
    wanted = run_settings(trainer)
    saved = run.settings
    refuse_changes(saved.get("training", {}), wanted["training"])
    refuse_changes(saved, {name: wanted[name] for name in ("dtype", "data")})
    refuse_changes(read_json(run.path / "config.json"), trainer.model.config.to_dict())
    for part, found in wanted["tokens"].items():
        if saved.get("tokens", {}).get(part) != found:
            raise ValueError(f"resume: expected the {part} text of the run, got another")
    model = trainer.model
    checkpoint = run.newest_checkpoint(lambda path: type(model).from_pretrained(path, dtype=model.dtype))
    model.load_state_dict(checkpoint.model.state_dict())
    trainer.optimizer.load_state_dict(checkpoint.optimizer)
    trainer.progress = checkpoint.progress
    trainer.log = run.cut_log(trainer.step)
    run.remove_after(trainer.step)
