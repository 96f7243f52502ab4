"""Files of rows for fine-tuning: read, cut into two parts, and the columns that a task needs found in them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from numtx.text import Dataset, as_dataset, encode_labels, split_corpus, split_rows
from numtx.text.corpus import TEXT_SUFFIXES

OWNER = "finetune"


def read_rows(source: Any, *, whole_text: bool = False, **settings: Any) -> Dataset:
    """Return the rows of a file, or of what `as_dataset` takes.

    Parameters
    ----------
    source : path, Dataset, list of dicts, dict of lists
    whole_text : bool
        A text file is one row, not a row a line.
    **settings
        Of the file's reader, as `encoding`.

    Raises
    ------
    ValueError
        If it cannot be read, or has no rows.
    """
    if isinstance(source, (str, Path)) and whole_text and Path(source).suffix.lower() in TEXT_SUFFIXES:
        settings = {"sample_by": "document"} | settings
    return as_dataset(source, OWNER, **settings).require(OWNER)


def hold_out(rows: Dataset, share: float, seed: int, classes: Sequence[Any] | None = None) -> tuple[Dataset, Dataset]:
    """Cut rows into what is trained on and what is held out: drawn from a seed, or the end of a single text.

    Parameters
    ----------
    rows : Dataset
    share : float
        Of the rows (of the text) that is held out.
    seed : int
    classes : sequence, optional
        The class of each row, or a list of its classes. Both parts have them in the same proportions, if each row has
        one and each class rows enough; and a class is never held out whole, one of its rows is trained on.

    Examples
    --------
    >>> [part.num_rows for part in hold_out(Dataset({"text": list("abcdefghij")}), 0.2, seed=0)]
    [8, 2]
    """
    if not 0 < share < 1:
        raise ValueError(f"{OWNER}: expected a share held out between 0 and 1, got {share}")
    if rows.num_rows == 1 and rows.column_names == ["text"]:
        train, rest = split_corpus(rows["text"][0], share)
        return Dataset({"text": [train]}), Dataset({"text": [rest]})
    if rows.num_rows < 2:
        raise ValueError(f"{OWNER}: expected 2 rows or more to hold some out, got {rows.num_rows}")
    each = [one if isinstance(one, (list, tuple)) else [one] for one in classes or [()] * rows.num_rows]
    counts = Counter(str(name) for one in each for name in one)
    enough = bool(counts) and min(counts.values()) >= 2 and len(counts) <= min(share, 1 - share) * rows.num_rows
    alone = classes is not None and not any(isinstance(one, (list, tuple)) for one in classes)
    for_train, drawn = split_rows(rows.num_rows, share, seed=seed, classes=classes if enough and alone else None)
    trained = {str(name) for row in for_train for name in each[row]}
    back = []
    for row in drawn:
        if lacking := {str(name) for name in each[row]} - trained:
            trained |= lacking
            back.append(row)
    if len(back) < len(drawn):  # else there is too little to hold anything out, as the task will say
        for_train, drawn = np.append(for_train, np.array(back, np.int64)), drawn[~np.isin(drawn, back)]
    return rows.select(for_train), rows.select(drawn)


def found_columns(
    rows: Dataset, wanted: Mapping[str, Sequence[str]], named: Mapping[str, str], optional: Sequence[str] = ()
) -> dict[str, str]:
    """Return the column of each role, as it was named, or else the first of its usual names that is there.

    Parameters
    ----------
    rows : Dataset
    wanted : dict
        The usual names of each role.
    named : dict
        The columns that were named, by role.
    optional : sequence of str
        Roles that may have no column.

    Raises
    ------
    ValueError
        If a column is missing, or there is no such role.

    Examples
    --------
    >>> rows = Dataset({"tweet": ["a"], "label": [0]})
    >>> found_columns(rows, {"text": ("text", "sentence"), "label": ("label",)}, {"text": "tweet"})
    {'text': 'tweet', 'label': 'label'}
    """
    if unknown := [role for role in named if role not in wanted]:
        raise ValueError(f"{OWNER}: expected columns for {', '.join(wanted)}, got one for {unknown[0]}")
    there, found = rows.column_names, {}
    for role, usual in wanted.items():
        if role in named:
            rows.require(OWNER, named[role])
            found[role] = named[role]
            continue
        column = next(
            (name for name in usual if name in there and name not in (*found.values(), *named.values())), None
        )
        if column is not None:
            found[role] = column
        elif role not in optional:
            raise ValueError(
                f"{OWNER}: expected a column {' or '.join(usual)}, or one named with --column {role}=NAME, "
                f"got a dataset with the columns {', '.join(there)}"
            )
    return found


def trained_classes(train: Sequence[Any], held_out: Sequence[Any], column: str) -> list[str]:
    """Return the classes of the training rows, by number.

    Raises
    ------
    ValueError
        If held-out rows have another.
    """
    _, names = encode_labels(train, column=column)
    _, others = encode_labels(held_out, column=column)
    if unknown := [name for name in others if name not in names]:
        raise ValueError(
            f"{OWNER}: expected each class of {column} in the training rows, got {', '.join(unknown[:3])} in held-out "
            "rows alone"
        )
    return names


def texts(rows: Dataset, column: str) -> list[str]:
    """Return a column of texts, if all are text and not empty.

    Raises
    ------
    ValueError
        With the first row where it is not.
    """
    for number, value in enumerate(rows[column]):
        if not isinstance(value, str) or not value.strip():
            got = "an empty one" if isinstance(value, str) else f"{value!r:.40}"
            raise ValueError(f"{OWNER}: expected a text as {column} in row {number}, got {got}")
    return rows[column]
