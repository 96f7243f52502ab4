"""All parameters that are trained in one buffer, and gradients in buffers of the same layout.

An optimizer step, a norm, a clip or a sum over shards is then a few passes over one long array, whatever the model.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from numtx import nn
from numtx.training.threads import Workers

LINE = 64  # bytes; each parameter starts a cache line of its own, and the optimizer may cut between any two


def decayed_by_default(name: str, array: np.ndarray) -> bool:
    """Say whether weight decay falls on a parameter: two axes or more, and no "bias" in the name.

    Examples
    --------
    >>> decayed_by_default("up.weight", np.zeros((2, 3))), decayed_by_default("norm.weight", np.zeros(3))
    (True, False)
    """
    return array.ndim >= 2 and "bias" not in name


def memory_order(array: np.ndarray) -> tuple[int, ...]:
    """Return the axes of an array from the one of the largest stride to the one of the smallest.

    Examples
    --------
    >>> memory_order(np.zeros((2, 3))), memory_order(np.zeros((2, 3)).T)
    ((0, 1), (1, 0))
    """
    return tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))


class Slot(NamedTuple):
    """Where a parameter lies in the buffer, and in which order its axes lie there."""

    start: int
    stop: int
    shape: tuple[int, ...]
    order: tuple[int, ...]  # the axes from the slowest to the fastest

    def view(self, buffer: np.ndarray) -> np.ndarray:
        """Return the parameter's part of a buffer, with its shape and its order in memory."""
        in_memory = buffer[self.start : self.stop].reshape([self.shape[axis] for axis in self.order])
        return in_memory.transpose(np.argsort(self.order)) if self.order else in_memory.reshape(())


def rates_by_pattern(model: Any, rates: Mapping[str, float]) -> Callable[[str, np.ndarray], float]:
    """Return the `rates` of a FlatParameters: the factor of the first pattern that matches a name, else 1.

    Parameters
    ----------
    model : Module
    rates : dict of pattern -> factor
        Patterns as in `nn.freeze`; one that matches nothing is refused.

    Examples
    --------
    >>> model = nn.FeedForward(4, 8, rng=0)
    >>> rates = rates_by_pattern(model, {"up.*": 0.1})
    >>> [rates(name, array) for name, array in model.named_parameters()]
    [0.1, 0.1, 1.0, 1.0]
    """
    factors: dict[str, float] = {}
    for pattern, factor in rates.items():
        factors = dict.fromkeys(nn.matching(model, [pattern], "rates_by_pattern"), factor) | factors
    return lambda name, array: factors.get(name, 1.0)


class Group(NamedTuple):
    """Neighbours in the buffer, [start, stop), that are updated alike.

    Attributes
    ----------
    decay : bool, whether weight decay falls on them
    rate : float, what the learning rate is multiplied by for them
    """

    start: int
    stop: int
    decay: bool
    rate: float


