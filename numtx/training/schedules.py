"""Learning rates as pure functions of the step, so that a resumed run needs no state for them."""

from __future__ import annotations

import math


def warm_up(step: int, warmup: int) -> float:
    """Return the share of the full rate at a step: 1/warmup, 2/warmup, ... up to 1.

    Examples
    --------
    >>> [warm_up(step, 4) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0


def progress(step: int, steps: int, warmup: int) -> float:
    """Return how far a step is between the end of the warm-up, 0, and the last step, 1."""
    return min(1.0, max(0.0, (step - warmup) / max(1, steps - 1 - warmup)))


def constant(step: int, *, lr: float, steps: int = 0, warmup: int = 0, min_lr: float = 0.0) -> float:
    """Return `lr` at every step after the warm-up. `steps` and `min_lr` are not used.

    Examples
    --------
    >>> constant(0, lr=0.1, warmup=2), constant(500, lr=0.1, warmup=2)
    (0.05, 0.1)
    """
    return lr * warm_up(step, warmup)


def linear(step: int, *, lr: float, steps: int, warmup: int = 0, min_lr: float = 0.0) -> float:
    """Return a rate that falls in a straight line from `lr` after the warm-up to `min_lr` at the last step.

    Examples
    --------
    >>> [round(linear(step, lr=1.0, steps=5), 4) for step in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < warmup:
        return lr * warm_up(step, warmup)
    return lr + (min_lr - lr) * progress(step, steps, warmup)


def cosine(step: int, *, lr: float, steps: int, warmup: int = 0, min_lr: float = 0.0) -> float:
    """Return a rate that falls along half a cosine from `lr` after the warm-up to `min_lr` at the last step.

        lr_s = min_lr + (lr - min_lr) (1 + cos(π (s - warmup) / (steps - 1 - warmup))) / 2

    Loshchilov and Hutter (2017), equation 5, without restarts.

    Examples
    --------
    >>> [round(cosine(step, lr=1.0, steps=5, min_lr=0.1), 4) for step in range(5)]
    [1.0, 0.8682, 0.55, 0.2318, 0.1]
    """
    if step < warmup:
        return lr * warm_up(step, warmup)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress(step, steps, warmup))) / 2


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear}
