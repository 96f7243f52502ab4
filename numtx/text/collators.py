"""Features to batches: rows of different lengths padded to one, with the names and results that Transformers has.

A collator takes a list of features, dicts of what a tokenizer returned and of labels, and gives a dict of arrays. The
rows of a batch are as long as its longest. What has to be drawn is in `masking`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numtx.text.labels import IGNORED

Features = Sequence[Mapping[str, Any]]
Batch = dict[str, Any]


def default_data_collator(features: Features, return_tensors: str = "np") -> Batch:
    """Stack features of equal lengths; ``label``, a number, or ``label_ids``, a list of them, come as ``labels``.

    Labels that are whole numbers are int64, others float32. Text and what is None is left out.

    Parameters
    ----------
    features : list of dict
        With the same keys.
    return_tensors : {"np"}

    Raises
    ------
    ValueError
        If there are none, their keys or lengths differ, or something is no number.

    Examples
    --------
    >>> default_data_collator([{"input_ids": [5, 6], "label": 0}, {"input_ids": [7, 8], "label": 1}])
    {'labels': array([0, 1]), 'input_ids': array([[5, 6],
           [7, 8]])}
    """
    owner = "default_data_collator"
    only_arrays(owner, return_tensors)
    rows = checked_features(owner, features, text=True)
    first, batch = rows[0], Batch()
    given = next((name for name in ("label", "label_ids") if first.get(name) is not None), None)
    if given is not None:
        labels = stacked(owner, given, [row[given] for row in rows])
        whole = np.asarray(first[given]).dtype.kind in "iub"
        batch["labels"] = labels.astype(np.int64 if whole else np.float32)
    for name, value in first.items():
        if name not in ("label", "label_ids") and value is not None and not isinstance(value, str):
            batch[name] = stacked(owner, name, [row[name] for row in rows])
    return batch


@dataclass
class DefaultDataCollator:
    """`default_data_collator` as an object."""

    return_tensors: str = "np"

    def __call__(self, features: Features, return_tensors: str | None = None) -> Batch:
        return default_data_collator(features, return_tensors or self.return_tensors)


@dataclass
class DataCollatorWithPadding:
    """Pads what the tokenizer returned to the longest row of a batch; ``label`` and ``label_ids`` become ``labels``.

    Parameters
    ----------
    tokenizer : PretrainedTokenizer
        Anything with Transformers' ``pad``.
    padding : bool or {"longest", "max_length", "do_not_pad"}
    max_length : int, optional
        What "max_length" pads to.
    pad_to_multiple_of : int, optional
    return_tensors : {"np"}

    Examples
    --------
    >>> class Tokenizer:  # stands for a pretrained one
    ...     def pad(self, rows, **settings):
    ...         from numtx.text.lengths import pad_encodings
    ...         return pad_encodings(rows, pad_token_id=0).to_arrays()
    >>> DataCollatorWithPadding(Tokenizer())([{"input_ids": [5, 6], "label": 1}, {"input_ids": [7], "label": 0}])
    {'input_ids': array([[5, 6],
           [7, 0]]), 'attention_mask': array([[1, 1],
           [1, 0]]), 'labels': array([1, 0])}
    """

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "np"

    def __call__(self, features: Features) -> Batch:
        owner = type(self).__name__
        only_arrays(owner, self.return_tensors)
        batch = padded(self, checked_features(owner, features))
        for name in ("label", "label_ids"):
            if name in batch:
                batch["labels"] = batch.pop(name)
        return batch


@dataclass
class DataCollatorForTokenClassification:
    """Pads what the tokenizer returned, and ``labels`` (or ``label``), one a token, beside it with -100.

    The labels come as ``labels`` whatever they were called; Transformers leaves ``label`` as it is.

    Parameters
    ----------
    tokenizer, padding, max_length, pad_to_multiple_of, return_tensors
        As in `DataCollatorWithPadding`.
    label_pad_token_id : int
    """

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORED
    return_tensors: str = "np"

    def __call__(self, features: Features, return_tensors: str | None = None) -> Batch:
        owner = type(self).__name__
        only_arrays(owner, return_tensors or self.return_tensors)
        rows, labels = without_labels(checked_features(owner, features))
        batch = padded(self, rows)
        if labels is None:
            return batch
        tokens = [len(row["input_ids"]) for row in rows]
        for number, (label, length) in enumerate(zip(labels, tokens, strict=True)):
            if np.ndim(label) != 1 or len(label) != length:
                got = f"{len(label)} labels" if np.ndim(label) == 1 else f"labels of shape {np.shape(label)}"
                raise ValueError(f"{owner}: expected a label for each of {length} tokens in row {number}, got {got}")
        batch["labels"] = _filled(labels, batch["input_ids"].shape[1], self.label_pad_token_id, _side(self.tokenizer))
        return batch


@dataclass
class DataCollatorForSeq2Seq:
    """Pads the source as the tokenizer does, and ``labels`` (or ``label``), the target, with -100 to their own length.

    Parameters
    ----------
    tokenizer
        As in `DataCollatorWithPadding`.
    model : optional
        Where it has ``prepare_decoder_input_ids_from_labels``, as numtx's encoder-decoders have, the batch has
        ``decoder_input_ids`` too: the labels one place late.
    padding, max_length, pad_to_multiple_of, return_tensors
        As in `DataCollatorWithPadding`; "max_length" and the multiple hold for source and target.
    label_pad_token_id : int
    """

    tokenizer: Any
    model: Any = None
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORED
    return_tensors: str = "np"

    def __call__(self, features: Features, return_tensors: str | None = None) -> Batch:
        owner = type(self).__name__
        only_arrays(owner, return_tensors or self.return_tensors)
        rows, labels = without_labels(checked_features(owner, features))
        batch = padded(self, rows)
        if labels is None:
            return {**batch, "labels": None}
        for number, label in enumerate(labels):
            if np.ndim(label) != 1 or (np.size(label) and np.asarray(label).dtype.kind not in "iu"):
                raise ValueError(f"{owner}: expected a list of ids as labels in row {number}, got {str(label)[:40]}")
        batch["labels"] = _filled(labels, self._length(labels), self.label_pad_token_id, _side(self.tokenizer))
        prepare = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if prepare is not None:
            batch["decoder_input_ids"] = prepare(labels=batch["labels"])
        return batch

    def _length(self, labels: Sequence[Sequence[int]]) -> int:
        owner, lengths = type(self).__name__, [len(label) for label in labels]
        longest = max(lengths)
        if self.padding in (False, "do_not_pad"):
            if min(lengths) != longest:
                raise ValueError(
                    f"{owner}: expected labels of one length without padding, got {min(lengths)} to {longest}"
                )
            return longest
        if self.padding == "max_length" and self.max_length is not None:
            if longest > self.max_length:
                raise ValueError(
                    f"{owner}: expected labels of at most max_length {self.max_length}, got {longest}: cut them with "
                    f"the tokenizer (truncation=True, max_length={self.max_length})"
                )
            longest = self.max_length
        multiple = self.pad_to_multiple_of or 1
        return -(-longest // multiple) * multiple


# --- what collators share


def only_arrays(owner: str, return_tensors: str) -> None:
    """Require the one kind of tensors that there is."""
    if return_tensors != "np":
        raise ValueError(f"{owner}: expected return_tensors 'np', NumPy's arrays, got {return_tensors!r}")


def checked_features(owner: str, features: Features, *, text: bool = False) -> list[dict[str, Any]]:
    """Return features as dicts, if there are some, all with the same keys and, unless `text` may be, of numbers."""
    if not isinstance(features, Sequence) or not len(features):
        got = "none" if isinstance(features, Sequence) else type(features).__name__
        raise ValueError(f"{owner}: expected a list of features, not empty, got {got}")
    rows = [dict(row) if isinstance(row, Mapping) else getattr(row, "__dict__", None) for row in features]
    for number, row in enumerate(rows):
        if row is None:
            got = type(features[number]).__name__
            raise ValueError(f"{owner}: expected features that are dicts, got {got} as number {number}")
        if row.keys() != rows[0].keys():
            there, got = (", ".join(keys) for keys in (rows[0], row))
            raise ValueError(f"{owner}: expected the same columns in all features, got {there}, and {got} in {number}")
    for name, value in rows[0].items():
        if not text and isinstance(value, str):
            raise ValueError(
                f"{owner}: expected numbers in every column, got text in {name} (dataset.remove_columns takes it out)"
            )
    return rows


def without_labels(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Take ``label`` or ``labels`` out of features; labels that are all None are none."""
    name = "label" if "label" in rows[0] else "labels"
    labels = [row.pop(name, None) for row in rows]
    return rows, None if all(label is None for label in labels) else labels


