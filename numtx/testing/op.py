"""One way to call every pair: keywords in, arrays out, gradients by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numtx.testing.spec import Case, Pair, is_floating

EPS = float(np.finfo(np.float64).eps)


class WrongGradientsError(ValueError):
    """A backward gave something that cannot be matched with the inputs."""


@dataclass(frozen=True)
class Op:
    """A pair, and the names of the inputs its backward gives gradients for.

    Attributes
    ----------
    pair : Pair
        Forward and backward.
    names : tuple of str
        Differentiable inputs in the order of the backward's result.
    lenient : bool
        Accept what a user's own backward may give (a list, a dict by name, a tuple of one); without it the rule of
        numtx's pairs holds: bare for one name, a tuple for several.
    """

    pair: Pair
    names: tuple[str, ...]
    lenient: bool = False

    def forward(self, case: Case) -> tuple[Any, Any]:
        """The result as it was returned, and the cache (None for a plain function)."""
        result = self.pair.forward(**case.keywords())
        if self.pair.backward is None:
            return result, None
        if not (isinstance(result, tuple) and len(result) == 2):
            raise ValueError(f"forward: expected (y, cache), got {type(result).__name__}")
        return result

    def backward(self, dy: Any, cache: Any) -> dict[str, Any]:
        """Gradients by name, as they were returned; an optional input that was not given is left out if None."""
        if self.pair.backward is None:
            return {}
        return self._by_name(self.pair.backward(dy, cache))

    def gradients(self, case: Case, dy: Any) -> dict[str, Any]:
        """Gradients by name of one fresh forward and backward."""
        _, cache = self.forward(case)
        return self.backward(dy, cache)

    def _by_name(self, result: Any) -> dict[str, Any]:
        count = len(self.names)
        if self.lenient and isinstance(result, dict):
            missing = [name for name in self.names if name not in result]
            if missing:
                raise WrongGradientsError(f"backward: expected gradients of {list(self.names)}, got none of {missing}")
            return {name: result[name] for name in self.names}
        if self.lenient and isinstance(result, list):
            result = tuple(result)
        if count == 1 and not (self.lenient and isinstance(result, tuple)):
            result = (result,)
        if not isinstance(result, tuple) or len(result) != count:
            got = f"{len(result)} of them" if isinstance(result, tuple) else type(result).__name__
            raise WrongGradientsError(f"backward: expected a tuple of {count} gradients {list(self.names)}, got {got}")
        return dict(zip(self.names, result, strict=True))

    def given(self, case: Case) -> tuple[str, ...]:
        """Those differentiable names whose input is given (not None)."""
        return tuple(name for name in self.names if case.inputs.get(name) is not None)


def arrays(y: Any) -> list[np.ndarray]:
    """The arrays of a result: one, or those of a tuple or list of results."""
    parts = y if isinstance(y, (tuple, list)) else [y]
    return [np.asarray(part) for part in parts]


def floating(y: Any) -> list[np.ndarray]:
    """The floating arrays of a result."""
    return [part for part in arrays(y) if is_floating(part)]


def incoming(y: Any, rng: np.random.Generator) -> Any:
    """A random incoming gradient shaped like the result `y`, of its dtypes.

    Random, because all ones hide what is summed away: the gradient of a softmax under ones is zero, right or wrong.
    """
    if isinstance(y, (tuple, list)):
        return type(y)(incoming(part, rng) for part in y)
    part = np.asarray(y)
    return np.asarray(rng.standard_normal(part.shape)).astype(part.dtype)


def combine(a: float, dy1: Any, b: float, dy2: Any) -> Any:
    """a·dy1 + b·dy2 for results of any structure."""
    if isinstance(dy1, (tuple, list)):
        return type(dy1)(combine(a, p, b, q) for p, q in zip(dy1, dy2, strict=True))
    return np.asarray(a * dy1 + b * dy2)


def copied(y: Any) -> Any:
    """A deep copy of a result."""
    return type(y)(copied(part) for part in y) if isinstance(y, (tuple, list)) else np.array(y)


def dot(dy: Any, y: Any) -> float:
    """Σ dy·y over all arrays of a result: the scalar whose gradient backward gives."""
    return float(sum(np.sum(p * q) for p, q in zip(arrays(dy), arrays(y), strict=True)))


def absolute_dot(dy: Any, y: Any) -> float:
    """Σ |dy·y|, the size of what is rounded when `dot` is taken."""
    return float(sum(np.sum(np.abs(p * q)) for p, q in zip(arrays(dy), arrays(y), strict=True)))


def largest(values: Sequence[Any]) -> float:
    """The largest magnitude in some arrays; 0 for none, NaN where there is one."""
    peaks = [np.max(np.abs(np.asarray(v))) for v in values if np.size(v)]
    return float(np.max(peaks)) if peaks else 0.0


def rms(value: Any) -> float:
    """The root mean square of an array; 0 for an empty one."""
    value = np.asarray(value, dtype=np.float64)
    return float(np.sqrt(np.mean(np.square(value)))) if value.size else 0.0


def terms(dy: Any, y: Any, x: Any) -> float:
    """The size of the terms that a gradient of `x` is summed from: |dy|·max(1, |y| / |x|), root mean squares.

    Where they cancel by construction (LayerNorm of two numbers, cross-entropy of one class) the gradient is zero, and
    what is computed is their rounding.
    """
    size = rms(x)
    ratio = rms([rms(part) for part in arrays(y)]) / size if size > 0.0 else 1.0
    return rms([rms(part) for part in arrays(dy)]) * max(1.0, ratio)


def norm(value: Any) -> float:
    """The Euclidean norm of all numbers of an array."""
    return float(np.sqrt(np.sum(np.square(np.asarray(value, dtype=np.float64)))))


def difference(a: Any, b: Any, floor: float = 1e-3) -> float:
    """Largest difference of two results over the largest magnitude of the second (or `floor`); inf for other shapes."""
    first, second = arrays(a), arrays(b)
    if len(first) != len(second) or any(p.shape != q.shape for p, q in zip(first, second, strict=True)):
        return float("inf")
    first, second = [p.astype(np.float64) for p in first], [q.astype(np.float64) for q in second]
    off = largest([p - q for p, q in zip(first, second, strict=True)])
    return off / max(largest(second), floor)