class FlatParameters:
    """One flat buffer for all parameters of a model that are not frozen; those arrays become views of it.

    Each keeps its order in memory: a weight that is the transposed view of an (out, in) array stays one. Decayed
    parameters come first, and those of one learning rate lie together, so that a group is one slice.

    Parameters
    ----------
    model : Module
        Its parameters are of one floating dtype. They are rebound: whoever kept an array from before keeps the old one.
        What is frozen (`nn.freeze`) stays where it is.
    decay : callable (name, array) -> bool, optional
        Which parameters are decayed; default `decayed_by_default`.
    rates : callable (name, array) -> float, optional
        What the learning rate is multiplied by for a parameter; default 1 for all. See `rates_by_pattern`.

    Attributes
    ----------
    buffer : (N,) array, all trained parameters, each padded with zeros to whole cache lines
    views : dict of dotted name -> array, in the order of the buffer
    decayed : int, buffer[:decayed] is what weight decay falls on
    groups : list of Group, which are the whole buffer

    Raises
    ------
    ValueError
        If there is no parameter to train, if their dtypes differ, if two names share one array, or if a rate is not a
        number of at least 0.

    Examples
    --------
    >>> flat = FlatParameters(nn.Linear(2, 3, rng=0))
    >>> list(flat.views), flat.views["weight"].shape
    (['weight', 'bias'], (2, 3))
    """

    def __init__(
        self,
        model: Any,
        decay: Callable[[str, np.ndarray], bool] | None = None,
        rates: Callable[[str, np.ndarray], float] | None = None,
    ):
        decay = decay or decayed_by_default
        arrays = dict(model.trainable_parameters())
        self.model = model
        self.dtype = self._check(arrays)
        # What is updated alike, by (decay, rate); within a group the model's order.
        alike: dict[tuple[bool, float], list[str]] = {}
        for name, array in arrays.items():
            rate = 1.0 if rates is None else _rate(name, rates(name, array))
            alike.setdefault((bool(decay(name, array)), rate), []).append(name)
        line = max(1, LINE // self.dtype.itemsize)
        self.slots: dict[str, Slot] = {}
        self.groups: list[Group] = []
        start = 0
        for decays, rate in sorted(alike, key=lambda group: not group[0]):
            before = start
            for name in alike[decays, rate]:
                array = arrays[name]
                self.slots[name] = Slot(start, start + array.size, array.shape, memory_order(array))
                start += -(-array.size // line) * line
            self.groups.append(Group(before, start, decays, rate))
        self.decayed = max((group.stop for group in self.groups if group.decay), default=0)
        self.size = start
        self.buffer = self.zeros()
        self.views = {name: slot.view(self.buffer) for name, slot in self.slots.items()}
        for name, view in self.views.items():
            view[...] = arrays[name]
            model.set_parameter(name, view)

    @staticmethod
    def _check(arrays: dict[str, np.ndarray]) -> np.dtype:
        dtypes = {array.dtype for array in arrays.values()}
        if len(dtypes) != 1 or next(iter(dtypes)).kind != "f":
            found = ", ".join(sorted(map(str, dtypes))) or "none that is not frozen"
            raise ValueError(f"FlatParameters: expected parameters of one floating dtype, got {found}")
        for (name, array), (other, tied) in combinations(arrays.items(), 2):
            if np.may_share_memory(array, tied) and np.shares_memory(array, tied):
                raise ValueError(f"FlatParameters: expected an array for each name, got one for {name} and {other}")
        return next(iter(dtypes))

    def zeros(self) -> np.ndarray:
        """Return a new buffer of this layout, zero, on its own pages of memory, which forked processes share."""
        return np.frombuffer(mmap.mmap(-1, self.size * self.dtype.itemsize), self.dtype)

    def gradients(self) -> FlatGradients:
        """Return a new gradient buffer of this layout, zero."""
        return FlatGradients(self)

    def sync(self) -> None:
        """Take over arrays that were put into the model since, and make them views again.

        Raises
        ------
        ValueError
            If the model's parameters have other names, shapes or another dtype than when they were flattened, or others
            of them are frozen.
        """
        arrays = dict(self.model.trainable_parameters())
        if arrays.keys() != self.views.keys():
            differ = sorted(arrays.keys() ^ self.views.keys())
            shown = ", ".join(differ[:3]) + (f" and {len(differ) - 3} more" if len(differ) > 3 else "")
            raise ValueError(
                f"FlatParameters: expected the parameters that were flattened, got others: {shown}; freeze and"
                " unfreeze before the optimizer is made"
            )
        for name, view in self.views.items():
            array = arrays[name]
            if array is view:
                continue
            if array.shape != view.shape or array.dtype != view.dtype:
                raise ValueError(
                    f"FlatParameters: expected {name} to stay {view.shape} {view.dtype}, got {array.shape}"
                    f" {array.dtype}; flatten again after such a change"
                )
            view[...] = array
            self.model.set_parameter(name, view)


def _rate(name: str, rate: Any) -> float:
    if not (isinstance(rate, int | float | np.number) and math.isfinite(rate) and rate >= 0):
        raise ValueError(f"FlatParameters: expected a rate of at least 0 for {name}, got {rate!r}")
    return float(rate)


class FlatGradients:
    """Gradients of all trained parameters in one buffer of the parameters' layout.

    Attributes
    ----------
    buffer : (N,) array
    views : dict of dotted name -> array, the gradient of that parameter

    Examples
    --------
    >>> gradients = FlatParameters(nn.Linear(2, 3, rng=0)).gradients()
    >>> gradients.add({"weight": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)})
    >>> gradients.views["bias"]
    array([1., 1., 1.], dtype=float32)
    """

    def __init__(self, flat: FlatParameters):
        self.flat = flat
        self.buffer = flat.zeros()
        self.views = {name: slot.view(self.buffer) for name, slot in flat.slots.items()}

    def assign(self, grads: dict) -> None:
        """Put a tree of gradients (nested or with dotted names) into the buffer."""
        self.sum_trees([grads], fresh=True)

    def add(self, grads: dict) -> None:
        """Add a tree of gradients to the buffer."""
        self.sum_trees([grads], fresh=False)

    def sum_trees(self, trees: Sequence[dict], *, fresh: bool, workers: Workers | None = None) -> None:
        """Add trees to the buffer in their order, or to zero if `fresh`.

        The sum is ((t0 + t1) + t2) + ... for each element, however many workers share the names.

        Raises
        ------
        ValueError
            If a tree lacks a gradient, has one that belongs to no parameter, or one of another shape or dtype.
        """
        flat_trees = [self._checked(tree) for tree in trees]
        workers = workers or Workers(1)
        workers.map(
            lambda names: self._sum_names(names, flat_trees, fresh), self._shares(workers.worth(self.flat.size))
        )

    def _sum_names(self, names: list[str], trees: list[dict[str, np.ndarray]], fresh: bool) -> None:
        for name in names:
            view = self.views[name]
            rest: Iterator[np.ndarray] = iter([tree[name] for tree in trees])
            if fresh and len(trees) > 1:
                np.add(next(rest), next(rest), out=view)
            elif fresh:
                np.copyto(view, next(rest))
            for gradient in rest:
                view += gradient

    def _shares(self, count: int) -> list[list[str]]:
        """Split the names into about equal parts: always the next largest to the one that has least."""
        if count == 1:
            return [list(self.views)]
        shares: list[list[str]] = [[] for _ in range(count)]
        sizes = [0] * count
        for name in sorted(self.views, key=lambda name: -self.views[name].size):
            least = sizes.index(min(sizes))
            shares[least].append(name)
            sizes[least] += self.views[name].size
        return shares

    def _checked(self, tree: dict) -> dict[str, np.ndarray]:
        given = nn.flatten(tree)
        missing, unexpected = self.views.keys() - given.keys(), given.keys() - self.views.keys()
        if missing or unexpected:
            problems = {"none for": missing, "an unexpected": unexpected}
            said = "; ".join(f"{problem} {', '.join(sorted(names))}" for problem, names in problems.items() if names)
            raise ValueError(f"FlatGradients: expected a gradient for each parameter, got {said}")
        for name, view in self.views.items():
            gradient = given[name]
            if gradient.shape != view.shape or gradient.dtype != view.dtype:
                raise ValueError(
                    f"FlatGradients: expected the gradient of {name} to be {view.shape} {view.dtype},"
                    f" got {gradient.shape} {gradient.dtype}"
                )
        return given


def buffer_of(grads: Any) -> np.ndarray | None:
    """Return the flat array of gradients that are flat already, None for a tree."""
    if isinstance(grads, FlatGradients):
        return grads.buffer
    return grads if isinstance(grads, np.ndarray) else None


def pieces(start: int, stop: int, count: int, unit: int) -> list[tuple[int, int]]:
    """Cut [start, stop) into at most `count` pieces of about the same length, at multiples of `unit` from the start.

    Examples
    --------
    >>> pieces(0, 100, 2, 16)
    [(0, 64), (64, 100)]
    """
    length = max(unit, math.ceil((stop - start) / count / unit) * unit)
    return [(a, min(a + length, stop)) for a in range(start, stop, length)]
