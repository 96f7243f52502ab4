"""Hashes of the arrays that a run is made of, by which it is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from numtx import nn

DIGITS = 12  # of a hash: enough to tell texts apart


def frozen_print(model: Any) -> str | None:
    """Return a hash of a model's frozen weights, which no optimizer holds; None where there are none."""
    frozen = list(model.frozen_parameters())
    return batches_print([dict(frozen)]) if frozen else None


def base_print(model: Any) -> str | None:
    """Return a hash of the weights that a model's adapter stands on, which no checkpoint holds; None without one."""
    if getattr(model, "adapter", None) is None:
        return None
    own = model.adapter_names()
    return batches_print([{name: array for name, array in model.named_parameters() if name not in own}])


def batches_print(batches: Sequence[Any]) -> str:
    """Return a hash of batches: dicts of arrays, or tuples."""
    digest = hashlib.sha256()
    for batch in batches:
        arrays = batch if isinstance(batch, dict) else dict(enumerate(batch))
        for name, array in nn.flatten({str(name): np.asarray(array) for name, array in arrays.items()}).items():
            digest.update(f"{name} {array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:DIGITS]
