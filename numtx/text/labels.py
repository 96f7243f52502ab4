"""Classes and their numbers: names to numbers, and numbers that are none of the classes."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

IGNORED = -100  # a label that costs nothing, as models have it


def encode_labels(
    values: Sequence[Any], names: Sequence[str] | None = None, *, column: str = "label"
) -> tuple[list[int], list[str]]:
    """Number classes, or lists of them, and return the numbers and the names by number.

    Parameters
    ----------
    values : sequence of str or int, or of lists of them
        Classes are ordered by name; where all are whole numbers, by number.
    names : sequence of str, optional
        The order to use instead, of a model that knows it, say.
    column : str
        What the values are, for messages.

    Raises
    ------
    ValueError
        If a value is none of `names`, or no text and no whole number.

    Examples
    --------
    >>> encode_labels(["good", "bad", "good"])
    ([1, 0, 1], ['bad', 'good'])
    """
    flat = list(_flat(values))
    if names is None:
        kinds = {type(value) for _, value in flat}
        if wrong := kinds - {str, int, np.str_, np.int64, bool}:
            raise ValueError(f"encode_labels: expected text or whole numbers in {column}, got {wrong.pop().__name__}")
        different = {value for _, value in flat}
        ordered = (
            sorted(different)
            if len({isinstance(value, str) for value in different}) == 1
            else sorted(map(str, different))
        )
        names = [str(value) for value in ordered]
    numbers = {str(name): number for number, name in enumerate(names)}
    if len(numbers) != len(names):
        raise ValueError("encode_labels: expected each class once, got one twice")
    for row, value in flat:
        if str(value) not in numbers:
            raise ValueError(f"encode_labels: expected one of {_some(names)} in {column}, got {value!r} in row {row}")
    return _numbered(values, numbers), [str(name) for name in names]


def check_labels(labels: Iterable[Any], num_labels: int, *, owner: str = "check_labels", column: str = "label") -> None:
    """Require classes from 0 to `num_labels` - 1, in lists or not; -100, in a list, stands for none.

    Raises
    ------
    ValueError
        In the name of `owner`: the first label that is no class, with its row.

    Examples
    --------
    >>> check_labels([0, 2], 2)
    Traceback (most recent call last):
        ...
    ValueError: check_labels: expected label from 0 to 1, got 2 in row 1
    """
    for row, given in enumerate(labels):
        values = np.asarray(given)
        if values.dtype.kind not in "iu" and values.size:
            got = repr(given)[:40]
            raise ValueError(f"{owner}: expected {column} from 0 to {num_labels - 1}, got {got} in row {row}")
        asked = values[values != IGNORED] if values.ndim else values.reshape(1)
        wrong = asked[(asked < 0) | (asked >= num_labels)]
        if wrong.size:
            raise ValueError(f"{owner}: expected {column} from 0 to {num_labels - 1}, got {wrong[0]} in row {row}")


def _flat(values: Iterable[Any]) -> Iterable[tuple[int, Any]]:
    """Every value with its row."""
    for row, value in enumerate(values):
        if isinstance(value, (list, tuple, np.ndarray)):
            for one in value:
                yield row, one
        else:
            yield row, value


def _numbered(values: Iterable[Any], numbers: dict[str, int]) -> list[Any]:
    return [
        [numbers[str(one)] for one in value] if isinstance(value, (list, tuple, np.ndarray)) else numbers[str(value)]
        for value in values
    ]


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(str(name) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown}, ... ({len(names)} classes)"
