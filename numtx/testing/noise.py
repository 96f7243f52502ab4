"""Float32 against float64, with the tolerance taken from the function itself.

One tolerance for everything is too loose for most and too tight for some. What float32 cannot avoid is measured: the
root-mean-square (RMS) change of the float64 result when every input moves by one float32 ulp, plus the rounding of the
result itself. A float32 result within 32 times that noise is as good as float32 gets, up to the order of its sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx.testing.findings import Finding, within
from numtx.testing.op import Op, arrays, incoming, rms, terms
from numtx.testing.spec import Case, is_floating

TIMES = 32.0
EPS32 = float(np.finfo(np.float32).eps)


def float32_error(op: Op, case: Case, rng: np.random.Generator, times: float = TIMES) -> Iterator[Finding]:
    """The float32 result and gradients are within `times` the noise of float32 of the float64 ones.

    The error reported is the RMS error over the noise, so 1 is as good as can be expected. A gradient that is zero by
    construction is given the rounding of the object's largest gradient (a key bias), or a tenth of that of the terms
    it is summed from.
    """
    small = case.cast(np.float32)
    if not any(is_floating(v) for v in small.inputs.values()):
        return
    y32, cache = op.forward(small)
    dy32 = incoming(y32, rng)
    got = _results(y32, op.backward(dy32, cache))
    wide, dy = small.cast(np.float64), _widen(dy32)
    exact = _run(op, wide, dy)
    y = exact.get("y", 0.0)
    moved = [_run(op, *_nudged(op, small, dy32, rng)) for _ in range(2)]
    largest_gradient = max((rms(v) for k, v in exact.items() if not k.startswith("y")), default=0.0)
    for name, value in exact.items():
        change = rms([rms(other[name] - value) for other in moved])
        own = rms(value)
        if not name.startswith("y"):
            own = max(own, largest_gradient, 0.1 * terms(dy, y, wide.inputs[name.removeprefix("d:")]))
        noise = change + EPS32 * own
        error = rms(np.asarray(got[name], dtype=np.float64) - value)
        ratio = error / noise if noise > 0.0 else (0.0 if error == 0.0 else float("inf"))
        label = name.removeprefix("d:")
        yield within("float32", label, ratio, times, f"RMS error is {ratio:.3g} times the noise of float32")


def _results(y: Any, gradients: dict[str, Any]) -> dict[str, np.ndarray]:
    """Result arrays (y, y1, ...) and gradients (d:name) in one dictionary."""
    parts = arrays(y)
    named = {("y" if k == 0 else f"y{k}"): part for k, part in enumerate(parts) if is_floating(part)}
    named.update({f"d:{name}": np.asarray(g) for name, g in gradients.items() if g is not None})
    return named


def _run(op: Op, case: Case, dy: Any) -> dict[str, np.ndarray]:
    y, cache = op.forward(case)
    return _results(y, op.backward(dy, cache))


def _widen(dy: Any) -> Any:
    return type(dy)(_widen(part) for part in dy) if isinstance(dy, (tuple, list)) else np.asarray(dy, dtype=np.float64)


def _ulp(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The float32 array `value` in float64, every number moved by one float32 ulp up or down."""
    return value.astype(np.float64) + rng.choice((-1.0, 1.0), value.shape) * np.spacing(np.abs(value))


def _nudged(op: Op, case: Case, dy: Any, rng: np.random.Generator) -> tuple[Case, Any]:
    """The differentiable inputs and the incoming gradient, moved by one float32 ulp, in float64.

    The others stay: a target of one would leave the probabilities.
    """

    def nudge(part: Any) -> Any:
        if isinstance(part, (tuple, list)):
            return type(part)(nudge(p) for p in part)
        return np.asarray(_ulp(np.asarray(part), rng))

    moved = {name: _ulp(case.inputs[name], rng) for name in op.given(case)}
    return case.cast(np.float64).with_inputs(moved), nudge(dy)
