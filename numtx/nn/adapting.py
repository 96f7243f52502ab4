"""LoRA on a model: updates put beside its matrices, all else frozen; merged, taken apart, and removed again."""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from numtx.functional.door import nearest
from numtx.nn.attention import MultiHeadAttention
from numtx.nn.freezing import freeze, unfreeze
from numtx.nn.linear import Linear
from numtx.nn.lora import UPDATE, LoRALinear, LoRAMultiHeadAttention
from numtx.nn.module import Module, ModuleList

PACKED = "in_proj"  # how the packed projections of an attention are called among the targets
ATTENTION = ("q_proj", "v_proj", PACKED)  # what Hu et al. (2021), section 7.1, found worth it, by our names
_LISTED = 40
_OF_UPDATE = (*UPDATE, "lora_r", "lora_alpha", "lora_dropout", "lora_rs", "_unmerged")


def add_lora(
    model,
    r=8,
    alpha=8,
    dropout=0.0,
    target_modules=None,
    modules_to_save=(),
    *,
    rs=False,
    rng=None,
):
    """Put an update of low rank beside matrices of a model, in place, and freeze all else; return the model.

    Dotted names of parameters stay as they are; the new ones are `lora_A` and `lora_B` beside them. The updates start
    at zero, so the model computes what it did before.

    Parameters
    ----------
    model : Module
    r, alpha, dropout, rs
        As in `LoRALinear`.
    target_modules : list of str, str, or None
        Names of `Linear` parts, or ends of their dotted names: "q_proj", "0.feed_forward.sublayer.up"; the packed
        projections of a `MultiHeadAttention` are called "in_proj". A str is a regular expression for whole dotted
        names. None: queries and values, or packed projections.
    modules_to_save : list of str
        Names of parts, or ends of their dotted names, that are trained in full beside the updates, as a new head is.
    rng : int or np.random.Generator
        Draws A.

    Raises
    ------
    ValueError
        If a name matches nothing: it names what there is. Nothing is changed then.

    Notes
    -----
    Names here are numtx's own. A pretrained model's `add_adapter` takes those of Transformers, as PEFT does, and only
    what it puts into a model is saved, alone and opened again: a model with updates of this function must have them
    merged by `remove_lora` before it is saved.

    Examples
    --------
    >>> from numtx import nn
    >>> model = add_lora(nn.FeedForward(4, 8, rng=0), r=2, target_modules=["up"], rng=0)
    >>> [name for name, _ in model.trainable_parameters()]
    ['up.lora_A', 'up.lora_B']
    """
    there = lora_targets(model)
    if target_modules is None:
        target_modules = [name for name in ATTENTION if any(_is(path, name) for path in there)] or list(ATTENTION)
    paths = matching_modules("add_lora", "target_modules", there, target_modules)
    parts = [path for path, _ in model.named_modules() if path]
    saved = matching_modules("add_lora", "modules_to_save", parts, list(modules_to_save)) if modules_to_save else []
    names = [name for name, _ in model.named_parameters() if any(name.startswith(f"{path}.") for path in saved)]
    settings = {"r": r, "alpha": alpha, "dropout": dropout, "rs": rs}
    return put_lora(model, dict.fromkeys(paths, settings), names, rng=rng)


def put_lora(model: Module, updates: Mapping[str, Mapping[str, Any]], trained: Iterable[str] = (), *, rng=None):
    """Put updates at paths of `lora_targets`, each with settings of its own; train them and the named parameters alone.

    Everything that can be wrong is said before anything is changed.
    """
    if lora_layers(model):
        raise ValueError(f"{type(model).__name__}: expected a model without LoRA, got one that has it; remove it first")
    rng, there, made = np.random.default_rng(rng), lora_targets(model), {}
    for path, settings in updates.items():
        if settings["dropout"] and not _hands_on_rng(model, path):
            raise ValueError(
                f"{type(model).__name__}: expected no dropout for the update at {path}, whose owner drops nothing out, "
                f"got {settings['dropout']}"
            )
        kind = LoRALinear if isinstance(there[path], Linear) else LoRAMultiHeadAttention
        made[path] = kind.beside(there[path], **settings, rng=rng)
    # An attention before its parts: it is another object then.
    for path in sorted(made, key=lambda path: _place(path, made[path]).count(".")):
        _put(model, _place(path, made[path]), made[path])
    freeze(model)
    unfreeze(model, *(f"{layer}.{name}" for layer in lora_layers(model) for name in UPDATE), *trained)
    return model


