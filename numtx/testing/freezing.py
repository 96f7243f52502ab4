"""What must hold of every component and model of which some parameters are frozen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx.testing.adapter import Adapter, Built
from numtx.testing.findings import Finding, holds, within
from numtx.testing.op import Op, copied, difference, incoming, largest
from numtx.testing.properties import SAME, SMALL
from numtx.testing.spec import Case, is_floating


def freezing(op: Op, case: Case, rng: np.random.Generator) -> Iterator[Finding]:
    """Frozen parameters have no gradient; the result and all other gradients are what they were.

    Some of them are frozen, then all but one, then all. It asks numtx's own components alone: another implementation,
    which does not know of it, is not asked.
    """
    made = _module(op, case)
    names = [] if made is None else [name for name, _ in made.trainable_parameters()]
    if not names:
        return
    y, cache = op.forward(case)
    y, dy = copied(y), incoming(y, rng)
    free = {name: None if g is None else np.array(g) for name, g in op.backward(copied(dy), cache).items()}
    floor = max(SMALL * largest([g for g in free.values() if g is not None]), 1e-300)
    one = names[int(rng.integers(len(names)))]
    some = {name for name in names if rng.random() < 0.5}
    for frozen in (some or {one}, set(names) - {one}, set(names)):
        got = _with_frozen(op, case, made, frozen, dy)
        yield within("frozen: the result", "y", difference(got[0], y), SAME, "freezing changed the result")
        for name in op.given(case):
            gradient = got[1][name]
            if name in frozen:
                yield holds("frozen: no gradient", name, gradient is None, "a frozen parameter has a gradient")
            elif free[name] is not None:
                note = "freezing others changed its gradient"
                error = np.inf if gradient is None else difference(gradient, free[name], floor)
                yield within("frozen: the others' gradients", name, error, SAME, note)


def _with_frozen(op: Op, case: Case, made: Any, frozen: set[str], dy: Any) -> tuple[Any, dict[str, Any]]:
    """The result and the gradients with these parameters frozen; they are not any more at the end."""
    owners = [made.owner(name) for name in frozen]
    try:
        for owner, last in owners:
            owner.frozen |= {last}
        y, cache = op.forward(case)
        return copied(y), op.backward(copied(dy), cache)
    finally:
        for owner, last in owners:
            owner.frozen -= {last}


def _module(op: Op, case: Case) -> Any:
    """The component that an adapter calls; None where the pair is anything else."""
    adapted = isinstance(getattr(op.pair.forward, "__self__", None), Adapter)
    built = case.settings.get("module")
    if not adapted or not isinstance(built, Built):
        return None
    floats = [value.dtype for value in case.inputs.values() if is_floating(value)]
    made = built.at(floats[0] if floats else np.float64)
    return made if hasattr(made, "owner") else None
