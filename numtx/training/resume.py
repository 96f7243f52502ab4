"""Whether a run may go on as asked: nothing that decides its numbers may have changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from numtx.training.prints import base_print
from numtx.training.run_folder import RunFolder

if TYPE_CHECKING:
    from numtx.training.loop import TrainingLoop

NOTES = ("architectures", "transformers_version", "_name_or_path")  # of a config: they change nothing
FREE = ("threads",)  # settings that change the speed of a run and none of its numbers


def refuse_changes(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], free: tuple[str, ...] = FREE, what: str = "settings"
) -> None:
    """Refuse to go on with a run under other settings than it began with.

    Parameters
    ----------
    saved, wanted : dict
        Settings by name; of `wanted`, None is a setting like any other, and a name it lacks is not compared.
    free : tuple of str
        Names that may differ.
    what : str
        They are.

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
        said = ", ".join(_change(name, saved.get(name, "none"), wanted[name]) for name in differing)
        more = f"; only {', '.join(free)} may differ" if free else ""
        raise ValueError(f"resume: expected the {what} of the run, got {said}{more}")


def _change(name: str, saved: Any, wanted: Any) -> str:
    """Say what a setting is and was; of a table, the first entry that differs."""
    before, now = (one if isinstance(one, Mapping) else {} for one in (saved, wanted))
    entries = [key for key in {**now, **before} if before.get(key, "none") != now.get(key, "none")]
    if not entries:
        return f"{name} {_short(wanted)} (began with {_short(saved)})"
    first = entries[0]
    said = _change(f"{name}.{first}", before.get(first, "none"), now.get(first, "none"))
    return said + (" and more" if len(entries) > 1 else "")


def _short(value: Any) -> str:
    said = str(value)
    return said if len(said) <= 60 else f"{said[:57]}..."


def run_settings(loop: TrainingLoop) -> dict[str, Any]:
    """Return what a run keeps of what decides its numbers, besides the model's own config: JSON's types."""
    return {
        "training": loop.plan.settings(),
        "dtype": str(loop.model.dtype),
        "data": loop.data,
        "tokens": {"train": fingerprint(loop.train_data), "validation": fingerprint(loop.validation)},
        "keeps_best": loop.plan.keeps_best,
        "model": _model_config(loop.model),
        "base": base_print(loop.model),
    }


def _model_config(model: Any) -> dict[str, Any]:
    """Return what makes a model's shape and function; a config read from a file says more than one in memory."""
    config = model.config.to_dict() if hasattr(model, "config") else {}
    return {name: value for name, value in config.items() if name not in NOTES}


def fingerprint(tokens: Any) -> str | None:
    """Return a hash of an array of tokens, what another's own `fingerprint()` says, or None.

    Examples
    --------
    >>> fingerprint(np.arange(3))[:16], fingerprint([])
    ('3 tokens, sha256', None)
    """
    if not isinstance(tokens, np.ndarray):
        own = getattr(tokens, "fingerprint", None)
        return own() if own else None
    digest = hashlib.sha256(np.ascontiguousarray(tokens, dtype="<i8").tobytes()).hexdigest()
    return f"{tokens.size} tokens, sha256 {digest}"


def go_on(loop: TrainingLoop, run: RunFolder, at: Path | None = None) -> None:
    """Put the newest whole checkpoint of a run, or the one at a path, into a loop that asks for the same run.

    Raises
    ------
    ValueError
        In one line: a setting, the model's config, the dtype or the text differs, or no checkpoint is whole.
    """
    wanted = run_settings(loop)
    saved, model = run.settings, loop.model
    refuse_changes(saved.get("training", {}), wanted["training"], loop.plan.free)
    refuse_changes(saved, {name: wanted[name] for name in ("dtype", "data")}, free=())
    refuse_changes(run.model_config(), wanted["model"], free=(), what="model")
    for part, found in wanted["tokens"].items():
        _refuse_other_data(part, saved.get("tokens", {}).get(part), found)
    if saved.get("base", wanted["base"]) != wanted["base"]:
        raise ValueError("resume: expected the base that the adapter began with, got other weights")
    checkpoint = run.newest_checkpoint() if at is None else run.checkpoint(at)
    put_weights(model, checkpoint.path)
    loop.optimizer.load_state_dict(checkpoint.optimizer)
    loop.progress = checkpoint.progress
    loop.log = run.cut_log(loop.step)
    run.remove_after(loop.step)


def _refuse_other_data(part: str, saved: str | None, found: str | None) -> None:
    if saved == found:
        return
    which = {"train": "training", "validation": "held-out"}[part]
    if "rows" in f"{saved}{found}":
        raise ValueError(f"resume: expected the {which} rows of the run, {saved or 'none'}, got {found or 'none'}")
    raise ValueError(f"resume: expected the {which} text of the run, got another")


def put_weights(model: Any, folder: str | os.PathLike[str]) -> None:
    """Put the weights that `save_pretrained` wrote into a model, which stays the same object with the same arrays.

    Raises
    ------
    ValueError
        If they are those of another model.
    """
    if hasattr(model, "load_saved"):  # which also knows adapters
        model.load_saved(folder)
    else:
        model.load_state_dict(type(model).from_pretrained(folder, dtype=model.dtype).state_dict())
