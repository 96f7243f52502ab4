"""Where the first value that was not finite came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from numtx import nn
from numtx.nn.trace import trace
from numtx.training.sharding import ShardedGradients


class NonFiniteError(ValueError, FloatingPointError):
    """A loss or gradient that is NaN or infinite.

    Met in a step, the weights are those before the step; met in an evaluation, those that were evaluated.
    """


def first_nonfinite(
    sharded: ShardedGradients, batches: dict[str, Any] | Sequence[dict[str, Any]], step: int
) -> str | None:
    """Compute a step again under a trace, with the same random numbers, and name what first was not finite.

    Returns
    -------
    str or None
        "parameter NAME", "the output of SITE", "the gradient of SITE", "the loss", "the gradient of parameter NAME", or
        None if all was finite: then it is a sum of pieces that was not.
    """
    if parameter := _nonfinite_parameter(sharded.model):
        return parameter
    pieces = sharded.pieces(batches, step)
    num_items = sharded.num_items(pieces)
    for piece in pieces:
        with trace(sharded.model) as traced, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            loss, grads = sharded.compute(piece, num_items)
        found = traced.first_nonfinite()
        if found is not None:
            site, what = found
            return f"the {what} of {site}"
        if not math.isfinite(loss):
            return "the loss"
        for name, gradient in nn.flatten(grads).items():
            if not np.isfinite(gradient).all():
                return f"the gradient of parameter {name}"
    return None


def first_nonfinite_sum(gradients: np.ndarray) -> str:
    """Say which sum overflowed where every piece of a step was finite, from the gradients summed over the pieces."""
    return "the gradients' norm" if np.isfinite(gradients).all() else "the sum of the gradients over the shards"


def first_nonfinite_evaluated(model: Any, batches: Iterable[dict[str, Any]]) -> str:
    """Compute the losses of an evaluation again until one is not finite, that one under a trace.

    Returns
    -------
    str
        "parameter NAME", "the output of SITE", or "the loss" if all before it was finite.
    """
    if parameter := _nonfinite_parameter(model):
        return parameter
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for batch in batches:
            if math.isfinite(model.loss(batch)):
                continue
            with trace(model) as traced:
                model.loss(batch)
            found = traced.first_nonfinite()
            return f"the output of {found[0]}" if found is not None else "the loss"
    return "the loss"


def _nonfinite_parameter(model: Any) -> str | None:
    for name, array in model.named_parameters():
        if not np.isfinite(array).all():
            return f"parameter {name}"
    return None
