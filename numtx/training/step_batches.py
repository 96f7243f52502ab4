"""What a training loop is fed: the micro-batches of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numtx.text import TokenBatches
from numtx.training.config import TrainingConfig


def as_batch(batch: Any) -> dict[str, Any]:
    """Return a batch as a dict; a pair is (input_ids, shift_labels), as TokenBatches gives it."""
    if isinstance(batch, dict):
        return batch
    input_ids, shift_labels = batch
    return {"input_ids": input_ids, "shift_labels": shift_labels}


class Accumulated:
    """Consecutive batches, taken together as the micro-batches of a step.

    Examples
    --------
    >>> ids = Accumulated(TokenBatches(np.arange(50), 2, 4, seed=0), 3).at_step(1)
    >>> len(ids), ids[0]["input_ids"].shape
    (3, (2, 4))
    """

    def __init__(self, batches: Any, accumulation: int = 1):
        self.batches, self.accumulation = batches, accumulation

    def at_step(self, step: int) -> list[dict[str, Any]]:
        """Return the micro-batches of a step."""
        first = step * self.accumulation
        return [as_batch(self.batches.at(first + i)) for i in range(self.accumulation)]


def step_batches(train: Any, plan: Any) -> Any:
    """Return what gives the micro-batches of a step: `train` itself, or its batches or tokens cut as the plan says.

    Raises
    ------
    ValueError
        If it is nothing that gives batches.
    """
    if hasattr(train, "at_step"):
        return train
    accumulation = getattr(plan, "accumulation", 1)
    if isinstance(train, np.ndarray):
        return Accumulated(TokenBatches(train, plan.batch, plan.context, plan.seed), accumulation)
    if not hasattr(train, "at"):
        raise ValueError(
            "TrainingLoop: expected an array of tokens or batches with at(step) or at_step(step), got "
            + type(train).__name__
        )
    return Accumulated(train, accumulation)


def check_context(model: Any, plan: Any, *data: Any) -> None:
    """Require that tokens can be cut into rows that the model takes; data in batches are cut already.

    Raises
    ------
    ValueError
        If the plan does not say how, or the rows are too long.
    """
    if not any(isinstance(one, np.ndarray) for one in data):
        return
    if not isinstance(plan, TrainingConfig):
        got = type(plan).__name__
        raise ValueError(f"TrainingLoop: expected a TrainingConfig, which says how tokens are cut, got {got}")
    longest = getattr(getattr(model, "config", None), "context", plan.context)
    if plan.context > longest:
        raise ValueError(
            f"TrainingLoop: expected a context of at most the model's {longest} positions, got {plan.context}"
        )


def first_batches(data: Any) -> Sequence[Any]:
    """Return the batches that data is known by: a list's own, or those of the first step."""
    if hasattr(data, "at_step"):
        return data.at_step(0)
    return [data.at(0)] if hasattr(data, "at") else data
