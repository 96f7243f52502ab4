"""Learning rates by the names and formulas of Transformers, each a pure function of the step.

They differ from those of `schedules`, which `numtx train` uses: a warm-up begins at 0, so the first update of a warm-up
changes nothing, and a rate that falls would reach its end one step after the last.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any


def _warm(step: int, warmup: int) -> float:
    return step / max(1, warmup)


def _done(step: int, warmup: int, steps: int) -> float:
    """How far a step is between the end of the warm-up, 0, and the end, 1."""
    return (step - warmup) / max(1, steps - warmup)


def _constant(step, warmup, steps, lr):
    return 1.0


def _constant_with_warmup(step, warmup, steps, lr):
    return _warm(step, warmup) if step < warmup else 1.0


def _linear(step, warmup, steps, lr):
    return _warm(step, warmup) if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))


def _cosine(step, warmup, steps, lr, *, num_cycles=0.5):
    if step < warmup:
        return _warm(step, warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * _done(step, warmup, steps))))


def _cosine_with_restarts(step, warmup, steps, lr, *, num_cycles=1):
    if step < warmup:
        return _warm(step, warmup)
    done = _done(step, warmup, steps)
    return 0.0 if done >= 1.0 else max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((num_cycles * done) % 1.0))))


def _polynomial(step, warmup, steps, lr, *, lr_end=1e-7, power=1.0):
    if not lr > lr_end:
        raise ValueError(f"get_scheduler: expected lr_end below the learning rate {lr}, got {lr_end}")
    if step < warmup:
        return _warm(step, warmup)
    if step > steps:
        return lr_end / lr
    left = 1 - (step - warmup) / max(1, steps - warmup)
    return ((lr - lr_end) * left**power + lr_end) / lr


def _inverse_sqrt(step, warmup, steps, lr, *, timescale=None):
    timescale = (warmup or 10_000) if timescale is None else timescale
    if not timescale > 0:
        raise ValueError(f"get_scheduler: expected a timescale above 0, got {timescale}")
    if step < warmup:
        return _warm(step, warmup)
    return 1.0 / math.sqrt((step + timescale - warmup) / timescale)


def _lowest(lr: float, min_lr: float | None, min_lr_rate: float | None) -> float:
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError(
            f"get_scheduler: expected either min_lr or min_lr_rate, got {'neither' if min_lr is None else 'both'}"
        )
    return min_lr / lr if min_lr is not None else min_lr_rate  # type: ignore[return-value]


def _cosine_with_min_lr(step, warmup, steps, lr, *, num_cycles=0.5, min_lr=None, min_lr_rate=None):
    low = _lowest(lr, min_lr, min_lr_rate)
    if step < warmup:
        return _warm(step, warmup)
    factor = 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * _done(step, warmup, steps)))
    return max(0.0, factor * (1 - low) + low)


def _warmup_stable_decay(
    step, warmup, steps, lr, *, num_decay_steps, num_stable_steps=None, warmup_type="linear", decay_type="cosine",
    min_lr_ratio=0.0, num_cycles=0.5,
):  # fmt: skip
    stable = steps - warmup - num_decay_steps if num_stable_steps is None else num_stable_steps
    if step < warmup:
        factor = _ramp(warmup_type, _warm(step, warmup), rising=True)
    elif step < warmup + stable:
        return 1.0
    elif step < warmup + stable + num_decay_steps:
        factor = _ramp(decay_type, (step - warmup - stable) / max(1, num_decay_steps), num_cycles=num_cycles)
    else:
        return min_lr_ratio
    return max(0.0, factor * (1.0 - min_lr_ratio) + min_lr_ratio)


def _ramp(kind: str, done: float, *, rising: bool = False, num_cycles: float = 0.5) -> float:
    if kind == "linear":
        return done if rising else 1.0 - done
    if kind == "cosine":
        turned = math.cos(math.pi * done if rising else math.pi * num_cycles * 2.0 * done)
        return 0.5 * (1.0 - turned if rising else 1.0 + turned)
    if kind == "1-sqrt":
        return 1.0 - math.sqrt(1.0 - done if rising else done)
    raise ValueError(f"get_scheduler: expected a type of linear, cosine or 1-sqrt, got {kind!r}")


LR_SCHEDULERS: dict[str, Callable[..., float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "constant": _constant,
    "constant_with_warmup": _constant_with_warmup,
    "inverse_sqrt": _inverse_sqrt,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "warmup_stable_decay": _warmup_stable_decay,
}


def get_scheduler(
    name: str, learning_rate: float, num_warmup_steps: int = 0, num_training_steps: int = 1, **settings: Any
) -> Callable[[int], float]:
    """Return the function that gives the learning rate of a step, counted from 0.

    Parameters
    ----------
    name : "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", \
"inverse_sqrt", "cosine_with_min_lr" or "warmup_stable_decay"
    learning_rate : float
        The highest.
    num_warmup_steps, num_training_steps : int
    **settings
        What Transformers calls lr_scheduler_kwargs: num_cycles, power, lr_end, timescale, min_lr, min_lr_rate,
        num_decay_steps ...

    Raises
    ------
    ValueError
        For a name or a setting that there is not. "reduce_lr_on_plateau" is none: its rate follows from evaluations,
        not from the step.

    Examples
    --------
    >>> rate = get_scheduler("linear", 1.0, num_warmup_steps=2, num_training_steps=6)
    >>> [rate(step) for step in range(6)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """
    if name not in LR_SCHEDULERS:
        raise ValueError(f"get_scheduler: expected one of {', '.join(LR_SCHEDULERS)}, got {name!r}")
    factor = LR_SCHEDULERS[name]
    known = {name: one for name, one in inspect.signature(factor).parameters.items() if one.kind is one.KEYWORD_ONLY}
    if lacking := [one for one in known.values() if one.default is one.empty and one.name not in settings]:
        raise ValueError(f"get_scheduler: expected the setting {lacking[0].name} for {name!r}, got none")
    if unknown := [setting for setting in settings if setting not in known]:
        takes = f"the settings {', '.join(known)}" if known else "no settings"
        raise ValueError(f"get_scheduler: expected {takes} for {name!r}, got {', '.join(unknown)}")

    def rate(step: int) -> float:
        return learning_rate * factor(step, num_warmup_steps, num_training_steps, learning_rate, **settings)

    try:
        tried = [rate(step) for step in (0, num_warmup_steps, num_training_steps - 1)]  # what does not fit is said now
        finite = all(map(math.isfinite, tried))
    except TypeError:
        raise ValueError(f"get_scheduler: expected numbers as the settings of {name!r}, got {settings}") from None
    except ArithmeticError:
        finite = False
    if not finite:
        got = f"{settings} and a learning rate of {learning_rate}"
        raise ValueError(f"get_scheduler: expected settings of {name!r} that give finite rates, got {got}")
    return rate
