"""What a training loop tells others while it works: progress bars, logs and figures are callbacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numtx.training.flat import FlatGradients
    from numtx.training.loop import TrainingLoop


@dataclass(frozen=True)
class StepReport:
    """One update of the weights.

    Attributes
    ----------
    step : int, updates made, this one included
    steps : int, of the whole run
    loss : float, of this step's batch, nats per token
    lr : float
    grad_norm : float, before clipping
    tokens : int, labels of this step's batch
    tokens_per_second : float, of this step alone
    seconds : float, training time so far, earlier sittings included
    """

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes
    ----------
    step : int, updates made
    stopped : bool, whether it ended before the last step because `stop` was called
    best_step, best_value : the evaluation whose weights are kept, None before the first
    seconds : float, training time, earlier sittings included
    folder : Path or None
    """

    step: int
    stopped: bool
    best_step: int | None
    best_value: float | None
    seconds: float
    folder: Path | None


class Callback:
    """Override what you need; each method is called in the loop's own thread.

    A callback may read everything of the loop and call `loop.stop()`. If training raises, `on_end` is not called.

    It may also change the numbers in the model's parameters, in place. Other changes (an array put in the place of a
    parameter, another dropout, an open trace, a planted mistake) it must not make on a training of several threads: on
    Linux the shards of a batch are computed in processes that were forked before `on_start`. They share the parameters'
    memory and keep everything else as it was then, so only the first shard would see the change.

    Under mpiexec rank 0 alone calls callbacks, and they must leave the parameters as they are: each rank has its own.
    """

    def on_start(self, loop: TrainingLoop) -> None:
        """Training is about to begin or go on; `loop.step` updates were made. Called before all others."""

    def on_gradients(self, loop: TrainingLoop, gradients: FlatGradients) -> None:
        """The gradients of a step are there, before clipping and the update; to be read, not changed."""

    def on_step(self, loop: TrainingLoop, report: StepReport) -> None:
        """One update was made."""

    def on_log(self, loop: TrainingLoop, row: dict[str, Any]) -> None:
        """Means since the last time were logged; `row` is their line of the log, an evaluation's measures included."""

    def on_evaluate(self, loop: TrainingLoop, row: dict[str, Any]) -> None:
        """An evaluation was made; `row` is its line of the log."""

    def on_save(self, loop: TrainingLoop, path: Path) -> None:
        """A checkpoint was written, whole."""

    def on_end(self, loop: TrainingLoop, result: TrainingResult) -> None:
        """Training ended, at its last step or because it was stopped."""
