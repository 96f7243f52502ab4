"""What a Trainer tells while it works, by the events and signatures of Transformers' callbacks."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from numtx.training.arguments import TrainingArguments
from numtx.training.trainer_state import TrainerControl, TrainerState


class TrainerCallback:
    """Override what you need. Each event is called with (args, state, control, **kwargs).

    `kwargs` are model, processing_class, optimizer, lr_scheduler (a function of the step), train_dataloader (whose
    `at_step(step)` gives the batches of an update) and eval_dataloader, and what the event adds. An event may set flags
    of `control`, and may return it.

    A callback that has something to remember over an interruption gives it, in JSON's types, by `state_dict()`, and
    takes it back by `load_state_dict(state)`.

    Events come in the main process. They may change numbers of the parameters in place, nothing else of the model:
    batches are computed by forked processes. The micro-batches of an update are computed side by side, so there is no
    event between them (`on_substep_end` is never called).
    """

    def on_init_end(self, args, state, control, **kwargs):
        """The trainer was made."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Training is about to begin or to go on."""

    def on_train_end(self, args, state, control, **kwargs):
        """Training ended; the best model is loaded where that was asked for."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        """An epoch is about to begin, or to go on after an interruption."""

    def on_epoch_end(self, args, state, control, **kwargs):
        """An epoch ended, or the training within it."""

    def on_step_begin(self, args, state, control, **kwargs):
        """An update is about to be computed."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """The gradients of an update are there, before they are clipped; `gradients` has them, not to be changed."""

    def on_optimizer_step(self, args, state, control, **kwargs):
        """The parameters were updated."""

    def on_substep_end(self, args, state, control, **kwargs):
        """Never called."""

    def on_step_end(self, args, state, control, **kwargs):
        """An update was made; `state.global_step` counts it."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        """An evaluation was made; `state.best_metric` does not know it yet."""

    def on_predict(self, args, state, control, metrics, **kwargs):
        """Predictions were made."""

    def on_save(self, args, state, control, **kwargs):
        """A checkpoint was written, whole."""

    def on_log(self, args, state, control, logs, **kwargs):
        """Something was logged; it stands in `state.log_history` too."""

    def on_prediction_step(self, args, state, control, **kwargs):
        """Some batches of an evaluation were computed; `done` and `total` say how many."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is to be remembered."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what was remembered."""


class DefaultFlowCallback(TrainerCallback):
    """Says when it is time to log, to evaluate and to save, by the arguments. Every trainer has it."""

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        if (step == 1 and args.logging_first_step) or (state.logging_steps and step % state.logging_steps == 0):
            control.should_log = True
        if state.eval_steps and step % state.eval_steps == 0 and args.eval_delay <= step:
            control.should_evaluate = True
        if state.save_steps and (step % state.save_steps == 0 or step >= state.max_steps):
            control.should_save = True
        if step >= state.max_steps:
            control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log |= args.logging_strategy == "epoch"
        control.should_evaluate |= args.eval_strategy == "epoch" and args.eval_delay <= state.epoch
        control.should_save |= args.save_strategy == "epoch"


class EarlyStoppingCallback(TrainerCallback):
    """Ends the training when evaluations have not become better for a while.

    Parameters
    ----------
    early_stopping_patience : int
        After so many evaluations in a row that are no better than the best before.
    early_stopping_threshold : float
        By how much `metric_for_best_model` must be better to count.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float = 0.0):
        if not isinstance(early_stopping_patience, int) or early_stopping_patience < 1:
            raise ValueError(
                "EarlyStoppingCallback: expected early_stopping_patience to be an integer of at least 1, "
                f"got {early_stopping_patience!r}"
            )
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold or 0.0
        self.early_stopping_patience_counter = 0

    def on_init_end(self, args, state, control, **kwargs):
        self._check(args)

    def on_train_begin(self, args, state, control, **kwargs):
        self._check(args)
        if state.global_step == 0:
            self.early_stopping_patience_counter = 0
        elif self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True  # it had ended, and was interrupted after its last save

    @staticmethod
    def _check(args: TrainingArguments) -> None:
        if args.metric_for_best_model is None or args.eval_strategy == "no":
            raise ValueError(
                "EarlyStoppingCallback: expected metric_for_best_model and an eval_strategy in TrainingArguments, "
                f"got {args.metric_for_best_model!r} and {args.eval_strategy!r}"
            )

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        value = metrics.get(best_measure(args))
        if value is None:  # of another evaluation, such as one of several datasets
            return
        best = state.best_metric
        better = best is None or (value > best if args.greater_is_better else value < best)
        if better and (best is None or abs(value - best) > self.early_stopping_threshold):
            self.early_stopping_patience_counter = 0
        else:
            self.early_stopping_patience_counter += 1
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def state_dict(self):
        return {"early_stopping_patience_counter": self.early_stopping_patience_counter}

    def load_state_dict(self, state):
        self.early_stopping_patience_counter = int(state["early_stopping_patience_counter"])


