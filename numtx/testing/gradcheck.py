"""Check a backward of one's own: `gradcheck(forward, backward, inputs)`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from numtx.testing.differences import directional, jacobian
from numtx.testing.findings import Finding, failures, holds
from numtx.testing.op import Op, floating, incoming
from numtx.testing.properties import interleaved, linear, repeatable, shapes, unchanged
from numtx.testing.report import Report, tabulate
from numtx.testing.spec import Case, Pair, is_floating


def gradcheck(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Mapping[str, Any] | Sequence[Any],
    differentiable: Sequence[str | int] | str | int | None = None,
    *,
    name: str | None = None,
    directions: int = 4,
    seed: int = 0,
) -> Report:
    """Check a hand-derived backward against central differences of its forward, in float64.

    Every gradient is compared along random directions, under random incoming gradients, and entry by entry where the
    arrays are small (at most 64 numbers); the error must be within 1e-6 of the gradient's norm. Backward must also be
    linear in dy, give the same twice, survive interleaved forwards, and leave its inputs unchanged.

    Parameters
    ----------
    forward : callable
        Gives ``(y, cache)`` or ``y``. A tuple of exactly two is taken for ``(y, cache)``.
    backward : callable
        ``backward(dy, cache)``; where forward gives only y, ``backward(dy, ...)`` followed by the inputs, passed as to
        forward. It gives the gradients in the order of `differentiable`: bare if there is one, else a tuple, a list or
        a dict by name.
    inputs : mapping or sequence
        Arguments of forward, by keyword or by position. Floating arrays (and lists of floats) are cast to float64,
        generators are copied for each call so that every call draws the same; the rest is passed as it is.
    differentiable : names or positions, optional
        Which inputs have gradients; default: all floating arrays, in order.
    name : str, optional
        What the table calls it; default: the forward's name.
    directions : int
        How many incoming gradients and directions.
    seed : int
        Seed of the incoming gradients and directions.

    Returns
    -------
    Report
        True when all passed; prints as a table.

    Raises
    ------
    ValueError
        If nothing is differentiable, or `differentiable` names what is no floating array.

    Examples
    --------
    >>> x = np.array([0.3, -1.2, 2.0])
    >>> bool(gradcheck(lambda x: (x * x, x), lambda dy, x: 2 * x * dy, [x]))
    True
    >>> bool(gradcheck(lambda x: (x * x, x), lambda dy, x: x * dy, [x]))
    False
    """
    title = name or str(getattr(forward, "__name__", type(forward).__name__))
    keys, values = _named(forward, inputs)
    case = Case({key: _widened(value) for key, value in zip(keys, values, strict=True)})
    names = _differentiable(keys, case, differentiable)
    op = Op(_pair(forward, backward, keys, by_keyword=isinstance(inputs, Mapping)), names, lenient=True)
    return Report(tuple(tabulate(title, _runs(op, case, directions, seed))))


def assert_gradients(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Mapping[str, Any] | Sequence[Any],
    differentiable: Sequence[str | int] | str | int | None = None,
    **options: Any,
) -> None:
    """Raise where `gradcheck` fails, with its table; for tests.

    Parameters
    ----------
    forward, backward, inputs, differentiable, **options
        As in `gradcheck`.

    Raises
    ------
    AssertionError
        With the table, if any check failed.

    Examples
    --------
    >>> assert_gradients(lambda x: (x**3, x), lambda dy, x: 3 * x**2 * dy, {"x": np.array([0.5, 2.0])})
    """
    report = gradcheck(forward, backward, inputs, differentiable, **options)
    if not report:
        raise AssertionError(f"gradients are wrong\n{report}")


def _runs(op: Op, case: Case, directions: int, seed: int) -> Iterator[list[Finding]]:
    """Findings, one list for each direction; what need not be done twice is done with the first."""
    for k in range(max(1, directions)):
        rng = np.random.default_rng([seed, k])
        found: list[Finding] = []
        try:
            found.extend(_one(op, case, rng, first=k == 0))
        except Exception as error:
            yield [*found, holds("runs", "-", False, f"{type(error).__name__}: {error}")]
            return
        yield found
        if any(f.check in ("gradient's shape", "finite") for f in failures(found)):
            return


def _one(op: Op, case: Case, rng: np.random.Generator, first: bool) -> Iterator[Finding]:
    """All checks under one random incoming gradient."""
    y, cache = op.forward(case)
    if not floating(y):
        raise ValueError(f"forward: expected a floating result, got {type(y).__name__}")
    yield holds("finite", "y", all(np.isfinite(part).all() for part in floating(y)), "the result is not finite")
    if first:
        yield from unchanged(op, case, rng)
    dy = incoming(y, rng)
    gradients = op.backward(dy, cache)
    found = list(shapes(case, gradients))
    yield from found
    if failures(found):
        return
    for name in op.given(case):
        yield holds("finite", name, bool(np.isfinite(gradients[name]).all()), "the gradient is not finite")
    yield from directional(op, case, dy, gradients, rng)
    if first:
        yield from jacobian(op, case, gradients)
        yield from linear(op, case, rng)
        yield from repeatable(op, case, rng)
        yield from interleaved(op, case, op.names, rng)


def _named(forward: Callable[..., Any], inputs: Mapping[str, Any] | Sequence[Any]) -> tuple[list[str], list[Any]]:
    """Names and values of the inputs; positional ones get the names of forward's parameters where it has them."""
    if isinstance(inputs, Mapping):
        return [str(key) for key in inputs], list(inputs.values())
    if isinstance(inputs, np.ndarray):
        raise ValueError("gradcheck: expected a sequence or mapping of inputs, got an array; write [x]")
    values = list(inputs)
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [p.name for p in parameters if p.kind in plain]
    return [known[k] if k < len(known) else f"input {k}" for k in range(len(values))], values


