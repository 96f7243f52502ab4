"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from numtx.training.schedules import SCHEDULES


@dataclass(frozen=True)
class TrainingConfig:
    """What a run depends on besides model and data; all but `threads` decide its numbers.

    Parameters
    ----------
    steps : int
        Updates of the weights.
    batch : int
        Rows of a batch (of a micro-batch, where `accumulation` is above 1).
    context : int
        Tokens of a row, and of an evaluation window.
    lr, min_lr : float
        Learning rate after the warm-up and at the last step.
    warmup : int
        Steps of rising learning rate.
    schedule : "cosine", "linear" or "constant"
    weight_decay : float
        On parameters of two or more axes whose name has no "bias".
    betas, eps
        AdamW's: two numbers in [0, 1), and one above 0.
    clip : float or None
        Largest global norm of the gradient; None does not clip.
    accumulation : int
        Micro-batches whose gradients make one update.
    seed : int
        Of data order and dropout.
    shards : int
        Parts a batch is split into. They belong to the run: another number rounds and drops out differently.
    threads : int or None
        Default: the processors this process may use, at most `shards`; under mpiexec a rank's part of both. On Linux
        the shards of a step are computed, summed and updated in forked processes, this one among them, elsewhere in
        threads; evaluations are shared by threads everywhere. The numbers are the same.
    eval_every : int
        Steps between evaluations; the last step is always evaluated.
    save_every : int or None
        Steps between checkpoints; default `eval_every`. The last step is always saved.
    checkpoints : int or None
        How many checkpoints are kept; None keeps all.
    recompute : bool
        Hold less in memory: keep only what enters each layer, and recompute the rest in backward.

    Raises
    ------
    ValueError
        If a setting is out of range, or a batch has fewer rows than there are shards.

    Examples
    --------
    >>> TrainingConfig(batch=4, shards=8)
    Traceback (most recent call last):
        ...
    ValueError: TrainingConfig: expected a batch of at least the 8 shards, got 4 rows
    """

    steps: int = 2000
    batch: int = 12
    context: int = 64
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    schedule: str = "cosine"
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    clip: float | None = 1.0
    accumulation: int = 1
    seed: int = 0
    shards: int = 2
    threads: int | None = None
    eval_every: int = 250
    save_every: int | None = None
    checkpoints: int | None = 2
    recompute: bool = False

    best_measure: ClassVar[str] = "eval_loss"
    greater_is_better: ClassVar[bool] = False
    keeps_best: ClassVar[str] = "run"
    loss_settings: ClassVar[dict[str, Any]] = {}
    free: ClassVar[tuple[str, ...]] = ("threads",)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "context", "accumulation", "shards", "eval_every"):
            self._at_least(name, 1, int)
        for name in ("threads", "save_every", "checkpoints"):
            if getattr(self, name) is not None:
                self._at_least(name, 1, int)
        for name in ("warmup", "seed"):
            self._at_least(name, 0, int)
        for name in ("lr", "min_lr", "weight_decay"):
            self._at_least(name, 0, (int, float))
        positive = {"eps": self.eps} | ({} if self.clip is None else {"clip": self.clip})
        for name, value in positive.items():
            if not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"TrainingConfig: expected {name} to be a number above 0, got {value!r}")
        betas = tuple(self.betas) if isinstance(self.betas, tuple | list) else ()  # a list, where from JSON or TOML
        if len(betas) != 2 or not all(_is_number(beta) and 0 <= beta < 1 for beta in betas):
            raise ValueError(f"TrainingConfig: expected betas to be two numbers in [0, 1), got {self.betas!r}")
        object.__setattr__(self, "betas", betas)
        if not isinstance(self.recompute, bool):
            raise ValueError(f"TrainingConfig: expected recompute to be true or false, got {self.recompute!r}")
        if self.schedule not in tuple(SCHEDULES):
            raise ValueError(f"TrainingConfig: expected a schedule of {', '.join(SCHEDULES)}, got {self.schedule}")
        if self.batch < self.shards:
            raise ValueError(
                f"TrainingConfig: expected a batch of at least the {self.shards} shards, got {self.batch} rows"
            )

    def _at_least(self, name: str, least: int, kind: Any) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < math.inf:  # NaN neither
            number = "an integer" if kind is int else "a number"
            raise ValueError(f"TrainingConfig: expected {name} to be {number} of at least {least}, got {value!r}")

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        schedule = SCHEDULES[self.schedule]
        return schedule(step, lr=self.lr, steps=self.steps, warmup=self.warmup, min_lr=self.min_lr)

    def settings(self) -> dict[str, Any]:
        """Return all settings by name."""
        return asdict(self)

    def logs(self, step: int) -> bool:
        """Say whether the means since the last time are logged after a step: with each evaluation."""
        return self.evaluates(step)

    def evaluates(self, step: int) -> bool:
        """Say whether an evaluation follows a step, as one follows the last."""
        return step > 0 and (step == self.steps or step % self.eval_every == 0)

    def saves(self, step: int) -> bool:
        """Say whether a checkpoint follows a step: also before the first, so that a full disk is known early."""
        return step == self.steps or step % (self.save_every or self.eval_every) == 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
