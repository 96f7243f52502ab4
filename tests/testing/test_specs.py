"""The battery over components and models, with cases that Hypothesis draws; and every component has a spec."""

import importlib
import pkgutil
from contextlib import nullcontext

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from numtx import functional as F
from numtx import models, nn
from numtx.models.with_head import HeadModel
from numtx.testing import SCALES, SPECS, Drawer, rejection, small_blocks

# Of the profile's number of examples, by what a case costs.
SHARE = {"functional": 1.6, "component": 0.8, "model": 0.4}
# The ops stand in tests/functional.
NAMES = [name for name in SPECS if not hasattr(F, name)]


def drawer(data):
    """A drawer whose every choice is Hypothesis's."""
    scale = data.draw(st.sampled_from(SCALES))
    return Drawer(integer=lambda low, high: data.draw(st.integers(low, high)), scale=scale)


@pytest.mark.hypothesis  # its draws are one level down, where pytest does not see them
@pytest.mark.parametrize("name", NAMES)
def test_battery(name):
    spec = SPECS[name]

    # A failing model is not worth five minutes of shrinking.
    @settings(max_examples=max(1, round(settings.default.max_examples * SHARE[spec.kind])), phases=[Phase.generate])
    @given(st.data(), st.booleans())
    def passes(data, small):
        with small_blocks() if small else nullcontext():
            finding = rejection(spec, spec.draw(drawer(data)))
        assert finding is None, finding

    passes()


def modules_of(package):
    """The classes of components and models that a package and its files hold, by name."""
    files = [
        importlib.import_module(f"{package.__name__}.{file.name}") for file in pkgutil.iter_modules(package.__path__)
    ]
    found = [value for file in (package, *files) for value in vars(file).values() if isinstance(value, type)]
    return {value.__name__ for value in found if issubclass(value, nn.Module) and not value.__name__.startswith("_")}


def heads_on_bodies():
    """The names of all classes below `HeadModel`, itself included."""
    classes = [HeadModel]
    for kind in classes:
        classes += kind.__subclasses__()
    return {kind.__name__ for kind in classes}


def test_every_component_has_a_spec():
    """Or is a base of others; a head on a body, which `HeadModel` wires, has the specs of its body and of its head."""
    bases = {
        "Module",
        "ModuleList",
        "ReadyMade",
        "Residual",
        "Adapted",
        "PretrainedModel",
        "EncoderBody",
        "PooledBody",
        "BartBase",
        "T5Base",
    }
    found = modules_of(nn) | modules_of(models)
    assert found - heads_on_bodies() <= set(SPECS) | bases
    assert {"TokenEmbedding", "Transformer", "GPT2LMHeadModel", "Stack"} <= modules_of(models) | modules_of(nn)


def test_equal_and_distinct_sizes_are_drawn():
    """An op is not tested on squares alone, nor without them."""
    for name in ("linear", "scaled_dot_product_attention"):
        shapes = [list(SPECS[name].draw(Drawer(seed)).inputs.values())[1].shape for seed in range(40)]
        assert any(shape[-1] == shape[-2] for shape in shapes), name
        assert any(shape[-1] != shape[-2] for shape in shapes), name
