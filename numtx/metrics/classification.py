"""Metrics of classes: how often the right one was said, and which mistakes were made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from numtx.metrics.labels import Labels, read_labels, read_weights
from numtx.metrics.metric import Measured, Metric

FEATURES = {"predictions": "int32", "references": "int32"}
AVERAGES = ("binary", "micro", "macro", "weighted", None)


class Accuracy(Metric):
    """The part of the examples whose class is right.

    Examples
    --------
    >>> Accuracy().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
    {'accuracy': 0.75}
    """

    name = "accuracy"
    description = (
        "The part of the examples whose predicted class is the reference: right / all. Classes are integers or strings."
    )
    features = FEATURES

    def measure(self, predictions, references, normalize: bool = True, sample_weight: Sequence[float] | None = None):
        """Go through classes.

        Parameters
        ----------
        predictions, references : list of int or str
        normalize : bool
            False gives the weight of the right examples, not their part.
        sample_weight : (N,) array, optional
        """
        labels = read_labels(self.name, predictions, references)
        weight = read_weights(self.name, sample_weight, len(references))
        right = weight * (labels.predicted == labels.true)

        def score(times):
            return {"accuracy": float(times @ right / (times @ weight if normalize else 1.0))}

        return Measured(len(references), score)


class _OfClasses(Metric):
    """Precision, recall and F1: a quotient of counts for each class, and an average over the classes.

    For a class, tp examples are of it and were called so, p were called so, t are of it:

        precision = tp / p        recall = tp / t        F1 = 2 tp / (p + t)
    """

    features = FEATURES

    _quotient: Callable[..., tuple[np.ndarray, np.ndarray]]  # from tp, called and true: numerator and denominator

    def measure(
        self,
        predictions,
        references,
        labels: Sequence[Any] | None = None,
        pos_label: Any = 1,
        average: str | None = "binary",
        sample_weight: Sequence[float] | None = None,
        zero_division: Any = "warn",
    ):
        """Go through classes.

        Parameters
        ----------
        predictions, references : list of int or str
        labels : list, optional
            Which classes are averaged over, and their order with ``average=None``; all there are if None. A class that
            never occurs counts as a quotient without denominator.
        pos_label : int or str
            Of which class the score is with ``average="binary"``.
        average : "binary", "micro", "macro", "weighted" or None
            The score of `pos_label`, where there are two classes; of the counts summed over classes; the mean over
            classes; the mean weighted by how many examples are of each; or the score of each class, as an array.
        sample_weight : (N,) array, optional
        zero_division : "warn", 0, 1 or nan
            The score where the denominator is zero: "warn" means 0 with a warning; with nan the class is left out of an
            average.
        """
        read = read_labels(self.name, predictions, references)
        weight = read_weights(self.name, sample_weight, len(references))
        value = _zero_division(self.name, zero_division)
        kept = self._classes(read, labels, pos_label, average)
        count = _counter(read, weight, kept)

        def score(times):
            counts = count(times)  # (3, L)
            if average == "micro":
                counts = counts.sum(axis=1, keepdims=True)
            scores = _divided(*self._quotient(*counts), value)
            if average is not None:
                return {self.name: _average(scores, counts[2] if average == "weighted" else None)}
            return {self.name: float(scores[0]) if scores.size == 1 else scores}  # as evaluate

        if zero_division == "warn":
            counts = count(np.ones(len(references)))
            self._warn(counts.sum(axis=1, keepdims=True) if average == "micro" else counts)
        return Measured(len(references), score)

    def _classes(self, read: Labels, labels, pos_label, average) -> np.ndarray:
        """Return the places in `read.classes` of the classes that count; -1 for one that does not occur."""
        if average not in AVERAGES:
            raise ValueError(f"{self.name}: expected average binary, micro, macro, weighted or None, got {average!r}")
        if average == "binary":
            if len(read.classes) > 2:
                raise ValueError(
                    f"{self.name}: expected another average than binary (micro, macro, weighted or None) for"
                    f" {len(read.classes)} classes, got binary"
                )
            if pos_label not in read.classes and len(read.classes) == 2:
                raise ValueError(f"{self.name}: expected pos_label among the classes {read.shown()}, got {pos_label!r}")
            return read.places([pos_label])
        if pos_label not in (None, 1):
            warnings.warn(
                f"{self.name}: pos_label counts with average='binary' alone, and is ignored with {average!r}",
                UserWarning,
                stacklevel=4,
            )
        if labels is None:
            return np.arange(len(read.classes))
        chosen = list(labels)
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"{self.name}: expected labels that are all different, got {chosen}")
        return read.places(chosen)

    def _warn(self, counts):
        if np.any(self._quotient(*counts)[1] == 0):
            warnings.warn(
                f"{self.name}: a class without examples in its denominator counts as 0; zero_division says otherwise",
                UserWarning,
                stacklevel=4,
            )


class Precision(_OfClasses):
    """Of the examples that were called a class, the part that is of it: tp / (tp + fp).

    Examples
    --------
    >>> Precision().compute(predictions=[0, 0, 1, 1, 0], references=[0, 1, 0, 1, 0])
    {'precision': 0.5}
    """

    name = "precision"
    description = (
        "Of the examples that were called a class, the part that is of it: tp / (tp + fp). Averages and zero_division"
        " are scikit-learn's."
    )

    def _quotient(self, tp, called, true):
        return tp, called


class Recall(_OfClasses):
    """Of the examples of a class, the part that was called so: tp / (tp + fn).

    Examples
    --------
    >>> Recall().compute(predictions=[0, 1, 0, 1], references=[0, 0, 1, 1], average="macro")
    {'recall': 0.5}
    """

    name = "recall"
    description = (
        "Of the examples of a class, the part that was called so: tp / (tp + fn). Averages and zero_division are"
        " scikit-learn's."
    )

    def _quotient(self, tp, called, true):
        return tp, true


class F1(_OfClasses):
    """The harmonic mean of precision and recall: 2 tp / (2 tp + fp + fn).

    Examples
    --------
    >>> F1().compute(predictions=[0, 2, 1, 0, 0, 1], references=[0, 1, 2, 0, 1, 2], average=None)
    {'f1': array([0.8, 0. , 0. ])}
    """

    name = "f1"
    description = (
        "The harmonic mean of precision and recall: 2 tp / (2 tp + fp + fn). Averages and zero_division are"
        " scikit-learn's; macro is the mean of the classes' F1, not the F1 of mean precision and recall."
    )

    def _quotient(self, tp, called, true):
        return 2 * tp, called + true


class MatthewsCorrelation(Metric):
    """The correlation of predicted and true classes.

        (c n - Σ pₖ tₖ) / √((n² - Σ pₖ²) (n² - Σ tₖ²))

    where c of n examples are right, pₖ were called class k, and tₖ are of it (Gorodkin 2004). 0 where only one class
    was predicted, or there is only one.

    Examples
    --------
    >>> result = MatthewsCorrelation().compute(predictions=[1, 2, 2, 0, 3, 3], references=[1, 3, 2, 0, 3, 2])
    >>> round(result["matthews_correlation"], 2)
    0.54
    """

    name = "matthews_correlation"
    description = (
        "The correlation of predicted and true classes, for two or more: 1 if all are right, 0 for guessing, also with"
        " unequal classes (Matthews 1975, Gorodkin 2004)."
    )
    features = FEATURES

    def measure(self, predictions, references, sample_weight: Sequence[float] | None = None):
        """Go through classes; `sample_weight` is an (N,) array."""
        read = read_labels(self.name, predictions, references)
        weight = read_weights(self.name, sample_weight, len(references))
        count = _counter(read, weight, np.arange(len(read.classes)))

        def score(times):
            right, called, true = count(times)  # (K,) each
            n = called.sum()
            spread = (n * n - called @ called) * (n * n - true @ true)
            if spread == 0:
                return {self.name: 0.0}
            return {self.name: float((right.sum() * n - called @ true) / np.sqrt(spread))}

        return Measured(len(references), score)


def _counter(read: Labels, weight: np.ndarray, kept: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from weights (N,) to the counts of tp, called and true, (3, L), of the classes `kept`."""
    size, right = len(read.classes), read.predicted == read.true

    def count(times):
        times = times * weight
        counts = np.stack(
            [
                np.bincount(read.true[right], times[right], size),
                np.bincount(read.predicted, times, size),
                np.bincount(read.true, times, size),
            ]
        )
        return np.where(kept >= 0, counts[:, kept], 0.0)

    return count


def _divided(numerator, denominator, value):
    """Return the quotients, and `value` where there is nothing to divide by."""
    nothing = denominator == 0
    return np.where(nothing, value, numerator / np.where(nothing, 1.0, denominator))


def _average(scores, weights) -> float:
    """Return the mean of what is not NaN, weighted unless all weights are zero."""
    there = ~np.isnan(scores)
    if not there.any():
        return float("nan")
    if weights is None or weights[there].sum() == 0:
        return float(np.mean(scores[there]))
    return float(np.average(scores[there], weights=weights[there]))


def _zero_division(name, said) -> float:
    if said == "warn":
        return 0.0
    if isinstance(said, (int, float, np.number)) and (said in (0, 1) or np.isnan(said)):
        return float(said)
    raise ValueError(f"{name}: expected zero_division 'warn', 0, 1 or nan, got {said!r}")
