"""Classes as they come: integers, strings, arrays of them; and what is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Labels:
    """Predicted and true classes as places in the sorted list of all that occur.

    Attributes
    ----------
    classes : list, K
    predicted, true : (N,) integer arrays
    """

    classes: list[Any]
    predicted: np.ndarray
    true: np.ndarray

    def places(self, labels: Sequence[Any]) -> np.ndarray:
        """Return where these classes stand; -1 for one that does not occur."""
        known = {label: place for place, label in enumerate(self.classes)}
        return np.array([known.get(label, -1) for label in labels])

    def shown(self) -> str:
        """The classes for a message."""
        more = ", ..." if len(self.classes) > 10 else ""
        return ", ".join(repr(one) for one in self.classes[:10]) + more


def read_labels(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> Labels:
    """Return classes as places in the list of all that occur.

    Raises
    ------
    ValueError
        If one is not a whole number or a string, or both kinds occur.

    Examples
    --------
    >>> read_labels("accuracy", ["b", "a"], ["a", "c"])
    Labels(classes=['a', 'b', 'c'], predicted=array([1, 0]), true=array([0, 2]))
    """
    labels = [
        _label(name, what, k, one)
        for what, given in (("prediction", predictions), ("reference", references))
        for k, one in enumerate(given)
    ]
    if len({type(one) for one in labels}) > 1:
        raise ValueError(f"{name}: expected classes that are all integers or all strings, got both")
    classes = sorted(set(labels))
    known = {label: place for place, label in enumerate(classes)}
    places = np.array([known[one] for one in labels], np.intp)
    return Labels(classes, places[: len(predictions)], places[len(predictions) :])


def read_weights(name: str, sample_weight: Sequence[float] | None, examples: int) -> np.ndarray:
    """Return the weights of the examples, (N,); ones if None.

    Raises
    ------
    ValueError
        If they are not N finite numbers that are not negative, and not all zero.
    """
    if sample_weight is None:
        return np.ones(examples)
    weights = np.asarray(sample_weight, np.float64)
    if weights.shape != (examples,):
        raise ValueError(f"{name}: expected a sample_weight for each of {examples} examples, got {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"{name}: expected sample_weight finite, not negative and not all zero, got another")
    return weights


def _label(name: str, what: str, k: int, one: Any) -> int | str:
    if isinstance(one, str):
        return str(one)
    if np.ndim(one) == 0:
        value = one.item() if hasattr(one, "item") else one
        if isinstance(value, (bool, int)) or (isinstance(value, float) and value.is_integer()):
            return int(value)
    got = f"an array {np.shape(one)}: take the argmax of scores" if np.ndim(one) else repr(one)
    raise ValueError(f"{name}: expected a class, an integer or a string, as {what} {k}, got {got}")
