"""How far a score could have come out otherwise: intervals from resampling the examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def confidence_intervals(
    name: str,
    score: Callable[[np.ndarray], dict[str, Any]],
    examples: int,
    resamplings: int,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[Any, Any]]:
    """Return the percentile interval of each score over resamplings of the examples.

    A resampling draws N of N examples with replacement, each with its prediction and its references. The interval goes
    from the (1 - c)/2 to the (1 + c)/2 quantile of its scores (Efron and Tibshirani 1993, §13.3). It says how much
    depends on which examples were there, not how much on the training; and as it holds resampled scores, not the
    point between them, a score that few examples bear on may lie at its edge.

    Parameters
    ----------
    name : str
        The metric, for errors.
    score : callable
        From weights (N,), how often each example was drawn, to scores by name. Entries that are no fractional numbers
        (counts, names) have no interval; lists of numbers have one a place.
    examples : int, N
    resamplings : int
    confidence : float, c
    seed : int

    Raises
    ------
    ValueError
        If there are fewer than two examples, or a number is out of range.

    Examples
    --------
    >>> right = np.array([1.0, 1.0, 1.0, 0.0])
    >>> confidence_intervals("accuracy", lambda weights: {"accuracy": float(weights @ right / 4)}, 4, 1000)
    {'accuracy': (0.25, 1.0)}
    """
    if isinstance(resamplings, bool) or not isinstance(resamplings, (int, np.integer)) or resamplings < 1:
        raise ValueError(f"{name}: expected bootstrap as a positive number of resamplings, got {resamplings!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"{name}: expected confidence between 0 and 1, got {confidence!r}")
    if examples < 2:
        raise ValueError(f"{name}: expected at least 2 examples to resample, got {examples}")
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Any]] = {}
    for _ in range(resamplings):
        weights = np.bincount(rng.integers(examples, size=examples), minlength=examples).astype(np.float64)
        for key, value in score(weights).items():
            if np.asarray(value).dtype.kind == "f":
                drawn.setdefault(key, []).append(value)
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    # A score that some resamplings lack (no question without an answer was drawn) is taken over those that have it.
    return {key: _pair(np.quantile(np.asarray(values), ends, axis=0)) for key, values in drawn.items()}


def _pair(ends: np.ndarray) -> tuple[Any, Any]:
    low, high = ends.tolist()
    return low, high
