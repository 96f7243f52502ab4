"""What a model makes of a dataset: the loss over its labels, its scores, or what it writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from numtx.training.epochs import Batches
from numtx.training.mpi import Alone
from numtx.training.threads import Workers

FILL = -100  # what stands where one batch's rows are shorter than another's


@dataclass(frozen=True)
class Prediction:
    """What one batch gave; the loss is a sum over `items` labels."""

    loss: float | None
    items: int
    rows: int
    scores: Any = None
    labels: Any = None
    inputs: np.ndarray | None = None


@dataclass
class Predictor:
    """Computes predictions, batch by batch, without dropout.

    Parameters
    ----------
    model : module with `loss`, and, for scores, a call that gives outputs
    label_names : sequence of str
    loss_settings : dict
        For the model's `loss`.
    scores : bool
        Whether scores are wanted, or the loss alone.
    keep_inputs : bool
    ignore_keys : sequence of str
        Fields of the outputs that are not wanted.
    preprocess : callable (scores, labels) -> scores, optional
        To make less of them before they are kept.
    generate : dict, optional
        Settings of `model.generate`: predictions are then what it writes.
    """

    model: Any
    label_names: Sequence[str]
    loss_settings: Mapping[str, Any] = field(default_factory=dict)
    scores: bool = True
    keep_inputs: bool = False
    ignore_keys: Sequence[str] = ()
    preprocess: Callable[[Any, Any], Any] | None = None
    generate: Mapping[str, Any] | None = None

    def batch(self, batch: dict[str, Any]) -> Prediction:
        """Return what a batch gives."""
        labels = {name: batch[name] for name in self.label_names if name in batch}
        rows = len(next(iter(batch.values())))
        counted = self.model.count_labels(batch) if labels else 0
        loss, scores = None, None
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if labels and (not self.scores or self.generate is not None or not hasattr(self.model, "loss_of")):
                loss = self.model.loss(batch, num_items=max(1, counted), **self.loss_settings)
            elif labels:
                inputs, asked = self.model.split(batch)
                outputs = self.model.forward(**inputs, keep=None)[0]
                loss = self.model.loss_of(outputs, asked, max(1, counted), **self.loss_settings)[0]
                scores = self._fields(outputs)
            if self.scores and self.generate is not None:
                scores = self._written(batch)
            elif self.scores and scores is None:
                scores = self._fields(self.model(**{name: one for name, one in batch.items() if name not in labels}))
        given = tuple(np.asarray(one) for one in labels.values())
        asked_for = None if not given else given[0] if len(given) == 1 else given
        if scores is not None and self.preprocess is not None:
            scores = self.preprocess(scores, asked_for)
        total = None if loss is None else float(loss) * max(1, counted)
        inputs_kept = np.asarray(batch["input_ids"]) if self.keep_inputs and "input_ids" in batch else None
        return Prediction(total, counted, rows, scores, asked_for if self.scores else None, inputs_kept)

    def _fields(self, outputs: Any) -> Any:
        if not is_dataclass(outputs):  # of a model of the user's own: an array, or some
            return outputs
        names = getattr(self.model, "fields", None) or [one.name for one in fields(outputs) if one.name != "loss"]
        found = tuple(getattr(outputs, name) for name in names if name not in self.ignore_keys)
        return found[0] if len(found) == 1 else found

    def _written(self, batch: dict[str, Any]) -> np.ndarray:
        taken = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
        return np.asarray(self.model.generate(**taken, **(self.generate or {})))


def predict(
    predictor: Predictor,
    batches: Batches,
    *,
    workers: Workers,
    ranks: Alone | None = None,
    after: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Return what each batch of one epoch gives, in order.

    Parameters
    ----------
    predictor : Predictor
    batches : Batches
    workers : Workers
        Threads that share the batches.
    ranks : Alone or Ranks, optional
        Processes that share them; all have all predictions.
    after : callable (done, total), optional
        Called in this thread now and then.
    """
    ranks = ranks or Alone()
    own = range(ranks.rank, len(batches), ranks.size)
    wave = 2 * workers.threads
    made: list[Prediction] = []
    for start in range(0, len(own), wave):
        made += workers.map(lambda number: predictor.batch(batches.at(number)), own[start : start + wave])
        if after is not None:
            after(min(ranks.size * len(made), len(batches)), len(batches))
    if ranks.size == 1:
        return made
    shared = ranks.gather("predictions", made)
    return [shared[number % ranks.size][number // ranks.size] for number in range(len(batches))]


def mean_loss(predictions: Sequence[Prediction]) -> float | None:
    """Return the mean loss over all labels; None where there are none."""
    items = sum(one.items for one in predictions if one.loss is not None)
    return math.fsum(one.loss for one in predictions if one.loss is not None) / items if items else None


def row_losses(predictions: Sequence[Prediction]) -> np.ndarray | None:
    """Return the mean loss of each row's batch, (N,)."""
    if any(one.loss is None for one in predictions):
        return None
    return np.concatenate([np.full(one.rows, (one.loss or 0.0) / max(1, one.items)) for one in predictions])


def joined(parts: Sequence[Any]) -> Any:
    """Join what batches gave, tuples field by field, along the rows; shorter ones are filled with -100.

    Examples
    --------
    >>> joined([np.array([[1, 2]]), np.array([[3]])])
    array([[   1,    2],
           [   3, -100]])
    """
    if not parts or any(part is None for part in parts):
        return None
    if isinstance(parts[0], (tuple, list)):
        return tuple(joined([part[number] for part in parts]) for number in range(len(parts[0])))
    arrays = [np.atleast_1d(np.asarray(part)) for part in parts]
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    if len({(array.ndim, *array.shape[2:]) for array in arrays}) != 1:
        raise ValueError(
            f"Trainer: expected predictions of batches that differ in length alone, got {arrays[0].shape} and "
            f"{next(array.shape for array in arrays if array.shape[2:] != arrays[0].shape[2:])}"
        )
    longest = max(array.shape[1] for array in arrays)
    whole = np.full((sum(map(len, arrays)), longest, *arrays[0].shape[2:]), FILL, dtype=arrays[0].dtype)
    start = 0
    for array in arrays:
        whole[start : start + len(array), : array.shape[1]] = array
        start += len(array)
    return whole


def plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return measures with NumPy's and PyTorch's numbers as Python's, which JSON takes.

    Examples
    --------
    >>> plain({"f1": np.float32(0.5), "confusion": np.eye(2, dtype=int)})
    {'f1': 0.5, 'confusion': [[1, 0], [0, 1]]}
    """
    return {str(name): value.tolist() if hasattr(value, "tolist") else value for name, value in metrics.items()}


def prefixed(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return measures whose names all begin with a prefix.

    Examples
    --------
    >>> prefixed({"f1": 0.5, "eval_loss": 1.0}, "eval")
    {'eval_f1': 0.5, 'eval_loss': 1.0}
    """
    return {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value for name, value in metrics.items()}
