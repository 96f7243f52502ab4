"""Trains a model, and on request its twin in PyTorch: same weights at the start, batches, rates, clipping and decay.

Only the random numbers of dropout differ between the two.
"""

import time
from typing import Any, NamedTuple

from numtx.training import Callback, TrainingLoop, evaluate


class Learned(NamedTuple):
    """A trained model, or its twin, which answers to the same calls."""

    name: str
    model: Any
    loss: float  # held out, nats per label
    seconds: float  # of training; numtx's include its evaluations


def train(model, known, held_out, config, with_torch):
    """Train `model` in place, print its curve, and return [Learned] of it and of the twin.

    Parameters
    ----------
    model : a ready-made transformer of `numtx.models`
    known : object whose `at(step)` gives a batch, or an array of tokens
    held_out : list of batches, or an array of tokens
    config : numtx.training.TrainingConfig
    with_torch : bool
    """
    if with_torch:
        from torch_twins import Twin  # PyTorch is wanted here alone

        twin = Twin(model)  # before training: it copies the weights
    print(f"\n{'step':>6}{'training':>10}{'held-out':>10}{'seconds':>9}")
    loop = TrainingLoop(model, known, held_out, config, callbacks=[Curve()])
    seconds = loop.train().seconds
    learned = [Learned("numtx", model, loop.log[-1]["eval_loss"], seconds)]
    if with_torch:
        began = time.perf_counter()
        twin.train(loop)
        seconds = time.perf_counter() - began
        learned.append(Learned("PyTorch", twin, evaluate(twin, held_out, config.context).loss, seconds))
    return learned


class Curve(Callback):
    """Prints a line for each evaluation."""

    def on_evaluate(self, loop, row):
        print(f"{row['step']:>6}{row['loss']:>10.3f}{row['eval_loss']:>10.3f}{row['seconds']:>9.1f}", flush=True)
