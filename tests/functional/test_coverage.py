"""Nothing public in numtx.functional stands outside the specs."""

import inspect
from types import ModuleType

from numtx import functional
from numtx.testing import SPECS

BACKWARD = "_backward"


def described(specs) -> set[str]:
    """Names of the specs that are about numtx.functional (a spec may bring its pair from elsewhere)."""
    ours = [spec for spec in specs.values() if spec.kind == "functional"]
    return {spec.name for spec in ours if spec.resolve is None or hasattr(functional, spec.name)}


def without_spec(module, specs) -> list[str]:
    """Public functions of a module, backwards aside, that no spec describes."""
    public = [name for name in dir(module) if not name.startswith("_") and inspect.isfunction(getattr(module, name))]
    return [name for name in public if not name.endswith(BACKWARD) and name not in described(specs)]


def test_every_public_function_has_a_spec():
    assert without_spec(functional, SPECS) == []


def test_a_pair_without_a_spec_is_found():
    invented = ModuleType("invented")
    invented.softplus = lambda x: (x, None)
    invented.softplus_backward = lambda dy, cache: dy
    assert without_spec(invented, SPECS) == ["softplus"]


def test_every_spec_describes_what_is_there():
    for name in described(SPECS):
        assert callable(getattr(functional, name)), name
        has_backward = hasattr(functional, name + BACKWARD)
        assert has_backward == SPECS[name].is_pair, f"{name}: a backward and differentiable inputs go together"


def test_all_is_complete():
    functions = {name for name in dir(functional) if inspect.isfunction(getattr(functional, name))}
    assert {name for name in functions if not name.startswith("_")} == set(functional.__all__)


def test_differentiable_inputs_come_in_the_order_of_the_signature():
    for name in described(SPECS):
        if name == "combine_masks":
            continue  # any number of masks, by position
        parameters = list(inspect.signature(getattr(functional, name)).parameters)
        order = [parameters.index(argument) for argument in SPECS[name].differentiable]
        assert order == sorted(order), name
