"""What a Trainer's callbacks see and what its methods return, by the names that Transformers has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np


@dataclass
class TrainerState:
    """How far a training has come; saved in each checkpoint.

    Attributes
    ----------
    epoch : float, with the part of the present one
    global_step, max_steps : int, updates made, and of the whole training
    num_train_epochs : int
    logging_steps, eval_steps, save_steps : int
        Steps between two; 0 where they do not go by steps.
    train_batch_size : int
    log_history : list of dict
    best_metric, best_global_step, best_model_checkpoint
        Of the best evaluation so far, by `metric_for_best_model`.
    is_world_process_zero, is_local_process_zero : bool
    """

    epoch: float = 0.0
    global_step: int = 0
    max_steps: int = 0
    num_train_epochs: int = 0
    logging_steps: int = 0
    eval_steps: int = 0
    save_steps: int = 0
    train_batch_size: int = 0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_world_process_zero: bool = True
    is_local_process_zero: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return what is saved, in JSON's types."""
        return asdict(self)


@dataclass
class TrainerControl:
    """What callbacks ask of the loop; each flag holds until what it asks for is done.

    Attributes
    ----------
    should_training_stop, should_epoch_stop : bool
        After the running step. Training ends; or the rest of the epoch is left out.
    should_log, should_evaluate, should_save : bool
        After the running step.
    """

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_log: bool = False
    should_evaluate: bool = False
    should_save: bool = False


class TrainOutput(NamedTuple):
    """What `Trainer.train` returns: steps made, the mean of their losses, and runtimes."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class PredictionOutput(NamedTuple):
    """What `Trainer.predict` returns; `label_ids` is None where the data have no labels.

    The arrays have the rows of the data in their order; what is longer in some rows is filled with -100 in others. Of
    several outputs or labels (spans of answers) there is a tuple.
    """

    predictions: Any
    label_ids: Any
    metrics: dict[str, Any]


class EvalPrediction:
    """What `compute_metrics` is given; it unpacks as (predictions, label_ids) and what was asked for besides.

    Attributes
    ----------
    predictions, label_ids : array, or tuple of arrays
    inputs : array or None
        The input ids, with `include_for_metrics=["inputs"]`.
    losses : (N,) array or None
        The mean loss of each row's batch, with `include_for_metrics=["loss"]`.

    Examples
    --------
    >>> predictions, labels = EvalPrediction(np.zeros((2, 3)), np.zeros(2))
    >>> predictions.shape, labels.shape
    ((2, 3), (2,))
    """

    def __init__(
        self, predictions: Any, label_ids: Any, inputs: np.ndarray | None = None, losses: np.ndarray | None = None
    ):
        self.predictions, self.label_ids, self.inputs, self.losses = predictions, label_ids, inputs, losses

    def _given(self) -> tuple[Any, ...]:
        more = [one for one in (self.inputs, self.losses) if one is not None]
        return (self.predictions, self.label_ids, *more)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._given())

    def __len__(self) -> int:
        return len(self._given())

    def __getitem__(self, number: int) -> Any:
        return self._given()[number]
