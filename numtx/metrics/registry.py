"""The metrics by their names."""

from __future__ import annotations

import importlib

from numtx.functional.door import nearest
from numtx.metrics.metric import Metric

# The name of `evaluate` -> module and class.
METRICS = {
    "accuracy": ("classification", "Accuracy"),
    "bleu": ("translation", "Bleu"),
    "chrf": ("translation", "ChrF"),
    "exact_match": ("exact_match", "ExactMatch"),
    "f1": ("classification", "F1"),
    "matthews_correlation": ("classification", "MatthewsCorrelation"),
    "meteor": ("meteor", "Meteor"),
    "perplexity": ("perplexity", "Perplexity"),
    "precision": ("classification", "Precision"),
    "recall": ("classification", "Recall"),
    "rouge": ("rouge", "Rouge"),
    "sacrebleu": ("translation", "SacreBleu"),
    "squad": ("squad", "Squad"),
    "squad_v2": ("squad", "SquadV2"),
}


def load(name: str) -> Metric:
    """Return a metric by its name.

    Raises
    ------
    ValueError
        If there is none of this name; the message lists those that there are, and the nearest.

    Examples
    --------
    >>> load("accuracy").compute(predictions=[0, 1, 1], references=[0, 1, 0])["accuracy"]
    0.6666666666666666
    >>> load("acuracy")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: metrics: expected a metric of accuracy, bleu, ..., got 'acuracy'; the nearest is 'accuracy'
    """
    if not isinstance(name, str) or name not in METRICS:
        near = nearest(str(name).lower().replace("-", "_"), METRICS)
        raise ValueError(f"metrics: expected a metric of {', '.join(METRICS)}, got {name!r}{near}")
    module, kind = METRICS[name]
    return getattr(importlib.import_module(f"numtx.metrics.{module}"), kind)()
