"""The battery: every property, over every drawn case of a spec.

The checks run from the cheap to the dear and are generated one by one, so that whoever only wants to know whether a
mistake is rejected stops at the first that fails.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from numtx.testing.differences import directional, jacobian
from numtx.testing.findings import Finding, failures, holds, within
from numtx.testing.freezing import freezing
from numtx.testing.mistake import Mistake, planted
from numtx.testing.noise import float32_error
from numtx.testing.op import Op, arrays, difference, floating, incoming, largest
from numtx.testing.properties import dtypes, finite, interleaved, linear, repeatable, shapes, unchanged
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.statistics import is_random, randomness_is_used, unbiased, without_randomness

DEFINITION_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Options:
    """How much of the battery runs.

    Attributes
    ----------
    jacobian_limit : int
        Inputs and results with more numbers get no full Jacobian; 0 for none at all. Objects of more than eight
        differentiable arrays (stacks, models) get none either: it would cost more than all else together.
    float32 : bool
        Compare float32 with float64, and try extreme values.
    statistics : bool
        Take means over many seeds, and run a spec's own checks.
    """

    jacobian_limit: int = 48
    float32: bool = True
    statistics: bool = True


def battery(
    spec: Spec, case: Case, pair: Pair | tuple[Any, Any] | None = None, options: Options | None = None
) -> Iterator[Finding]:
    """Run every check of `spec` on one case.

    Parameters
    ----------
    spec : Spec
        What must hold.
    case : Case
        Where, in float64.
    pair : Pair or (forward, backward), optional
        What is checked: somebody's own implementation, with any cache it likes; default: numtx's (or what is planted
        in its place).
    options : Options, optional
        How much runs.

    Yields
    ------
    Finding
        Check by check. An exception inside the pair is a finding that does not hold, and ends the run.

    Examples
    --------
    >>> from numtx.testing import Drawer, battery, find_spec
    >>> spec = find_spec("softmax")
    >>> all(finding.ok for finding in battery(spec, spec.draw(Drawer(0))))
    True
    """
    options = options or Options()
    pair = spec.pair() if pair is None else Pair(*pair)
    op = Op(pair, spec.gradient_names(case))
    # Random numbers of a case's own, the same in every run and for every implementation.
    rng = np.random.default_rng(zlib.crc32(repr((spec.name, sorted(case.settings), *_shapes(case))).encode()))
    try:
        yield from _checks(spec, op, case, options, rng)
    except Exception as error:
        yield holds("runs", "-", False, f"{type(error).__name__}: {error}")


def _shapes(case: Case) -> list[tuple[int, ...]]:
    return [np.shape(value) for value in case.inputs.values()]


def _checks(spec: Spec, op: Op, case: Case, options: Options, rng: np.random.Generator) -> Iterator[Finding]:
    """Every check, the cheap and telling ones first."""
    yield from _definition(spec, op, case)
    if op.names:
        y, cache = op.forward(case)
        dy = incoming(y, rng)
        gradients = op.backward(dy, cache)
        shaped = yield from _gradient(op, case, dy, gradients, options, rng)
        if not shaped:
            return
        yield from linear(op, case, rng)
        yield from repeatable(op, case, rng)
        yield from interleaved(op, case, _moving(spec, op), rng)
        yield from dtypes(op, case, rng)
        yield from freezing(op, case, rng)
    yield from unchanged(op, case, rng)
    if options.float32 and op.names:
        if not is_random(case):
            yield from float32_error(op, case, rng)
        yield from finite(op, case, _moving(spec, op), rng)
    if options.statistics:
        if spec.stochastic and is_random(case):
            yield from randomness_is_used(op, case, rng)
        if spec.unbiased and is_random(case):
            yield from unbiased(op, case, spec.definition)
        for check in spec.checks:
            yield from check(spec, case, op.pair)


def _moving(spec: Spec, op: Op) -> tuple[str, ...]:
    """The inputs that are blown up, or changed between two forwards."""
    return op.names if spec.extreme is None else spec.extreme


def _definition(spec: Spec, op: Op, case: Case) -> Iterator[Finding]:
    """The result is finite and equals the independent definition to 1e-10.

    Where a seed makes the result random, the case is compared without it; the statistics look after the rest.
    """
    y, _ = op.forward(case)
    good = all(np.isfinite(part).all() for part in floating(y))
    yield holds("finite", "y", good, "the result is not finite")
    if spec.stochastic and is_random(case):
        case = without_randomness(case)
        y, _ = op.forward(case)
    expected = spec.definition(**case.keywords())
    shapes_y, shapes_e = [p.shape for p in arrays(y)], [p.shape for p in arrays(expected)]
    yield holds("result's shape", "y", shapes_y == shapes_e, f"expected shape {shapes_e}, got {shapes_y}")
    error = difference(y, expected)
    yield within("definition", "y", error, DEFINITION_TOLERANCE, "the result differs from the definition")


def _gradient(
    op: Op, case: Case, dy: Any, gradients: dict[str, Any], options: Options, rng: np.random.Generator
) -> Generator[Finding, None, bool]:
    """Shapes first, then numbers; returns whether the shapes are right, without which nothing can be compared."""
    found = list(shapes(case, gradients))
    yield from found
    if failures(found):
        return False
    for name in op.given(case):
        good = bool(np.isfinite(gradients[name]).all())
        yield holds("finite", name, good, "the gradient is not finite")
    yield from directional(op, case, dy, gradients, rng)
    if options.jacobian_limit and len(op.names) <= 8:
        yield from jacobian(op, case, gradients, options.jacobian_limit)
    return True


def rejection(spec: Spec, case: Case, pair: Pair | tuple[Any, Any] | None = None) -> Finding | None:
    """The first check that the pair fails on this case, or None where the battery accepts it."""
    return next((finding for finding in battery(spec, case, pair) if not finding.ok), None)


def rejected(mistake: Mistake, spec: Spec, case: Case | None = None) -> Finding | None:
    """The first check that catches a mistake at its witness (or at `case`); None where it passes unseen."""
    case = mistake.witness() if case is None else case
    with planted(mistake):
        return rejection(spec, case)


def outcome(spec: Spec, case: Case, pair: Pair | None = None) -> dict[str, np.ndarray]:
    """Result (``"y"``) and gradients by name of one run, under an incoming gradient that depends on the case alone.

    Parameters
    ----------
    spec, case : Spec, Case
        What is run.
    pair : Pair, optional
        Another implementation than numtx's own.
    """
    op = Op(spec.pair() if pair is None else pair, spec.gradient_names(case), lenient=True)
    y, cache = op.forward(case)
    parts = [np.array(part) for part in arrays(y)]
    results = {("y" if k == 0 else f"y{k}"): part for k, part in enumerate(parts)}
    if op.names:
        gradients = op.backward(incoming(y, np.random.default_rng(0)), cache)
        results.update({f"d{name}": np.array(g) for name, g in gradients.items() if g is not None})
    return results


def movement(right: dict[str, np.ndarray], wrong: dict[str, np.ndarray]) -> float:
    """How far a mistake moves results and gradients: the largest difference, absolute or relative to its array.

    Infinite where arrays are missing or of another shape. An array far smaller than the object's largest (a key bias's
    gradient, which is rounding) is measured against a thousandth of that.
    """
    if right.keys() != wrong.keys() or any(right[k].shape != wrong[k].shape for k in right):
        return float("inf")
    peak = {name: largest([value]) for name, value in right.items()}
    floor = 1e-3 * max((p for name, p in peak.items() if name.startswith("d")), default=0.0)
    moved = 0.0
    for name, value in right.items():
        off = largest([np.asarray(wrong[name], dtype=np.float64) - np.asarray(value, dtype=np.float64)])
        relative = off / max(peak[name], floor, 1e-12)
        moved = max(moved, off, relative) if np.isfinite(off) else float("inf")
    return moved
