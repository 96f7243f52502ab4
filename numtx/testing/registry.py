"""All specs and all mistakes, by name."""

from __future__ import annotations

import importlib
from typing import Any

from numtx.testing.mistake import Mistake
from numtx.testing.spec import Spec

# The files of `specs` and of `mistakes`, in the order in which a reader of numtx meets their subjects.
FILES = (
    "linear",
    "embedding",
    "activations",
    "gated",
    "softmax",
    "norms",
    "dropout",
    "low_rank",
    "positions",
    "rotary",
    "position_bias",
    "masks",
    "attention",
    "tiled_attention",
    "pooling",
    "losses",
    "nll",
    "linear_cross_entropy",
    "nn_layers",
    "nn_positions",
    "feed_forward_gated",
    "nn_attention",
    "nn_grouped_attention",
    "nn_lora",
    "nn_stacks",
    "nn_heads",
    "nn_models",
    "models_embedding",
    "models_transformer",
    "models_ready_made",
    "models_bart",
    "models_bert",
    "models_t5",
    "models_llama",
)


def _collected(package: str, listed: str) -> dict[str, Any]:
    """What the lists called `listed` in the files of a package hold, by name."""
    found: dict[str, Any] = {}
    for file in FILES:
        for entry in getattr(importlib.import_module(f"numtx.testing.{package}.{file}"), listed):
            if entry.name in found:
                raise ValueError(f"{package}: expected unique names, got {entry.name!r} twice")
            found[entry.name] = entry
    return found


SPECS: dict[str, Spec] = _collected("specs", "SPECS")
MISTAKES: dict[str, Mistake] = _collected("mistakes", "MISTAKES")


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
