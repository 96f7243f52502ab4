"""Module: a tree of parameters and components. What a call leaves for backward is a value, never an attribute."""

from collections.abc import Iterator, Mapping

import numpy as np

from numtx.nn.init import working


class Module:
    """The base of all components.

    A parameter is an array attribute whose name has no leading underscore; a part is an attribute that is a Module. An
    array that belongs to the state but is not trained is a buffer: the class names it in `buffers`. Subclasses write

        forward(x, ..., *, mask, rng, ...) -> (y, cache)
        backward(dy, cache)                -> (dinputs, grads)

    where dinputs follows the rule of the pairs (bare if there is one differentiable input, a tuple if several, None for
    an optional one that was not given) and grads is a dict that mirrors the parameters, one level a part.

    Examples
    --------
    >>> from numtx import nn
    >>> layer = nn.Linear(2, 3, rng=0)
    >>> {name: array.shape for name, array in layer.named_parameters()}
    {'weight': (2, 3), 'bias': (3,)}
    >>> layer
    Linear(2 -> 3)
    """

    buffers: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()  # the names of own parameters that do not learn: see `nn.freeze`

    def forward(self, *inputs, **settings):
        raise TypeError(f"{type(self).__name__} has no forward of its own")

    def backward(self, dy, cache):
        raise TypeError(f"{type(self).__name__} has no backward of its own")

    def check_inputs(self, *inputs, **settings):
        """Raise what `forward` would raise for such inputs, before anything is computed or a cache grows.

        A part that is asked in advance, as attention over a memory is, writes one of its own.
        """

    def __call__(self, *inputs, **settings):
        return self.forward(*inputs, **settings)[0]

    def own_parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters that belong to this module itself, by attribute name."""
        return {n: a for n, a in self.own_arrays().items() if n not in self.buffers}

    def own_arrays(self) -> dict[str, np.ndarray]:
        """Return the parameters and buffers that belong to this module itself, by attribute name."""
        return {n: a for n, a in vars(self).items() if isinstance(a, np.ndarray) and not n.startswith("_")}

    def children(self) -> dict[str, "Module"]:
        """Return the modules one level below, by attribute name."""
        return {n: m for n, m in vars(self).items() if isinstance(m, Module) and not n.startswith("_")}

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """Yield (dotted name, module) for this module (name "") and all below it."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (dotted name, live array) for all parameters of the tree."""
        for path, module in self.named_modules():
            for name, array in module.own_parameters().items():
                yield (f"{path}.{name}" if path else name), array

    def trainable_parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (dotted name, live array) for the parameters that are not frozen."""
        return self._parameters(frozen=False)

    def frozen_parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (dotted name, live array) for the parameters that are frozen: see `nn.freeze`."""
        return self._parameters(frozen=True)

    def _parameters(self, frozen: bool) -> Iterator[tuple[str, np.ndarray]]:
        for path, module in self.named_modules():
            for name, array in module.own_parameters().items():
                if (name in module.frozen) == frozen:
                    yield (f"{path}.{name}" if path else name), array

    def learns(self) -> bool:
        """Return whether any parameter of the tree is not frozen."""
        return next(self.trainable_parameters(), None) is not None

    def is_frozen(self, name: str) -> bool:
        """Return whether the parameter of a dotted name is frozen."""
        owner, last = self.owner(name)
        return last in owner.frozen

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (dotted name, live array) for all parameters and buffers of the tree."""
        for path, module in self.named_modules():
            for name, array in module.own_arrays().items():
                yield (f"{path}.{name}" if path else name), array

    def owner(self, name: str) -> tuple["Module", str]:
        """Return the module that a dotted name's array belongs to, and the array's name there."""
        module, (*path, last) = self, name.split(".")
        for part in path:
            if part not in module.children():
                raise ValueError(f"{type(self).__name__}: has no parameter {name!r}")
            module = module.children()[part]
        if last not in module.own_arrays():
            raise ValueError(f"{type(self).__name__}: has no parameter {name!r}")
        return module, last

    def get_parameter(self, name: str) -> np.ndarray:
        """Return the live array of a dotted name."""
        owner, last = self.owner(name)
        return owner.own_arrays()[last]

    def set_parameter(self, name: str, array: np.ndarray) -> None:
        """Put another array of the same shape in the place of a parameter or a buffer, without copying."""
        owner, last = self.owner(name)
        old = owner.own_arrays()[last]
        if problem := _misfit(array, old, kinds="f"):
            raise ValueError(f"{type(self).__name__}: {name}: {problem}")
        setattr(owner, last, array)

    def check_state(self) -> None:
        """Refuse to give or take a state that this module itself could not be rebuilt from."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return {dotted name: live array}, of parameters and buffers. The arrays are not copied."""
        for _, module in self.named_modules():
            module.check_state()
        return dict(self.named_arrays())

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy arrays into the parameters, converted to their dtype, as PyTorch does.

        Raises
        ------
        ValueError
            When a name is missing or unexpected, or an array is not of floating numbers or has another shape. Nothing
            is changed then.
        """
        copy_into(type(self).__name__, self.state_dict(), state)

    def torch_state_dict(self, tree: dict | None = None) -> dict[str, np.ndarray]:
        """Return the weights, or a tree shaped like them, as PyTorch names and lays them out: `nn.torch_layout`."""
        from numtx.nn.torch_layout import torch_state_dict  # it knows the components, which know this module

        return torch_state_dict(self, tree)

    def load_torch_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        """Copy a state dict of PyTorch's twin, as NumPy arrays, into the parameters: `nn.torch_layout`."""
        from numtx.nn.torch_layout import load_torch_state_dict

        load_torch_state_dict(self, arrays)

    def astype(self, dtype) -> "Module":
        """Convert every parameter and buffer to float32 or float64, in place, and return self."""
        dtype = working(dtype)
        for _, module in self.named_modules():
            for name, array in module.own_arrays().items():
                setattr(module, name, array.astype(dtype))
        return self

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the parameters."""
        for _, array in self.named_parameters():
            return array.dtype
        raise ValueError(f"{type(self).__name__}: has no parameters and so no dtype")

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Return how many numbers the parameters hold, or those of them that are not frozen."""
        return sum(array.size for _, array in (self._parameters(False) if only_trainable else self.named_parameters()))

    def summary(self) -> str:
        """Return a table of the parameters: name, shape, count, and which are frozen."""
        frozen = {name for name, _ in self.frozen_parameters()}
        rows = [
            (name, "x".join(map(str, a.shape)), f"{a.size:,}", "  frozen" if name in frozen else "")
            for name, a in self.named_parameters()
        ]
        learns = f"  {self.num_parameters(only_trainable=True):,} trainable" if frozen else ""
        rows.append(("total", str(self.dtype) if rows else "", f"{self.num_parameters():,}", learns))
        wide = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}{d}" for a, b, c, d in rows]
        return "\n".join([*lines[:-1], "-" * len(lines[-1]), lines[-1]])

    def extra_repr(self) -> str:
        """Return what the representation says about this module itself."""
        return ""

    def __repr__(self) -> str:
        parts = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.children().items()]
        own = f"{type(self).__name__}({self.extra_repr()}"
        return "\n  ".join([own, *parts]) + "\n)" if parts else f"{own})"


