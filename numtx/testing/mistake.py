"""The catalogue's entry: a classic wrong version of a pair, component or model, and how it is planted.

A mistake of a pair looks like this (the whole of what its author writes)::

    from numtx.functional.softmax import softmax, softmax_backward     # the right ones, never F.softmax:
                                                                       # F.softmax is the wrong one while planted
    def divided_by_batch(dy, cache):
        return softmax_backward(dy, cache) / dy.shape[0]

    MISTAKES = [
        Mistake(
            name="softmax backward divided by the batch",
            of="softmax",
            why="The mean over the batch belongs to the loss; it is easily taken a second time in the softmax.",
            hint="Compare at batch 1 and batch 2: the gradient of a row must not depend on how many rows there are.",
            backward=divided_by_batch,
            witness=lambda: Case({"x": np.array([[0.1, 0.7], [1.0, -0.4]])}, {"axis": -1}),
        ),
    ]
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numtx.testing.spec import Case


@dataclass(frozen=True)
class Mistake:
    """A wrong forward, a wrong backward or both, with the signature of the right one.

    Attributes
    ----------
    name : str
        What is wrong, in a few words; unique in the catalogue, and named by every test that meets it.
    of : str
        The name of the spec whose pair, component or model it is a mistake of.
    why : str
        Why people make it (one or two sentences).
    hint : str
        What to look at, without giving the answer away (shown to whoever made it).
    witness : callable
        ``witness()`` gives a small `Case` where its numbers, not its shapes, are wrong.
    forward, backward : callable, optional
        The wrong one; None keeps the right one. For a pair: ``forward(...) -> (y, cache)`` with the cache that the
        right backward reads (unless both are given), ``backward(dy, cache)``. For a component or model: methods, with
        `self` first.
    owner : str
        Where it is planted: ``"numtx.functional"`` for a pair (attributes `of` and `of` + ``"_backward"``), or the
        class for a component or model, ``"numtx.nn.MultiHeadAttention"`` (its methods `forward` and `backward`).
    """

    name: str
    of: str
    why: str
    hint: str
    witness: Callable[[], Case]
    forward: Callable[..., Any] | None = None
    backward: Callable[..., Any] | None = None
    owner: str = "numtx.functional"

    def __post_init__(self) -> None:
        if self.forward is None and self.backward is None:
            raise ValueError(f"Mistake {self.name!r}: expected a wrong forward or a wrong backward, got neither")

    def replacements(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """What is replaced: (object, attribute, wrong function) for each wrong function."""
        owner = _find(self.owner)
        forward, backward = ("forward", "backward") if isinstance(owner, type) else (self.of, self.of + "_backward")
        wrong = ((forward, self.forward), (backward, self.backward))
        return [(owner, attribute, function) for attribute, function in wrong if function is not None]


def _find(path: str) -> Any:
    """The module or class at a dotted path."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, attribute = path.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


@contextmanager
def planted(mistake: Mistake) -> Iterator[Mistake]:
    """Put a mistake in the place of the right function or method for the time of a ``with``.

    Everything that calls the pair as ``F.name(...)``, as components do, meets the mistake. Not for several threads at
    once: the module or class itself is changed, and restored at the end whatever happens.

    Parameters
    ----------
    mistake : Mistake
        What to plant.

    Yields
    ------
    Mistake
        The same.

    Examples
    --------
    >>> from numtx import functional as F
    >>> from numtx.testing import MISTAKES, planted
    >>> mistake, right = MISTAKES["softmax backward divided by the batch"], F.softmax_backward
    >>> with planted(mistake):
    ...     F.softmax_backward is right
    False
    >>> F.softmax_backward is right
    True
    """
    replaced: list[tuple[Any, str, Any, bool]] = []
    try:
        for owner, attribute, function in mistake.replacements():
            inherited = isinstance(owner, type) and attribute not in vars(owner)
            replaced.append((owner, attribute, getattr(owner, attribute), inherited))
            setattr(owner, attribute, function)
        yield mistake
    finally:
        for owner, attribute, right, inherited in reversed(replaced):
            if inherited:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, right)
