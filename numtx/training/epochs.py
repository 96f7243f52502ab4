"""Datasets to the batches of a fine-tuning: every batch a function of its number alone."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from numtx.text import (
    BatchOrder,
    DataCollatorWithPadding,
    Dataset,
    as_dataset,
    collator_rng,
    default_data_collator,
    row_lengths,
)

OWNER = "Trainer"
Collator = Callable[..., dict[str, Any]]


class Order(Protocol):
    """The rows of every batch."""

    def __len__(self) -> int: ...

    def at(self, step: int, /) -> np.ndarray | Sequence[int]: ...


class Batches:
    """The batches of a dataset, by number.

    Parameters
    ----------
    dataset : Dataset
    order : object with len and `at(number)`
    collator : callable
        A list of rows -> dict of arrays. One that draws has `draws = True` and is given `rng`.
    seed : int
        Of what the collator draws.
    """

    def __init__(self, dataset: Dataset, order: Order, collator: Collator, seed: int):
        self.dataset, self.order, self.collator, self.seed = dataset, order, collator, seed
        self.draws = bool(getattr(collator, "draws", False))

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.order)

    def at(self, number: int) -> dict[str, Any]:
        """Return a batch, counted over all epochs."""
        rows = [self.dataset[int(row)] for row in self.order.at(number)]
        drawn = {"rng": collator_rng(self.seed, number)} if self.draws else {}
        batch = self.collator(rows, **drawn)
        return {name: value for name, value in batch.items() if value is not None}


class Epochs:
    """The batches of each update: `accumulation` of them, fewer in the last of an epoch where they do not divide.

    Parameters
    ----------
    batches : Batches
    accumulation : int

    Attributes
    ----------
    steps : int, updates of an epoch
    skipped : int, updates left out so far, because epochs were ended early
    """

    def __init__(self, batches: Batches, accumulation: int):
        self.batches, self.accumulation = batches, accumulation
        self.steps = -(-len(batches) // accumulation)
        self.skipped = 0

    def __len__(self) -> int:
        return len(self.batches)

    def numbers(self, step: int) -> range:
        """Return the numbers of an update's batches."""
        epoch, update = divmod(step + self.skipped, self.steps)
        first = update * self.accumulation
        start = epoch * len(self.batches)
        return range(start + first, start + min(first + self.accumulation, len(self.batches)))

    def at_step(self, step: int) -> list[dict[str, Any]]:
        """Return the batches of an update, counted from 0."""
        return [self.batches.at(number) for number in self.numbers(step)]

    def epoch(self, step: int) -> float:
        """Return how many epochs are behind after `step` updates."""
        if step + self.skipped == 0:
            return 0.0
        whole, batch = divmod(self.numbers(step - 1)[-1], len(self.batches))
        return whole + (batch + 1) / len(self.batches)

    def fingerprint(self) -> str:
        """Return a hash of the data, which a run that goes on compares."""
        return rows_print({"": self.batches.dataset})


def known_dataset(source: Any, what: str) -> Dataset:
    """Return whatever holds rows as a dataset, if it has some."""
    dataset = as_dataset(source, owner=OWNER)
    if not len(dataset):
        raise ValueError(f"{OWNER}: expected at least one row in {what}, got none")
    return dataset


def chosen_collator(collator: Collator | None, tokenizer: Any) -> Collator:
    """Return the collator that was given, or the one that pads where the tokenizer can."""
    if collator is not None:
        if not callable(collator):
            raise ValueError(f"{OWNER}: expected a data_collator that can be called, got {type(collator).__name__}")
        return collator
    return DataCollatorWithPadding(tokenizer) if hasattr(tokenizer, "pad") else default_data_collator


def used_columns(dataset: Dataset, model: Any, label_names: Sequence[str], what: str) -> Dataset:
    """Return the dataset with the columns that the model takes, and labels.

    Raises
    ------
    ValueError
        If none is there, or `input_ids` is not.
    """
    taken = {*model_arguments(model), *label_names, *getattr(model, "label_names", ()), "label", "label_ids"}
    kept = [name for name in dataset.column_names if name in taken]
    if "input_ids" not in kept and "input_ids" in taken:
        there = ", ".join(dataset.column_names) or "none"
        raise ValueError(
            f"{OWNER}: expected a column input_ids in {what}, as a tokenizer makes it, got the columns {there}"
        )
    return dataset.select_columns(kept)


def model_arguments(model: Any) -> tuple[str, ...]:
    """Return the names that a model's batch may hold besides labels."""
    known = getattr(model, "arguments", None)
    if known is not None:
        return tuple(known)
    given = inspect.signature(model.forward).parameters.values()
    return tuple(one.name for one in given if one.kind is not one.VAR_KEYWORD and one.name not in ("rng", "keep"))


def training_order(dataset: Dataset, batch_size: int, seed: int, lengths: str | None, drop_last: bool) -> BatchOrder:
    """Return the order of the training's batches.

    Parameters
    ----------
    lengths : str or None
        The column where lengths stand, to make batches of rows of like length; where it is not there, the tokens of
        `input_ids` are counted.
    """
    found = None
    if lengths is not None:
        found = list(dataset[lengths]) if lengths in dataset.column_names else row_lengths(dataset, owner=OWNER)
    if drop_last and len(dataset) < batch_size:
        raise ValueError(
            f"{OWNER}: expected at least {batch_size} rows in train_dataset with dataloader_drop_last, "
            f"got {len(dataset)}"
        )
    return BatchOrder(len(dataset), batch_size, seed, lengths=found, drop_last=drop_last)


def rows_print(datasets: Mapping[str, Dataset]) -> str:
    """Return how many rows datasets have, by their names, and a hash of all columns."""
    digest = hashlib.sha256()
    for name, dataset in datasets.items():
        digest.update(f"{name} {len(dataset)}|".encode())
        for column in dataset.column_names:
            digest.update(column.encode())
            for value in dataset[column]:
                _feed(digest, value)
    return f"{sum(map(len, datasets.values()))} rows, sha256 {digest.hexdigest()[:16]}"


def _feed(digest: Any, value: Any) -> None:
    """Let a hash see a value: the numbers of an array with its shape, the parts of what is none."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal length
        array = np.empty(len(value), object)
    if array.dtype.kind in "iufb":
        digest.update(f"{array.shape}".encode())
        digest.update(array.astype("<f8" if array.dtype.kind == "f" else "<i8").tobytes())
    elif array.ndim:
        digest.update(f"[{len(value)}]".encode())
        for part in value:
            _feed(digest, part)
    else:
        digest.update(f"{value!r}|".encode())
