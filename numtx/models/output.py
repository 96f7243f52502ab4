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


@dataclass(frozen=True)
class LogProbsOutput:
    """What a model that ends in log-probabilities gives.

    Attributes
    ----------
    log_probs : (B, V) array, or (B, T, V) where each token has its own
        Their exponentials sum to one over the last axis.
    """

    log_probs: np.ndarray
