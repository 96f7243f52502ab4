"""A training run on disk: what it was asked, its best weights, its log, and what a resume needs.

    RUN/config.json, model.safetensors   the best weights by evaluation; Transformers opens the folder (of a
                                         Trainer: in its checkpoints)
    RUN/tokenizer.json, ...              the tokenizer, where there is one
    RUN/training.json                    format version, numtx version, settings, where the text came from
    RUN/text.txt                         the text, where it could not be read again
    RUN/log.jsonl                        a line an evaluation
    RUN/checkpoint-N/                    the weights after N steps, optimizer.safetensors, trainer_state.json, and
                                         manifest.json: sizes and hashes of its files, written last

Everything is written beside and renamed when it is whole, so a full disk or a power cut leaves the last save as it was.
A checkpoint is read only after its files were found to be those that were written.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numtx._version import __version__
from numtx.checkpoints import (
    atomic_folder,
    atomic_write,
    load_arrays,
    read_json,
    read_json_lines,
    remove_folder,
    remove_leftovers,
    save_arrays,
    verify_manifest,
    write_json,
    write_manifest,
)
from numtx.training.config import TrainingConfig
from numtx.training.progress import Progress

FORMAT_VERSION = 1
DTYPES = ("float32", "float64")
SETTINGS, LOG, TEXT, STATE, OPTIMIZER = (
    "training.json",
    "log.jsonl",
    "text.txt",
    "trainer_state.json",
    "optimizer.safetensors",
)
WHOLE_MODEL = ("config.json", "model.safetensors")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")  # what is saved of a model with one


class Checkpoint(NamedTuple):
    """What a resume needs: a folder, with the model, the optimizer's state, and how far the run had come."""

    path: Path
    optimizer: dict[str, np.ndarray]
    progress: Progress


