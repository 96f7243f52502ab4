"""What every metric can do: take predictions and references, at once or in parts, and say what they are worth."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from numtx.metrics.bootstrap import confidence_intervals


@dataclass(frozen=True)
class Measured:
    """Examples that were gone through, ready to be scored: once as they are, or often with some of them repeated.

    Attributes
    ----------
    examples : int, N
    score : callable
        From weights (N,), how often each example counts, to scores by name.
    facts : dict
        What else the result holds, and no resampling changes: a signature, scores of single examples.
    """

    examples: int
    score: Callable[[np.ndarray], dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)


class Metric:
    """A metric by its name; `load` makes them.

    A subclass gives `name`, `description`, `features` and `measure`, whose further arguments are the metric's settings.

    Attributes
    ----------
    name : str
    description : str
        What it computes, and where implementations differ.
    features : dict
        What a prediction and a reference are; types have the names that `datasets` gives them.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    features: ClassVar[dict[str, Any]]
    measure: Callable[..., Measured]  # from predictions, references and the settings

    def __init__(self) -> None:
        self._predictions: list[Any] = []
        self._references: list[Any] = []

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of the metric's settings, in the order of its signature."""
        return tuple(inspect.signature(self.measure).parameters)[2:]

    @property
    def needs_references(self) -> bool:
        """Whether there is anything to compare predictions with."""
        return "references" in self.features

    def __len__(self) -> int:
        """Return how many examples were added and not yet computed."""
        return len(self._predictions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, features={self.features})"

    def add(self, *, prediction: Any, reference: Any = None) -> None:
        """Add one example to what the next `compute` is about."""
        references = [reference] if self.needs_references else None
        self.add_batch(predictions=[prediction], references=references)

    def add_batch(self, *, predictions: Sequence[Any], references: Sequence[Any] | None = None) -> None:
        """Add examples to what the next `compute` is about.

        Raises
        ------
        ValueError
            If there are not as many predictions as references.
        """
        got, wanted = self._listed("predictions", predictions), []
        if self.needs_references:
            if references is None:
                raise ValueError(f"{self.name}: expected references beside the predictions, got none")
            wanted = self._listed("references", references)
            if len(got) != len(wanted):
                raise ValueError(
                    f"{self.name}: expected as many predictions as references, got {len(got)} and {len(wanted)}"
                )
        elif references is not None:
            raise ValueError(f"{self.name}: expected predictions alone, got references too")
        self._predictions += got
        self._references += wanted

    def compute(
        self,
        *,
        predictions: Sequence[Any] | None = None,
        references: Sequence[Any] | None = None,
        bootstrap: int = 0,
        confidence: float = 0.95,
        seed: int = 0,
        **settings: Any,
    ) -> dict[str, Any]:
        """Return the scores of what was added and what is given here, by name.

        Parameters
        ----------
        predictions, references : sequence of length N
            As `features` has them.
        bootstrap : int
            With a number, the result has ``confidence_intervals``: by the name of each score the percentile interval
            over so many resamplings of the examples, (low, high); see `confidence_intervals`.
        confidence : float
            How much of the resampled scores an interval holds.
        seed : int
            Of the resampling.
        **settings
            The metric's own; `settings` has their names.

        Raises
        ------
        ValueError
            If there is no example, or unequally many predictions and references, one is not as `features` has it, or a
            setting is unknown or out of range.
        ImportError
            If the metric needs a package that is not installed; the message names the command.
        """
        if unknown := sorted(set(settings) - set(self.settings)):
            known = ", ".join((*self.settings, "bootstrap", "confidence", "seed"))
            raise ValueError(f"{self.name}: expected the settings {known}, got {', '.join(unknown)}")
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references)
        elif references is not None:
            raise ValueError(f"{self.name}: expected predictions beside the references, got none")
        got, wanted = self._predictions, self._references
        self._predictions, self._references = [], []
        if not got:
            raise ValueError(f"{self.name}: expected at least one prediction, got none")
        measured = self.measure(got, wanted, **settings)
        result = measured.score(np.ones(measured.examples))
        if bootstrap:
            intervals = confidence_intervals(
                self.name, measured.score, measured.examples, bootstrap, confidence=confidence, seed=seed
            )
            result = result | {"confidence_intervals": intervals}
        return result | measured.facts

    def _listed(self, what: str, given: Any) -> list[Any]:
        """Return a sequence, an array or a column of a dataset as a list."""
        if isinstance(given, (str, bytes, dict)) or not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
            raise ValueError(f"{self.name}: expected {what} as a list, got {type(given).__name__}")
        if getattr(given, "ndim", 1) == 0:
            raise ValueError(f"{self.name}: expected {what} as a list, got a single number")
        return [given[k] for k in range(len(given))] if not isinstance(given, (list, tuple)) else list(given)
