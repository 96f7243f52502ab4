"""Specs, file by file like `numtx/`: what is known of each op, component and model."""

from numtx.testing.specs import (
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