def lora_targets(model: Module) -> dict[str, Module]:
    """Return what an update can be put beside, by dotted name: `Linear` parts, and attentions as "….in_proj".

    Examples
    --------
    >>> from numtx import nn
    >>> list(lora_targets(nn.PreNorm(nn.LayerNorm(4), nn.MultiHeadAttention(4, 2, rng=0))))
    ['sublayer.in_proj', 'sublayer.out_proj']
    """
    found: dict[str, Module] = {}
    for path, module in model.named_modules():
        if path and isinstance(module, Linear):
            found[path] = module
        elif path and isinstance(module, MultiHeadAttention):
            found[f"{path}.{PACKED}"] = module
    return found


def matrix_of(target: str) -> str:
    """Return the name of the matrix W that an update at a path of `lora_targets` is of.

    Examples
    --------
    >>> matrix_of("layers.0.out_proj"), matrix_of("layers.0.in_proj")
    ('layers.0.out_proj.weight', 'layers.0.in_proj_weight')
    """
    return f"{target}_weight" if target.rpartition(".")[2] == PACKED else f"{target}.weight"


def lora_layers(model: Module) -> dict[str, LoRALinear | LoRAMultiHeadAttention]:
    """Return the parts of a model that have an update, by dotted name."""
    kinds = LoRALinear | LoRAMultiHeadAttention
    return {path: module for path, module in model.named_modules() if isinstance(module, kinds)}


def merge_lora(model: Module) -> Module:
    """Put W + s A B in the place of each W, and return the model: as fast as without, and not to be trained.

    The matrices W are kept for `unmerge_lora`, which gives back the very bits. A merged model neither gives nor takes a
    state dict: with A and B in it the update would count twice.
    """
    for layer in _some(model).values():
        layer.merge()
    return model


def unmerge_lora(model: Module) -> Module:
    """Put each W back, bit for bit, and return the model."""
    for layer in _some(model).values():
        layer.unmerge()
    return model


def remove_lora(model: Module, merge=True) -> Module:
    """Make a model plain again, with its updates merged into its matrices or dropped, and return it.

    Everything can be trained then. Parts that were trained in full stay as they are. A pretrained model's own adapter
    is taken out by its `merge_and_unload` or `unload`, which also forget its settings.
    """
    for path, layer in _some(model).items():
        layer.unmerge()
        kind = Linear if isinstance(layer, LoRALinear) else MultiHeadAttention
        plain = kind.__new__(kind)
        vars(plain).update({name: value for name, value in vars(layer).items() if name not in _OF_UPDATE})
        plain.frozen = layer.frozen.difference(UPDATE)
        if merge:
            setattr(plain, layer.matrix, layer.merged())
        _put(model, path, plain)
    unfreeze(model)
    return model


def matching_modules(owner: str, what: str, there: Iterable[str], wanted: Iterable[str] | str) -> list[str]:
    """Return the dotted names that PEFT's rule finds: equal to a name, ending with ".name", or a regex of the whole.

    Raises
    ------
    ValueError
        If one finds nothing, with what is there.

    Examples
    --------
    >>> matching_modules("Model", "target_modules", ["h.0.q", "h.0.v", "h.1.q"], ["q"])
    ['h.0.q', 'h.1.q']
    """
    there = list(there)
    if isinstance(wanted, str):
        try:
            found = {path for path in there if re.fullmatch(wanted, path)}
        except re.error as error:
            raise ValueError(f"{owner}: expected {what} as a regular expression, got {wanted!r}: {error}") from None
        lost = [] if found else [wanted]
    else:
        wanted = list(wanted)
        if not wanted or not all(isinstance(name, str) and name for name in wanted):
            raise ValueError(f"{owner}: expected {what} as names of modules, got {wanted!r}")
        found = {path for path in there if any(_is(path, name) for name in wanted)}
        lost = [name for name in wanted if not any(_is(path, name) for path in there)]
    if lost:
        lasts = list(dict.fromkeys(path.rpartition(".")[2] for path in there if not path.endswith(tuple("0123456789"))))
        more = f" and {len(lasts) - _LISTED} more" if len(lasts) > _LISTED else ""
        raise ValueError(
            f"{owner}: expected {what} among {', '.join(lasts[:_LISTED])}{more}, got {', '.join(map(repr, lost))}"
            f"{nearest(lost[0], lasts)}"
        )
    return [path for path in there if path in found]


def _is(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _some(model):
    if not (layers := lora_layers(model)):
        raise ValueError(f"{type(model).__name__}: expected a model with LoRA, got one without")
    return layers


def _place(path, made):
    """The path of the module itself."""
    return path if isinstance(made, Linear) else path.removesuffix(f".{PACKED}")


def _owner(model, path):
    for name in path.split(".")[:-1]:
        model = model.children()[name]
    return model


def _put(model, path, module):
    owner, name = _owner(model, path), path.rpartition(".")[2]
    if isinstance(owner, ModuleList):
        owner._modules[int(name)] = module
    else:
        setattr(owner, name, module)


def _hands_on_rng(model, path):
    owner = _owner(model, path)
    return "rng" in inspect.signature(type(owner).forward).parameters
