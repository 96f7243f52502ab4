"""Classic mistakes of dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.functional.dropout import dropout, dropout_backward
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


def _witness() -> Case:
    return Case({"x": np.linspace(-1.0, 1.0, 24).reshape(6, 4)}, {"p": 0.1, "rng": 5})


def _without_rng() -> Case:
    return Case({"x": np.linspace(-1.0, 1.0, 24).reshape(6, 4)}, {"p": 0.5, "rng": None})


def _kept_by_rate(x, p, rng):
    """As the right one draws it, or None where nothing is dropped."""
    return None if rng is None or p == 0 else rng.random(x.shape, dtype=np.float32) >= p


def _unscaled(x, p=0.5, rng=None):
    kept = _kept_by_rate(x, p, rng)
    return (x, None) if kept is None else (x * kept, (kept, 0.0))


def _scaled_by_rate(x, p=0.5, rng=None):
    y, cache = dropout(x, p, rng)
    return (y, None) if cache is None else (y * ((1 - p) / p), (*cache, (1 - p) / p))


def _scaled_by_rate_backward(dy, cache):
    return dy if cache is None else dropout_backward(dy, cache[:2]) * cache[2]


def _keep_probability(x, p=0.5, rng=None):
    return dropout(x, 0.0 if p == 0 else 1 - p, rng)


def _one_mask_for_all_rows(x, p=0.5, rng=None):
    if rng is None or p == 0:
        return x, None
    kept = np.broadcast_to(rng.random(x.shape[-1:], dtype=np.float32) >= p, x.shape)
    return x * kept * (1 / (1 - p)), (kept, p)


def _always_on(x, p=0.5, rng=None):
    return dropout(x, p, np.random.default_rng(0) if rng is None else rng)


def _remember_generator(x, p=0.5, rng=None):
    y, _ = dropout(x, p, rng)
    return y, (p, rng)


def _redrawn(dy, cache):
    return dropout(dy, *cache)[0]


def _backward_unscaled(dy, cache):
    return dy if cache is None else dy * cache[0]


def _backward_open(dy, cache):
    return dy.copy()


class _OneInstance:
    """A layer that keeps its mask on itself, as many do: two uses, and the first one's mask is gone."""

    def __init__(self) -> None:
        self.mask: Any = None

    def forward(self, x, p=0.5, rng=None):
        y, self.mask = dropout(x, p, rng)
        return y, None

    def backward(self, dy, cache):
        if self.mask is not None and self.mask[0].shape != dy.shape:
            return dy * (1 / (1 - self.mask[1]))
        return dropout_backward(dy, self.mask)


_instance = _OneInstance()

MISTAKES = [
    Mistake(
        name="dropout not rescaled",
        of="dropout",
        why="The original paper scales at inference instead; here inference must change nothing.",
        hint="What is the mean of y over many draws?",
        forward=_unscaled,
        witness=_witness,
    ),
    Mistake(
        name="dropout rescaled by 1/p",
        of="dropout",
        why="p is the rate of dropping in one library and of keeping in another; at the default of 0.5 both agree.",
        hint="Try a rate of 0.1. What is the mean of y over many draws?",
        forward=_scaled_by_rate,
        backward=_scaled_by_rate_backward,
        witness=_witness,
    ),
    Mistake(
        name="dropout keeping with probability p",
        of="dropout",
        why="Old TensorFlow's `keep_prob`; at the default of 0.5 both agree.",
        hint="Try a rate of 0.1, and count the zeros.",
        forward=_keep_probability,
        witness=_witness,
    ),
    Mistake(
        name="dropout mask shared by all rows",
        of="dropout",
        why="The mask is drawn for one row and broadcast.",
        hint="Look at a column of y: is it dropped as a whole?",
        forward=_one_mask_for_all_rows,
        witness=_witness,
    ),
    Mistake(
        name="dropout active without an rng",
        of="dropout",
        why="The switch between training and inference is forgotten.",
        hint="What should happen at inference?",
        forward=_always_on,
        witness=_without_rng,
    ),
    Mistake(
        name="dropout redrawn in backward",
        of="dropout",
        why="Backward draws a mask of its own instead of keeping forward's.",
        hint="Which elements had an influence on the loss?",
        forward=_remember_generator,
        backward=_redrawn,
        witness=_witness,
    ),
    Mistake(
        name="dropout mask shared by two branches",
        of="dropout",
        why="One layer object is used in two places and keeps its mask on itself: the second use overwrites the first.",
        hint="Call forward twice, then backward for the first call.",
        forward=_instance.forward,
        backward=_instance.backward,
        witness=_witness,
    ),
    Mistake(
        name="dropout backward not rescaled",
        of="dropout",
        why="The mask is kept as booleans and the factor belongs to forward only, it seems.",
        hint="y = x · mask / (1 - p): what is dy/dx?",
        backward=_backward_unscaled,
        witness=_witness,
    ),
    Mistake(
        name="dropout backward without the mask",
        of="dropout",
        why="The gradient is passed on as it is.",
        hint="Can an element that was dropped change the loss?",
        backward=_backward_open,
        witness=_witness,
    ),
]
