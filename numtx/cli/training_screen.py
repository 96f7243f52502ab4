"""A training as it is seen: a line an evaluation, and on a terminal a bar between them."""

from __future__ import annotations

from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from numtx.cli.screen import Screen, clock
from numtx.training import Callback, StepReport, TrainingLoop, TrainingResult

HEADING = f"{'step':>8}  {'training':>8}  {'held-out':>8}  {'tokens/s':>9}  {'time':>8}"


class Smooth:
    """A running mean that forgets: of the last twenty values or so."""

    def __init__(self, keep: float = 0.95):
        self.keep, self.total, self.weight = keep, 0.0, 0.0

    def add(self, value: float) -> float:
        """Take a value in, and return the mean."""
        self.total = self.keep * self.total + (1 - self.keep) * value
        self.weight = self.keep * self.weight + (1 - self.keep)
        return self.total / self.weight


class TrainingScreen(Callback):
    """Shows a training on a screen. Use it in a `with`, which takes the bar away, whatever happens."""

    def __init__(self, screen: Screen):
        self.screen = screen
        self.bar: Progress | None = None
        self.ending = False
        self.loss, self.tokens, self.seconds = Smooth(), Smooth(), Smooth()

    def __enter__(self) -> TrainingScreen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def on_start(self, loop: TrainingLoop) -> None:
        """Write the heading, and show the bar."""
        self.first_step, self.first_second = loop.step, loop.seconds
        self.screen.say(HEADING, style="dim")
        if self.screen.live:
            fields = "step {task.completed}/{task.total}  loss {task.fields[loss]}  {task.fields[rest]}"
            self.bar = Progress(BarColumn(22), TextColumn(fields), console=self.screen.console, transient=True)
            self.task = self.bar.add_task("", total=loop.plan.steps, completed=loop.step, loss="-", rest="")
            self.bar.start()

    def on_step(self, loop: TrainingLoop, report: StepReport) -> None:
        """Move the bar."""
        loss = self.loss.add(report.loss)
        speed = self.tokens.add(report.tokens) / self.seconds.add(report.tokens / report.tokens_per_second)
        if self.bar is not None and not self.ending:
            pace = (report.seconds - self.first_second) / (report.step - self.first_step)
            rest = f"{speed:,.0f} tokens/s  {clock(pace * (report.steps - report.step))} left"
            self.bar.update(self.task, completed=report.step, loss=f"{loss:.3f}", rest=rest)

    def on_evaluate(self, loop: TrainingLoop, row: dict[str, Any]) -> None:
        """Write a line."""
        held_out = f"{row['eval_loss']:.4f}" if "eval_loss" in row else "-"
        speed, time = f"{row['tokens_per_second']:,.0f}", clock(row["seconds"])
        self.screen.say(f"{row['step']:>8}  {row['loss']:>8.4f}  {held_out:>8}  {speed:>9}  {time:>8}")

    def on_end(self, loop: TrainingLoop, result: TrainingResult) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()

    def stopping(self) -> None:
        """Say that the running step is the last."""
        self.ending = True
        if self.bar is not None:
            self.bar.update(self.task, rest="stopping, saving ...")
