"""Initialisers. All draw in float64 and round, so that one seed gives the same weights in every dtype."""

import math

import numpy as np


def normal(shape, std, rng, dtype=np.float32):
    """Draw from N(0, std²). GPT-2 uses std 0.02."""
    return (np.random.default_rng(rng).standard_normal(shape) * std).astype(dtype)


def uniform(shape, bound, rng, dtype=np.float32):
    """Draw evenly from [-bound, bound)."""
    return np.random.default_rng(rng).uniform(-bound, bound, shape).astype(dtype)


def xavier_uniform(shape, rng, dtype=np.float32):
    """Draw evenly with bound √(6 / (fan_in + fan_out)): Glorot and Bengio (2010), eq. 16."""
    return uniform(shape, math.sqrt(6 / sum(shape)), rng, dtype)
