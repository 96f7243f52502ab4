"""What a model returns: named fields, by Transformers' names."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CausalLMOutput:
    """The scores of a causal language model.

    Attributes
    ----------
    logits : (B, T, V) array
        Unnormalised log-probabilities of the token that follows each position.
    """

    logits: np.ndarray
