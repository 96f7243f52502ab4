"""Where a Trainer's log goes: lines of JSON in its folder, and event files for TensorBoard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numtx.training.arguments import TrainingArguments
from numtx.training.event_files import EventFile, can_write_events
from numtx.training.fine_tuning import finite
from numtx.training.run_folder import LOG, SETTINGS, RunFolder

if TYPE_CHECKING:
    from numtx.training.fine_tuning import FineTuning


class TrainerLogs:
    """Writes each row of the log of a training.

    Where checkpoints are kept, the lines belong to the run, and those after the checkpoint are cut when it goes on.
    """

    def __init__(self, args: TrainingArguments):
        self.args = args
        self.results: dict[str, Any] = {}  # of all splits, as save_metrics collects them
        self._lines: Path | None = None
        self._events: EventFile | None = None

    def begin(self, loop: FineTuning, first: bool) -> None:
        """Make ready for a training; only the first rank writes."""
        self.close()
        if not first:
            return
        folder = Path(os.fspath(self.args.output_dir or ""))
        if loop.folder is None:
            if (folder / SETTINGS).is_file():  # the trainer asked whether it may go
                RunFolder(folder, {}).take_away()
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = folder / LOG
            self._lines.unlink(missing_ok=True)
        if wants_events(self.args):
            self._events = EventFile(os.fspath(self.args.logging_dir or folder))

    def write(self, row: dict[str, Any], loop: FineTuning | None) -> None:
        """Write a row, which has a `step`."""
        if loop is not None and loop.run is not None:
            loop.run.append_log(finite(row))
        elif self._lines is not None:
            with open(self._lines, "a", encoding="utf-8") as file:
                file.write(json.dumps(finite(row), allow_nan=False) + "\n")
        if self._events is not None:
            self._events.write(row)

    def close(self) -> None:
        """End the event file; a new training begins another."""
        if self._events is not None:
            self._events.close()
        self._events = self._lines = None


def wants_events(args: TrainingArguments) -> bool:
    """Say whether event files are written: asked for by name, or by default where the package is there."""
    if "tensorboard" in args.reports:
        if not can_write_events():
            raise ValueError(
                "TrainingArguments: expected the package tensorboard with report_to 'tensorboard', got none: "
                "pip install tensorboard"
            )
        return True
    return args.report_to in (None, "all", ["all"]) and can_write_events()
