"""All specs and all mistakes, by name."""

from __future__ import annotations

from types import ModuleType

from numtx.testing import mistakes, specs
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Spec


def _specs(modules: tuple[ModuleType, ...]) -> dict[str, Spec]:
    found: dict[str, Spec] = {}
    for module in modules:
        for spec in module.SPECS:
            if spec.name in found:
                raise ValueError(f"specs: expected unique names, got {spec.name!r} twice")
            found[spec.name] = spec
    return found


def _mistakes(modules: tuple[ModuleType, ...]) -> dict[str, Mistake]:
    found: dict[str, Mistake] = {}
    for module in modules:
        for mistake in module.MISTAKES:
            if mistake.name in found:
                raise ValueError(f"mistakes: expected unique names, got {mistake.name!r} twice")
            found[mistake.name] = mistake
    return found


SPECS: dict[str, Spec] = _specs(specs.MODULES)
MISTAKES: dict[str, Mistake] = _mistakes(mistakes.MODULES)


def find_spec(name: str) -> Spec:
    """The spec called `name`.

    Raises
    ------
    ValueError
        If there is none, with the names that come near.

    Examples
    --------
    >>> find_spec("layer_norm").differentiable
    ('x', 'weight', 'bias')
    """
    if name not in SPECS:
        import difflib

        near = difflib.get_close_matches(name, SPECS, n=3, cutoff=0.5) or sorted(SPECS)
        raise ValueError(f"check: expected an op, component or model, such as {', '.join(near)}; got {name!r}")
    return SPECS[name]


def mistakes_of(name: str) -> list[Mistake]:
    """The catalogued mistakes of the op, component or model called `name`."""
    return [mistake for mistake in MISTAKES.values() if mistake.of == name]
