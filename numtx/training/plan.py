"""What a training loop is asked to do, whoever asks: a TrainingConfig is one plan, a Trainer makes another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class TrainingPlan(Protocol):
    """What `TrainingLoop` reads of its plan.

    Attributes
    ----------
    steps : int, updates of the weights
    seed : int, of dropout
    shards : int, parts a batch is split into
    threads : int or None, how many compute; None takes what the machine has for the shards
    clip : float or None, largest global norm of the gradient
    recompute : bool, keep only what enters each layer
    checkpoints : int or None, how many are kept; None keeps all
    best_measure : str or None, the measure of an evaluation that decides which weights are the best; None: none does
    greater_is_better : bool
    keeps_best : "run", "checkpoint" or "no"
        Where the best weights are kept: in the run's folder itself, which then is a model that opens; in their
        checkpoint, which is not removed; nowhere (the run's folder holds no weights in these two).
    loss_settings : dict, keywords for `model.loss_and_grads`, such as a label smoothing
    free : tuple of str, settings that may differ when the run goes on
    """

    @property
    def steps(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def shards(self) -> int: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def clip(self) -> float | None: ...
    @property
    def recompute(self) -> bool: ...
    @property
    def checkpoints(self) -> int | None: ...
    @property
    def best_measure(self) -> str | None: ...
    @property
    def greater_is_better(self) -> bool: ...
    @property
    def keeps_best(self) -> str: ...
    @property
    def loss_settings(self) -> Mapping[str, Any]: ...
    @property
    def free(self) -> tuple[str, ...]: ...

    def settings(self) -> dict[str, Any]:
        """Return what a run keeps of the plan and compares when it goes on, in JSON's types."""

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""

    def logs(self, step: int) -> bool:
        """Say whether the means since the last time are logged after a step; the first step made is 1."""

    def evaluates(self, step: int) -> bool:
        """Say whether an evaluation follows a step; step 0 is before the first."""

    def saves(self, step: int) -> bool:
        """Say whether a checkpoint follows a step; step 0 is before the first."""