def padded(collator: Any, rows: list[dict[str, Any]]) -> Batch:
    """Pad features with a collator's tokenizer and settings."""
    pad = getattr(collator.tokenizer, "pad", None)
    if pad is None:
        got = type(collator.tokenizer).__name__
        raise ValueError(f"{type(collator).__name__}: expected a pretrained tokenizer, which can pad, got {got}")
    return dict(
        pad(
            rows,
            padding=getattr(collator, "padding", True),
            max_length=getattr(collator, "max_length", None),
            pad_to_multiple_of=collator.pad_to_multiple_of,
            return_tensors="np",
        )
    )


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of nested lists; None where they are of unequal length themselves."""
    try:
        return np.shape(value)
    except ValueError:
        return None


def stacked(owner: str, name: str, values: Sequence[Any]) -> np.ndarray:
    """Make one array of a column, if its values are numbers of one shape."""
    try:
        array = np.array(values)
    except ValueError:
        lengths = [len(value) for value in values if hasattr(value, "__len__")]
        if len(lengths) == len(values) and len({*lengths}) == 1:  # it is lists within that differ
            row = next((k for k, value in enumerate(values) if _shape(value) != _shape(values[0])), 0)
            got = f"{str(values[row])[:40]} in row {row}"
            raise ValueError(f"{owner}: expected {name} of one shape in all rows, got {got}") from None
        raise ValueError(
            f"{owner}: expected {name} of one length, got {min(lengths, default=0)} to {max(lengths, default=0)} "
            "(DataCollatorWithPadding pads)"
        ) from None
    if array.dtype.kind not in "iufb":
        wrong = next((value for value in values if np.asarray(value).dtype.kind not in "iufb"), values[0])
        raise ValueError(f"{owner}: expected numbers in {name}, got {str(wrong)[:40]!r}")
    return array


def _side(tokenizer: Any) -> str:
    return getattr(tokenizer, "padding_side", "right")


def _filled(labels: Sequence[Any], length: int, fill: int, side: str) -> np.ndarray:
    filled = np.full((len(labels), length), fill, dtype=np.int64)  # (B, T)
    for row, label in zip(filled, labels, strict=True):
        row[slice(0, len(label)) if side == "right" else slice(length - len(label), length)] = label
    return filled
