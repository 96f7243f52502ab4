"""Which parameters decay: all but norms and biases, as Transformers' Trainer has it."""

from __future__ import annotations

from typing import Any

from numtx import nn


def get_decay_parameter_names(model: Any) -> list[str]:
    """Return the names of the parameters that weight decay falls on.

    Not those of norms, nor any with "bias" in its name, here or in the file that the model is saved to (so T5's
    `relative_attention_bias` does not decay).

    Examples
    --------
    >>> get_decay_parameter_names(nn.ModuleList([nn.Linear(2, 3, rng=0), nn.LayerNorm(3)]))
    ['0.weight']
    """
    norms = tuple(
        f"{name}." if name else ""
        for name, module in model.named_modules()
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm))
    )
    saved = _saved_names(model)
    return [
        name
        for name, _ in model.named_parameters()
        if not (norms and name.startswith(norms)) and "bias" not in name and "bias" not in saved.get(name, "")
    ]


def _saved_names(model: Any) -> dict[str, str]:
    table = getattr(type(model), "names", None)
    if table is None or not hasattr(model, "config"):
        return {}
    try:
        names = table(model.config)
        return {name: names.checkpoint_name(name) for name, _ in model.named_parameters()}
    except (TypeError, KeyError):
        return {}
