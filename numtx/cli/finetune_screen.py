"""A fine-tuning as it is seen: a line an evaluation, and on a terminal a bar between them."""

from __future__ import annotations

import time
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from numtx.cli.screen import Screen, clock
from numtx.training.trainer_callbacks import TrainerCallback


class FineTuneScreen(TrainerCallback):
    """Shows a fine-tuning on a screen. Use it in a `with`, which takes the bar away, whatever happens.

    Parameters
    ----------
    screen : Screen
    metric : str
        The measure beside the losses, by its name without eval_; none where it is the loss.
    """

    def __init__(self, screen: Screen, metric: str):
        self.screen = screen
        self.metric = None if metric == "loss" else metric
        self.bar: Progress | None = None
        self.loss: float | None = None

    def __enter__(self) -> FineTuneScreen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the heading, and show the bar."""
        self.began, self.first_step = time.perf_counter(), state.global_step
        measure = f"  {self.metric:>11}" if self.metric else ""
        self.screen.say(f"{'step':>8}  {'training':>8}  {'held-out':>8}{measure}  {'time':>8}", style="dim")
        if self.screen.live:
            fields = "step {task.completed}/{task.total}  {task.fields[rest]}"
            self.bar = Progress(BarColumn(22), TextColumn(fields), console=self.screen.console, transient=True)
            self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step, rest="")
            self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            pace = (time.perf_counter() - self.began) / max(1, state.global_step - self.first_step)
            left = clock(pace * (state.max_steps - state.global_step))
            self.bar.update(self.task, completed=state.global_step, rest=f"{pace:.2f} s a step  {left} left")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Remember the training loss, for the line of the evaluation."""
        self.loss = (logs or {}).get("loss", self.loss)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **_: Any) -> None:
        """Write a line."""
        found = metrics or {}
        loss = "-" if self.loss is None else f"{self.loss:.4f}"
        measure = f"  {found.get(f'eval_{self.metric}', float('nan')):>11.4f}" if self.metric else ""
        passed = clock(time.perf_counter() - self.began)
        held_out = found.get("eval_loss", float("nan"))
        self.screen.say(f"{state.global_step:>8}  {loss:>8}  {held_out:>8.4f}{measure}  {passed:>8}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
