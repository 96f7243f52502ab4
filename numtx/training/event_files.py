"""Numbers for TensorBoard, by the package tensorboard, which needs neither PyTorch nor TensorFlow for it."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Mapping
from typing import Any


def can_write_events() -> bool:
    """Say whether the package tensorboard is installed."""
    return importlib.util.find_spec("tensorboard") is not None


def tag(name: str) -> str:
    """Return the name that Transformers gives a number in TensorBoard.

    Examples
    --------
    >>> tag("eval_loss"), tag("test_f1"), tag("learning_rate")
    ('eval/loss', 'test/f1', 'train/learning_rate')
    """
    for prefix in ("eval", "test"):
        if name.startswith(f"{prefix}_"):
            return f"{prefix}/{name.removeprefix(f'{prefix}_')}"
    return f"train/{name}"


class EventFile:
    """An event file of one training.

    Parameters
    ----------
    folder : path
        The file's name begins with events.out.tfevents.
    """

    def __init__(self, folder: str):
        self._protocol = [
            importlib.import_module(f"tensorboard.compat.proto.{name}_pb2") for name in ("event", "summary")
        ]
        self._writer = importlib.import_module("tensorboard.summary.writer.event_file_writer").EventFileWriter(folder)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row at its `step`."""
        numbers = {
            tag(name): float(value)
            for name, value in row.items()
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        events, summaries = self._protocol
        values = [summaries.Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        summary = summaries.Summary(value=values)
        self._writer.add_event(events.Event(wall_time=time.time(), step=int(row["step"]), summary=summary))

    def close(self) -> None:
        """Write all that is left."""
        self._writer.close()
