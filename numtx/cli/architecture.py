"""A model as a table: the tree of its components with what each gives, holds and costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from numtx.nn import Module, ModuleList, Trace, count_flops

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Row:
    """One line: a component, several equal ones, or a pair in which a component multiplies matrices itself.

    Attributes
    ----------
    level : int
        How deep it stands; the model itself is at 0.
    name : str
        Its path from the component above, "layers.0"; "layers.0-5" for six equal ones.
    kind : str
        The name of its class, or of the pair.
    repeats : int
        How many equal neighbours stand on this line.
    shape : str
        Of the output of one of them.
    parameters, flops : int
        Of all that stand on this line and on the lines above it: in "layers.0-5" of six, and so in their parts.
    """

    level: int
    name: str
    kind: str
    repeats: int
    shape: str
    parameters: int
    flops: int


class Architecture:
    """What a trace of one forward says of a model.

    Examples
    --------
    >>> from numtx import nn
    >>> model = nn.FeedForward(4, 8, rng=0)
    >>> with nn.trace(model) as t:
    ...     y = model(np.ones((1, 2, 4), np.float32))
    >>> [(row.name, row.shape, row.parameters, row.flops) for row in Architecture(model, t).rows()]
    [('model', '(1, 2, 4)', 76, 256), ('up', '(1, 2, 8)', 40, 128), ('down', '(1, 2, 4)', 36, 128)]
    """

    def __init__(self, model: Module, trace: Trace):
        self.model = model
        self.sites = trace.sites
        self.products = count_flops(trace)
        self.order = {name: k for k, name in enumerate(self.sites)}

    @property
    def flops(self) -> int:
        """Of one forward."""
        return sum(self.products.values())

    @property
    def causal(self) -> bool:
        """Whether some attention hides what comes later."""
        return any(self.sites[name].settings.get("causal", False) for name in self.products)

    def rows(self, depth: int | None = None) -> Iterator[Row]:
        """Yield the lines from the model down to `depth` levels below it (None: all), parts in the order of calls."""
        yield from self._rows(0, "model", [("", self.model)], 1, depth)

    def _rows(
        self, level: int, name: str, equal: list[tuple[str, Module]], above: int, depth: int | None
    ) -> Iterator[Row]:
        path, module = equal[0]
        copies = above * len(equal)
        parameters, flops = module.num_parameters() * copies, self._flops(path) * copies
        yield Row(level, name, type(module).__name__, len(equal), self._shape(path), parameters, flops)
        if level == depth:
            return
        parts = self._parts(path, module)
        runs = {run[0][0]: run for run in self._runs(parts)}
        pairs = self._pairs(path, module) if parts else {}  # of one without parts, a product is all it does
        for place in sorted([*runs, *pairs], key=self._called):
            if place in runs:
                yield from self._rows(level + 1, _label(path, runs[place]), runs[place], copies, depth)
            else:
                row = pairs[place]
                yield replace(row, level=level + 1, parameters=row.parameters * copies, flops=row.flops * copies)

    def _parts(self, path: str, module: Module) -> list[tuple[str, Module]]:
        """The components below one, by path; those of a list stand in the list's place."""
        found = []
        for name, child in module.children().items():
            below = f"{path}.{name}" if path else name
            found += self._parts(below, child) if isinstance(child, ModuleList) else [(below, child)]
        return found

    def _runs(self, parts: list[tuple[str, Module]]) -> list[list[tuple[str, Module]]]:
        """Equal neighbours in a list together; all else by itself."""
        return [list(run) for _, run in groupby(parts, key=lambda part: self._likeness(*part))]

    def _pairs(self, path: str, module: Module) -> dict[str, Row]:
        """The products that a component makes itself, by site, with the parameters of its own that go into each."""
        start, found = f"{path or type(self.model).__name__}/", {}
        for name in self.products:
            if name.startswith(start):
                site, own = self.sites[name], module.own_parameters().values()
                given = [a for a in site.inputs if isinstance(a, np.ndarray)]
                used = [a for a in given if any(np.may_share_memory(a, parameter) for parameter in own)]
                pair, size = name.removeprefix(start).partition("#")[0], sum(array.size for array in used)
                found[name] = Row(0, "", pair, 1, shape_of(site.output), size, self.products[name])
        return found

    def _likeness(self, path: str, module: Module) -> Any:
        """What two components must share to stand on one line: all but the numbers of their parameters."""
        if not path.rpartition(".")[2].isdecimal():
            return path
        inside = [(name, type(part), _settings(part)) for name, part in module.named_modules()]
        arrays = [(name, array.shape) for name, array in module.named_parameters()]
        return repr((path.rpartition(".")[0], inside, arrays, self._shape(path), self._flops(path)))

    def _flops(self, path: str) -> int:
        inside = (f"{path}/", f"{path}.") if path else ("",)
        return sum(flops for name, flops in self.products.items() if name.startswith(inside))

    def _shape(self, path: str) -> str:
        site = self.sites.get(path or type(self.model).__name__)
        return "" if site is None else shape_of(site.output)

    def _called(self, name: str) -> int:
        return self.order.get(name, len(self.order))


def shape_of(output: Any) -> str:
    """Return the shapes in what a component returned.

    Examples
    --------
    >>> shape_of((np.ones((2, 3)), None, np.ones(4)))
    '(2, 3), (4,)'
    """
    if isinstance(output, np.ndarray | np.generic):
        return str(output.shape)
    if hasattr(output, "__dataclass_fields__"):
        output = tuple(vars(output).values())
    return ", ".join(filter(None, map(shape_of, output))) if isinstance(output, tuple | list) else ""


def _settings(module: Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if isinstance(value, PLAIN)}


def _label(path: str, equal: list[tuple[str, Module]]) -> str:
    """The path from the component above: "layers.0", or "layers.0-5"."""
    first, last = (name[len(path) + 1 :] if path else name for name in (equal[0][0], equal[-1][0]))
    return first if first == last else f"{first}-{last.rpartition('.')[2]}"
