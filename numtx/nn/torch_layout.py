"""PyTorch's names and layouts for the parameters of a tree of components, both ways."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from numtx.nn.attention import MultiHeadAttention
from numtx.nn.layers import DecoderLayer, EncoderLayer
from numtx.nn.linear import Linear
from numtx.nn.module import Module, copy_into, flatten, require_fit

# What PyTorch holds as (out, in): a numtx weight is (in, out), so there it is the transposed view.
TRANSPOSED: dict[type[Module], set[str]] = {Linear: {"weight"}, MultiHeadAttention: {"in_proj_weight"}}

# Where a component's parts are called and nested otherwise; all other names are the same in both.
PARTS: dict[type[Module], dict[str, str]] = {
    EncoderLayer: {
        "attention.sublayer": "self_attn",
        "feed_forward.sublayer.up": "linear1",
        "feed_forward.sublayer.down": "linear2",
        "attention.norm": "norm1",
        "feed_forward.norm": "norm2",
    },
    DecoderLayer: {
        "attention.sublayer": "self_attn",
        "cross_attention.sublayer": "multihead_attn",
        "feed_forward.sublayer.up": "linear1",
        "feed_forward.sublayer.down": "linear2",
        "attention.norm": "norm1",
        "cross_attention.norm": "norm2",
        "feed_forward.norm": "norm3",
    },
}


def torch_state_dict(module: Module, tree: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """Return the weights, or a tree shaped like them, under PyTorch's names and in PyTorch's layouts.

    Parameters
    ----------
    module : Module
        Made of the components that PyTorch has too: `Linear`, `Embedding`, `LayerNorm`, `RMSNorm`,
        `MultiHeadAttention`, layers, `Stack`, and modules of them.
    tree : dict or None
        None for the weights; or arrays of their shapes by the module's names, nested or dotted, such as the gradients.
        What it has no entry for, as of a weight that is not trained, has none in the result.

    Returns
    -------
    dict of PyTorch's name to array. Live views, not copies, in PyTorch's order of names for its own modules.

    Raises
    ------
    ValueError
        If a parameter has no place in PyTorch's layer, or the tree has an entry that is no parameter's or of another
        shape.

    Examples
    --------
    >>> from numtx import nn
    >>> layer = nn.TransformerEncoderLayer(4, 2, 8, rng=0)
    >>> {name: array.shape for name, array in list(torch_state_dict(layer).items())[:3]}
    {'self_attn.in_proj_weight': (12, 4), 'self_attn.in_proj_bias': (12,), 'self_attn.out_proj.weight': (4, 4)}
    """
    own, rows = module.state_dict(), list(_rows(module))
    if nameless := sorted(set(own) - {ours for ours, _, _ in rows}):
        raise ValueError(
            f"{type(module).__name__}: expected parts that PyTorch's layer has too, got {', '.join(nameless)}"
        )
    flat = own if tree is None else flatten(dict(tree))
    require_fit(type(module).__name__, flat, {name: array for name, array in own.items() if name in flat})
    return {theirs: flat[ours].T if turned else flat[ours] for ours, theirs, turned in rows if ours in flat}


def load_torch_state_dict(module: Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Copy a state dict of PyTorch's twin of this module, as NumPy arrays, into the parameters.

    Arrays are converted to the dtype of the parameters, as `Module.load_state_dict` does.

    Raises
    ------
    ValueError
        In one line with PyTorch's names, when an entry is missing, unexpected, or of another shape or kind. Nothing is
        changed then.

    Examples
    --------
    >>> from numtx import nn
    >>> layer = nn.Linear(2, 3, rng=0)
    >>> load_torch_state_dict(layer, {"weight": np.ones((3, 2)), "bias": np.zeros(3)})
    >>> layer(np.ones((1, 2), np.float32))
    array([[2., 2., 2.]], dtype=float32)
    """
    copy_into(type(module).__name__, torch_state_dict(module), arrays)


def _rows(module: Module, ours: str = "", theirs: str = "") -> Iterator[tuple[str, str, bool]]:
    """Yield (our dotted name, PyTorch's, whether transposed) of every parameter."""
    for name in module.own_parameters():
        yield f"{ours}{name}", f"{theirs}{name}", name in _of(module, TRANSPOSED, ())
    for part, other in _of(module, PARTS, {name: name for name in module.children()}).items():
        if (child := _reach(module, part)) is not None:
            yield from _rows(child, f"{ours}{part}.", f"{theirs}{other}.")


def _of(module: Module, table: Mapping[type[Module], Any], otherwise: Any) -> Any:
    return next((entry for kind, entry in table.items() if isinstance(module, kind)), otherwise)


def _reach(module: Module, path: str) -> Module | None:
    """Return the part at a dotted path, or None."""
    for name in path.split("."):
        if name not in module.children():
            return None
        module = module.children()[name]
    return module
