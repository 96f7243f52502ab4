"""Whether a dataset fits a model, asked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from numtx.models.tasks import (
    CausalLM,
    QuestionAnswering,
    Seq2SeqLM,
    SequenceClassification,
    TokenClassification,
)
from numtx.text import Dataset, check_labels, default_data_collator
from numtx.training.epochs import OWNER, Batches

LABEL_COLUMNS = ("labels", "label", "label_ids")


def check_features(dataset: Dataset, model: Any, what: str, collator: Any = default_data_collator) -> None:
    """Refuse ids that are none of the vocabulary, rows that are too long, and labels outside of the model's range.

    A collator of the user's own may make labels of others; what stands in the rows is then not asked for.

    Raises
    ------
    ValueError
        With the row and what was expected there.
    """
    as_they_are = getattr(collator, "__module__", "").startswith("numtx.")
    if "input_ids" in dataset.column_names:
        _check_tokens(dataset, dataset.column_names, model, what)
        if isinstance(model, QuestionAnswering):
            _check_positions(dataset, model, what)
    for name in LABEL_COLUMNS:
        if name in dataset.column_names:
            _check_label_column(dataset[name], model, name, what, as_they_are)
            of_tokens = isinstance(model, (CausalLM, TokenClassification)) and not isinstance(model, Seq2SeqLM)
            if as_they_are and of_tokens and "input_ids" in dataset.column_names:
                _check_beside(dataset, name, None, what)


def _check_tokens(columns: Any, names: Iterable[str], model: Any, what: str) -> None:
    """Refuse ids, masks and token types, of a dataset or of a batch, that the model does not take."""
    config = getattr(model, "config", None)
    _check_ids(columns["input_ids"], getattr(config, "vocab_size", None), getattr(config, "context", None), what)
    for name, limit in (("attention_mask", None), ("token_type_ids", getattr(config, "type_vocab_size", None))):
        if name in names:
            _check_beside(columns, name, limit, what)


def _check_beside(columns: Any, name: str, limit: int | None, what: str) -> None:
    """Refuse a column that has not as many numbers as there are ids in each row, or others than its `limit` ones."""
    beside, every = columns[name], columns["input_ids"]
    if len(beside) != len(every):
        raise ValueError(f"{OWNER}: expected {name} of {what} for each of {len(every)} rows, got {len(beside)}")
    for number, (row, ids) in enumerate(zip(beside, every, strict=True)):
        values, length = np.asarray(row), np.shape(ids)[-1]
        if row is None or not values.ndim:  # no list of numbers is another matter, and told elsewhere
            continue
        if values.shape[-1] != length:
            got = f"{values.shape[-1]} in row {number}"
            raise ValueError(f"{OWNER}: expected {name} of {what} for each of {length} input_ids, got {got}")
        if limit is not None and values.size and (values.min() < 0 or values.max() >= limit):
            got = f"{values.min() if values.min() < 0 else values.max()} in row {number}"
            raise ValueError(f"{OWNER}: expected {name} of {what} from 0 to {limit - 1}, got {got}")


def _check_ids(column: Sequence[Any], vocabulary: int | None, longest: int | None, what: str) -> None:
    for number, row in enumerate(column):
        ids = np.asarray(row)
        if not ids.size or ids.dtype.kind not in "iu":
            got = "none" if not ids.size else repr(row)[:40]
            raise ValueError(f"{OWNER}: expected ids in input_ids of row {number} of {what}, got {got}")
        if longest is not None and ids.shape[-1] > longest:
            raise ValueError(
                f"{OWNER}: expected at most the model's {longest} tokens in row {number} of {what}, got "
                f"{ids.shape[-1]}: cut them with the tokenizer (truncation=True, max_length={longest})"
            )
        if vocabulary is not None and (ids.min() < 0 or ids.max() >= vocabulary):
            got = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(
                f"{OWNER}: expected input_ids from 0 to {vocabulary - 1} in row {number} of {what}, got {got} "
                "(is this the model's tokenizer?)"
            )


def _check_positions(dataset: Dataset, model: QuestionAnswering, what: str) -> None:
    """Refuse places of answers that their row does not have.

    From the model's context on, where no row reaches, they mean what they do in Transformers: an answer that was cut
    off, which the loss leaves out.
    """
    context = getattr(model.config, "context", None)
    there = [name for name in model.label_names if name in dataset.column_names]
    cut = "" if context is None else f" (or, ignored as cut off, from {context} on)"
    for number, row in enumerate(dataset):
        tokens = np.flatnonzero(row["attention_mask"]) if "attention_mask" in row else np.arange(len(row["input_ids"]))
        last = tokens[-1] if len(tokens) else 0
        for name in there:
            place = np.asarray(row[name])
            if place.dtype.kind not in "iu" or place.size != 1:
                got = f"{row[name]!r} in row {number}"
                raise ValueError(f"{OWNER}: expected a whole number as {name} of {what}, got {got}")
            at = int(place.reshape(()))
            if at < 0 or (at > last and (context is None or at < context)):
                got = f"{at} in row {number}{cut}"
                raise ValueError(f"{OWNER}: expected {name} of {what} from 0 to {last}, got {got}")


def _check_label_column(column: Sequence[Any], model: Any, name: str, what: str, as_they_are: bool) -> None:
    where = f"{name} of {what}"
    if isinstance(model, SequenceClassification):
        first = np.asarray(column[0])
        if first.dtype.kind not in "iufb":
            raise ValueError(f"{OWNER}: expected numbers in {where}, got {column[0]!r} in row 0 (encode_labels)")
        if (problem := model.problem(first)) != "single_label_classification":
            if as_they_are:
                _check_numbers(column, model.config.num_labels, problem, where)
            return
        if first.dtype.kind == "f":
            raise ValueError(f"{OWNER}: expected whole numbers in {where}, got {column[0]!r} in row 0")
        check_labels(column, model.config.num_labels, owner=OWNER, column=where)
    elif isinstance(model, TokenClassification):  # and what else gives each place one of its classes
        check_labels(column, model.classes, owner=OWNER, column=where)
    elif isinstance(model, CausalLM):
        check_labels(column, model.config.vocab_size, owner=OWNER, column=where)


def _check_numbers(column: Sequence[Any], count: int, problem: str, where: str) -> None:
    """Refuse labels of a regression that are not finite, and of several classes that are no shares of 1."""
    shares = problem != "regression"
    said = "numbers from 0 to 1" if shares else "finite numbers"
    for number, row in enumerate(column):
        values = np.asarray(row)
        if values.dtype.kind not in "iufb" or values.size != count:
            raise ValueError(f"{OWNER}: expected {count} numbers as {where}, got {row!r:.40} in row {number}")
        if not np.isfinite(values).all() or (shares and (values.min() < 0 or values.max() > 1)):
            raise ValueError(f"{OWNER}: expected {said} as {where}, got {row!r:.40} in row {number}")


def check_first_batch(
    batches: Batches, model: Any, label_names: Sequence[str], what: str, label_smoothing: float = 0.0
) -> None:
    """Refuse a dataset whose first batch lacks labels or is none for this model, and labels not to be smoothed."""
    first = batches.at(0)
    there = [name for name in label_names if name in first]
    wanted = " and ".join(label_names) if isinstance(model, QuestionAnswering) else "labels"
    if not there:
        columns = ", ".join(batches.dataset.column_names)
        more = "" if isinstance(model, (QuestionAnswering, Seq2SeqLM)) else " (or label)"
        raise ValueError(f"{OWNER}: expected a column {wanted}{more} in {what}, got the columns {columns}")
    known = {*getattr(model, "arguments", first), *label_names}
    if unknown := [name for name in first if name not in known]:
        raise ValueError(
            f"{OWNER}: expected batches of {', '.join(sorted(known))}, got {', '.join(unknown)} too "
            "(remove_unused_columns=True leaves columns out)"
        )
    if "input_ids" in first:
        _check_tokens(first, first, model, f"the first batch of {what}")
    model.count_labels(first)  # the model's own checks
    if isinstance(model, SequenceClassification) and "labels" in first:
        labels = np.asarray(first["labels"])
        if (problem := model.problem(labels)) != "single_label_classification":
            _check_numbers(list(labels), model.config.num_labels, problem, f"labels of the first batch of {what}")
    if label_smoothing:
        try:
            model.loss(first, label_smoothing=label_smoothing)
        except (TypeError, ValueError) as error:
            got = f"{label_smoothing}: {error}"
            raise ValueError(f"{OWNER}: expected label_smoothing_factor 0 for this model, got {got}") from None
