"""The training loop. What it shows, draws or prints is done by callbacks."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from numtx.text import TokenBatches, windows
from numtx.training.agreement import training_facts, weights_print
from numtx.training.allocator import keep_freed_memory
from numtx.training.callbacks import Callback, StepReport, TrainingResult
from numtx.training.clip import clip_factor
from numtx.training.config import TrainingConfig
from numtx.training.evaluation import evaluate, evaluation_batches
from numtx.training.mpi import Alone, found_ranks
from numtx.training.nonfinite import (
    NonFiniteError,
    first_nonfinite,
    first_nonfinite_evaluated,
    first_nonfinite_sum,
)
from numtx.training.optimizers import AdamW
from numtx.training.progress import Progress, Since
from numtx.training.resume import go_on, run_settings
from numtx.training.run_folder import RunFolder
from numtx.training.sharding import ShardedGradients, as_batch
from numtx.training.threads import Workers


class Trainer:
    """Trains a language model with AdamW.

    Parameters
    ----------
    model : module with `loss_and_grads` and `loss`
        Updated in place; its parameters become views of one buffer. For a run folder it also has `save_pretrained` and
        `from_pretrained`, and a `config` with `to_dict`, the content of its config.json.
    train : (N,) int array of tokens, or an object whose `at(step)` gives a batch
        A batch is (input_ids, shift_labels), or a dict as `loss_and_grads` takes it; it depends on the step alone.
    validation : (N,) int array of tokens, or a list of batches (dicts), optional
        The weights that do best on it are the run's; without it, the newest are.
    config : TrainingConfig
    folder : path, optional
        Where the run is kept; without it nothing is saved.
    tokenizer : Tokenizer, optional
        Kept in the run.
    callbacks : sequence of Callback
    data : dict, optional
        Where the text came from, in JSON's types; kept in the run, and compared on resume.
    text : str, optional
        The text itself, kept in the run where it cannot be read again.
    ranks : Alone or Ranks, optional
        Default: what mpiexec started, or this process alone. Each rank makes the same trainer; then all compute, and
        rank 0 saves, logs, and calls callbacks, which must not change the parameters. What one raises ends all.

    Attributes
    ----------
    step : int, updates made so far
    log : list of dict, a row an evaluation

    Examples
    --------
    >>> from numtx.models.gpt2 import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_positions=8, n_embd=8, n_layer=1, n_head=2), rng=0)
    >>> Trainer(model, np.arange(100) % 5, config=TrainingConfig(steps=3, batch=2, context=8)).train().step
    3
    """

    def __init__(
        self,
        model: Any,
        train: Any,
        validation: Any = None,
        config: TrainingConfig | None = None,
        folder: str | os.PathLike[str] | None = None,
        *,
        tokenizer: Any = None,
        callbacks: Sequence[Callback] = (),
        data: Mapping[str, Any] | None = None,
        text: str | None = None,
        ranks: Alone | None = None,
    ):
        self.config = config = config or TrainingConfig()
        self.model = model
        self.train_data, self.validation = train, validation
        self.batches = self._checked()
        self.folder = folder
        self.ranks = ranks or found_ranks()
        self.tokenizer, self.data, self.text = tokenizer, dict(data or {}), text
        self.callbacks = list(callbacks)
        self.optimizer = AdamW(model, config.lr, config.betas, config.eps, config.weight_decay)
        self.progress = Progress()
        self.log: list[dict[str, Any]] = []
        self.run: RunFolder | None = None
        self._opened = self._stop = False
        self._saved_at: int | None = None
        self._started: float | None = None  # when it would have begun, had it trained in one sitting

    def _checked(self) -> Any:
        """Refuse at the door what would fail in the middle; return what gives the batches."""
        config, train = self.config, self.train_data
        longest = getattr(getattr(self.model, "config", None), "context", config.context)
        cut_here = any(isinstance(data, np.ndarray) for data in (train, self.validation))  # others are cut already
        if cut_here and config.context > longest:
            raise ValueError(
                f"Trainer: expected a context of at most the model's {longest} positions, got {config.context}"
            )
        if isinstance(self.validation, np.ndarray):
            windows(self.validation, config.context, 1)
        if isinstance(train, np.ndarray):
            return TokenBatches(train, config.batch, config.context, config.seed)
        if not hasattr(train, "at"):
            raise ValueError(
                f"Trainer: expected an array of tokens or batches with at(step), got {type(train).__name__}"
            )
        return train

    @property
    def step(self) -> int:
        """Updates made so far."""
        return self.progress.step

    def stop(self) -> None:
        """Ask to stop after the running step, and save. Safe to call from a signal handler, thread or callback."""
        self._stop = True

    def train(self, resume: bool = False) -> TrainingResult:
        """Train until the last step, or until `stop` is called.

        Parameters
        ----------
        resume : bool
            Go on with the run in `folder`, from its newest checkpoint, as if it had never ended.

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
            return self._train(resume)

    def _train(self, resume: bool) -> TrainingResult:
        config, ranks = self.config, self.ranks
        workers = Workers(ranks.threads(config))
        sharded = ShardedGradients(
            self.optimizer, config.shards, seed=config.seed, workers=workers, recompute=config.recompute, ranks=ranks
        )
        with workers, sharded:
            try:
                self._open(resume)
                progress = self.progress
                self._started = time.perf_counter() - progress.seconds
                self._tell("on_start")
                if self._saved_at is None:  # so that a run can be resumed at any time, and a full disk is known early
                    self._save()
                while progress.step < config.steps and not any(ranks.gather("stop", self._stop)):
                    self._train_step(sharded)
                    last = progress.step == config.steps
                    if last or progress.step % config.eval_every == 0:
                        self._evaluate(workers)
                    if last or progress.step % (config.save_every or config.eval_every) == 0:
                        self._save()
                if self._saved_at != progress.step:  # stopped between two saves
                    self._save()
            finally:
                self.progress.seconds, self._started = self.seconds, None
                self._stop = False
        best = (progress.best_step, progress.best_loss)
        result = TrainingResult(progress.step, progress.step < config.steps, *best, self.seconds, self._path)
        self._tell("on_end", result)
        return ranks.at_first("result", lambda: result)

    def _train_step(self, sharded: ShardedGradients) -> None:
        config, progress, began = self.config, self.progress, time.perf_counter()
        first = progress.step * config.accumulation
        batches = [as_batch(self.batches.at(first + i)) for i in range(config.accumulation)]
        loss, grads = sharded(batches, progress.step)
        norm = sharded.norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            got = f"loss {loss} and gradient norm {norm} at step {progress.step + 1}"
            self._refuse(
                got, lambda: first_nonfinite(sharded, batches, progress.step) or first_nonfinite_sum(grads.buffer)
            )
        lr = config.learning_rate(progress.step)
        sharded.update(lr, clip_factor(norm, config.clip or math.inf))
        tokens, seconds = sum(map(self.model.count_labels, batches)), time.perf_counter() - began
        progress.since.add(loss, norm, tokens, seconds)
        progress.step += 1
        report = StepReport(progress.step, config.steps, loss, lr, norm, tokens, tokens / seconds, self.seconds)
        self._tell("on_step", report)

    def _evaluate(self, workers: Workers) -> None:
        config, progress, since = self.config, self.progress, self.progress.since
        row: dict[str, Any] = {"step": progress.step, "loss": since.loss / since.steps}
        better = True
        if self.validation is not None:
            rows = -(-config.batch // config.shards)  # no more memory than a shard of a training step
            data = self.validation, config.context
            found = evaluate(self.model, *data, batch=rows, workers=workers, ranks=self.ranks).loss
            if not math.isfinite(found):
                got = f"evaluation loss {found} after step {progress.step}"
                self._refuse(got, lambda: first_nonfinite_evaluated(self.model, evaluation_batches(*data, rows)))
            better = progress.best_loss is None or found < progress.best_loss
            row["eval_loss"] = found
        if better:
            progress.best_step, progress.best_loss = progress.step, row.get("eval_loss")
        row |= {
            "lr": config.learning_rate(progress.step - 1),
            "grad_norm": since.grad_norm / since.steps,
            "tokens_per_second": since.tokens / since.seconds,
            "seconds": self.seconds,
        }
        progress.since = Since()
        self.log.append(row := self.ranks.at_first("row", lambda: row))  # whose times are those of rank 0
        if self.run:
            self.run.append_log(row)
            if better:
                self.run.save_best(self.model)
        self._tell("on_evaluate", row)

    def _save(self) -> None:
        self.progress.seconds = self.seconds
        if self.ranks.size > 1:
            self.ranks.agree("Trainer", {f"weights after step {self.step}": weights_print(self)})
        if self.folder is not None:
            self._tell("on_save", self.ranks.at_first("save", self._write))
        self._saved_at = self.step

    def _write(self) -> Path:
        assert self.run is not None
        if self.progress.best_step is None and self.step:  # not evaluated yet: the newest weights are the best known
            self.run.save_best(self.model)
        state = self.optimizer.state_dict()
        return self.run.save_checkpoint(self.model, state, self.progress, self.config.checkpoints)

    def _open(self, resume: bool) -> None:
        """Make the run's folder, or read it; a trainer that goes on in one process has it open already."""
        if self._opened:
            return
        if self.ranks.size > 1:
            self.ranks.agree("Trainer", training_facts(self, resume))
        if resume:
            if self.folder is None:
                raise ValueError("Trainer: expected the folder of a run to resume, got None")
            if self.ranks.first:
                self.run = RunFolder.open(self.folder)
                go_on(self, self.run)
            self._follow_first()
            self._saved_at = self.step
        elif self.folder is not None and self.ranks.first:
            settings = run_settings(self)
            self.run = RunFolder.create(self.folder, self.model, settings, tokenizer=self.tokenizer, text=self.text)
        self._opened = True

    def _follow_first(self) -> None:
        """Take over from rank 0 what it read from the run."""
        optimizer = self.optimizer
        state = self.ranks.at_first("state", lambda: (self.progress, self.log, optimizer.steps))
        self.progress, self.log, optimizer.steps = state
        optimizer.flat.sync()
        for buffer in (optimizer.flat.buffer, *optimizer.buffers.values()):
            self.ranks.broadcast(buffer)

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
            saved = f"; the last save is '{self.run.checkpoints()[-1]}'" if self.run else ""
            raise NonFiniteError(
                f"Trainer: expected finite numbers, got {got}; the first not finite is {where()}{saved}"
            )

        self.ranks.at_first("not finite", refuse)

    def _tell(self, event: str, *arguments: Any) -> None:
        def tell() -> None:
            for callback in self.callbacks:
                getattr(callback, event)(self, *arguments)

        self.ranks.at_first(event, tell)
