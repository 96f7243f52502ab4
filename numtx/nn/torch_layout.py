"""PyTorch's names and layouts for the parameters of a tree of components, both ways."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from numtx.nn.attention import MultiHeadAttention
from numtx.nn.grouped_attention import GroupedQueryAttention
from numtx.nn.layers import DecoderLayer, EncoderLayer
from numtx.nn.linear import Linear
from numtx.nn.module import Module, flatten, require_fit

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


# PyTorch's name, our names in the order in which it holds them one below the other, and whether ours are transposed.
Row = tuple[str, tuple[str, ...], bool]


def torch_state_dict(module: Module, tree: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """Return the weights, or a tree shaped like them, under PyTorch's names and in PyTorch's layouts.

    Parameters
    ----------
    module : Module
        Made of the components that PyTorch has too: `Linear`, `Embedding`, `LayerNorm`, `RMSNorm`,
        `MultiHeadAttention`, `GroupedQueryAttention` with a key for each head (PyTorch's `kdim` and `vdim`), layers,
        `Stack`, and modules of them.
    tree : dict or None
        None for the weights; or arrays of their shapes by the module's names, nested or dotted, such as the gradients.
        What it has no entry for, as of a weight that is not trained, has none in the result.

    Returns
    -------
    dict of PyTorch's name to array
        Copies in C order, in PyTorch's order of names for its own modules. (Not transposed views: some writers, that of
        safetensors among them, write a view's memory as it lies.)

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
    return {name: np.array(_joined(views), order="C") for name, views in _views(module, tree).items()}


def _views(module: Module, tree: Mapping[str, Any] | None = None) -> dict[str, list[np.ndarray]]:
    """Return our arrays, in PyTorch's layout, by PyTorch's names; several where it holds them as one."""
    component, own, rows = type(module).__name__, module.state_dict(), list(_rows(module))
    if nameless := sorted(set(own).difference(*(ours for _, ours, _ in rows))):
        raise ValueError(f"{component}: expected parts that PyTorch's layer has too, got {', '.join(nameless)}")
    flat = own if tree is None else _flat(component, tree)
    require_fit(component, flat, {name: array for name, array in own.items() if name in flat})
    views = {}
    for theirs, ours, turned in rows:
        if lacking := [name for name in ours if name not in flat]:
            if len(lacking) < len(ours):
                raise ValueError(f"{component}: expected all parts of {theirs} or none, got no {', '.join(lacking)}")
            continue
        views[theirs] = [flat[name].T if turned else flat[name] for name in ours]
    return views


def _flat(component: str, tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(tree, Mapping):
        raise ValueError(f"{component}: expected a tree of arrays by name, got {type(tree).__name__}")
    return flatten(dict(tree))


def _joined(views: list[np.ndarray]) -> np.ndarray:
    """Put them one below the other."""
    return views[0] if len(views) == 1 else np.concatenate(views)


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
    views = _views(module)
    require_fit(type(module).__name__, arrays, {theirs: _joined(parts) for theirs, parts in views.items()})
    for theirs, parts in views.items():
        start = 0
        for part in parts:
            part[...] = arrays[theirs][start : start + len(part)]
            start += len(part)


def _rows(module: Module, ours: str = "", theirs: str = "") -> Iterator[Row]:
    """Yield where PyTorch holds each parameter."""
    for name in module.own_parameters():
        yield f"{theirs}{name}", (f"{ours}{name}",), name in _of(module, TRANSPOSED, ())
    parts = _of(module, PARTS, {name: name for name in module.children()})
    if isinstance(module, GroupedQueryAttention):
        yield from ((theirs + name, tuple(ours + one for one in own), turned) for name, own, turned in _in_proj(module))
        parts = {"out_proj": "out_proj"}
    for part, other in parts.items():
        if (child := _reach(module, part)) is not None:
            yield from _rows(child, f"{ours}{part}.", f"{theirs}{other}.")


def _in_proj(module: GroupedQueryAttention) -> Iterator[Row]:
    """Yield where `torch.nn.MultiheadAttention` holds the first three projections: together if they are of one width.

    It has a key for each head, heads that fill the width, and biases everywhere or nowhere; else nothing is yielded.
    """
    projections = [(f"{x}_proj", getattr(module, f"{x}_proj")) for x in "qkv"]
    width, biased = module.width, module.out_proj.bias is not None
    if any(one.weight.shape[1] != width or (one.bias is not None) != biased for _, one in projections):
        return
    weights = tuple(f"{name}.weight" for name, _ in projections)
    if all(one.weight.shape == (width, width) for _, one in projections):
        yield "in_proj_weight", weights, True
    else:
        yield from ((f"{name}_weight", (ours,), True) for (name, _), ours in zip(projections, weights, strict=True))
    if biased:
        yield "in_proj_bias", tuple(f"{name}.bias" for name, _ in projections), False


def _of(module: Module, table: Mapping[type[Module], Any], otherwise: Any) -> Any:
    return next((entry for kind, entry in table.items() if isinstance(module, kind)), otherwise)


def _reach(module: Module, path: str) -> Module | None:
    """Return the part at a dotted path, or None."""
    for name in path.split("."):
        if name not in module.children():
            return None
        module = module.children()[name]
    return module
