"""Freezing: parameters that training leaves as they are, by name; backward has no gradient for them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from numtx.nn.module import Module

NEAR = 5  # names that an error lists


def freeze(module: Module, *patterns: str) -> list[str]:
    """Freeze the parameters whose dotted names match a pattern, all of the module without one, and return the names.

    Backward then has no entry for them and makes no product for them, and where nothing below learns it stops. They
    stay in `named_parameters`, `state_dict` and files; optimizers leave them out. Files do not say what is frozen.

    Parameters
    ----------
    module : Module
    *patterns : str
        As in `fnmatch`: ``*`` stands for anything, dots too, ``?`` and ``[0-3]`` for one character. None at all
        means everything.

    Raises
    ------
    ValueError
        If a pattern matches no parameter. Nothing is changed then.

    Notes
    -----
    Freeze before the optimizer is made: it lays out what it trains. Dropout goes on in a frozen part while the model is
    given an `rng`, as PyTorch's does in training mode.

    Examples
    --------
    >>> from numtx import nn
    >>> model = nn.FeedForward(4, 8, rng=0)
    >>> freeze(model, "up.*")
    ['up.weight', 'up.bias']
    >>> [name for name, _ in model.trainable_parameters()]
    ['down.weight', 'down.bias']
    """
    names = matching(module, patterns or ("*",), "freeze")
    for name in names:
        owner, last = module.owner(name)
        owner.frozen |= {last}
    return names


def unfreeze(module: Module, *patterns: str) -> list[str]:
    """Let parameters learn again; the arguments are those of `freeze`.

    Examples
    --------
    >>> from numtx import nn
    >>> model = nn.FeedForward(4, 8, rng=0)
    >>> _ = freeze(model)
    >>> unfreeze(model, "*.bias")
    ['up.bias', 'down.bias']
    """
    names = matching(module, patterns or ("*",), "unfreeze")
    for name in names:
        owner, last = module.owner(name)
        owner.frozen -= {last}
    return names


def matching(module: Module, patterns: Iterable[str], owner: str = "matching") -> list[str]:
    """Return the names of the parameters that match any of the patterns, in the module's order.

    Raises
    ------
    ValueError
        In the name of `owner`, if a pattern matches nothing; it lists names that are near.

    Examples
    --------
    >>> from numtx import nn
    >>> matching(nn.FeedForward(4, 8, rng=0), ["*.bias", "down.*"])
    ['up.bias', 'down.weight', 'down.bias']
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if wrong := [one for one in patterns if not isinstance(one, str)]:
        raise ValueError(f"{owner}: expected patterns as text, one an argument, got {wrong[0]!r:.80}")
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = ", ".join(_near(pattern, names)) or "none"
            raise ValueError(
                f"{owner}: expected a pattern that matches a parameter of {type(module).__name__}, got {pattern!r}; "
                f"names near it: {near}"
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def frozen_inputs(**sources: Any) -> dict[str, tuple[str, ...]]:
    """Return what a part is told of its inputs: {"frozen": names of those that nothing which learns had a hand in}.

    Parameters
    ----------
    **sources : Module or tuple of them
        For each input what it was made by.

    Returns
    -------
    dict
        Empty where each input was made by something that learns.

    Examples
    --------
    >>> from numtx import nn
    >>> embedding = nn.Embedding(5, 4, rng=0)
    >>> frozen_inputs(x=embedding), nn.freeze(embedding), frozen_inputs(x=embedding)
    ({}, ['weight'], {'frozen': ('x',)})
    """
    made_by = {name: parts if isinstance(parts, tuple) else (parts,) for name, parts in sources.items()}
    names = tuple(name for name, parts in made_by.items() if not any(part.learns() for part in parts))
    return {"frozen": names} if names else {}


def backward_below(part: Module, dy: Any, cache: Any) -> tuple[Any, dict]:
    """Return part.backward(dy, cache), or (None, {}) where what stands above wants no gradient below it: dy is None."""
    return (None, {}) if dy is None else part.backward(dy, cache)


def _near(pattern: str, names: list[str]) -> list[str]:
    """Return patterns and names that may have been meant, and then the largest parts that there are."""
    parts = dict.fromkeys(f"{name.rsplit('.', n)[0]}.*" for name in names for n in range(name.count("."), 0, -1))
    largest = [part for part in parts if part.count(".") == 1] or names
    return list(dict.fromkeys([*get_close_matches(pattern, [*parts, *names], n=3), *largest]))[:NEAR]
