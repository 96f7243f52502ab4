"""What generation asks of a model: a step, which takes the ids that are new and remembers those before."""

from typing import Protocol

import numpy as np


class DecodingStep(Protocol):
    """One sequence in the making (or B of them): takes the ids that are new and remembers those before."""

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Take new ids (B, T) and return the logits after the last of them, (B, V)."""
        ...


class ReorderableStep(DecodingStep, Protocol):
    """A step whose rows can change places, end, and go on twice."""

    def reorder(self, rows: np.ndarray) -> None:
        """Let row i go on from what row rows[i] has read so far; `rows` (B',) may be more or fewer than now."""
        ...
