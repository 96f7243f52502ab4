"""The loss over held-out text: every token once, no dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numtx.text import windows
from numtx.training.mpi import Alone
from numtx.training.threads import Workers

if TYPE_CHECKING:
    from numtx.training.loop import TrainingLoop


class Evaluation(NamedTuple):
    """A mean loss in nats per token, and the number of tokens it is a mean over."""

    loss: float
    tokens: int


def evaluation_batches(
    data: np.ndarray | Iterable[dict[str, Any]], context: int | None, batch: int
) -> Iterator[dict[str, Any]]:
    """Return the batches that `evaluate` walks over, of tokens or of batches already."""
    if not isinstance(data, np.ndarray):
        return iter(data)
    if context is None:
        raise ValueError("evaluate: expected a context to cut tokens into windows, got None")
    return ({"input_ids": ids, "shift_labels": labels} for ids, labels in windows(data, context, batch))


def evaluate(
    model: Any,
    data: np.ndarray | Iterable[dict[str, Any]],
    context: int | None = None,
    *,
    batch: int = 16,
    workers: Workers | None = None,
    ranks: Alone | None = None,
) -> Evaluation:
    """Return the model's mean loss over all of `data`, in nats per token.

    Parameters
    ----------
    model : module with `loss`
    data : (N,) int array, or an iterable of batches
        Tokens are cut into consecutive windows; each but the first is predicted exactly once.
    context : int
        Length of a window, for tokens.
    batch : int
        Windows computed at once, for tokens. It changes the loss by rounding only.
    workers : Workers, optional
        Threads that share the batches; the result is the same without.
    ranks : Alone or Ranks, optional
        Processes of an MPI job that share the batches; all have the result, the same as one process alone.

    Raises
    ------
    ValueError
        If there is nothing to predict, or tokens come without a context.
    """
    workers, ranks = workers or Workers(1), ranks or Alone()

    def summed(one: dict[str, Any]) -> tuple[float, int]:
        count = model.count_labels(one)
        return float(model.loss(one, num_items=max(1, count))) * count, count

    own: list[tuple[float, int]] = []
    remaining = islice(evaluation_batches(data, context, batch), ranks.rank, None, ranks.size)
    while wave := list(islice(remaining, 4 * workers.threads)):  # a few at a time: data may be larger than memory
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            own += workers.map(summed, wave)
    total, tokens = 0.0, 0
    for turn in zip_longest(*ranks.gather("evaluation", own), fillvalue=(0.0, 0)):  # in the order of the batches
        for loss, count in turn:
            total += loss
            tokens += count
    if not tokens:
        raise ValueError("evaluate: expected at least one label to predict, got none")
    return Evaluation(total / tokens, tokens)


class HeldOut:
    """Measures a loop's model on held-out data: its eval_loss.

    Parameters
    ----------
    data : (N,) int array of tokens, or a list of batches (dicts)
    context : int or None
        Length of a window, for tokens.
    batch : int
        Windows computed at once, for tokens.

    Raises
    ------
    ValueError
        If there are too few tokens to predict one.
    """

    def __init__(self, data: Any, context: int | None, batch: int):
        self.data, self.context, self.batch = data, context, batch
        if isinstance(data, np.ndarray):
            self.batches()

    def __call__(self, loop: TrainingLoop) -> dict[str, float]:
        """Return {"eval_loss": ...}, a mean over all labels."""
        found = evaluate(loop.model, self.data, self.context, batch=self.batch, workers=loop.workers, ranks=loop.ranks)
        return {"eval_loss": found.loss}

    def batches(self) -> Iterator[dict[str, Any]]:
        """Return what is evaluated, batch by batch."""
        return evaluation_batches(self.data, self.context, self.batch)


def measure_of(validation: Any, plan: Any) -> Callable[[TrainingLoop], dict[str, Any]] | None:
    """Return what measures a loop's weights: a callable that was given, or the loss on data; None without any."""
    if validation is None or callable(validation):
        return validation
    context, batch = getattr(plan, "context", None), getattr(plan, "batch", 1)
    return HeldOut(validation, context, -(-batch // plan.shards))  # no more memory than a shard of a training step
