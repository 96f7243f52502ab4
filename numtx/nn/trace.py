"""The trace: what went into and came out of every component and pair of a model, by place."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from numtx import functional
from numtx.nn.module import Module, flatten

_OPEN = threading.Lock()  # held while a trace is open


@dataclass
class Site:
    """One call of one component or pair.

    Attributes
    ----------
    name : str
        The component's path, "stack.layers.0.attention"; after a slash the pair that it called,
        "stack.layers.0.attention.sublayer/scaled_dot_product_attention"; "#1" behind it for a second call.
    inputs, settings : what forward was given, by position and by keyword
    output : what forward returned, without the cache
    doutput : what backward was given, or None
    dinputs : what backward returned for the inputs (of a pair: all it returned), or None
    grads : dict, the gradients of a component's parameters by dotted name
    """

    name: str
    inputs: tuple = ()
    settings: dict = field(default_factory=dict)
    output: Any = None
    doutput: Any = None
    dinputs: Any = None
    grads: dict = field(default_factory=dict)


class _Tagged(NamedTuple):
    """A cache that remembers where it was made."""

    site: Site
    cache: Any


class Trace:
    """The sites of the calls made inside `with trace(model) as t`, by name in the order in which they ended.

    Examples
    --------
    >>> from numtx import nn
    >>> model = nn.FeedForward(4, 8, "relu", rng=0)
    >>> with trace(model) as t:
    ...     y, cache = model.forward(np.ones((1, 2, 4), np.float32))
    ...     dx, grads = model.backward(np.ones_like(y), cache)
    >>> list(t)
    ['up/linear', 'up', 'FeedForward/relu', 'FeedForward/dropout', 'down/linear', 'down', 'FeedForward']
    >>> t["up"].dinputs.shape, list(t["up"].grads)
    ((1, 2, 4), ['weight', 'bias'])
    """

    def __init__(self):
        self.sites: dict[str, Site] = {}
        self._events: list[tuple[str, Site]] = []  # ("output" or "gradient", site), in the order of time
        self._lock = threading.Lock()
        self._thread = threading.local()

    def __getitem__(self, name: str) -> Site:
        return self.sites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def first_nonfinite(self) -> tuple[str, str] | None:
        """Return (site, "output" or "gradient") of the first call that gave a NaN or infinity from finite inputs.

        Where none did, the first call that gave one at all, as when the input was bad; None where all was finite.
        """
        first = None
        for kind, site in self._events:
            given, got = (
                ((site.inputs, site.settings), site.output)
                if kind == "output"
                else (site.doutput, (site.dinputs, site.grads))
            )
            if not _finite(got):
                first = first or (site.name, kind)
                if _finite(given):
                    return site.name, kind
        return first

    def _enter(self, path: str) -> None:
        self._stack().append(path)

    def _stack(self) -> list[str]:
        if not hasattr(self._thread, "stack"):
            self._thread.stack = []
        return self._thread.stack

    def _record(self, name: str, inputs: tuple, settings: dict, output: Any) -> Site:
        with self._lock:
            count, unique = 0, name
            while unique in self.sites:
                count += 1
                unique = f"{name}#{count}"
            site = self.sites[unique] = Site(unique, inputs, settings, output)
            self._events.append(("output", site))
        return site

    def _record_backward(self, site: Site, dy: Any, dinputs: Any, grads: dict) -> None:
        with self._lock:
            site.doutput, site.dinputs, site.grads = dy, dinputs, grads
            self._events.append(("gradient", site))

    def _component_forward(self, path, forward):
        @functools.wraps(forward)
        def traced(*inputs, **settings):
            self._enter(path)
            try:
                output, cache = forward(*inputs, **settings)
            finally:
                self._stack().pop()
            site = self._record(path, inputs, settings, output)
            return output, None if cache is None else _Tagged(site, cache)

        return traced

    def _component_backward(self, path, backward):
        @functools.wraps(backward)
        def traced(dy, cache):
            site, cache = _untagged(cache)
            self._enter(path)
            try:
                dinputs, grads = backward(dy, cache)
            finally:
                self._stack().pop()
            if site is not None:
                self._record_backward(site, dy, dinputs, flatten(grads))
            return dinputs, grads

        return traced

    def _inside(self, path, function):
        @functools.wraps(function)
        def traced(*inputs, **settings):
            self._enter(path)
            try:
                return function(*inputs, **settings)
            finally:
                self._stack().pop()

        return traced

    def _pair_forward(self, pair, forward):
        @functools.wraps(forward)
        def traced(*inputs, **settings):
            output, cache = forward(*inputs, **settings)
            stack = self._stack()
            if not stack:  # called by somebody outside the model
                return output, cache
            return output, _Tagged(self._record(f"{stack[-1]}/{pair}", inputs, settings, output), cache)

        return traced

    def _pair_backward(self, backward):
        @functools.wraps(backward)
        def traced(dy, cache):
            site, cache = _untagged(cache)
            gradients = backward(dy, cache)
            if site is not None:
                self._record_backward(site, dy, gradients, {})
            return gradients

        return traced


@contextmanager
def trace(model: Module) -> Iterator[Trace]:
    """Record every component's and pair's input, output and gradients for the time of a `with`.

    Forward and its backward belong into the same `with`. A component's name is its path in the model; the model itself
    goes by the name of its class. The arrays are the live ones, not copies.
    """
    recorded = Trace()
    modules = [(path or type(model).__name__, module) for path, module in model.named_modules()]
    if not _OPEN.acquire(blocking=False):
        raise ValueError("trace: expected no other trace open, since each wraps the pairs for the whole process")
    pairs = [name.removesuffix("_backward") for name in functional.__all__ if name.endswith("_backward")]
    outermost, shadowed = getattr(model, "loss_and_grads", None), vars(model).get("loss_and_grads")
    originals = {name: getattr(functional, name) for pair in pairs for name in (pair, f"{pair}_backward")}
    read_weights = originals["attention_weights"] = functional.attention_weights
    try:
        for path, module in modules:
            vars(module)["forward"] = recorded._component_forward(path, module.forward)
            vars(module)["backward"] = recorded._component_backward(path, module.backward)
        if outermost is not None:  # so that the loss, which no component computes, has a place too
            vars(model)["loss_and_grads"] = recorded._inside(modules[0][0], outermost)
        for pair in pairs:
            setattr(functional, pair, recorded._pair_forward(pair, originals[pair]))
            name = f"{pair}_backward"
            setattr(functional, name, recorded._pair_backward(originals[name]))
        functional.attention_weights = lambda cache: read_weights(_untagged(cache)[1])  # it reads the pair's own cache
        yield recorded
    finally:
        for _, module in modules:
            vars(module).pop("forward", None)
            vars(module).pop("backward", None)
        vars(model).pop("loss_and_grads", None)
        if shadowed is not None:
            vars(model)["loss_and_grads"] = shadowed
        for name, original in originals.items():
            setattr(functional, name, original)
        _OPEN.release()


def _untagged(cache):
    return (cache.site, cache.cache) if isinstance(cache, _Tagged) else (None, cache)


def _finite(value) -> bool:
    """Whether every floating array in nested tuples, dicts and dataclasses is finite."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    if isinstance(value, dict):
        return all(_finite(part) for part in value.values())
    if isinstance(value, tuple | list):
        return all(_finite(part) for part in value)
    return _finite(vars(value)) if hasattr(value, "__dataclass_fields__") else True
