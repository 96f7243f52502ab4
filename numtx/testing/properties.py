"""What must hold of every pair besides its numbers: linear, repeatable, re-entrant, harmless to its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx.testing.findings import Finding, holds, within
from numtx.testing.op import Op, arrays, combine, copied, difference, floating, incoming, largest
from numtx.testing.spec import Case, is_floating

# The same arithmetic in another order of calls: equal up to what BLAS does differently for differently aligned arrays.
SAME = 1e-12
LINEAR = 1e-10  # rounding of a sum of two gradients was seen to reach 2e-12
# A gradient that is zero by construction (a key bias) is rounding, a few 1e-16 of the object's largest: measured
# against itself it would differ from itself, so an array is never taken for smaller than this share of the largest
# (or of dy, where all are zero).
SMALL = 1e-3


def shapes(case: Case, gradients: dict[str, Any]) -> Iterator[Finding]:
    """A gradient for every differentiable input that is given, shaped like it; None for one that is not."""
    for name, gradient in gradients.items():
        x = case.inputs.get(name)
        if x is None:
            yield holds("gradient's shape", name, gradient is None, "expected None for an input that is not given")
        elif gradient is None:
            yield holds("gradient's shape", name, False, f"expected shape {x.shape}, got None")
        else:
            shape = np.shape(gradient)
            yield holds("gradient's shape", name, shape == x.shape, f"expected shape {x.shape}, got {shape}")


def linear(op: Op, case: Case, rng: np.random.Generator) -> Iterator[Finding]:
    """Backward is linear in dy: backward(a·dy₁ + b·dy₂) = a·backward(dy₁) + b·backward(dy₂)."""
    y, cache = op.forward(case)
    dy1, dy2, a, b = incoming(y, rng), incoming(y, rng), 0.7, -1.9
    g1 = copied_gradients(op.backward(copied(dy1), cache))
    g2 = copied_gradients(op.backward(copied(dy2), cache))
    both = op.backward(combine(a, dy1, b, dy2), cache)
    floor = SMALL * max(largest([g for g in both.values() if g is not None]), largest(arrays(dy1)))
    for name in op.given(case):
        error = difference(both[name], a * g1[name] + b * g2[name], floor)
        yield within("linear in dy", name, error, LINEAR, "backward is not linear in the incoming gradient")


def repeatable(op: Op, case: Case, rng: np.random.Generator) -> Iterator[Finding]:
    """Calling backward twice, or everything twice, gives the same; the first results are not touched by later calls."""
    y, cache = op.forward(case)
    dy = incoming(y, rng)
    first = op.backward(copied(dy), cache)
    kept_y, kept = copied(y), copied_gradients(first)
    second = op.backward(copied(dy), cache)
    yield from _equal("backward twice gives the same", case, op, second, kept)
    again, cache = op.forward(case)
    yield within("forward twice gives the same", "y", difference(again, kept_y), SAME, "the second call differs")
    yield from _equal("a second run gives the same", case, op, op.backward(copied(dy), cache), kept)
    yield within("results stay as they are", "y", difference(y, kept_y), SAME, "a later call changed an earlier result")
    yield from _equal("results stay as they are", case, op, first, kept)


def interleaved(op: Op, case: Case, names: tuple[str, ...], rng: np.random.Generator) -> Iterator[Finding]:
    """Two forwards, then both backwards in either order, give what each gives alone: no state is kept between calls."""
    other = _other(case, names, rng)
    if other is None:
        return
    y1, y2 = copied(op.forward(case)[0]), copied(op.forward(other)[0])
    dy1, dy2 = incoming(y1, rng), incoming(y2, rng)
    alone1 = copied_gradients(op.gradients(case, copied(dy1)))
    alone2 = copied_gradients(op.gradients(other, copied(dy2)))
    what, kept = "interleaved forwards", "results stay as they are"
    for order in ((0, 1), (1, 0)):
        first, second = op.forward(case), op.forward(other)
        yield within(kept, "y", difference(first[0], y1), SAME, "a later forward changed an earlier result")
        runs = [(first[1], dy1, alone1), (second[1], dy2, alone2)]
        given, copies = [], []
        for cache, dy, alone in (runs[k] for k in order):
            given.append(op.backward(copied(dy), cache))
            copies.append(copied_gradients(given[-1]))
            yield from _equal(what, case, op, copies[-1], alone)
        yield from _equal(kept, case, op, given[0], copies[0])


def _other(case: Case, names: tuple[str, ...], rng: np.random.Generator) -> Case | None:
    """A case of the same shapes with other numbers in the inputs `names` (ids are turned round); None if none can."""
    changed: dict[str, Any] = {}
    for name in names:
        value: Any = case.inputs.get(name)
        if is_floating(value):
            changed[name] = np.asarray(value * rng.uniform(0.4, 0.9, value.shape))
    if not changed:
        for name, value in case.inputs.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "i":
                changed[name] = np.ascontiguousarray(np.flip(value))
    other = case.with_inputs(changed) if changed else None
    if other is not None and isinstance(other.settings.get("rng"), int):
        other = other.with_settings(rng=other.settings["rng"] + 1)  # a mask kept on the object would be the same one
    return other


def unchanged(op: Op, case: Case, rng: np.random.Generator) -> Iterator[Finding]:
    """Forward and backward leave every input, every setting and dy as they were, to the last bit."""
    held = {k: v for k, v in {**case.inputs, **case.settings}.items() if isinstance(v, np.ndarray)}
    before = {name: value.tobytes() for name, value in held.items()}
    y, cache = op.forward(case)
    for name, value in held.items():
        yield holds("inputs unchanged", name, value.tobytes() == before[name], "forward changed it")
        before[name] = value.tobytes()
    if not op.names:
        return
    dy = incoming(y, rng)
    kept = [part.tobytes() for part in arrays(dy)]
    op.backward(dy, cache)
    same = [part.tobytes() for part in arrays(dy)] == kept
    yield holds("inputs unchanged", "dy", same, "backward changed the incoming gradient")
    for name, value in held.items():
        yield holds("inputs unchanged", name, value.tobytes() == before[name], "backward changed it")


def dtypes(op: Op, case: Case, rng: np.random.Generator) -> Iterator[Finding]:
    """Float32 in, float32 out, for the result and every gradient; and the same for float64."""
    for dtype in (np.float32, np.float64):
        cast = case.cast(dtype)
        y, cache = op.forward(cast)
        if any(is_floating(v) for v in cast.inputs.values()):
            for part in floating(y):
                note = f"expected {np.dtype(dtype)}, got {part.dtype}"
                yield holds("dtype kept", "y", part.dtype == dtype, note)
        for name, gradient in op.backward(incoming(y, rng), cache).items():
            if gradient is not None:
                got = np.asarray(gradient).dtype
                yield holds("dtype kept", name, got == dtype, f"expected {np.dtype(dtype)}, got {got}")


def finite(op: Op, case: Case, names: tuple[str, ...], rng: np.random.Generator) -> Iterator[Finding]:
    """Values of 1e4, all of one sign or mixed, and zeros give finite results and gradients, in float32."""
    cast = case.cast(np.float32)
    values = {name: cast.inputs[name] for name in names if is_floating(cast.inputs.get(name))}
    if not values:
        return
    large = {n: (1e4 * rng.choice((-1.0, 1.0), v.shape)).astype(np.float32) for n, v in values.items()}
    trials = {
        "values of ±1e4": large,
        "values of 1e4": {n: np.abs(v) for n, v in large.items()},
        "values of -1e4": {n: -np.abs(v) for n, v in large.items()},
        "zeros": {n: np.zeros_like(v) for n, v in values.items()},
    }
    for what, changed in trials.items():
        with np.errstate(all="ignore"):
            y, cache = op.forward(cast.with_inputs(changed))
            gradients = op.backward(incoming(y, rng), cache)
        good = all(np.isfinite(part).all() for part in floating(y))
        yield holds("extreme values finite", "y", good, f"{what} give a result that is not finite")
        for name, gradient in gradients.items():
            if gradient is not None:
                good = bool(np.isfinite(gradient).all())
                yield holds("extreme values finite", name, good, f"{what} give a gradient that is not finite")


def copied_gradients(gradients: dict[str, Any]) -> dict[str, Any]:
    """Copies of all gradients, None kept."""
    return {name: None if g is None else np.array(g) for name, g in gradients.items()}


def _equal(what: str, case: Case, op: Op, got: dict[str, Any], expected: dict[str, Any]) -> Iterator[Finding]:
    """The same gradients by name, up to the last bits."""
    floor = max(SMALL * largest([g for g in expected.values() if g is not None]), 1e-300)
    for name in op.given(case):
        yield within(what, name, difference(got[name], expected[name], floor), SAME, "the gradient differs")
