"""What every task of fine-tuning is asked: its data, its model's settings, its measures, and what to show of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from numtx.models.auto import AutoModel
from numtx.text import Dataset
from numtx.training.tasks.data import OWNER, found_columns, hold_out, read_rows


@dataclass(frozen=True)
class Table:
    """A part of a report."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """What a fine-tuned model does on held-out rows.

    Attributes
    ----------
    metrics : dict
        Measures beside the loss.
    baseline : dict
        Of the same names: what one reaches without a model.
    tables : list of Table
    confusion : (classes, classes) int array or None
        Rows: what is right; columns: what the model says.
    baseline_is : str
        What the baseline says.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    confusion: np.ndarray | None = None
    baseline_is: str = "what is most usual in the training rows"


@dataclass(frozen=True)
class Lengths:
    """How many tokens a row may have, and its target; None: as the task has it."""

    source: int | None = None
    target: int | None = None


class FineTuningTask:
    """A task with its data: rows to train on and rows held out.

    Parameters
    ----------
    data : path, or what `as_dataset` takes
    held_out : the same, optional
        Without it a share of `data` is held out.
    share : float
        That share.
    seed : int
        Which rows these are.
    columns : dict, optional
        The columns by role, where they are not called as usual.
    lengths : Lengths
    prefix : str, optional
        What stands before each source; for tasks that write. Without it: what the model's config says.
    **reading
        Of the files' reader.

    Attributes
    ----------
    train, held_out : Dataset
        As they were read.
    columns : dict, role to column
    """

    name: ClassVar[str]
    auto: ClassVar[type[AutoModel]]  # what opens a model with the head
    roles: ClassVar[dict[str, tuple[str, ...]]]  # the usual names of the columns
    optional: ClassVar[tuple[str, ...]] = ()
    metric: str = "loss"  # which decides what is best
    greater_is_better: bool = False
    measured: Mapping[str, bool] = MappingProxyType({})  # what `measures` gives, and whether more of it is better
    whole_text: ClassVar[bool] = False
    tokenizer_settings: ClassVar[dict[str, Any]] = {}  # with which the tokenizer is opened
    scores: ClassVar[bool] = True  # whether evaluation keeps the scores, or the loss alone
    writes: ClassVar[bool] = False  # a target, which has a length, for a source, which may have a prefix
    longest: ClassVar[int] = 512  # tokens of a row where nothing is said

    def __init__(
        self,
        data: Any,
        held_out: Any = None,
        *,
        share: float = 0.1,
        seed: int = 0,
        columns: Mapping[str, str] | None = None,
        lengths: Lengths | None = None,
        prefix: str | None = None,
        **reading: Any,
    ):
        rows = self.read(data, **reading)
        self.columns = found_columns(rows, self.roles, columns or {}, self.optional)
        self.lengths, self.prefix = lengths or Lengths(), prefix
        self.check_rows(rows)
        if held_out is None:
            self.train, self.held_out = hold_out(rows, share, seed, self.classes_of(rows))
        else:
            self.train = rows
            self.held_out = self.read(held_out, **reading).require(OWNER, *self.columns.values())
            self.check_rows(self.held_out)
        self.check()

    # --- what a task says of itself

    def read(self, source: Any, **reading: Any) -> Dataset:
        """Return the rows of a source."""
        return read_rows(source, whole_text=self.whole_text, **reading)

    def classes_of(self, rows: Dataset) -> Sequence[Any] | None:
        """Return the class of each row, or its classes, by which rows are held out; None where there are none."""
        return None

    def check_rows(self, rows: Dataset) -> None:
        """Refuse rows that the task cannot use, by their numbers in what was read: some of them are held out later."""

    def check(self) -> None:
        """Refuse what the parts lack, before a model is opened."""

    def model_settings(self, config: Any) -> dict[str, Any]:
        """Return the settings that the model is opened with, beside those of its config."""
        return {}

    def features(self, rows: Dataset, model: Any, tokenizer: Any) -> Dataset:
        """Return what the model reads of rows, and the labels."""
        raise TypeError(f"{type(self).__name__} is no task of its own")

    def collator(self, model: Any, tokenizer: Any) -> Any:
        """Return what makes a batch of features."""
        raise TypeError(f"{type(self).__name__} is no task of its own")

    def measures(self, predictions: Any, labels: Any) -> dict[str, float]:
        """Return the measures of the scores of the held-out rows; {} where the loss is all."""
        return {}

    def of_loss(self, loss: float) -> dict[str, float]:
        """Return what follows from the loss alone."""
        return {}

    def findings(self, model: Any, tokenizer: Any, predictions: Any, labels: Any) -> Findings:
        """Return what the fine-tuned model does on held-out rows. Scores and labels are None where not kept."""
        raise TypeError(f"{type(self).__name__} is no task of its own")

    # --- what tasks share

    def source_length(self, model: Any, tokenizer: Any) -> int:
        """Return how many tokens a row may have: no more than model and tokenizer take.

        Raises
        ------
        ValueError
            If more was asked for.
        """
        most = min(
            (one for one in (model.config.context, tokenizer.model_max_length) if one is not None), default=2**31
        )
        if self.lengths.source is None:
            return min(self.longest, most)
        if not 1 <= self.lengths.source <= most:
            raise ValueError(
                f"{OWNER}: expected a length from 1 to {most}, which is the model's, got {self.lengths.source}"
            )
        return self.lengths.source


def sample_rows(count: int, number: int, seed: int = 0) -> list[int]:
    """Return the numbers of some rows, drawn from a seed, in their order.

    Examples
    --------
    >>> len(sample_rows(100, 5)), sample_rows(3, 5)
    (5, [0, 1, 2])
    """
    if count <= number:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, number, replace=False).tolist())
