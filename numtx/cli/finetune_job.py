"""What `numtx finetune` is to do: a task with its data, a model, and a trainer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numtx import nn
from numtx.checkpoints.adapter_folder import is_adapter
from numtx.cli.errors import UsageError, asked
from numtx.cli.finetune_settings import FineTuneSettings
from numtx.models import LoraConfig
from numtx.models.auto import AutoConfig
from numtx.text import AutoTokenizer, Dataset
from numtx.training.arguments import TrainingArguments
from numtx.training.tasks import FineTuningTask, Lengths, task_of
from numtx.training.trainer import Trainer
from numtx.training.trainer_callbacks import EarlyStoppingCallback, PrinterCallback, TrainerCallback


@dataclass
class FineTuneJob:
    """A trainer, ready to go, and what is said about it.

    Attributes
    ----------
    new : list of str
        What of the model was not in its files.
    train, held_out : Dataset
        What the model reads.
    steps : int
        How many updates the whole run makes.
    """

    settings: FineTuneSettings
    task: FineTuningTask
    model: Any
    tokenizer: Any
    trainer: Trainer
    train: Dataset
    held_out: Dataset
    new: Sequence[str]
    steps: int

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.settings.out)


class JudgedAtTheEnd(TrainerCallback):
    """Evaluates after the last step too, whatever the steps between: else what it learned could not be kept."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for it."""
        if state.global_step >= state.max_steps:
            control.should_log = control.should_evaluate = control.should_save = True


def job_of(settings: FineTuneSettings) -> FineTuneJob:
    """Return the job of a run, begun or to be begun: all that can be wrong with it is found here.

    Raises
    ------
    ValueError
    """
    with asked():
        kind = task_of(settings.task)
    for name, value in (("--prefix", settings.prefix), ("--max-target-length", settings.max_target_length)):
        if value is not None and not kind.writes:
            raise UsageError(f"{name}: expected it with summarization or translation, got it with {settings.task}")
    if settings.lora is not None and is_adapter(settings.model):
        raise UsageError(
            f"--lora: expected it with a whole model, got it with the adapter '{settings.model}', which is trained on "
            "without --lora"
        )
    task = kind(
        settings.data,
        settings.eval_data,
        share=settings.eval_share,
        seed=settings.seed,
        columns=settings.columns,
        lengths=Lengths(settings.max_length, settings.max_target_length),
        prefix=settings.prefix,
        **({"encoding": settings.encoding} if settings.encoding != "utf-8" else {}),
    )
    tokenizer, model, new = _opened(settings, task)
    held_out, train = (task.features(rows, model, tokenizer) for rows in (task.held_out, task.train))
    if settings.lora is not None:
        model.add_adapter(LoraConfig(r=settings.lora, lora_alpha=2 * settings.lora), rng=settings.seed)
    if settings.freeze:
        nn.freeze(model, *settings.freeze)
        if not model.num_parameters(only_trainable=True):
            got = ", ".join(settings.freeze)
            raise UsageError(f"--freeze: expected patterns that leave something to train, got all frozen by {got}")
    every = -(-train.num_rows // settings.batch)
    total = settings.steps or max(1, round(settings.epochs * -(-every // settings.accumulation)))
    own = {"group_by_length": not task.whole_text, "prediction_loss_only": not task.scores}
    with asked():
        arguments = TrainingArguments(**settings.arguments(total, task.metric, _more_is_better(settings, task), **own))
    callbacks: list[TrainerCallback] = [JudgedAtTheEnd()]
    if settings.patience is not None:
        callbacks.append(EarlyStoppingCallback(settings.patience))
    trainer = Trainer(
        model,
        arguments,
        data_collator=task.collator(model, tokenizer),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        compute_metrics=(lambda found: task.measures(found.predictions, found.label_ids)) if task.scores else None,
        callbacks=callbacks,
    )
    trainer.pop_callback(PrinterCallback)  # the screen shows it
    steps = trainer.check()
    _check_judged(arguments, steps)
    return FineTuneJob(settings, task, model, tokenizer, trainer, train, held_out, new, steps)


def _more_is_better(settings: FineTuneSettings, task: FineTuningTask) -> bool:
    """Whether more is better of the measure that decides."""
    known = {"loss": False, **task.measured}
    name = str(settings.others.get("metric_for_best_model", task.metric))
    if name.removeprefix("eval_") not in known:
        raise UsageError(f"--set: expected metric_for_best_model {' or '.join(known)} of {settings.task}, got {name}")
    return known[name.removeprefix("eval_")]


def _check_judged(arguments: TrainingArguments, steps: int) -> None:
    """Refuse a run that would end without an evaluation, by which its best weights are known."""
    every = int(arguments.eval_steps or 1)
    if every > steps:
        raise UsageError(f"--eval-every: expected at most the {steps} steps of the run, got {every}")
    if arguments.eval_delay > (last := steps // every * every):
        got = f"{arguments.eval_delay:g}"
        raise UsageError(f"--set: expected an eval_delay of at most {last}, the step of the last evaluation, got {got}")


def _opened(settings: FineTuneSettings, task: FineTuningTask) -> tuple[Any, Any, list[str]]:
    """Return tokenizer and model, and what of the model was drawn."""
    config = AutoConfig.from_pretrained(settings.model)
    changes = task.model_settings(config)
    tokenizer = AutoTokenizer.from_pretrained(settings.model, **task.tokenizer_settings)
    if tokenizer.pad_token_id is None and not task.whole_text:
        if tokenizer.eos_token is None:
            raise ValueError(f"finetune: expected a tokenizer with a token for padding, got {settings.model!r} without")
        tokenizer.add_special_tokens({"pad_token": tokenizer.eos_token})
        changes["pad_token_id"] = tokenizer.pad_token_id
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = task.auto.from_pretrained(settings.model, rng=settings.seed, **changes)
    new = []
    for one in said:
        text = str(one.message)
        if "drawn anew" in text:
            new.append(text.partition(" has no ")[2].partition("; drawn anew")[0])
        else:
            warnings.warn(text, one.category, stacklevel=2)
    return tokenizer, model, new


def refuse_full(out: str) -> None:
    """Refuse a folder that has content, before anything is read.

    Raises
    ------
    UsageError
    """
    from numtx.cli.finetune_settings import FILE

    path = Path(out)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out: expected a folder, got the file '{out}'")
    if path.is_dir() and any(path.iterdir()):
        if (path / FILE).exists():
            raise UsageError(
                f"--out: expected a new or empty folder, got '{out}' with a run; go on with it by --resume, or choose "
                "another --out"
            )
        raise UsageError(f"--out: expected a new or empty folder, got '{out}' with other files; choose another --out")
