"""Where the first value that was not finite came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numtx import nn
from numtx.nn.trace import trace
from numtx.training.sharding import ShardedGradients


class NonFiniteError(ValueError, FloatingPointError):
    """A loss or gradient that is NaN or infinite. The weights are those before the step."""


def first_nonfinite(
    sharded: ShardedGradients, batches: dict[str, Any] | Sequence[dict[str, Any]], step: int
) -> str | None:
    """Compute a step again under a trace, with the same random numbers, and name what first was not finite.

    Returns
    -------
    str or None
        "parameter NAME", "the output of SITE", "the gradient of SITE", "the gradient of parameter NAME", or None if all
        was finite.
    """
    for name, array in sharded.model.named_parameters():
        if not np.isfinite(array).all():
            return f"parameter {name}"
    pieces = sharded.pieces(batches, step)
    num_items = sharded.num_items(pieces)
    for piece in pieces:
        with trace(sharded.model) as traced, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            _, grads = sharded.compute(piece, num_items)
        found = traced.first_nonfinite()
        if found is not None:
            site, what = found
            return f"the {what} of {site}"
        for name, gradient in nn.flatten(grads).items():
            if not np.isfinite(gradient).all():
                return f"the gradient of parameter {name}"
    return None
