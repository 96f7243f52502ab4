"""What a fine-tuning is asked for, by the names and defaults of Transformers 4.57."""

from __future__ import annotations

import json
import math
import os
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from numtx.functional.door import nearest
from numtx.generation import GenerationConfig
from numtx.training.foreign_arguments import known_by_name
from numtx.training.lr_scheduler import LR_SCHEDULERS, get_scheduler
from numtx.training.threads import available_threads

OWNER = "TrainingArguments"
STRATEGIES = ("no", "steps", "epoch")
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw", "sgd")


_KINDS: dict[str, Any] = {  # what else an argument may be than None
    "resume_from_checkpoint": ("a path, True or False", str, os.PathLike, bool),
    "generation_config": ("a GenerationConfig or the path of one", GenerationConfig, str, os.PathLike),
    "metric_for_best_model": ("a name", str),
    "label_names": ("a list of names", list, tuple),
    "report_to": ("a name or a list of them", str, list, tuple),
}


@known_by_name
@dataclass
class TrainingArguments:
    """The settings of a `Trainer`.

    Transformers' other names for the same (`evaluation_strategy`, `train_sampling_strategy`, a `warmup_steps` below 1)
    are taken too. What belongs to other machines (`fp16`, `deepspeed`, ...) is refused, with the reason, unless it is
    at its default; what changes no number here (`dataloader_num_workers`, `use_cpu`, ...) is taken, without effect.

    Parameters
    ----------
    output_dir : path
        Where checkpoints and the log go. Default "trainer_output".
    overwrite_output_dir : bool
        Remove the checkpoints of an earlier run there; without it a training that is not resumed refuses such a folder.
    do_train, do_eval, do_predict : bool
        For scripts to read.
    eval_strategy : "no", "steps" or "epoch"
    eval_steps : int or float, optional
        Steps between evaluations; below 1 a share of all steps. Default `logging_steps`.
    eval_delay : float
        Epochs or steps, by `eval_strategy`, before the first evaluation.
    eval_on_start : bool
    prediction_loss_only : bool
    per_device_train_batch_size, per_device_eval_batch_size : int
        Rows of a (micro-)batch.
    gradient_accumulation_steps : int
        Micro-batches of an update. Its loss is the mean over the real labels of all of them.
    learning_rate, weight_decay, adam_beta1, adam_beta2, adam_epsilon : float
        Of AdamW. Norms, biases and names with "bias" do not decay.
    max_grad_norm : float
        0 or None does not clip.
    num_train_epochs : float
    max_steps : int
        Above 0 it counts instead of the epochs.
    lr_scheduler_type : str
        See `get_scheduler`; its settings are `lr_scheduler_kwargs`.
    warmup_ratio : float
        Share of the steps in which the rate rises from 0; `warmup_steps` above 0 counts instead.
    logging_dir : path, optional
        Where event files go, if the package tensorboard is installed. Default output_dir/runs.
    logging_strategy, logging_steps, logging_first_step
        When the mean loss since the last time is logged.
    save_strategy : "no", "steps", "epoch" or "best"
    save_steps : int or float
    save_total_limit : int, optional
        How many checkpoints are kept, the best among them with `load_best_model_at_end`. Default: all.
    seed : int
        Of dropout and, unless there is a `data_seed`, of the order of the data.
    disable_tqdm : bool, optional
        No progress bar. Default: none where the output is no terminal.
    report_to : "none", "all", "tensorboard" or a list of such, optional
        Default: tensorboard where it is installed. Lines of JSON are written anyway.
    remove_unused_columns : bool
        Leave out columns that the model does not take.
    label_names : list of str, optional
        Default: those of the model.
    load_best_model_at_end : bool
        The evaluation that is best by `metric_for_best_model` (default "loss") decides; `greater_is_better` is by
        default whether its name does not end in "loss". What `compute_metrics` gives is known at the first evaluation,
        with `eval_on_start` before the first step.
    label_smoothing_factor : float
    optim : str
        "adamw_torch" and other names of AdamW, or "sgd".
    group_by_length : bool
        Batches of rows of like length; `length_column_name` says where lengths stand, else they are counted.
    resume_from_checkpoint : path, optional
        For scripts to read, and `Trainer.train`'s default.
    gradient_checkpointing : bool
        Hold less in memory: keep only what enters each layer, and recompute the rest.
    include_for_metrics : list of "inputs", "loss"
        What `compute_metrics` is given besides predictions and labels.
    predict_with_generate, generation_max_length, generation_num_beams, generation_config
        Evaluate an encoder-decoder on what it writes.
    shards : int
        Parts a batch is computed in side by side. They belong to the numbers of a run, `threads` do not.
    threads : int, optional
    learning_rate_groups : dict, optional
        Patterns of dotted names to factors on the learning rate, {"head.*": 10.0}; the first that fits counts.

    Raises
    ------
    ValueError
        If an argument is unknown (the nearest is told), out of range, or does not go with another.

    Examples
    --------
    >>> TrainingArguments("run", evaluation_strategy="epoch").eval_strategy
    'epoch'
    >>> TrainingArguments("run", warmup_rate=0.1)
    Traceback (most recent call last):
        ...
    ValueError: TrainingArguments: expected an argument that it has, got 'warmup_rate'; the nearest is 'warmup_ratio'
    """

    output_dir: str | os.PathLike[str] | None = None
    overwrite_output_dir: bool = False
    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False
    eval_strategy: str = "no"
    prediction_loss_only: bool = False
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    eval_delay: float = 0
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    num_train_epochs: float = 3.0
    max_steps: int = -1
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict[str, Any] | str | None = None
    warmup_ratio: float = 0.0
    warmup_steps: int | float = 0
    logging_dir: str | os.PathLike[str] | None = None
    logging_strategy: str = "steps"
    logging_first_step: bool = False
    logging_steps: int | float = 500
    save_strategy: str = "steps"
    save_steps: int | float = 500
    save_total_limit: int | None = None
    seed: int = 42
    data_seed: int | None = None
    dataloader_drop_last: bool = False
    eval_steps: int | float | None = None
    run_name: str | None = None
    disable_tqdm: bool | None = None
    remove_unused_columns: bool = True
    label_names: list[str] | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    label_smoothing_factor: float = 0.0
    optim: str = "adamw_torch"
    group_by_length: bool = False
    length_column_name: str = "length"
    report_to: str | list[str] | None = None
    resume_from_checkpoint: str | bool | None = None
    gradient_checkpointing: bool = False
    include_for_metrics: list[str] = field(default_factory=list)
    eval_on_start: bool = False
    predict_with_generate: bool = False
    generation_max_length: int | None = None
    generation_num_beams: int | None = None
    generation_config: Any = None
    shards: int = 2
    threads: int | None = None
    learning_rate_groups: dict[str, float] | None = None

    def __post_init__(self) -> None:
        self.output_dir = os.path.expanduser("trainer_output" if self.output_dir is None else self.output_dir)
        self.logging_dir = os.path.expanduser(self.logging_dir or Path(self.output_dir) / "runs")
        for name in ("eval_strategy", "logging_strategy", "save_strategy", "lr_scheduler_type", "optim"):
            value = getattr(self, name)
            setattr(self, name, str(getattr(value, "value", value)))  # of an Enum, as Transformers has them
        for one in fields(self):
            if isinstance(value := getattr(self, one.name), np.generic):
                setattr(self, one.name, value.item())
        self._check_kinds()
        self._check_numbers()
        self._check_intervals()
        self._check_best()
        self._check_schedule()

    def _check_kinds(self) -> None:
        for name, (said, *kinds) in _KINDS.items():
            if not isinstance(value := getattr(self, name), (*kinds, type(None))):
                raise ValueError(f"{OWNER}: expected {name}, {said}, got {value!r}")
        for name, among in {
            "eval_strategy": STRATEGIES,
            "logging_strategy": STRATEGIES,
            "save_strategy": (*STRATEGIES, "best"),
            "optim": OPTIMIZERS,
        }.items():
            if getattr(self, name) not in among:
                raise ValueError(f"{OWNER}: expected {name} {' or '.join(among)}, got {getattr(self, name)!r}")
        for one in fields(self):
            value = getattr(self, one.name)
            if str(one.type) == "bool" and not isinstance(value, bool):
                raise ValueError(f"{OWNER}: expected {one.name} to be True or False, got {value!r}")
        if unknown := [one for one in self.include_for_metrics if one not in ("inputs", "loss")]:
            raise ValueError(f"{OWNER}: expected include_for_metrics of inputs and loss, got {unknown[0]!r}")
        for name in self.reports:
            if name != "tensorboard":
                raise ValueError(f"{OWNER}: expected report_to of tensorboard, none or all, got {name!r}")
        if self.learning_rate_groups is not None and not (
            isinstance(self.learning_rate_groups, dict)
            and all(isinstance(key, str) and _is_number(rate, 0) for key, rate in self.learning_rate_groups.items())
        ):
            raise ValueError(
                f"{OWNER}: expected learning_rate_groups, a dict of patterns and factors of at least 0, "
                f"got {self.learning_rate_groups!r}"
            )
        if self.predict_with_generate is False and self.generation_config is not None:
            raise ValueError(f"{OWNER}: expected predict_with_generate=True with a generation_config, got False")

    def _check_numbers(self) -> None:
        counts = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "shards")
        for name in (*counts, "threads", "save_total_limit", "generation_max_length", "generation_num_beams"):
            value = getattr(self, name)
            if (value is not None or name in counts) and not (isinstance(value, int) and _is_number(value, 1)):
                raise ValueError(f"{OWNER}: expected {name} to be an integer of at least 1, got {value!r}")
        for name in ("seed", "data_seed"):
            value = getattr(self, name)
            if (value is not None or name == "seed") and not (isinstance(value, int) and _is_number(value, 0)):
                raise ValueError(f"{OWNER}: expected {name} to be an integer of at least 0, got {value!r}")
        if self.max_grad_norm is None:
            self.max_grad_norm = 0.0
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "eval_delay", "warmup_steps"):
            if not _is_number(getattr(self, name), 0):
                raise ValueError(f"{OWNER}: expected {name} to be a number of at least 0, got {getattr(self, name)!r}")
        for name in ("adam_beta1", "adam_beta2", "warmup_ratio", "label_smoothing_factor"):
            value = getattr(self, name)
            if not _is_number(value, 0) or value > 1 or (value == 1 and name.startswith("adam")):
                raise ValueError(f"{OWNER}: expected {name} in [0, 1{')' if 'adam' in name else ']'}, got {value!r}")
        if not _is_number(self.adam_epsilon, 0) or self.adam_epsilon == 0:
            raise ValueError(f"{OWNER}: expected adam_epsilon to be a number above 0, got {self.adam_epsilon!r}")
        if not isinstance(self.max_steps, int) or isinstance(self.max_steps, bool):
            raise ValueError(f"{OWNER}: expected max_steps to be an integer, got {self.max_steps!r}")
        if self.max_steps <= 0 and (not _is_number(self.num_train_epochs, 0) or self.num_train_epochs == 0):
            raise ValueError(f"{OWNER}: expected num_train_epochs above 0, got {self.num_train_epochs!r}")
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            raise ValueError(f"{OWNER}: expected warmup_steps to be whole from 1 on, got {self.warmup_steps}")

    def _check_intervals(self) -> None:
        """Steps between two: whole, or a share below 1; 0 stands for none, where there is another rule."""
        if self.eval_strategy == "steps" and not self.eval_steps:
            self.eval_steps = self.logging_steps
        for kind in ("eval", "logging", "save"):
            name, value = f"{kind}_steps", getattr(self, f"{kind}_steps")
            if getattr(self, f"{kind}_strategy") != "steps":
                continue
            if not _is_number(value, 0) or value == 0:
                raise ValueError(f"{OWNER}: expected {name} above 0 with {kind}_strategy 'steps', got {value!r}")
            if value >= 1:
                if value != int(value):
                    raise ValueError(f"{OWNER}: expected {name} to be whole from 1 on, got {value}")
                setattr(self, name, int(value))

    def _check_best(self) -> None:
        if self.load_best_model_at_end and self.save_strategy != "best":
            if self.eval_strategy != self.save_strategy:
                raise ValueError(
                    f"{OWNER}: expected save_strategy and eval_strategy to be the same with load_best_model_at_end, "
                    f"got {self.save_strategy!r} and {self.eval_strategy!r}"
                )
            if self.eval_strategy == "steps":
                assert self.eval_steps is not None
                mixed = (self.eval_steps < 1) != (self.save_steps < 1)
                times = 1 if self.eval_steps >= 1 else 1_000_000  # shares: floats are no multiples to the last bit
                if mixed or round(self.save_steps * times) % round(self.eval_steps * times):
                    raise ValueError(
                        f"{OWNER}: expected save_steps to be a multiple of eval_steps with load_best_model_at_end, "
                        f"got {self.save_steps} and {self.eval_steps}"
                    )
        if self.save_strategy == "best" and (self.eval_strategy == "no" or self.metric_for_best_model is None):
            if self.eval_strategy == "no":
                raise ValueError(f"{OWNER}: expected an eval_strategy with save_strategy 'best', got 'no'")
            self.metric_for_best_model = "loss"
        if self.load_best_model_at_end and self.eval_strategy == "no":
            raise ValueError(f"{OWNER}: expected an eval_strategy with load_best_model_at_end, got 'no'")
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not self.metric_for_best_model.endswith("loss")
        if self.eval_strategy != "no":
            self.do_eval = True

    def _check_schedule(self) -> None:
        if isinstance(self.lr_scheduler_kwargs, str):
            try:
                self.lr_scheduler_kwargs = json.loads(self.lr_scheduler_kwargs)
            except ValueError:
                raise ValueError(
                    f"{OWNER}: expected lr_scheduler_kwargs in JSON, got {self.lr_scheduler_kwargs!r}"
                ) from None
        if self.lr_scheduler_kwargs is not None and not isinstance(self.lr_scheduler_kwargs, dict):
            raise ValueError(f"{OWNER}: expected lr_scheduler_kwargs, a dict, got {self.lr_scheduler_kwargs!r}")
        if self.lr_scheduler_type == "reduce_lr_on_plateau":
            raise ValueError(
                f"{OWNER}: expected an lr_scheduler_type that follows the step, of {', '.join(LR_SCHEDULERS)}, "
                "got 'reduce_lr_on_plateau', which follows evaluations"
            )
        if self.lr_scheduler_type not in LR_SCHEDULERS:
            raise ValueError(
                f"{OWNER}: expected lr_scheduler_type of {', '.join(LR_SCHEDULERS)}, got {self.lr_scheduler_type!r}"
                f"{nearest(self.lr_scheduler_type, LR_SCHEDULERS)}"
            )
        try:
            self.scheduler(100)  # refuses settings that it does not take
        except ValueError as error:
            raise ValueError(f"{OWNER}: {str(error).partition(': ')[2]}") from None

    # --- what follows from them

    @property
    def train_batch_size(self) -> int:
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        return self.per_device_eval_batch_size

    @property
    def reports(self) -> list[str]:
        """What `report_to` asks for by name."""
        asked = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        return [name for name in asked if name not in ("none", "all")]

    @property
    def worker_threads(self) -> int:
        """How many threads work: `threads`, or what this machine has for the shards."""
        return self.threads or min(available_threads(), self.shards)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return how many steps the learning rate rises."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(num_training_steps * (self.warmup_steps or self.warmup_ratio))

    def scheduler(self, num_training_steps: int) -> Any:
        """Return the function that gives the learning rate of a step."""
        settings = self.lr_scheduler_kwargs or {}
        assert isinstance(settings, dict)
        warmup = self.get_warmup_steps(num_training_steps)
        return get_scheduler(self.lr_scheduler_type, self.learning_rate, warmup, num_training_steps, **settings)

    def interval(self, kind: str, num_training_steps: int) -> int | None:
        """Return the steps between two of "eval", "logging" or "save"; None where it is not by steps."""
        steps = getattr(self, f"{kind}_steps")
        if not steps or getattr(self, f"{kind}_strategy") != "steps":
            return None
        return math.ceil(num_training_steps * steps) if steps < 1 else int(steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments, in JSON's types."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        config = found["generation_config"]
        if config is not None and not isinstance(config, str):
            found["generation_config"] = config.to_dict() if hasattr(config, "to_dict") else str(config)
        return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in found.items()}

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def changed(self) -> dict[str, Any]:
        """Return the arguments that are not at their defaults."""
        found = self.to_dict()
        defaults = {
            one.name: one.default_factory() if one.default_factory is not MISSING else one.default
            for one in fields(self)
        }
        return {name: value for name, value in found.items() if value != defaults[name]}


class Seq2SeqTrainingArguments(TrainingArguments):
    """`TrainingArguments`, which have what an encoder-decoder's evaluation asks for."""


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < math.inf