class ModuleList(Module):
    """Parts by number: `stack.layers.0`. Examples: `ModuleList([Linear(2, 2), Linear(2, 2)])[1]`."""

    def __init__(self, modules):
        self._modules = list(modules)

    def children(self):
        return {str(i): module for i, module in enumerate(self._modules)}

    def __len__(self):
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules)

    def __getitem__(self, index):
        return self._modules[index]


def gradients(**own) -> dict:
    """Return a component's gradients of its own parameters: those given, without the None of what has none.

    Examples
    --------
    >>> gradients(weight=1.0, bias=None)
    {'weight': 1.0}
    """
    return {name: gradient for name, gradient in own.items() if gradient is not None}


def told(frozen) -> dict:
    """Return what a pair is told of its arguments that are frozen: nothing where there are none.

    Examples
    --------
    >>> told(("weight",)), told(())
    ({'frozen': ('weight',)}, {})
    """
    return {"frozen": frozen} if frozen else {}


def _misfit(new, old: np.ndarray, kinds: str) -> str:
    """Say why an array cannot take the place of a parameter; nothing if it can."""
    if not isinstance(new, np.ndarray) or new.dtype.kind not in kinds:
        return f"expected an array of floating numbers, got {getattr(new, 'dtype', type(new).__name__)}"
    return "" if new.shape == old.shape else f"expected {old.shape}, got {new.shape}"


def require_fit(component: str, state: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> None:
    """Require floating arrays of the names and shapes of `own`, or raise one ValueError that names what is wrong."""
    if not isinstance(state, Mapping):
        raise ValueError(f"{component}: expected a state of arrays by name, got {type(state).__name__}")
    problems = [f"missing {name}" for name in own if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in own]
    for name, array in own.items():
        if name in state and (problem := _misfit(state[name], array, kinds="f")):
            problems.append(f"{name}: {problem}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{component}: state does not fit: {'; '.join(problems[:5])}{more}")


def copy_into(component: str, own: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> None:
    """Copy arrays into live ones of the same names and shapes; where they do not fit, raise and change nothing."""
    require_fit(component, state, own)
    for name, array in own.items():
        array[...] = state[name]


def flatten(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """Turn a nested dict of arrays into {dotted name: array}.

    Examples
    --------
    >>> list(flatten({"up": {"weight": 1, "bias": 2}}))
    ['up.weight', 'up.bias']
    """
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def unflatten(flat: dict[str, np.ndarray]) -> dict:
    """Turn {dotted name: array} into nested dicts.

    Examples
    --------
    >>> unflatten({"up.weight": 1, "up.bias": 2})
    {'up': {'weight': 1, 'bias': 2}}
    """
    tree: dict = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
