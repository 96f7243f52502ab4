"""Weights that no mistake can hide behind: norms are not ones, biases not zeros."""

from collections.abc import Callable

import numpy as np
import pytest

from numtx import nn


def _randomized(module: nn.Module, seed: int = 0, scale: float = 0.5) -> nn.Module:
    rng = np.random.default_rng(seed)
    for _, array in module.named_parameters():
        array[...] = rng.normal(size=array.shape) * scale
    return module


@pytest.fixture(scope="session")
def randomized() -> Callable[..., nn.Module]:
    """`randomized(module, seed=0, scale=0.5)` draws every parameter from a normal distribution, in place."""
    return _randomized
