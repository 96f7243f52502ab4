"""What generate returns where more than the ids is asked for."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GenerateOutput:
    """The ids that were written, and how.

    Attributes
    ----------
    sequences : (R, T + new) int array
        R rows, `num_return_sequences` for each prompt, those of one prompt side by side.
    scores : tuple of (R, V) arrays or None
        What each token was chosen by, all settings applied; with beams, of each beam: log-probabilities.
    logits : tuple of (R, V) arrays or None
        What the model gave.
    sequences_scores : (R,) array or None
        Of beams: what they were ranked by. About -1e9 or less: a row that could not be filled, as fewer beams ended
        than `num_return_sequences`; what stands in it means nothing, and may be padding alone.
    beam_indices : (R, new) int array or None
        Of beams: the row of `scores` that each token came from; -1 behind the end.

    Examples
    --------
    >>> outputs = GenerateOutput(np.array([[1, 2]]))
    >>> outputs["sequences"] is outputs.sequences, outputs.scores
    (True, None)
    """

    sequences: np.ndarray
    scores: tuple[np.ndarray, ...] | None = None
    logits: tuple[np.ndarray, ...] | None = None
    sequences_scores: np.ndarray | None = None
    beam_indices: np.ndarray | None = None

    def __getitem__(self, name: str):
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)
