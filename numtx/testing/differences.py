"""Central differences in float64: what a gradient is compared with.

The loss is Σ dy·y with a random incoming gradient dy. Along a random direction u (standard normal, so that the expected
square of <g, u> is ‖g‖²) the quotient is the four-point one,

    q(h) = [8 (L(h) - L(-h)) - (L(2h) - L(-2h))] / 12 h,        error O(h⁴) where L is smooth,

and the step shrinks until two quotients agree within the tolerance: a kink (ReLU) between the four points spoils the
large steps and is left behind by the small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numtx.testing.findings import Finding
from numtx.testing.op import EPS, Op, absolute_dot, dot, norm, rms, terms
from numtx.testing.spec import Case

TOLERANCE = 1e-6
# A key bias has gradient zero (softmax does not see it): its rounding is measured against the rest of the object.
FLOOR = 1e-6
STEPS = (2e-3, 2e-4, 2e-5, 2e-6, 2e-7)


def step_unit(x: np.ndarray) -> float:
    """The size a step is measured in: the root mean square of `x`, kept in [0.01, 1]."""
    return float(np.clip(np.sqrt(np.mean(np.square(x))), 1e-2, 1.0)) if x.size else 1.0


def settle(quotient: Callable[[float], Any], tolerance: Callable[[Any, float], Any], unit: float) -> tuple[Any, float]:
    """The quotient at the first step that agrees with the step before it, and that step.

    Parameters
    ----------
    quotient : callable
        ``quotient(h)``, a number or an array.
    tolerance : callable
        ``tolerance(q, h)``: how far apart two quotients may be.
    unit : float
        What the steps are multiplied by.

    Returns
    -------
    q : float or array
        The smaller step's quotient; where no two agree, that of the pair which came nearest.
    h : float
        Its step.
    """
    before = quotient(STEPS[0] * unit)
    best, best_gap, best_step = before, np.inf, STEPS[0] * unit
    for step in STEPS[1:]:
        h = step * unit
        now = quotient(h)
        gap = float(np.max(np.abs(now - before) / tolerance(now, h)))
        if gap < best_gap:
            best, best_gap, best_step = now, gap, h
        if gap <= 1.0:
            break
        before = now
    return best, best_step


def four_points(loss: Callable[[float], Any], h: float) -> Any:
    """The four-point central difference of `loss` at 0."""
    return (8.0 * (loss(h) - loss(-h)) - (loss(2.0 * h) - loss(-2.0 * h))) / (12.0 * h)


def object_floor(gradients: dict[str, Any]) -> float:
    """1e-6 of the largest gradient norm among all inputs and parameters of the object."""
    return FLOOR * max((norm(g) for g in gradients.values() if g is not None), default=0.0)


def directional(op: Op, case: Case, dy: Any, gradients: dict[str, Any], rng: np.random.Generator) -> Iterator[Finding]:
    """Compare every gradient with the central difference along one random direction each.

    Parameters
    ----------
    op, case : Op, Case
        What is differentiated, and where (float64).
    dy : array or tuple of arrays
        The incoming gradient.
    gradients : dict
        What backward gave for `dy`, by name.
    rng : Generator
        Draws the directions.

    Yields
    ------
    Finding
        One for each differentiable input that is given: ``"gradient"``, with the relative error.
    """
    floor = object_floor(gradients)
    y, _ = op.forward(case)
    rounding = 10.0 * EPS * absolute_dot(dy, y)
    for name in op.given(case):
        x, g = case.inputs[name], np.asarray(gradients[name], dtype=np.float64)
        u = rng.standard_normal(x.shape)
        size = norm(g)

        def loss(t: float, name: str = name, x: np.ndarray = x, u: np.ndarray = u) -> float:
            return dot(dy, op.forward(case.with_inputs({name: np.asarray(x + t * u)}))[0])

        def scale(q: float, size: float = size) -> float:
            return max(size, abs(q), floor) if np.isfinite(size) else 1.0

        def tolerance(q: float, h: float, scale: Callable[[float], float] = scale) -> float:
            return max(TOLERANCE * scale(q) + rounding / h, np.finfo(np.float64).tiny)

        numeric, h = settle(lambda h, loss=loss: four_points(loss, h), tolerance, step_unit(x))  # type: ignore[misc]
        own = rounding / h + 10.0 * EPS * terms(dy, y, x) * np.sqrt(x.size)
        yield _compare(name, numeric, float(np.sum(g * u)), scale(numeric), own)


def _compare(name: str, numeric: float, analytic: float, scale: float, rounding: float) -> Finding:
    """A finding for one number: within 1e-6 of `scale`, plus what rounding leaves in both."""
    error = abs(numeric - analytic)
    ok = bool(error <= TOLERANCE * scale + rounding)
    relative = _relative(error, scale, rounding)
    note = "" if ok else f"differences give {numeric:.10g}, backward {analytic:.10g}"
    return Finding("gradient", name, relative, ok, note)


def _relative(error: float, scale: float, rounding: float) -> float:
    """The error over `scale`; where that is below the rounding (a gradient of zero), over what the rounding allows."""
    size = max(scale, rounding / TOLERANCE)
    return error / size if size > 0.0 else (0.0 if error == 0.0 else float("inf"))


def jacobian(op: Op, case: Case, gradients: dict[str, Any], limit: int = 64) -> Iterator[Finding]:
    """Compare the whole Jacobian, entry by entry, for every input where it is small.

    Row i comes from backward with the i-th unit vector as incoming gradient, column j from central differences in
    the j-th number of the input. A wrong entry cannot hide in a sum.

    Parameters
    ----------
    op, case : Op, Case
        What is differentiated, and where (float64). Results of several arrays are left to `directional`.
    gradients : dict
        Gradients of any incoming gradient; only which of them are zero-sized matters here.
    limit : int
        Inputs and results with more numbers are skipped.

    Yields
    ------
    Finding
        One for each input it was done for: ``"Jacobian"``, with the error relative to the largest entry.
    """
    result, cache = op.forward(case)
    if isinstance(result, (tuple, list)):
        return
    y = np.asarray(result)
    names = [n for n in op.given(case) if 0 < case.inputs[n].size <= limit and gradients.get(n) is not None]
    if not names or not 0 < y.size <= limit:
        return
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for i in range(y.size):
        unit = np.zeros(y.size)
        unit[i] = 1.0
        given = op.backward(unit.reshape(y.shape), cache)
        for name in names:
            rows[name].append(np.array(given[name], dtype=np.float64).ravel())
    analytic = {name: np.stack(rows[name]) for name in names}  # (outputs, inputs)
    floor = FLOOR * max(float(np.max(np.abs(a))) for a in analytic.values())
    for name in names:
        yield _compare_jacobian(op, case, name, analytic[name], floor)


def _compare_jacobian(op: Op, case: Case, name: str, analytic: np.ndarray, floor: float) -> Finding:
    """Columns by central differences, against the rows that backward gave."""
    x, unit = case.inputs[name], step_unit(case.inputs[name])
    peak = max(float(np.max(np.abs(analytic))), floor)
    worst, where, ok = 0.0, "", True
    for j in range(x.size):
        basis = np.zeros(x.size)
        basis[j] = 1.0
        direction = basis.reshape(x.shape)

        def result(t: float, direction: np.ndarray = direction) -> np.ndarray:
            moved = case.with_inputs({name: np.asarray(x + t * direction)})
            return np.asarray(op.forward(moved)[0], dtype=np.float64).ravel()

        y = result(0.0)
        # A number near zero among larger ones is a sum whose terms cancel: rounded is what they are, not what it is.
        rounding = 10.0 * EPS * np.maximum(np.abs(y), rms(y))

        def tolerance(q: np.ndarray, h: float, rounding: np.ndarray = rounding) -> np.ndarray:
            size = max(peak, float(np.max(np.abs(q)))) if np.isfinite(peak) else 1.0
            return np.maximum(TOLERANCE * size + rounding / h, np.finfo(np.float64).tiny)

        column, h = settle(lambda h, result=result: four_points(result, h), tolerance, unit)  # type: ignore[misc]
        size = max(peak, float(np.max(np.abs(column))))
        errors = np.abs(column - analytic[:, j])
        own = rounding / h + 10.0 * EPS * terms(1.0, y, x)
        good = bool(np.all(errors <= TOLERANCE * size + own))
        relative = _relative(float(np.max(errors)), size, float(np.max(own)))
        if ok and not (good and relative <= worst):
            worst, where = relative, f"column {j}"
        ok = ok and good
        if not ok:
            break
    return Finding("Jacobian", name, worst, ok, "" if ok else f"the largest error stands in {where}")
