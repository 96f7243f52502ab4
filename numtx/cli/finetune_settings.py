"""The settings of `numtx finetune`: what they come to as training arguments, and what a run remembers."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from numtx.checkpoints import read_json, write_json
from numtx.cli.errors import UsageError
from numtx.cli.settings import flag

FILE, FORMAT = "finetune.json", 1
LORA_RATE, RATE = 3e-4, 5e-5
FREE = ("threads", "data", "eval_data", "out")  # what may be said with --resume; data are compared by their content
COUNTS = (
    *("steps", "batch", "accumulation", "eval_every", "patience", "lora", "seed", "shards", "threads"),
    *("max_length", "max_target_length"),
)
OWN_PLACE = {  # training arguments that the command has options for
    "output_dir": "--out",
    "num_train_epochs": "--epochs",
    "max_steps": "--steps",
    "learning_rate": "--lr",
    "per_device_train_batch_size": "--batch",
    "per_device_eval_batch_size": "--batch",
    "gradient_accumulation_steps": "--accumulation",
    "eval_strategy": "--eval-every",
    "eval_steps": "--eval-every",
    "save_strategy": "--eval-every",
    "save_steps": "--eval-every",
    "logging_strategy": "--eval-every",
    "logging_steps": "--eval-every",
    "seed": "--seed",
    "shards": "--shards",
    "threads": "--threads",
    "resume_from_checkpoint": "--resume",
}
FIXED = (  # training arguments without which the command could not do what it says
    *("load_best_model_at_end", "prediction_loss_only", "remove_unused_columns", "predict_with_generate"),
    *("generation_max_length", "generation_num_beams", "generation_config"),
)


@dataclass(frozen=True)
class FineTuneSettings:
    """What `numtx finetune` was asked; all of it stands in the run's finetune.json."""

    model: str
    task: str
    data: str
    out: str
    eval_data: str | None = None
    eval_share: float = 0.1
    encoding: str = "utf-8"
    columns: dict[str, str] = field(default_factory=dict)
    max_length: int | None = None
    max_target_length: int | None = None
    prefix: str | None = None
    freeze: list[str] = field(default_factory=list)
    lora: int | None = None
    epochs: float = 3.0
    steps: int | None = None
    lr: float | None = None
    batch: int = 16
    accumulation: int = 1
    eval_every: int | None = None
    patience: int | None = None
    seed: int = 0
    shards: int = 2
    threads: int | None = None
    others: dict[str, Any] = field(default_factory=dict)  # training arguments by their own names

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return self.lr if self.lr is not None else RATE if self.lora is None else LORA_RATE

    def arguments(self, total_steps: int, metric: str, greater_is_better: bool, **own: Any) -> dict[str, Any]:
        """Return the settings as training arguments.

        Parameters
        ----------
        total_steps : int
            An eighth of them is the time between evaluations where nothing is said.
        metric : str
            Which decides what is best.
        greater_is_better : bool
        **own
            What the task sets.
        """
        every = self.eval_every or max(1, -(-total_steps // 8))
        return {
            "output_dir": self.out,
            "num_train_epochs": self.epochs,
            "max_steps": self.steps or -1,
            "learning_rate": self.rate,
            "per_device_train_batch_size": self.batch,
            "per_device_eval_batch_size": 2 * self.batch,
            "gradient_accumulation_steps": self.accumulation,
            **dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "steps"),
            **dict.fromkeys(("eval_steps", "save_steps", "logging_steps"), every),
            "seed": self.seed,
            "shards": self.shards,
            "threads": self.threads,
            "weight_decay": 0.01,
            "warmup_ratio": 0.1,
            "load_best_model_at_end": True,
            "metric_for_best_model": metric,
            "greater_is_better": greater_is_better,
            "save_total_limit": 1,
            "remove_unused_columns": False,
            "disable_tqdm": True,
            **own,
            **self.others,
        }


def checked(settings: FineTuneSettings) -> FineTuneSettings:
    """Return the settings with whole paths, if their numbers can be.

    Raises
    ------
    UsageError
    """
    for name in COUNTS:
        value, smallest = getattr(settings, name), 0 if name == "seed" else 1
        if value is not None and value < smallest:
            raise UsageError(f"{flag(name)}: expected at least {smallest}, got {value}")
    for name in ("epochs", "lr"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{flag(name)}: expected a number above 0, got {value}")
    if not 0 < settings.eval_share < 1:
        raise UsageError(f"--eval-share: expected a number between 0 and 1, got {settings.eval_share}")
    for name in settings.others:
        if name in OWN_PLACE:
            raise UsageError(f"--set: expected {name} as {OWN_PLACE[name]}, got it with --set")
        if name in FIXED:
            raise UsageError(f"--set: expected {name} to stay as the command has it, got it with --set")
    if settings.lora is not None and settings.freeze:
        raise UsageError("--lora: expected it without --freeze, for it trains nothing of the model itself, got both")
    eval_data = settings.eval_data and _whole(settings.eval_data)
    return replace(settings, model=_whole(settings.model), data=_whole(settings.data), eval_data=eval_data)


def _files(settings: FineTuneSettings) -> dict[str, str]:
    both: dict[str, str | None] = {"data": settings.data, "eval_data": settings.eval_data}
    return {name: path for name, path in both.items() if path}


def _whole(path: str) -> str:
    """A path that holds from any folder; a name on the hub stays."""
    return os.path.abspath(path) if os.path.exists(path) else path


def remember(settings: FineTuneSettings) -> None:
    """Write what a run was asked into its folder."""
    prints = {name: _print(path) for name, path in _files(settings).items()}
    kept = {name: value for name, value in asdict(settings).items() if name not in ("out", "threads")}
    Path(settings.out).mkdir(parents=True, exist_ok=True)
    write_json(Path(settings.out, FILE), {"format_version": FORMAT, **kept, "sha256": prints})


def remembered(folder: Path, given: dict[str, Any]) -> FineTuneSettings:
    """Return what a run was asked, with what may be other now.

    Raises
    ------
    UsageError
        If an option would change the run.
    ValueError
        If there is no such run, or its data are no longer the same.
    """
    if not (folder / FILE).is_file():
        raise ValueError(f"finetune: expected a run of numtx finetune to resume, got '{folder}', which has no {FILE}")
    entries = read_json(folder / FILE)
    if not isinstance(entries, dict) or entries.pop("format_version", None) != FORMAT:
        raise ValueError(f"finetune: expected a {FILE} of format {FORMAT} in '{folder}', got another")
    prints = entries.pop("sha256", {})
    names = {one.name for one in fields(FineTuneSettings)}
    if set(entries) != names - {"out", "threads"}:
        raise ValueError(f"finetune: expected the settings of a run in '{folder / FILE}', got others")
    if Path(given.get("out", folder)).resolve() != folder.resolve():
        raise UsageError(f"--out: expected the folder of the run to resume, '{folder}', or nothing, got another")
    for name, value in given.items():
        value = _whole(value) if name == "model" else value
        if name not in FREE and value != entries.get(name):
            raise UsageError(f"--resume: expected the {name} of the run, {entries.get(name)!r}, got {value!r}")
    free: dict[str, Any] = {name: given[name] for name in ("threads", "data", "eval_data") if name in given}
    known = {**entries, **free, "out": str(folder)}
    settings = checked(FineTuneSettings(**known))
    for name, path in _files(settings).items():
        if prints.get(name) != _print(path):
            raise ValueError(
                f"finetune: expected the {name.replace('_', ' ')} that the run began with, got others in '{path}'"
            )
    return settings


def _print(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"finetune: expected a readable file, got '{path}': {error.strerror}") from None
