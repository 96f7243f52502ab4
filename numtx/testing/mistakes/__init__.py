"""The catalogue of mistakes, file by file like the specs."""

from numtx.testing.mistakes import (
    activations,
    attention,
    dropout,
    embedding,
    linear,
    losses,
    masks,
    nn_attention,
    nn_layers,
    nn_models,
    norms,
    positions,
    softmax,
)

MODULES = (
    linear,
    embedding,
    activations,
    softmax,
    norms,
    dropout,
    positions,
    masks,
    attention,
    losses,
    nn_layers,
    nn_attention,
    nn_models,
)

__all__ = ["MODULES"]