class RunFolder:
    """The folder of one run. `create` makes it, whole; `open` checks it.

    Attributes
    ----------
    path : Path
    settings : dict, the content of training.json
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]):
        self.path = Path(path)
        self.settings = settings

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        model: Any,
        settings: Mapping[str, Any],
        *,
        tokenizer: Any = None,
        text: str | None = None,
        replace: bool = False,
    ) -> RunFolder:
        """Make the folder, with the model's present weights.

        Parameters
        ----------
        path : path
            New, or an empty folder; where `model` is None, also one with other files, which stay.
        model : module with `save_pretrained`, or None
            None: the folder itself holds no weights, its checkpoints do.
        settings : dict
            What training.json is to hold besides the versions; JSON's types.
        tokenizer : Tokenizer, optional
        text : str, optional
            Text to keep, where it cannot be read again.
        replace : bool
            Take away a run that is there: its checkpoints, its log and its settings.

        Raises
        ------
        ValueError
            If the folder has content, or cannot be written.
        """
        run = cls(path, {"format_version": FORMAT_VERSION, "numtx": __version__, **settings})
        run._clear(replace, others_stay=model is None)
        with _saving(run.path, "nothing was saved before"), run._new() as folder:
            if model is not None:
                model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save(folder)
            if text is not None:
                atomic_write(folder / TEXT, text)
            atomic_write(folder / LOG, "")
            write_json(folder / SETTINGS, run.settings)  # last: without it the folder is no run
        return run

    def take_away(self) -> None:
        """Remove what a run is: its checkpoints, its log and its settings."""
        with _saving(self.path, "part of the run that was to be replaced is there"):
            for old in self.checkpoints():
                remove_folder(old)
            for name in (LOG, SETTINGS):
                (self.path / name).unlink(missing_ok=True)

    def _clear(self, replace: bool, others_stay: bool) -> None:
        """Refuse a folder that is taken, or take away the run in it."""
        path = self.path
        if not path.is_dir():
            return
        if (path / SETTINGS).exists():
            if not replace and (holds_run(path) or not others_stay):
                raise ValueError(
                    f"RunFolder: expected a new or empty folder, got '{path}' with a run, which can be resumed"
                )
            self.take_away()
        elif self.checkpoints():
            raise ValueError(
                f"RunFolder: expected a new or empty folder, got '{path}' with checkpoints that no numtx run wrote"
            )
        elif any(path.iterdir()) and not others_stay:
            raise ValueError(f"RunFolder: expected a new or empty folder, got '{path}' with other files")

    @contextmanager
    def _new(self) -> Iterator[Path]:
        """Give the folder to fill: a new one that takes its name when it is whole, or the one with other files."""
        if self.path.is_dir() and any(self.path.iterdir()):
            yield self.path
        else:
            with atomic_folder(self.path) as folder:
                yield folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Open the folder of a run that was begun.

        Raises
        ------
        ValueError
            In one line: there is no such folder, it is no run, lacks files, or its settings are of another format.
        """
        path = Path(path)
        if not path.is_dir():
            why = "is a file" if path.exists() else "does not exist"
            raise ValueError(f"RunFolder: expected the folder of a run, got '{path}', which {why}")
        if not (path / SETTINGS).is_file():
            raise ValueError(f"RunFolder: expected the folder of a run, got '{path}', which has no {SETTINGS}")
        settings = read_json(path / SETTINGS)
        version = settings.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"RunFolder: expected a run of format {FORMAT_VERSION}, got '{path}' of format {version}, written by"
                f" numtx {settings.get('numtx', 'unknown')}"
            )
        if lacking := _lacking(path, settings):
            raise ValueError(f"RunFolder: expected a whole run, got '{path}', which lacks {', '.join(lacking)}")
        wrong = [name for name in ("training", "data", "tokens") if not isinstance(settings.get(name, {}), dict)]
        wrong += ["dtype"] if settings.get("dtype", DTYPES[0]) not in DTYPES else []
        if wrong:
            got = ", ".join(f"{name} {settings[name]!r}" for name in wrong)
            expected = f"objects, and a dtype of {' or '.join(DTYPES)}"
            raise ValueError(f"RunFolder: expected {expected} in '{path / SETTINGS}', got {got}")
        return cls(path, settings)

    @property
    def dtype(self) -> np.dtype:
        """What the run is trained in."""
        return np.dtype(self.settings.get("dtype", DTYPES[0]))

    def model_config(self) -> dict[str, Any]:
        """Return the model's config, as its `to_dict` gave it when the run began.

        Raises
        ------
        ValueError
            If it is broken.
        """
        kept = self.settings.get("model")
        return kept if isinstance(kept, dict) else read_json(self.path / "config.json")

    def config(self, **changes: Any) -> TrainingConfig:
        """Return the settings of the training that the run was asked for, with changes.

        Raises
        ------
        ValueError
            If there are none, or others than TrainingConfig knows.
        """
        if "training" not in self.settings:
            raise ValueError(f"RunFolder: expected the settings of a training, got '{self.path}' without them")
        try:
            return TrainingConfig(**{**self.settings["training"], **changes})
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"RunFolder: expected settings that TrainingConfig knows, got '{self.path}': {error}"
            ) from None

    def save_best(self, model: Any) -> None:
        """Replace the weights of the run itself, those that Transformers and `load_run` open."""
        with _saving(self.path, "the weights saved before are intact"):
            model.save_pretrained(self.path)

    def save_checkpoint(
        self,
        model: Any,
        optimizer: Mapping[str, np.ndarray],
        progress: Progress,
        keep: int | None = None,
        *,
        tokenizer: Any = None,
        never_removed: int | None = None,
    ) -> Path:
        """Write checkpoint-N whole, N the steps made, and only then remove the oldest beyond `keep`.

        Parameters
        ----------
        keep : int or None
            How many stay, this one among them; None: all.
        tokenizer : Tokenizer, optional
            Kept in the checkpoint too.
        never_removed : int, optional
            The step of one that stays, and counts among `keep`; both it and the newest stay where `keep` is 1.
        """
        path = self.path / f"checkpoint-{progress.step}"
        before = self.checkpoints()
        left = f"'{before[-1]}' is intact" if before else "nothing was saved before"
        with _saving(path, left), atomic_folder(path) as folder:
            model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save(folder)
            save_arrays(folder / OPTIMIZER, optimizer)
            write_json(folder / STATE, asdict(progress))
            write_manifest(folder)
        verify_manifest(path)
        stay = {path, self.path / f"checkpoint-{never_removed}"}
        others = [old for old in self.checkpoints() if old not in stay]
        room = len(others) if keep is None else max(0, keep - (len(self.checkpoints()) - len(others)))
        for old in others[: max(0, len(others) - room)]:
            with suppress(OSError):
                remove_folder(old)
        return path

    def checkpoints(self) -> list[Path]:
        """Return the checkpoint folders, oldest first."""
        found = [path for path in self.path.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
        return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))

    def newest_checkpoint(self) -> Checkpoint:
        """Return the newest checkpoint that is whole; a damaged one is passed over with a warning that names it.

        Raises
        ------
        ValueError
            If there is none.
        """
        problem = "which has none"
        damaged: list[str] = []
        for path in reversed(self.checkpoints()):
            try:
                found = self.checkpoint(path)
            except ValueError as error:
                problem = f"where the last try gave: {error}"
                damaged.append(f"{path.name} ({error})")
                continue
            if damaged:
                said = f"RunFolder: passed over {', '.join(damaged)}; the newest whole one is '{path}'"
                warnings.warn(said, stacklevel=2)
            return found
        raise ValueError(f"RunFolder: expected a whole checkpoint in '{self.path}', {problem}")

    def checkpoint(self, path: str | os.PathLike[str]) -> Checkpoint:
        """Return a checkpoint, verified.

        Raises
        ------
        ValueError
            If it is damaged, or of another run.
        """
        path = Path(path)
        if path.resolve() not in [own.resolve() for own in self.checkpoints()]:
            have = ", ".join(own.name for own in self.checkpoints()) or "none"
            raise ValueError(f"RunFolder: expected a checkpoint of '{self.path}' ({have}), got '{path}'")
        verify_manifest(path)
        progress = Progress.from_state(read_json(path / STATE))
        return Checkpoint(path, load_arrays(path / OPTIMIZER), progress)

    def remove_after(self, step: int) -> None:
        """Remove what a killed process left: checkpoints newer than the one that was whole, and unfinished ones."""
        newer = [path for path in self.checkpoints() if int(path.name.removeprefix("checkpoint-")) > step]
        for path in newer:
            with suppress(OSError):
                remove_folder(path)
        remove_leftovers(self.path)

    def append_log(self, row: Mapping[str, Any]) -> None:
        """Add a line to the log, and force it to the disk."""
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        # Unbuffered: a buffer would try again when it is closed, after the line was taken back.
        with _saving(self.path / LOG, "the log before is intact"), open(self.path / LOG, "ab", buffering=0) as file:
            start = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise

    def log(self) -> list[dict[str, Any]]:
        """Return the rows of the log.

        Raises
        ------
        ValueError
            If a line is broken or has no step.
        """
        rows = read_json_lines(self.path / LOG)
        for number, row in enumerate(rows, start=1):
            step = row.get("step")
            if not isinstance(step, int) or isinstance(step, bool):
                raise ValueError(f"RunFolder: expected a step in row {number} of '{self.path / LOG}', got {step!r}")
        return rows

    def cut_log(self, step: int) -> list[dict[str, Any]]:
        """Take what was logged after a step out of the log, and return the rest."""
        rows = [row for row in self.log() if row["step"] <= step]
        with _saving(self.path / LOG, "the log before is intact"):
            atomic_write(self.path / LOG, "".join(json.dumps(row) + "\n" for row in rows))
        return rows

    def text(self) -> str | None:
        """Return the text kept in the run, if there is one."""
        path = self.path / TEXT
        return path.read_bytes().decode("utf-8") if path.is_file() else None


def holds_run(path: Path) -> bool:
    """Say whether a folder holds a run: one that ended before anything was saved is none.

    Where checkpoints alone hold the weights, there is nothing that could be lost or resumed before the first of them.
    """
    if not (path / SETTINGS).is_file():
        return False
    return read_json(path / SETTINGS).get("keeps_best", "run") == "run" or bool(RunFolder(path, {}).checkpoints())


def _lacking(path: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return the files that a run lacks."""
    needed = [LOG]
    if settings.get("keeps_best", "run") == "run":
        needed += ADAPTER if (path / ADAPTER[0]).is_file() else WHOLE_MODEL
    return [name for name in needed if not (path / name).is_file()]


@contextmanager
def _saving(path: Path, left: str) -> Iterator[None]:
    """Turn an error of the system into one line that says what is left."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"RunFolder: expected to save '{path}', got: {error.strerror or error}; {left}") from error
