"""A stack of layers."""

from typing import NamedTuple

import numpy as np

from numtx.nn.layers import DecoderLayer, EncoderLayer, given
from numtx.nn.module import Module, ModuleList
from numtx.nn.rows import by_rows


class StackOutput(NamedTuple):
    """What a `Stack` gives that was asked for more than y; None for what it was not asked for.

    Attributes
    ----------
    y : (B, T, C) array
    hidden_states : tuple of (B, T, C) arrays or None
        What came in, and what came out of each layer; the last is y, after the norm.
    attentions : tuple of (B, H, T, Tk) arrays or None
        Each layer's weights of self-attention, after softmax and before dropout.
    cross_attentions : tuple of (B, H, T, Tk) arrays or None
        Those over the memory.
    """

    y: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None
    attentions: tuple[np.ndarray, ...] | None
    cross_attentions: tuple[np.ndarray, ...] | None


class Stack(Module):
    """Layer after layer, and a norm at the end or none: x (B, T, C) -> y (B, T, C).

    A memory (B, Tk, C) and a bias of the scores are lent to every layer, so their gradients are sums over the layers.
    T5's table of relative positions, used in each layer, is such a bias, computed once.

    `forward` takes `keep`: "all" keeps every layer's cache; "inputs" keeps each layer's input, and backward computes
    the layer a second time (a third more work, and memory for one layer instead of all); None keeps nothing and
    backward is refused, and a large batch is shared out over threads by rows. Each layer draws its dropout from a
    generator of its own, so that the second computation draws the same.

    `frozen` names the inputs whose gradient nobody wants. Where it names all that are given, the layers below the
    lowest that learns keep nothing, and backward stops there.

    Parameters
    ----------
    layers : list of Module
        `EncoderLayer`, `DecoderLayer` or whatever takes and gives what they do.
    norm : Module or None

    Examples
    --------
    >>> from numtx import nn
    >>> stack = Stack([nn.TransformerEncoderLayer(8, 2, 32, rng=i) for i in range(2)], nn.LayerNorm(8))
    >>> stack(np.ones((1, 3, 8), np.float32)).shape
    (1, 3, 8)
    """

    def __init__(self, layers, norm=None):
        self.layers, self.norm = ModuleList(layers), norm

    def __call__(self, *inputs, **settings):
        return self.forward(*inputs, keep=None, **settings)[0]

    def forward(
        self,
        x,
        memory=None,
        bias=None,
        *,
        mask=None,
        memory_mask=None,
        positions=None,
        kv_cache=None,
        rng=None,
        keep="all",
        frozen=(),
        output_hidden_states=False,
        output_attentions=False,
    ):
        """Return y, or a `StackOutput` where one of the last two is asked for: to look at, not to differentiate.

        What is not given does not go to the layers. `mask` and `bias` are those of self-attention, `memory_mask` that
        of attention over the memory. `kv_cache` is a list of one cache a layer, as `new_cache` makes it; with it
        nothing is kept. Backward takes dy of y alone, whatever else was asked for.
        """
        self._check(memory, memory_mask, kv_cache, keep)
        keep = keep if kv_cache is None else None
        lent = [] if memory is None else [memory]
        lent += [] if bias is None else [bias]
        settings = given(mask=mask, memory_mask=memory_mask, positions=positions)
        settings |= {"need_weights": True} if output_attentions else {}
        looked_at = output_hidden_states or output_attentions or "forward" in vars(self)  # a trace sees it whole
        if keep is None and kv_cache is None and rng is None and not looked_at:
            y = by_rows(self._outputs, x, lent, settings)
            if y is not None:
                return y, None
        keys = [None] * len(self.layers) if rng is None else rng.integers(2**63, size=len(self.layers)).tolist()
        lowest = 0 if keep is None else self._lowest(memory, bias, frozen)
        kept, hidden_states, weights = [], [x] if output_hidden_states else [], []
        for i, (layer, key) in enumerate(zip(self.layers, keys, strict=True)):
            before = x
            own = settings if kv_cache is None else {**settings, "kv_cache": kv_cache[i]}
            x, cache = layer.forward(x, *lent, rng=_generator(key), **own)
            if output_attentions:
                x, shown = x
                weights.append(shown)
            if output_hidden_states:
                hidden_states.append(x)
            if keep is not None:
                kept.append(None if i < lowest else cache if keep == "all" else before)
            del cache, before  # without `keep`, no activation outlives its layer
        y, norm = (x, None) if self.norm is None else self.norm.forward(x)
        given_to = lent, memory is not None, settings
        cache = None if keep is None else (keep, kept, keys, given_to, norm, y.shape, (lowest, frozen))
        if not output_hidden_states and not output_attentions:
            return y, cache
        states = (*hidden_states[:-1], y) if output_hidden_states else None
        return StackOutput(y, states, *_of_each(weights if output_attentions else None, memory is not None)), cache

    def new_cache(self):
        """Return an empty `kv_cache`: a list of what each layer keeps between steps."""
        return [layer.new_cache() for layer in self.layers]

    def _outputs(self, x, *lent, **settings):
        for layer in self.layers:
            x = layer.forward(x, *lent, rng=None, **settings)[0]
        return x if self.norm is None else self.norm.forward(x)[0]

    def backward(self, dy, cache):
        """Return ((dx, dmemory, dbias), grads); dmemory and dbias are None where they were not given.

        Both went into every layer, so each is a sum: dmemory = Σ_l dmemory_l, dbias = Σ_l dbias_l. What was frozen is
        None too; of dx that is so where no layer is gone through for the others' sake.
        """
        if cache is None:
            raise ValueError(
                f"{type(self).__name__}: backward after a forward with keep=None or a kv_cache, which leave it nothing"
            )
        keep, kept, keys, (lent, has_memory, settings), norm, shape, (lowest, frozen) = cache
        if np.shape(dy) != shape:
            raise ValueError(f"{type(self).__name__}: expected dy of the shape of y, {shape}, got {np.shape(dy)}")
        dx, g_norm = (dy, {}) if self.norm is None else self.norm.backward(dy, norm)
        dlent = [None] * len(lent)
        # In the parameters' order, though backward goes back.
        grads: dict[str, dict] = {str(i): {} for i in range(len(self.layers))}
        for i in reversed(range(lowest, len(self.layers))):
            layer, layer_cache = self.layers[i], kept[i]
            if keep == "inputs":
                _, layer_cache = layer.forward(kept[i], *lent, rng=_generator(keys[i]), **settings)
            dinputs, grads[str(i)] = layer.backward(dx, layer_cache)
            dx, *dothers = dinputs if isinstance(dinputs, tuple) else (dinputs,)
            if len(dothers) < len(lent):
                raise ValueError(
                    f"{type(self).__name__}: expected a gradient for each of {len(lent)} lent arrays, "
                    f"got {len(dothers)} from {type(layer).__name__}"
                )
            dlent = [d if total is None else total + d for total, d in zip(dlent, dothers, strict=False)]
        dmemory = dlent.pop(0) if has_memory else None
        dbias = dlent.pop() if dlent else None
        wanted = [None if name in frozen else d for name, d in (("x", dx), ("memory", dmemory), ("bias", dbias))]
        return tuple(wanted), {"layers": grads} | ({} if self.norm is None else {"norm": g_norm})

    def _lowest(self, memory, bias, frozen):
        """Return the number of the layer down to which backward must go: 0 if the gradient of an input is wanted."""
        inputs = {"x": True, "memory": memory is not None, "bias": bias is not None}
        if not frozen or any(there and name not in frozen for name, there in inputs.items()):
            return 0
        return next((i for i, layer in enumerate(self.layers) if layer.learns()), len(self.layers))

    def _check(self, memory, memory_mask, kv_cache, keep):
        name = type(self).__name__
        if keep not in ("all", "inputs", None):
            raise ValueError(f"{name}: expected keep 'all', 'inputs' or None, got {keep!r}")
        if kv_cache is not None and len(kv_cache) != len(self.layers):
            raise ValueError(f"{name}: expected {len(self.layers)} caches, one a layer, got {len(kv_cache)}")
        if kv_cache is not None and len(lengths := {len(one) for one in kv_cache}) > 1:
            raise ValueError(f"{name}: expected caches of one length, got {sorted(lengths)}")
        if memory is None and memory_mask is not None:
            raise ValueError(f"{name}: expected a memory with its memory_mask, got the mask alone")
        wrong = DecoderLayer if memory is None else EncoderLayer
        if any(isinstance(layer, wrong) for layer in self.layers):
            expected, got = ("a memory", "none") if memory is None else ("no memory", f"one {np.shape(memory)}")
            raise ValueError(f"{name}: expected {expected} for layers of kind {wrong.__name__}, got {got}")


def _of_each(weights, has_memory):
    """Return (weights of self-attention, weights over the memory), each a tuple with one for each layer, or None."""
    if weights is None or not has_memory:
        return None if weights is None else tuple(weights), None
    return tuple(own for own, _ in weights), tuple(over for _, over in weights)


def _generator(key):
    return None if key is None else np.random.default_rng(key)
