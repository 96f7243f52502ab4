"""A component or model as a pair over its inputs and parameters, so that one battery serves all.

The case of a component holds its inputs by name, its parameters by dotted name (``"up.weight"``, norm weights not ones,
biases not zeros), and under the setting ``module`` how it is built. Calling the pair puts the parameters of the case
into the module, calls `forward`, and gives the gradients of inputs and parameters in one tuple::

    SPECS = [
        component_spec(
            "FeedForward",
            build=lambda dtype, **options: nn.FeedForward(**options, rng=0, dtype=dtype),
            draw=lambda d: Draft({"width": d.size(2, 4), "hidden": d.size(2, 5)}, {"x": ...}, {}),
            definition=lambda p, options, x: ...,        # p: parameters by dotted name
        )
    ]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding
from numtx.testing.spec import Case, Pair, Spec, is_floating


@dataclass(frozen=True)
class Draft:
    """What a component's `draw` gives: how it is built, and one call of it.

    Attributes
    ----------
    options : dict
        Arguments of `build`.
    inputs : dict
        What goes in by position, in order; None for an optional input that is not given.
    settings : dict
        What goes in by keyword: ``mask``, ``positions``, ``keep``, and under ``rng`` a seed or None.
    """

    options: dict[str, Any]
    inputs: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)


class Built:
    """A module and how it was built: one instance for each dtype serves all calls of a case, so that state shows."""

    def __init__(self, build: Callable[..., Any], options: dict[str, Any]) -> None:
        self.build, self.options = build, options
        self._made: dict[str, Any] = {}

    def at(self, dtype: Any) -> Any:
        """The module in a dtype."""
        key = np.dtype(dtype).str
        if key not in self._made:
            self._made[key] = self.build(np.dtype(dtype), **self.options)
        return self._made[key]

    def __repr__(self) -> str:
        return f"Built({self.options})"


@dataclass(frozen=True)
class Adapter:
    """The pair of a component: `forward` and `backward` with everything by keyword.

    Attributes
    ----------
    positional : tuple of str
        The inputs that go in by position, in order.
    differentiable : tuple of str
        Those of them that backward gives a gradient for.
    read : callable
        Takes the array out of what the module returns (a model returns a dataclass).
    write : callable
        Makes what the module's backward takes from the gradient of that array.
    """

    positional: tuple[str, ...]
    differentiable: tuple[str, ...]
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]

    def pair(self) -> Pair:
        """Forward and backward."""
        return Pair(self.forward, self.backward)

    def forward(self, *, module: Built, **keywords: Any) -> tuple[Any, Any]:
        """Call the module with the parameters of the case."""
        inputs = {name: keywords.pop(name) for name in self.positional if name in keywords}
        floats = [v for v in (*inputs.values(), *keywords.values()) if is_floating(v)]
        made = module.at(floats[0].dtype if floats else np.float64)
        names = [name for name, _ in made.named_parameters()]
        for name in names:
            made.set_parameter(name, keywords.pop(name))
        y, cache = made.forward(*inputs.values(), **keywords)
        return self.read(y), (made, cache, inputs, names)

    def backward(self, dy: Any, cache: tuple[Any, ...]) -> Any:
        """Gradients of the floating inputs and of all parameters, in the order of `gradient_names`."""
        from numtx import nn

        made, kept, inputs, names = cache
        dinputs, tree = made.backward(self.write(dy), kept)
        wanted = [name for name in inputs if name in self.differentiable]
        result = list(dinputs) if isinstance(dinputs, tuple) else [dinputs] if wanted else []
        grads = nn.flatten(tree)
        unexpected = sorted(set(grads) - set(names))
        if unexpected:
            raise ValueError(f"{type(made).__name__}: expected gradients of parameters, got {', '.join(unexpected)}")
        result += [grads.get(name) for name in names]
        return result[0] if len(result) == 1 else tuple(result)


def component_spec(
    name: str,
    build: Callable[..., Any],
    draw: Callable[[Drawer], Draft],
    definition: Callable[..., Any],
    *,
    positional: tuple[str, ...] = ("x",),
    differentiable: tuple[str, ...] | None = None,
    stochastic: bool = False,
    kind: str = "component",
    read: Callable[[Any], Any] = lambda y: y,
    write: Callable[[Any], Any] = lambda dy: dy,
    checks: tuple[Callable[[Spec, Case, Pair], Iterable[Finding]], ...] = (),
) -> Spec:
    """The spec of a component or model.

    Parameters
    ----------
    name : str
        Its name, such as ``"FeedForward"``.
    build : callable
        ``build(dtype, **options)`` makes it.
    draw : callable
        ``draw(d)`` gives a `Draft`; the parameters are drawn here.
    definition : callable
        ``definition(p, options, *inputs, **settings)`` gives y from the parameters ``p`` by dotted name: slow and
        independent. With ``stochastic`` it is called only where ``rng`` is None.
    positional : tuple of str
        Names of the inputs, in the order of `forward`.
    differentiable : tuple of str, optional
        Those of them that have a gradient; default: all.
    stochastic : bool
        Whether ``rng`` makes the result random.
    kind : str
        ``"component"`` or ``"model"``.
    read, write : callable
        See `Adapter`.
    checks : tuple of callables
        See `Spec.checks`.
    """
    differentiable = positional if differentiable is None else differentiable
    return Spec(
        name,
        differentiable,
        partial(_draw, build, draw),
        partial(_define, positional, definition),
        stochastic=stochastic,
        extreme=differentiable,
        checks=checks,
        kind=kind,
        resolve=Adapter(positional, differentiable, read, write).pair,
        names=partial(_gradient_names, positional, differentiable),
    )


def _draw(build: Callable[..., Any], draw: Callable[[Drawer], Draft], d: Drawer) -> Case:
    draft = draw(d)
    built = Built(build, draft.options)
    return Case({**draft.inputs, **draw_parameters(d, built.at(np.float64))}, {"module": built, **draft.settings})


def _define(positional: tuple[str, ...], definition: Callable[..., Any], *, module: Built, **keywords: Any) -> Any:
    inputs = [keywords.pop(key) for key in positional if key in keywords]
    parameters = {key: keywords.pop(key) for key, _ in module.at(np.float64).named_parameters()}
    return definition(parameters, module.options, *inputs, **keywords)


def _gradient_names(positional: tuple[str, ...], differentiable: tuple[str, ...], case: Case) -> tuple[str, ...]:
    """Of the inputs that have a gradient, and of all parameters."""
    inputs = [key for key in case.inputs if key in differentiable]
    return (*inputs, *(key for key in case.inputs if key not in positional))


def draw_parameters(d: Drawer, module: Any) -> dict[str, np.ndarray]:
    """Numbers for all parameters, by dotted name: norm weights near one but never one, all else of the case's scale."""
    from numtx import nn

    norms = {path for path, part in module.named_modules() if isinstance(part, (nn.LayerNorm, nn.RMSNorm))}
    drawn = {}
    for name, array in module.named_parameters():
        owner, _, last = name.rpartition(".")
        is_norm_weight = owner in norms and last == "weight"
        drawn[name] = d.near_one(array.shape) if is_norm_weight else d.array(array.shape)
    return drawn


def component_case(build: Callable[..., Any], draft: Draft, seed: int = 0, scale: float = 0.5) -> Case:
    """A case by hand, for the witness of a component's mistake: parameters from a seed, everything else as given."""
    built = Built(build, draft.options)
    parameters = draw_parameters(Drawer(seed, scale=scale), built.at(np.float64))
    return Case({**draft.inputs, **parameters}, {"module": built, **draft.settings})
