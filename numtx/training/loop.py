"""The training loop. What it shows, draws or prints is done by callbacks."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numtx.training.agreement import training_facts, weights_print
from numtx.training.allocator import keep_freed_memory
from numtx.training.callbacks import Callback, StepReport, TrainingResult
from numtx.training.clip import clip_factor
from numtx.training.config import TrainingConfig
from numtx.training.evaluation import measure_of
from numtx.training.mpi import Alone, found_ranks
from numtx.training.nonfinite import (
    NonFiniteError,
    first_nonfinite,
    first_nonfinite_evaluated,
    first_nonfinite_sum,
)
from numtx.training.optimizers import AdamW, Optimizer
from numtx.training.plan import TrainingPlan
from numtx.training.prints import frozen_print
from numtx.training.progress import Progress, Since
from numtx.training.resume import go_on, run_settings
from numtx.training.run_folder import RunFolder
from numtx.training.sharding import ShardedGradients
from numtx.training.step_batches import check_context, step_batches
from numtx.training.threads import Workers


class TrainingLoop:
    """Trains a model: batches, gradients in shards, updates; evaluates, logs and saves as its plan says.

    Parameters
    ----------
    model : module with `loss_and_grads`, `count_labels` and `loss`
        Updated in place; its parameters become views of one buffer. For a run folder it also has `save_pretrained` and
        `from_pretrained`, and a `config` with `to_dict`, the content of its config.json.
    train : (N,) int array of tokens, or an object whose `at_step(step)` or `at(number)` gives batches
        `at_step` gives the list of micro-batches whose gradients make one update; of `at`, the plan's `accumulation`
        consecutive batches make one. A batch is a dict as `loss_and_grads` takes it, or (input_ids, shift_labels); it
        depends on the step alone.
    validation : (N,) int array of tokens, a list of batches (dicts), or a callable, optional
        A callable is given the loop and returns a dict of measures, such as {"eval_loss": 1.5}; others give their
        eval_loss. The weights that do best by the plan's measure are the run's; without it, the newest are.
    plan : TrainingPlan
        Default: TrainingConfig().
    folder : path, optional
        Where the run is kept; without it nothing is saved.
    optimizer : Optimizer, optional
        Made over the model; default: the AdamW of a TrainingConfig.
    tokenizer : Tokenizer, optional
        Kept in the run.
    callbacks : sequence of Callback
    data : dict, optional
        Where the text came from, in JSON's types; kept in the run, and compared on resume.
    text : str, optional
        The text itself, kept in the run where it cannot be read again.
    ranks : Alone or Ranks, optional
        Default: what mpiexec started, or this process alone. Each rank makes the same loop; then all compute, and
        rank 0 saves, logs, and calls callbacks, which must not change the parameters. What one raises ends all.

    Attributes
    ----------
    step : int, updates made so far
    log : list of dict, a row each time something was logged or evaluated
    state : dict, what others want to find again when the run goes on, in JSON's types; saved with each checkpoint
    workers : Workers, the threads of a running training

    Examples
    --------
    >>> import numpy as np
    >>> from numtx.models.gpt2 import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_positions=8, n_embd=8, n_layer=1, n_head=2), rng=0)
    >>> plan = TrainingConfig(steps=3, batch=2, context=8)
    >>> TrainingLoop(model, np.arange(100) % 5, plan=plan).train().step
    3
    """

    def __init__(
        self,
        model: Any,
        train: Any,
        validation: Any = None,
        plan: TrainingPlan | None = None,
        folder: str | os.PathLike[str] | None = None,
        *,
        optimizer: Optimizer | None = None,
        tokenizer: Any = None,
        callbacks: Sequence[Callback] = (),
        data: Mapping[str, Any] | None = None,
        text: str | None = None,
        ranks: Alone | None = None,
    ):
        self.plan: TrainingPlan = plan or TrainingConfig()
        self.model = model
        self.train_data, self.validation = train, validation
        check_context(model, self.plan, train, validation)
        self.batches = step_batches(train, self.plan)
        self.measure: Callable[[TrainingLoop], dict[str, Any]] | None = measure_of(validation, self.plan)
        self.folder = folder
        self.ranks = ranks or found_ranks()
        self.tokenizer, self.data, self.text = tokenizer, dict(data or {}), text
        self.callbacks = list(callbacks)
        self.optimizer = optimizer or _optimizer(model, self.plan)
        self.progress = Progress()
        self.log: list[dict[str, Any]] = []
        self.run: RunFolder | None = None
        self.workers = Workers(1)
        self._opened = self._stop = False
        self._save_when_stopped = True
        self._saved_at: int | None = None
        self._started: float | None = None  # when it would have begun, had it trained in one sitting

    @property
    def step(self) -> int:
        """Updates made so far."""
        return self.progress.step

    @property
    def state(self) -> dict[str, Any]:
        """What others want to find again."""
        return self.progress.state

    def stop(self, save: bool = True) -> None:
        """Ask to stop after the running step, and save. Safe to call from a signal handler, thread or callback.

        Parameters
        ----------
        save : bool
            False: leave it at the checkpoints that the plan asked for.
        """
        self._save_when_stopped = save if not self._stop else (self._save_when_stopped or save)
        self._stop = True

    def train(self, resume: bool | str | os.PathLike[str] = False, *, replace: bool = False) -> TrainingResult:
        """Train until the last step, or until `stop` is called.

        Parameters
        ----------
        resume : bool or path
            Go on with the run in `folder`, from its newest whole checkpoint, as if it had never ended; a path is the
            checkpoint of it to go on from, and newer ones are removed.
        replace : bool
            A new run takes the place of one that is in `folder`.

        Raises
        ------
        NonFiniteError
            If a loss or gradient is not finite. The weights are those before the step (after an evaluation: those that
            were evaluated), and the last save stays.
        ChildProcessError
            If a worker process was killed; the last save stays.
        ValueError
            If a run cannot be begun or resumed as asked, or a save fails; the save before stays. If ranks disagree on
            settings, model or data.
        RankError
            If another rank failed; that one raises its own error.
        """
        keep_freed_memory()
        with self.ranks.guard():
            return self._train(resume, replace)

    def _train(self, resume: bool | str | os.PathLike[str], replace: bool) -> TrainingResult:
        plan, ranks = self.plan, self.ranks
        alone, workers = self.workers, Workers(ranks.threads(plan))
        sharded = ShardedGradients(
            self.optimizer,
            plan.shards,
            seed=plan.seed,
            workers=workers,
            recompute=plan.recompute,
            ranks=ranks,
            loss_settings=plan.loss_settings,
        )
        with workers, sharded:
            try:
                self._open(resume, replace)
                self.workers = workers
                self._started = time.perf_counter() - self.progress.seconds
                self._tell("on_start")
                self._before_first()
                while self.step < plan.steps and not any(ranks.gather("stop", self._stop)):
                    self.before_step()
                    self._train_step(sharded)
                    self.after_step()
                stopped = self.step < plan.steps
                if stopped and self._saved_at != self.step and any(ranks.gather("save", self._save_when_stopped)):
                    self.save()
            finally:
                self.progress.seconds, self._started = self.seconds, None
                self.workers = alone
                self._stop, self._save_when_stopped = False, True
        best = (self.progress.best_step, self.progress.best_value)
        result = TrainingResult(self.step, stopped, *best, self.seconds, self._path)
        self._tell("on_end", result)
        return ranks.at_first("result", lambda: result)

    def _before_first(self) -> None:
        """Do what the plan asks for before the first step."""
        if self.step == 0 and self._saved_at is None:
            if self.plan.evaluates(0):
                self.record(evaluates=True)
            if self.plan.saves(0):
                self.save()

    def before_step(self) -> None:
        """Called on every rank before each step; a subclass adds what it needs."""

    def after_step(self) -> None:
        """Called on every rank after each step: log, evaluate and save as the plan says."""
        plan, step = self.plan, self.step
        self.record(logs=plan.logs(step), evaluates=plan.evaluates(step))
        if plan.saves(step):
            self.save()

    def _train_step(self, sharded: ShardedGradients) -> None:
        progress, began = self.progress, time.perf_counter()
        batches = self.batches.at_step(progress.step)
        loss, grads = sharded(batches, progress.step)
        norm = sharded.norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            got = f"loss {loss} and gradient norm {norm} at step {progress.step + 1}"
            self._refuse(
                got, lambda: first_nonfinite(sharded, batches, progress.step) or first_nonfinite_sum(grads.buffer)
            )
        lr = self.plan.learning_rate(progress.step)
        self._tell("on_gradients", grads)
        sharded.update(lr, clip_factor(norm, self.plan.clip or math.inf))
        tokens, seconds = sum(map(self.model.count_labels, batches)), time.perf_counter() - began
        progress.since.add(loss, norm, tokens, seconds)
        progress.step += 1
        report = StepReport(progress.step, self.plan.steps, loss, lr, norm, tokens, tokens / seconds, self.seconds)
        self._tell("on_step", report)

    def record(self, *, logs: bool = False, evaluates: bool = False) -> dict[str, Any] | None:
        """Log the means since the last time, evaluate, or both, as one row of the log; on every rank.

        Returns
        -------
        dict or None
            The row; None where nothing was asked.
        """
        if not (logs or evaluates):
            return None
        row: dict[str, Any] = {"step": self.step}
        since = self.progress.since
        if logs:
            row["loss"] = since.loss / since.steps
        better = evaluates and self._evaluate(row)
        if logs:
            row |= {
                "lr": self.plan.learning_rate(self.step - 1),
                "grad_norm": since.grad_norm / since.steps,
                "tokens_per_second": since.tokens / since.seconds,
            }
            self.progress.since = Since()
        row["seconds"] = self.seconds
        self.log.append(row := self.ranks.at_first("row", lambda: row))  # whose times are those of rank 0
        if self.run:
            self.run.append_log(row)
            if better and self.plan.keeps_best == "run":
                self.run.save_best(self.model)
        if logs:
            self._tell("on_log", row)
        if evaluates:
            self._tell("on_evaluate", row)
        return row

    def _evaluate(self, row: dict[str, Any]) -> bool:
        """Put the measures of the present weights into a row, and say whether they are the best so far."""
        plan, progress = self.plan, self.progress
        found = self.measure(self) if self.measure else {}
        loss = found.get("eval_loss", 0.0)
        if not math.isfinite(loss):
            batches = getattr(self.measure, "batches", None)
            got = f"evaluation loss {loss} after step {progress.step}"
            self._refuse(got, lambda: first_nonfinite_evaluated(self.model, batches() if batches else ()))
        row |= found
        if not self.measure:  # the newest are the best that is known
            progress.best_step, progress.best_value = progress.step, None
            return True
        if plan.best_measure is None:
            return False
        if plan.best_measure not in found:
            raise ValueError(
                f"TrainingLoop: expected the measure {plan.best_measure}, which decides the best weights, of the"
                f" evaluation, got {', '.join(found) or 'none'}"
            )
        value, best = float(found[plan.best_measure]), progress.best_value
        better = not math.isnan(value) and (best is None or (value > best if plan.greater_is_better else value < best))
        if better:
            progress.best_step, progress.best_value = progress.step, value
        return better

    def save(self) -> None:
        """Write a checkpoint, on every rank together."""
        self.progress.seconds = self.seconds
        if self.ranks.size > 1:
            self.ranks.agree("TrainingLoop", {f"weights after step {self.step}": weights_print(self)})
        if self.folder is not None:
            self._tell("on_save", self.ranks.at_first("save", self._write))
        self._saved_at = self.step

    def _write(self) -> Path:
        assert self.run is not None
        plan, progress = self.plan, self.progress
        if plan.keeps_best == "run" and progress.best_step is None and self.step:
            self.run.save_best(self.model)  # not evaluated yet: the newest weights are the best known
        model, tokenizer = self.written()
        return self.run.save_checkpoint(
            model,
            self.optimizer.state_dict(),
            progress,
            plan.checkpoints,
            tokenizer=None if plan.keeps_best == "run" else tokenizer,
            never_removed=progress.best_step if plan.keeps_best == "checkpoint" else None,
        )

    def written(self) -> tuple[Any, Any]:
        """Return whose `save_pretrained` and whose `save` write a checkpoint's model and tokenizer."""
        return self.model, self.tokenizer

    def _open(self, resume: bool | str | os.PathLike[str], replace: bool) -> None:
        """Make the run's folder, or read it; a loop that goes on in one process has it open already."""
        if self._opened:
            return
        if self.ranks.size > 1:
            self.ranks.agree("TrainingLoop", training_facts(self, resume))
        if resume:
            if self.folder is None:
                raise ValueError("TrainingLoop: expected the folder of a run to resume, got None")
            if self.ranks.first:
                self.run = RunFolder.open(self.folder)
                go_on(self, self.run, None if resume is True else Path(resume))
            self._follow_first()
            self._saved_at = self.step
        elif self.folder is not None and self.ranks.first:
            self.run = RunFolder.create(
                self.folder,
                self.model if self.plan.keeps_best == "run" else None,
                run_settings(self),
                tokenizer=self.tokenizer,
                text=self.text,
                replace=replace,
            )
        self._opened = True

    def _follow_first(self) -> None:
        """Take over from rank 0 what it read from the run."""
        optimizer = self.optimizer
        state = self.ranks.at_first("state", lambda: (self.progress, self.log, optimizer.steps))
        self.progress, self.log, optimizer.steps = state
        optimizer.flat.sync()
        for buffer in (optimizer.flat.buffer, *optimizer.buffers.values()):
            self.ranks.broadcast(buffer)
        if self.ranks.size > 1:  # those of the checkpoint, which rank 0 took, must be everybody's own
            self.ranks.agree("TrainingLoop", {"frozen weights": frozen_print(self.model)})

    @property
    def seconds(self) -> float:
        """Training time so far, evaluations, saves and earlier sittings included."""
        return self.progress.seconds if self._started is None else time.perf_counter() - self._started

    @property
    def _path(self) -> Path | None:
        return self.run.path if self.run else None

    def _refuse(self, got: str, where: Callable[[], str]) -> None:
        """End with what is not finite; `where` finds the first."""

        def refuse() -> None:
            saves = self.run.checkpoints() if self.run else []
            saved = f"; the last save is '{saves[-1]}'" if saves else ""
            raise NonFiniteError(
                f"TrainingLoop: expected finite numbers, got {got}; the first not finite is {where()}{saved}"
            )

        self.ranks.at_first("not finite", refuse)

    def _tell(self, event: str, *arguments: Any) -> None:
        def tell() -> None:
            for callback in self.callbacks:
                getattr(callback, event)(self, *arguments)

        self.ranks.at_first(event, tell)


def _optimizer(model: Any, plan: TrainingPlan) -> Optimizer:
    if not isinstance(plan, TrainingConfig):
        raise ValueError(
            f"TrainingLoop: expected an optimizer or a TrainingConfig, got neither beside {type(plan).__name__}"
        )
    return AdamW(model, plan.lr, plan.betas, plan.eps, plan.weight_decay)
