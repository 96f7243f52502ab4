"""What is known of a pair: its name, its inputs, an independent definition, and how to draw a case.

From a spec follow the battery of property tests, the mistakes it must catch, the vectors for ports and the exercises.
A spec of a pair looks like this (the whole of what its author writes)::

    def draw(d: Drawer) -> Case:
        B, V = d.sizes(2, 1, 5)
        axis = d.choice((-1, 0))
        return Case({"x": d.array((B, V))}, {"axis": axis})

    def definition(x, axis):                       # slow and plain: loops, math.exp, no shared code
        ...
        return y

    SPECS = [Spec("softmax", ("x",), draw, definition)]

Everything is called by keyword: ``forward(**inputs, **settings)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numtx.testing.drawer import Drawer

if TYPE_CHECKING:
    from numtx.testing.findings import Finding


def is_floating(value: Any) -> bool:
    """Whether `value` is an array of floating numbers."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


@dataclass(frozen=True)
class Case:
    """One call of a pair: what goes in, by keyword.

    Attributes
    ----------
    inputs : dict
        The array arguments in forward's order, differentiable or not (ids, targets, class weights). The value of an
        optional input that is not given is None.
    settings : dict
        All other arguments: flags, rates, axes, masks. Under ``rng`` stands an integer seed or None, never a
        generator: each call gets a fresh ``np.random.default_rng(seed)``, so that equal calls give equal results.

    Examples
    --------
    >>> case = Case({"x": np.ones(2)}, {"p": 0.5, "rng": 3})
    >>> sorted(case.keywords())
    ['p', 'rng', 'x']
    """

    inputs: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)

    def keywords(self) -> dict[str, Any]:
        """Arguments of one call, with a fresh generator where a seed stands."""
        settings = dict(self.settings)
        if isinstance(settings.get("rng"), (int, np.integer)):
            settings["rng"] = np.random.default_rng(int(settings["rng"]))
        return {**self.inputs, **settings}

    def with_inputs(self, changed: Mapping[str, Any]) -> Case:
        """The same case with some inputs replaced."""
        return replace(self, inputs={**self.inputs, **changed})

    def with_settings(self, **changed: Any) -> Case:
        """The same case with some settings replaced."""
        return replace(self, settings={**self.settings, **changed})

    def cast(self, dtype: Any) -> Case:
        """The same case with every floating array, input or setting, in `dtype`; the arrays are copies."""

        def convert(values: dict[str, Any]) -> dict[str, Any]:
            return {k: v.astype(dtype) if is_floating(v) else v for k, v in values.items()}

        return Case(convert(self.inputs), convert(self.settings))


class Pair(NamedTuple):
    """A forward and its backward: ``y, cache = forward(**keywords)``, gradients = ``backward(dy, cache)``."""

    forward: Callable[..., Any]
    backward: Callable[..., Any] | None


def functional_pair(name: str) -> Pair:
    """The pair `name` as `numtx.functional` holds it now: looked up late, so that a planted mistake is found."""
    from numtx import functional

    return Pair(getattr(functional, name), getattr(functional, name + "_backward", None))


@dataclass(frozen=True)
class Spec:
    """The description of one pair (or, through `numtx.testing.adapter`, of a component or model).

    Attributes
    ----------
    name : str
        Name in `numtx.functional`, such as ``"layer_norm"``; the backward is ``name + "_backward"``.
    differentiable : tuple of str
        Names of the differentiable inputs in forward's order. A single name means that backward gives a bare gradient,
        several that it gives a tuple, with None for an input that is None. Empty: a plain function that returns y
        without a cache (masks, sinusoids).
    draw : callable
        ``draw(d)`` gives a `Case`, asking the `Drawer` `d` for every size, choice and number. Float64.
    definition : callable
        ``definition(**inputs, **settings)`` gives y: slow, independent, written from the formula (loops).
    stochastic : bool
        With a seed under ``rng`` the result is random. The definition then describes the result without randomness (it
        is called only for cases whose ``rng`` is None), and the statistics check the rest.
    unbiased : bool
        For stochastic specs: the mean over many seeds is the result without randomness, as inverted dropout promises.
    extreme : tuple of str, optional
        Inputs that are blown up to 1e4 (in float32, where results must stay finite); default: all differentiable ones.
    checks : tuple of callables
        More properties of this spec alone: ``check(spec, case, pair)`` gives an iterable of
        `numtx.testing.findings.Finding`. Called for every drawn case.
    kind : str
        ``"functional"``, ``"component"`` or ``"model"``.
    resolve : callable, optional
        Gives the `Pair` now; default: `functional_pair(name)`.
    names : callable, optional
        ``names(case)`` gives the differentiable names where they depend on the case (a component without biases).
    """

    name: str
    differentiable: tuple[str, ...]
    draw: Callable[[Drawer], Case]
    definition: Callable[..., Any]
    stochastic: bool = False
    unbiased: bool = False
    extreme: tuple[str, ...] | None = None
    checks: tuple[Callable[[Spec, Case, Pair], Iterable[Finding]], ...] = ()
    kind: str = "functional"
    resolve: Callable[[], Pair] | None = None
    names: Callable[[Case], tuple[str, ...]] | None = None

    def pair(self) -> Pair:
        """Forward and backward as they are at this moment (a planted mistake included)."""
        return self.resolve() if self.resolve is not None else functional_pair(self.name)

    def gradient_names(self, case: Case) -> tuple[str, ...]:
        """Names of what backward gives a gradient for, in order; an optional input that is None keeps its place."""
        return self.names(case) if self.names is not None else self.differentiable

    @property
    def is_pair(self) -> bool:
        """Whether there is a backward; a plain function (masks, sinusoids) has none."""
        return bool(self.differentiable) or self.names is not None