class PrinterCallback(TrainerCallback):
    """Prints what is logged, a line each."""

    def on_log(self, args, state, control, logs, **kwargs):
        print(shown(logs), flush=True)


class ProgressCallback(TrainerCallback):
    """A bar of the training, one of each evaluation, and what is logged above them."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._training: Any = None
        self._evaluating: Any = None

    def _show(self) -> Any:
        if self._bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, transient=True)
            self._bar.start()
        return self._bar

    def _hide(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._training = self._evaluating = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._hide()
        self._training = self._show().add_task("train", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if self._training is not None:
            self._bar.update(self._training, completed=state.global_step)

    def on_prediction_step(self, args, state, control, **kwargs):
        if self._evaluating is None:
            self._evaluating = self._show().add_task("evaluate", total=kwargs["total"])
        self._bar.update(self._evaluating, completed=kwargs["done"])

    def _evaluated(self) -> None:
        if self._evaluating is not None:
            self._bar.remove_task(self._evaluating)
            self._evaluating = None
        if self._training is None:
            self._hide()

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self._evaluated()

    def on_predict(self, args, state, control, metrics, **kwargs):
        self._evaluated()

    def on_log(self, args, state, control, logs, **kwargs):
        (self._bar.console.print if self._bar is not None else print)(shown(logs))

    def on_train_end(self, args, state, control, **kwargs):
        self._hide()

    def close(self) -> None:
        """Take the bar away, whatever happened."""
        self._hide()


def best_measure(args: TrainingArguments) -> str | None:
    """Return the name of the measure that decides, with its prefix.

    Examples
    --------
    >>> best_measure(TrainingArguments("run", metric_for_best_model="f1"))
    'eval_f1'
    """
    name = args.metric_for_best_model
    return name if name is None or name.startswith("eval_") else f"eval_{name}"


def shown(logs: dict[str, Any]) -> str:
    """Return a line of what was logged.

    Examples
    --------
    >>> shown({"loss": 0.693147, "learning_rate": 5e-05, "epoch": 1.0})
    "{'loss': 0.6931, 'learning_rate': 5e-05, 'epoch': 1.0}"
    """
    return str({name: float(f"{one:.4g}") if isinstance(one, float) else one for name, one in logs.items()})


class CallbackHandler:
    """The callbacks of a trainer, in order.

    Parameters
    ----------
    callbacks : iterable of TrainerCallback, or of their classes
    """

    def __init__(self, callbacks: Iterable[Any] = ()):
        self.callbacks: list[Any] = []
        for callback in callbacks:
            self.add(callback)

    def add(self, callback: Any) -> None:
        """Add one; a class is called."""
        made = callback() if isinstance(callback, type) else callback
        if not hasattr(made, "on_train_begin"):
            raise ValueError(f"Trainer: expected callbacks that are TrainerCallbacks, got {type(made).__name__}")
        self.callbacks.append(made)

    def pop(self, callback: Any) -> Any:
        """Take out and return one, or the first of a class; None where there is none."""
        for one in self.callbacks:
            if isinstance(one, callback) if isinstance(callback, type) else one is callback:
                self.callbacks.remove(one)
                return one
        return None

    def call(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> TrainerControl:
        """Call an event of each; return the control, of which a callback may return another."""
        for callback in self.callbacks:
            returned = getattr(callback, event, _nothing)(args, state, control, **given)
            if isinstance(returned, TrainerControl):
                control = returned
        return control

    def close(self) -> None:
        """Let each put away what it shows."""
        for callback in self.callbacks:
            getattr(callback, "close", _nothing)()

    def states(self) -> dict[str, Any]:
        """Return what the callbacks want to remember, by class and number."""
        found = {name: callback.state_dict() for name, callback in self._named() if hasattr(callback, "state_dict")}
        return {name: state for name, state in found.items() if state}

    def load_states(self, states: dict[str, Any]) -> None:
        """Give the callbacks back what they remembered."""
        for name, callback in self._named():
            if name in states:
                callback.load_state_dict(states[name])

    def _named(self) -> list[tuple[str, Any]]:
        seen: dict[str, int] = {}
        named = []
        for callback in self.callbacks:
            name = type(callback).__name__
            seen[name] = seen.get(name, 0) + 1
            named.append((name if seen[name] == 1 else f"{name}#{seen[name]}", callback))
        return named


def default_callbacks(args: TrainingArguments) -> list[TrainerCallback]:
    """Return what every trainer has: the flow, and a bar on a terminal or lines elsewhere."""
    bar = sys.stdout.isatty() if args.disable_tqdm is None else not args.disable_tqdm
    return [DefaultFlowCallback(), ProgressCallback() if bar else PrinterCallback()]


def _nothing(*_: Any, **__: Any) -> None:
    pass