def _widened(value: Any) -> Any:
    """Floating arrays, and lists of floats, as float64 copies."""
    if isinstance(value, list) and value:
        array = np.asarray(value)
        value = array if is_floating(array) else value
    if isinstance(value, np.floating):
        value = np.asarray(value)
    return np.array(value, dtype=np.float64) if is_floating(value) else value


def _differentiable(
    keys: list[str], case: Case, differentiable: Sequence[str | int] | str | int | None
) -> tuple[str, ...]:
    """Names of the inputs that have gradients."""
    if differentiable is None:
        names = tuple(key for key in keys if is_floating(case.inputs[key]))
    else:
        wanted = [differentiable] if isinstance(differentiable, (str, int)) else list(differentiable)
        unknown = [w for w in wanted if (w not in keys if isinstance(w, str) else not -len(keys) <= w < len(keys))]
        if unknown:
            raise ValueError(f"gradcheck: expected inputs among {keys}, got {unknown}")
        names = tuple(w if isinstance(w, str) else keys[w] for w in wanted)
    wrong = [name for name in names if not is_floating(case.inputs[name]) and case.inputs[name] is not None]
    if wrong or not any(case.inputs[name] is not None for name in names):
        raise ValueError(f"gradcheck: expected floating arrays to differentiate, got {wrong or 'none'}")
    return names


def _pair(forward: Callable[..., Any], backward: Callable[..., Any], keys: list[str], by_keyword: bool) -> Pair:
    """The user's functions as a pair that is called by keyword and always has a cache."""

    def arguments(keywords: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        fresh = {k: copy.deepcopy(v) if isinstance(v, np.random.Generator) else v for k, v in keywords.items()}
        return ([], fresh) if by_keyword else ([fresh[key] for key in keys], {})

    def call_forward(**keywords: Any) -> tuple[Any, Any]:
        positional, named = arguments(keywords)
        result = forward(*positional, **named)
        if isinstance(result, tuple) and len(result) == 2:
            return result[0], (True, result[1])
        return result, (False, keywords)

    def call_backward(dy: Any, cache: Any) -> Any:
        has_cache, kept = cache
        if has_cache:
            return backward(dy, kept)
        positional, named = arguments(kept)
        return backward(dy, *positional, **named)

    return Pair(call_forward, call_backward)
