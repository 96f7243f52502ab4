"""The training loop as a Trainer drives it: what happens around a step is what its callbacks ask for."""

from __future__ import annotations

import json
import math
import os
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numtx.checkpoints import verify_manifest
from numtx.training.arguments import TrainingArguments
from numtx.training.callbacks import Callback, StepReport
from numtx.training.epochs import Epochs, rows_print
from numtx.training.flat import FlatGradients
from numtx.training.interrupt import leaving
from numtx.training.loop import TrainingLoop
from numtx.training.progress import Since
from numtx.training.resume import run_settings
from numtx.training.run_folder import RunFolder
from numtx.training.trainer_callbacks import best_measure
from numtx.training.trainer_state import TrainerControl

if TYPE_CHECKING:
    from numtx.training.trainer import Trainer

# Arguments that decide the numbers of a run, besides its steps: a run that goes on must have the same.
DECIDING = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type", "lr_scheduler_kwargs", "seed", "data_seed",
    "dataloader_drop_last", "label_smoothing_factor", "optim", "group_by_length", "shards", "learning_rate_groups",
    "metric_for_best_model", "greater_is_better",
)  # fmt: skip


NO_MEASURES = ("_runtime", "_per_second", "epoch")  # what an evaluation gives besides


class ArgumentsPlan:
    """TrainingArguments as a plan of the loop, whose evaluations and saves follow the callbacks' flags instead.

    Parameters
    ----------
    args : TrainingArguments
    steps : int
    rate : callable
        The learning rate of a step.
    """

    free = ("threads", "output_dir", "eval, save and logging settings")

    def __init__(self, args: TrainingArguments, steps: int, rate: Any):
        self.args, self.steps, self.learning_rate = args, steps, rate
        self.seed, self.shards, self.threads = args.seed, args.shards, args.threads
        self.clip = args.max_grad_norm or None
        self.recompute = args.gradient_checkpointing
        self.checkpoints = args.save_total_limit
        self.best_measure = best_measure(args)
        self.greater_is_better = bool(args.greater_is_better)
        self.keeps_best = "no" if self.best_measure is None else "checkpoint"
        smoothing = args.label_smoothing_factor
        self.loss_settings: dict[str, Any] = {"label_smoothing": smoothing} if smoothing else {}

    def settings(self) -> dict[str, Any]:
        """Return what decides the numbers."""
        args = self.args.to_dict()
        return {name: args[name] for name in DECIDING} | {
            "max_steps": self.steps,
            "warmup_steps": self.args.get_warmup_steps(self.steps),
        }

    def logs(self, step: int) -> bool:
        return False

    def evaluates(self, step: int) -> bool:
        return False

    def saves(self, step: int) -> bool:
        return False


class Bridge(Callback):
    """Hears what happens inside a step."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.report: StepReport | None = None

    def on_gradients(self, loop: TrainingLoop, gradients: FlatGradients) -> None:
        self.trainer.tell("on_pre_optimizer_step", gradients=gradients)

    def on_step(self, loop: TrainingLoop, report: StepReport) -> None:
        self.report = report
        self.trainer.tell("on_optimizer_step")


class Measures:
    """A trainer's evaluation, as the loop calls it."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def __call__(self, loop: TrainingLoop) -> dict[str, Any]:
        """Return the measures of the present weights; the one that decides the best must be among them."""
        trainer, args = self.trainer, self.trainer.args
        ignored = trainer._ignored_keys
        found = trainer.evaluate() if ignored is None else trainer.evaluate(ignore_keys=ignored)
        best = best_measure(args)
        if best is not None and best not in found:
            measured = (name.removeprefix("eval_") for name in found if not name.endswith(NO_MEASURES))
            raise ValueError(
                f"Trainer: expected compute_metrics to give metric_for_best_model {args.metric_for_best_model!r}, "
                f"got {', '.join(sorted(measured)) or 'none'}"
            )
        if best is not None and not isinstance(found[best], (int, float)):
            got = repr(found[best])
            raise ValueError(
                f"Trainer: expected metric_for_best_model {args.metric_for_best_model!r} to be a number, got {got}"
            )
        return found

    def fingerprint(self) -> str | None:
        """Return a hash of what is evaluated, where it decides which weights are best; else others may be looked at."""
        return rows_print(self.trainer.evaluation_datasets()) if best_measure(self.trainer.args) is not None else None

    def batches(self) -> Any:
        """Return what is evaluated, batch by batch."""
        return self.trainer.evaluation_batches()


