"""What randomness must be like: the rate, the scale, independence, and an unbiased mean.

Bounds are six standard errors, so that a right implementation fails about once in a thousand million draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numtx.testing.findings import Finding, holds, within
from numtx.testing.op import Op, arrays, difference, largest
from numtx.testing.spec import Case, Pair

SIGMAS = 6.0


def without_randomness(case: Case) -> Case:
    """The same case with ``rng=None``."""
    return case.with_settings(rng=None)


def is_random(case: Case) -> bool:
    """Whether a seed stands under ``rng`` in this case."""
    return case.settings.get("rng") is not None


def rate(case: Case) -> float:
    """The rate of dropping in a case: its setting ``p`` or ``dropout``; 0 where there is none."""
    value = case.settings.get("p", case.settings.get("dropout"))
    if value is None and "module" in case.settings:
        options = case.settings["module"].options
        value = max((v for k, v in options.items() if k == "p" or "drop" in k or k.endswith("_pdrop")), default=0.0)
    return float(value or 0.0)


def randomness_is_used(op: Op, case: Case, rng: np.random.Generator, seeds: int = 64) -> Iterator[Finding]:
    """At a rate above zero some seed gives another result than no randomness; at rate 0 none does.

    Numbers for which it makes no difference (a ReLU that is off everywhere) are drawn again a few times.
    """
    expected = rate(case) > 0.0
    if expected and (1.0 - rate(case)) ** seeds > 1e-9:  # a single number may be kept by chance in every draw
        return
    if largest(arrays(op.forward(without_randomness(case))[0])) == 0.0:  # nothing to drop, or a loss without labels
        return
    differs = _differs(op, case, seeds if expected else 2)
    for _ in range(8):
        if differs or not expected:
            break
        again = {name: np.asarray(rng.standard_normal(case.inputs[name].shape)) for name in op.given(case)}
        differs = _differs(op, case.with_inputs(again), seeds)
    yield holds("randomness is used", "y", differs == expected, "dropout and its rate must go together")


def _differs(op: Op, case: Case, seeds: int) -> bool:
    """Whether some seed changes the result."""
    plain = op.forward(without_randomness(case))[0]
    return any(difference(op.forward(case.with_settings(rng=seed))[0], plain) > 0.0 for seed in range(seeds))


def unbiased(op: Op, case: Case, definition: Callable[..., Any], count: int = 300) -> Iterator[Finding]:
    """The mean over `count` seeds is the result without randomness, as inverted dropout promises.

    Each number's mean may be off by six of its standard errors. (A forward that drops without rescaling, or rescales by
    the wrong rate, is off by hundreds.)
    """
    expected = np.asarray(definition(**without_randomness(case).keywords()), dtype=np.float64)
    runs = [np.asarray(op.forward(case.with_settings(rng=seed))[0], dtype=np.float64) for seed in range(count)]
    samples = np.stack(runs)
    if samples.shape[1:] != expected.shape:
        note = f"expected shape {expected.shape}, got {samples.shape[1:]}"
        yield holds("mean over seeds", "y", False, note)
        return
    spread = samples.std(axis=0) / np.sqrt(count)
    # A number that was dropped in none or all of the draws has no spread: then a rare event explains what is left.
    spread = np.maximum(spread, np.abs(expected) / count + 1e-12)
    error = float(np.max(np.abs(samples.mean(axis=0) - expected) / spread)) if expected.size else 0.0
    yield within("mean over seeds", "y", error, SIGMAS, f"the mean is {error:.3g} standard errors off")


def dropout_statistics(p_name: str = "p", input_name: str = "x", **others: Any) -> Callable[..., Iterator[Finding]]:
    """A ready-made check for the spec of a dropout: identity without randomness, rate, scale and independence.

    Parameters
    ----------
    p_name : str
        The setting that holds the rate of dropping.
    input_name : str
        The input that is dropped.
    **others
        Further settings of every call.

    Returns
    -------
    callable
        ``check(spec, case, pair)``, to be put into `Spec.checks`.
    """

    def check(spec: Any, case: Case, pair: Pair) -> Iterator[Finding]:
        op = Op(pair, spec.gradient_names(case))
        x = np.full((48, 64), 1.5)

        def call(p: float, rng: Any) -> np.ndarray:
            keywords = {input_name: x, p_name: p, "rng": rng, **others}
            return np.asarray(op.pair.forward(**keywords)[0])

        yield within("identity without rng", "y", difference(call(0.5, None), x), 0.0, "rng=None must not drop")
        yield within("identity at rate 0", "y", difference(call(0.0, np.random.default_rng(0)), x), 0.0, "p=0 drops")
        seed = int(case.settings.get("rng") or 0)
        for p in (0.1, 0.5):
            yield from _rate_and_scale(call(p, np.random.default_rng(seed)), x, p)
            # One generator used twice: a mask that is kept would come out again.
            rng = np.random.default_rng(seed)
            yield from _independence(call(p, rng) == 0.0, call(p, rng) == 0.0, p)

    return check


def _rate_and_scale(y: np.ndarray, x: np.ndarray, p: float) -> Iterator[Finding]:
    """A share p of zeros, and everything else divided by 1 - p."""
    dropped = y == 0.0
    error = abs(float(dropped.mean()) - p) / np.sqrt(p * (1.0 - p) / x.size)
    yield within("rate of dropping", "y", error, SIGMAS, f"{dropped.mean():.3f} of the numbers dropped at rate {p}")
    kept = y[~dropped]
    error = difference(kept, np.full_like(kept, 1.0) * x[~dropped] / (1.0 - p))
    yield within("scale of what is kept", "y", error, 1e-12, "what is kept must be divided by 1 - p")


def _independence(first: np.ndarray, second: np.ndarray, p: float) -> Iterator[Finding]:
    """No correlation between two calls, nor between neighbouring rows, columns or numbers of one."""
    pairs = {
        "two calls": (first, second),
        "neighbouring rows": (first[:-1], first[1:]),
        "neighbouring columns": (first[:, :-1], first[:, 1:]),
        "the halves": (first[: len(first) // 2], first[len(first) // 2 :]),
    }
    for what, (a, b) in pairs.items():
        products = (a.astype(np.float64) - p) * (b.astype(np.float64) - p) / (p * (1.0 - p))
        error = abs(float(products.mean())) * np.sqrt(products.size)
        yield within("independence", "y", error, SIGMAS, f"the masks of {what} are correlated")
