"""Run the battery over specs with seeded cases: what `numtx check` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np

from numtx.testing.battery import Options, battery, outcome
from numtx.testing.drawer import SCALES, Drawer
from numtx.testing.findings import Finding
from numtx.testing.mistake import Mistake, planted
from numtx.testing.op import difference
from numtx.testing.pieces import small_blocks
from numtx.testing.registry import SPECS, find_spec, mistakes_of
from numtx.testing.report import Report, Row, tabulate
from numtx.testing.spec import Case, Pair, Spec

Function = Callable[..., object]

# Drawn cases of one spec: models cost a hundred times what ops do.
DRAWS = {"functional": 18, "component": 12, "model": 6}
# Elements, queries and scores of a block: blocks of one row, and of several.
BLOCKS = ((3, 1, 1), (8, 2, 1), (3, 1, 30))


def cases(spec: Spec, count: int | None = None, seed: int = 0) -> Iterator[Case]:
    """`count` cases of a spec: each scale in turn, every second one with small sizes; equal seeds give equal cases.

    Parameters
    ----------
    spec : Spec
        Whose cases.
    count : int, optional
        How many; default by kind: 18 for an op, 12 for a component, 6 for a model.
    seed : int
        Seed of them all.
    """
    for k in range(DRAWS[spec.kind] if count is None else count):
        numbers = np.random.default_rng([seed, k])

        def integer(low: int, high: int, numbers: np.random.Generator = numbers) -> int:
            return int(numbers.integers(low, high + 1))

        yield spec.draw(Drawer(integer=integer, scale=SCALES[k % len(SCALES)], small=(k // len(SCALES)) % 2 == 1))


def check_spec(
    spec: Spec, pair: Pair | None = None, count: int | None = None, seed: int = 0, options: Options | None = None
) -> list[Row]:
    """Rows of one spec: its result and each of its gradients, over drawn cases, every second one in small blocks."""
    return tabulate(spec.name, _findings(spec, pair, count, seed, options))


def _findings(
    spec: Spec, pair: Pair | None, count: int | None, seed: int, options: Options | None
) -> Iterator[list[Finding]]:
    for k, case in enumerate(cases(spec, count, seed)):
        # The statistics of randomness do not change with the sizes: two cases of each scale are plenty.
        some = Options(statistics=k < 2 * len(SCALES), jacobian_limit=36)
        with small_blocks(*BLOCKS[k % len(BLOCKS)]) if k % 2 else nullcontext():
            yield list(battery(spec, case, pair, options or some))


def check(names: str | Sequence[str] | None = None, *, count: int | None = None, seed: int = 0) -> Report:
    """Run the battery over every op, component and model, or over some.

    Parameters
    ----------
    names : str or sequence of str, optional
        Which; default: all.
    count : int, optional
        Cases of each; default by kind.
    seed : int
        Seed of the drawn cases.

    Returns
    -------
    Report
        Rows of what, gradient, worst relative error, cases and verdict; true when all passed.

    Raises
    ------
    ValueError
        If there is no spec of such a name.

    Examples
    --------
    >>> report = check("softmax", count=2)
    >>> bool(report), [row.gradient for row in report]
    (True, ['y', 'x'])
    """
    wanted = list(SPECS) if names is None else [names] if isinstance(names, str) else list(names)
    specs = [find_spec(name) for name in wanted]
    return Report(tuple(row for spec in specs for row in check_spec(spec, count=count, seed=seed)))


def check_pair(name: str, forward: Function, backward: Function, *, count: int | None = None, seed: int = 0) -> Report:
    """Run the battery of the spec `name` over somebody's own implementation, and name its mistake if it is known.

    Parameters
    ----------
    name : str
        The spec, such as ``"layer_norm"``.
    forward, backward : callable
        With the signatures of numtx's pair, called by keyword; the cache is their own affair.
    count, seed : int
        Cases, and their seed.

    Returns
    -------
    Report
        True when all passed. Where it failed, and alone one catalogued mistake gives the same numbers on every drawn
        case, `Report.hint` names it.

    Examples
    --------
    >>> from numtx import functional as F
    >>> bool(check_pair("softmax", F.softmax, F.softmax_backward, count=3))
    True
    """
    spec, pair = find_spec(name), Pair(forward, backward)
    rows = check_spec(spec, pair, count, seed)
    report = Report(tuple(rows))
    if report:
        return report
    mistake = diagnose(name, forward, backward, count=count, seed=seed)
    hint = f"This is a known mistake: {mistake.name}. {mistake.hint}" if mistake is not None else ""
    return Report(tuple(rows), hint)


def diagnose(
    name: str, forward: Function, backward: Function, *, count: int | None = None, seed: int = 0
) -> Mistake | None:
    """The catalogued mistake that alone gives the same numbers as an implementation on every drawn case, or None.

    A mistake of the forward is recognised by its results, whatever backward came with it; one of the backward by its
    gradients too. Numbers are the same when they agree to 1e-9.

    Parameters
    ----------
    name : str
        The spec, such as ``"layer_norm"``.
    forward, backward : callable
        With the signatures of numtx's pair.
    count, seed : int
        Cases, and their seed.
    """
    spec, theirs = find_spec(name), Pair(forward, backward)
    candidates = mistakes_of(name)
    told_apart: set[str] = set()  # a mistake that never shows in these cases cannot be recognised
    for case in cases(spec, count, seed):
        mine = _outcome(spec, case, theirs)
        right = _outcome(spec, case)
        still = []
        for mistake in candidates:
            with planted(mistake):
                wrong = _outcome(spec, case)
            if _same(mine, wrong, mistake):
                still.append(mistake)
                # Where both raise there are no numbers, and whoever merely raises is no mistake that is known.
                if wrong is not None and not _same(right, wrong, mistake):
                    told_apart.add(mistake.name)
        candidates = still
    recognised = [mistake for mistake in candidates if mistake.name in told_apart]
    return recognised[0] if len(recognised) == 1 else None


def _outcome(spec: Spec, case: Case, pair: Pair | None = None) -> dict[str, np.ndarray] | None:
    """Result and gradients, or None where it raised: then there are no numbers to compare."""
    try:
        return outcome(spec, case, pair)
    except Exception:
        return None


def _same(a: dict[str, np.ndarray] | None, b: dict[str, np.ndarray] | None, mistake: Mistake) -> bool:
    """Whether two outcomes have the same numbers in what the mistake concerns."""
    if a is None or b is None:
        return a is None and b is None
    names = [name for name in b if mistake.backward is not None or name.startswith("y")]
    if any(name not in a for name in names):
        return False
    return all(difference(a[name], b[name], floor=1e-6) <= 1e-9 for name in names)