class Saves:
    """A trainer's `save_model`, as a checkpoint calls it."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def save_pretrained(self, folder: Path) -> None:
        """Write what the trainer writes; the weights must be there then, for a resume reads them."""
        self.trainer.save_model(os.fspath(folder), _internal_call=True)
        if not any(Path(folder).glob("*.safetensors")):
            raise ValueError(
                "Trainer: expected save_model to write the model's weights (super().save_model(output_dir)), got none"
            )


class FineTuning(TrainingLoop):
    """The loop of one `Trainer.train`."""

    def __init__(self, trainer: Trainer, epochs: Epochs, plan: ArgumentsPlan, folder: str | None, optimizer: Any):
        self.trainer, self.epochs, self.bridge = trainer, epochs, Bridge(trainer)
        measure = Measures(trainer) if trainer.eval_dataset is not None else None
        super().__init__(
            trainer.model,
            epochs,
            measure,
            plan,
            folder,
            optimizer=optimizer,
            tokenizer=trainer.processing_class if hasattr(trainer.processing_class, "save") else None,
            callbacks=[self.bridge],
        )
        self._first_of_sitting = True
        self.first_step = 0  # of this sitting

    def train_in_order(self, resume: Any, replace: bool) -> None:
        """Train; the first Ctrl-C or SIGTERM lets the running step end and saves, and is passed on then."""
        saves = self.folder is not None
        with leaving(lambda: self.stop(save=saves), self.ranks):
            self.train(resume or False, replace=replace)

    # --- what every rank must hold alike

    def event(self, name: str, **given: Any) -> None:
        """Tell the callbacks, on the first rank; the others learn what these ask for."""
        control = self.trainer.control

        def told() -> tuple[Any, ...]:
            self.trainer.tell(name, **given)
            return astuple(self.trainer.control)

        flags = self.ranks.at_first(name, told)
        if not self.ranks.first:
            self.trainer.control = TrainerControl(*flags)
        control = self.trainer.control
        if control.should_epoch_stop:
            self._skip()

    def _open(self, resume: Any, replace: bool) -> None:
        if resume and self.ranks.first:
            self._refuse_other_length()
        super()._open(resume, replace)
        trainer, state = self.trainer, self.state
        self.epochs.skipped = int(state.get("skipped", 0))
        trainer.state.log_history = [dict(row) for row in state.get("log_history", [])]
        trainer.state.best_metric = self.progress.best_value
        trainer.state.best_global_step = self.progress.best_step
        trainer.state.best_model_checkpoint = self._best_checkpoint()
        if trainer.args.load_best_model_at_end and self.progress.best_step not in (None, self.step):
            way = "nothing was trained; a run with load_best_model_at_end=False goes on without it"
            check_best(Path(self.folder or "", f"checkpoint-{self.progress.best_step}"), way)
        trainer.handler.load_states(state.get("callbacks", {}))
        self.first_step = self.step
        self._count()
        trainer.logs.begin(self, self.ranks.first)

    def _refuse_other_length(self) -> None:
        """Name the argument by which a run of these data was asked for more or fewer steps, and say the way on.

        Its learning rates would not be those of the steps that were made, so the bits could be nobody's.
        """
        settings, args = RunFolder.open(self.folder or "").settings, self.trainer.args
        before = settings.get("training", {}).get("max_steps")
        if before in (None, self.plan.steps):
            return
        wanted = json.loads(json.dumps(self.plan.settings()))
        same = all(settings["training"].get(name) == wanted[name] for name in DECIDING)
        if not same or settings.get("tokens", {}).get("train") != self.epochs.fingerprint():
            return  # that is what made the steps others, and it is told
        asked = f"max_steps {self.plan.steps}"
        if args.max_steps <= 0:
            asked = f"num_train_epochs {args.num_train_epochs:g}, which make {self.plan.steps}"
        raise ValueError(
            f"Trainer: expected the {before} steps that the run began with, got {asked}: to train further, give a "
            "checkpoint's model (from_pretrained) to a new Trainer with another output_dir"
        )

    def _best_checkpoint(self) -> str | None:
        best = self.progress.best_step
        path = os.path.join(self.folder or "", f"checkpoint-{best}")
        return path if self.folder is not None and best is not None and os.path.isdir(path) else None

    def _count(self) -> None:
        state = self.trainer.state
        state.global_step, state.epoch = self.step, self.epochs.epoch(self.step)

    @property
    def mean_loss(self) -> float:
        """The mean of the losses of all steps."""
        total = self.state.get("logged_loss", 0.0) + self.progress.since.loss
        return total / max(1, self.step)

    # --- around a step

    def _before_first(self) -> None:
        self.event("on_train_begin")
        if self.trainer.control.should_training_stop:
            self.stop(save=False)
        if self.trainer.args.eval_on_start and self.step == 0 and self.measure is not None:
            self.measure(self)

    def before_step(self) -> None:
        control = self.trainer.control
        if self._first_of_sitting or (self.step + self.epochs.skipped) % self.epochs.steps == 0:
            control.should_epoch_stop = False
            self.event("on_epoch_begin")
        self._first_of_sitting = False
        control = self.trainer.control
        control.should_log = control.should_evaluate = control.should_save = False
        self.event("on_step_begin")

    def after_step(self) -> None:
        self._count()
        self.event("on_step_end")
        self._follow()
        control = self.trainer.control
        if (self.step + self.epochs.skipped) % self.epochs.steps == 0 or control.should_training_stop:
            self.event("on_epoch_end")
            self._follow()
        control, args = self.trainer.control, self.trainer.args
        if self.step + self.epochs.skipped >= self.plan.steps and self.step < self.plan.steps:
            if args.save_strategy == "steps" and self._saved_at != self.step:
                self.save()
            control.should_training_stop = True
        if control.should_training_stop:
            self.stop(save=False)

    def _skip(self) -> None:
        """Leave out what is left of the epoch."""
        position = self.step + self.epochs.skipped
        self.epochs.skipped += -position % self.epochs.steps

    def _follow(self) -> None:
        """Do what the callbacks ask for."""
        trainer = self.trainer
        if trainer.control.should_log and self.progress.since.steps:
            self._log_means()
        trainer.control.should_log = False
        if trainer.control.should_evaluate:
            trainer.control.should_evaluate = False
            self._evaluate_and_compare()
        if trainer.control.should_save:
            trainer.control.should_save = False
            if self._saved_at != self.step:
                self.save()

    def _log_means(self) -> None:
        since, report = self.progress.since, self.bridge.report
        row = {"loss": since.loss / since.steps}
        if report is not None:
            row["grad_norm"] = report.grad_norm
        row["learning_rate"] = self.plan.learning_rate(self.step - 1)
        self.state["logged_loss"] = self.state.get("logged_loss", 0.0) + since.loss
        self.progress.since = Since()
        self.trainer.log(self.ranks.at_first("row", lambda: row))

    def _evaluate_and_compare(self) -> None:
        args, state = self.trainer.args, self.trainer.state
        if self.measure is None:
            return
        better = self._evaluate({})
        if self.plan.best_measure is None:
            return
        state.best_metric, state.best_global_step = self.progress.best_value, self.progress.best_step
        if better and (args.save_strategy == "best" or (args.load_best_model_at_end and self.folder is not None)):
            self.trainer.control.should_save = True

    def save(self) -> None:
        """Write a checkpoint with all that a resume needs, and tell of it."""
        state, trainer = self.state, self.trainer
        if self.folder is None:
            self._begin_run()
        assert self.folder is not None
        if self.progress.best_step == self.step:
            trainer.state.best_model_checkpoint = os.path.join(self.folder, f"checkpoint-{self.step}")
        state["skipped"] = self.epochs.skipped
        state["log_history"] = [finite(row) for row in trainer.state.log_history]
        state["callbacks"] = trainer.handler.states()
        super().save()
        self.event("on_save")

    def written(self) -> tuple[Any, Any]:
        return Saves(self.trainer), None

    def _begin_run(self) -> None:
        """Make the folder of a run that was not to be saved, now that a callback asks for it."""
        args = self.trainer.args
        self.folder = folder = os.fspath(args.output_dir or "")

        def create() -> None:
            self.run = RunFolder.create(folder, None, run_settings(self), tokenizer=self.tokenizer)
            for row in self.trainer.state.log_history:
                self.run.append_log(finite(row))

        self.ranks.at_first("run", create)


def check_best(path: Path, left: str) -> None:
    """Require the checkpoint of the best evaluation to be there, and whole.

    Raises
    ------
    ValueError
        In one line, with what is left.
    """
    try:
        verify_manifest(path)
    except ValueError as error:
        got = error if path.is_dir() else "no such folder"
        raise ValueError(
            f"Trainer: expected the best checkpoint '{path}' to load in the end, got {got}; {left}"
        ) from None


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the log for JSON, which has no NaN: None stands for it.

    Examples
    --------
    >>> finite({"eval_matthews": float("nan"), "step": 1})
    {'eval_matthews': None, 'step': 1}
    """
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
