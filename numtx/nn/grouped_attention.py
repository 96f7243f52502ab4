"""Grouped-query attention, with a projection each for queries, keys and values."""

from copy import copy
from dataclasses import asdict, dataclass

import numpy as np

from numtx.functional.door import count, floating, rate
from numtx.nn import init
from numtx.nn.attention_parts import (
    attend_backward,
    attend_to,
    check_memory_cache,
    check_scores,
    is_of_memory,
    merge_heads,
    split_heads,
)
from numtx.nn.linear import Linear
from numtx.nn.module import Module
from numtx.nn.rotary import Rotary

NAME = "GroupedQueryAttention"


@dataclass(frozen=True)
class AttentionWidths:
    """The widths of an attention that do not follow from the model's; None where they do.

    Attributes
    ----------
    head : int or None
        D of queries and keys; width / num_heads if None. (T5's and some Llamas' heads do not fill the width.)
    value_head : int or None
        Dv of values; as D if None.
    memory : int or None
        Of the memory (PyTorch's kdim); as x if None.
    value : int or None
        Of values of their own (vdim); as the memory if None.

    Examples
    --------
    >>> GroupedQueryAttention(8, 4, widths=AttentionWidths(head=3), rng=0).q_proj
    Linear(8 -> 12)
    """

    head: int | None = None
    value_head: int | None = None
    memory: int | None = None
    value: int | None = None

    def __post_init__(self):
        count("AttentionWidths", 1, **{name: width for name, width in asdict(self).items() if width is not None})


class GroupedQueryAttention(Module):
    """Attention whose query heads share key and value heads, in groups of neighbours.

        Y = concat_h(attention(Q_h, K_g, V_g)) Wᵒ        with g = h // (H / Hkv)

    A key for each head (Hkv = H) is multi-head attention, one for all heads (Hkv = 1) multi-query attention.
    Self-attention: queries, keys and values all come from x. Cross-attention: keys come from a memory, and values from
    the memory too, unless values of their own are given, of the same length. (B, T, width) -> (B, T, width).

    Ainslie et al. (2023), section 2.2; Shazeer (2019), section 3. Llama, Mistral and Qwen have grouped heads with
    rotary positions; T5 has heads whose widths do not sum to the model's, no bias and a scale of 1.

    Parameters
    ----------
    width, num_heads : int
    num_kv_heads : int or None
        Hkv, which divides num_heads; as many as heads if None.
    widths : AttentionWidths or None
        Of the heads, the memory and the values; all follow from `width` if None.
    rotary : Rotary or None
        Turns queries and keys by their positions, keys before they go into a cache. For self-attention alone. What
        counts is its settings: each attention makes a `Rotary` of its own of them, so many layers may be given one.
    causal, window, scale, dropout
        As in `F.scaled_dot_product_attention`.
    bias : True, False or "qkv"
        Which projections have one: all, none, or all but the last (Qwen2).

    Examples
    --------
    >>> from numtx import nn
    >>> attention = GroupedQueryAttention(8, 4, 2, rotary=nn.Rotary("half"), causal=True, bias=False, rng=0)
    >>> attention(np.ones((1, 3, 8), np.float32)).shape
    (1, 3, 8)
    >>> {name: array.shape for name, array in attention.named_parameters()}  # doctest: +NORMALIZE_WHITESPACE
    {'q_proj.weight': (8, 8), 'k_proj.weight': (8, 4), 'v_proj.weight': (8, 4), 'out_proj.weight': (8, 8)}
    """

    def __init__(
        self,
        width,
        num_heads,
        num_kv_heads=None,
        *,
        widths=None,
        rotary=None,
        causal=False,
        window=None,
        scale=None,
        dropout=0.0,
        bias=True,
        rng=None,
        dtype=np.float32,
    ):
        count(NAME, 1, width=width, num_heads=num_heads, **({} if window is None else {"window": window}))
        rate(NAME, "dropout", dropout)
        num_kv_heads, widths = _or(num_kv_heads, num_heads), _or(widths, AttentionWidths())
        _check_settings(width, num_heads, num_kv_heads, widths, bias)
        head = _or(widths.head, width // num_heads)
        value_head, memory = _or(widths.value_head, head), _or(widths.memory, width)
        _check_rotary(rotary, head)
        rng = np.random.default_rng(rng)
        some, last = bool(bias), bias is True
        self.q_proj = Linear(width, num_heads * head, some, rng=rng, dtype=dtype)
        self.k_proj = Linear(memory, num_kv_heads * head, some, rng=rng, dtype=dtype)
        self.v_proj = Linear(_or(widths.value, memory), num_kv_heads * value_head, some, rng=rng, dtype=dtype)
        self.out_proj = Linear(num_heads * value_head, width, last, rng=rng, dtype=dtype)
        # As PyTorch's attention starts.
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            projection.weight = init.xavier_uniform(projection.weight.shape, rng, dtype)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            if projection.bias is not None:
                projection.bias[:] = 0
        self.width, self.num_heads, self.num_kv_heads = width, num_heads, num_kv_heads
        self.rotary = copy(rotary)  # a part belongs to one place in the tree
        self.causal, self.window, self.scale, self.dropout = causal, window, scale, dropout

    def forward(
        self,
        x,
        memory=None,
        values=None,
        bias=None,
        *,
        mask=None,
        positions=None,
        kv_cache=None,
        rng=None,
        need_weights=False,
    ):
        """Return y (B, Tq, C). With a `kv_cache` the new keys and values join the old ones, and backward is refused.

        The cache of a memory is a `MemoryCache`: it is filled at the first step, and its keys are not made again.

        `positions`, (T,) or (B, T), are those of x, for `rotary`; they count from 0, or go on where a cache ends. With
        `need_weights` the result is (y, weights), as in `MultiHeadAttention`.
        """
        self.check_inputs(x, memory, values, bias, mask=mask, positions=positions, kv_cache=kv_cache)
        old = 0 if kv_cache is None else len(kv_cache)
        if memory is not None and kv_cache:  # of the memory, which went through before
            query, projections = split_heads(self.q_proj.forward(x, rng=rng)[0], self.num_heads), None
            key, value = kv_cache.key, kv_cache.value
        else:
            query, key, value, projections = self._project(x, memory, values, rng)
            if memory is not None and kv_cache is not None:
                key, value = kv_cache.fill(key, value, memory, values)
        query, key, turns = self._turn(query, key, positions, old)
        settings = {"causal": self.causal, "window": self.window, "scale": self.scale, "dropout": self.dropout}
        y, attended, weights = attend_to(
            kv_cache, query, key, value, bias, mask=mask, rng=rng, need_weights=need_weights, **settings
        )  # (B, H, Tq, Dv)
        y, out = self.out_proj.forward(merge_heads(y), rng=rng)
        result = (y, weights) if need_weights else y
        return result, None if kv_cache is not None else (projections, turns, attended, out)

    def backward(self, dy, cache):
        """Return ((dx, dmemory, dvalues, dbias), grads); None for what was not given."""
        if cache is None:
            raise ValueError(f"{NAME}: backward after a forward with kv_cache, whose old keys have no x")
        projections, turns, attended, out = cache
        dy, g_out = self.out_proj.backward(dy, out)
        dy = split_heads(dy, self.num_heads)  # (B, H, Tq, Dv)
        dquery, dkey, dvalue, dbias = attend_backward(dy, attended)
        dquery, dkey = self._turn_backward(dquery, dkey, turns)
        dinputs, grads = self._project_backward(dquery, dkey, dvalue, projections)
        return (*dinputs, dbias), grads | {"out_proj": g_out}

    def _project(self, x, memory, values, rng=None):
        """Return Q (B, H, Tq, D), K (B, Hkv, Tk, D), V (B, Hkv, Tk, Dv), and what backward needs."""
        given = memory is not None, values is not None
        memory = x if memory is None else memory
        values = memory if values is None else values
        query, q = self.q_proj.forward(x, rng=rng)
        key, k = self.k_proj.forward(memory, rng=rng)
        value, v = self.v_proj.forward(values, rng=rng)
        key, value = split_heads(key, self.num_kv_heads), split_heads(value, self.num_kv_heads)
        return split_heads(query, self.num_heads), key, value, (q, k, v, given)

    def _project_backward(self, dquery, dkey, dvalue, projections):
        """Return (dx, dmemory, dvalues) and the gradients of the three projections."""
        q, k, v, (has_memory, has_values) = projections
        dx, g_q = self.q_proj.backward(merge_heads(dquery), q)
        dmemory, g_k = self.k_proj.backward(merge_heads(dkey), k)
        dvalues, g_v = self.v_proj.backward(merge_heads(dvalue), v)
        # What was used in another's place gets its gradient too.
        if not has_values:
            dmemory, dvalues = dmemory + dvalues, None
        if not has_memory:
            dx, dmemory = dx + dmemory, None
        return (dx, dmemory, dvalues), {"q_proj": g_q, "k_proj": g_k, "v_proj": g_v}

    def _turn(self, query, key, positions, old):
        """Rotate queries and keys by their positions; `old` keys stand before them in the cache."""
        if self.rotary is None:
            return query, key, None
        if positions is None:
            positions = np.arange(old, old + query.shape[2])
        query, query_turn = self.rotary.forward(query, positions=positions)
        key, key_turn = self.rotary.forward(key, positions=positions)
        return query, key, (query_turn, key_turn)

    def _turn_backward(self, dquery, dkey, turns):
        if turns is None:
            return dquery, dkey
        query_turn, key_turn = turns
        return self.rotary.backward(dquery, query_turn)[0], self.rotary.backward(dkey, key_turn)[0]

    def check_inputs(self, x, memory=None, values=None, bias=None, *, mask=None, positions=None, kv_cache=None):
        floating(NAME, x=x, memory=memory, values=values)
        queries = x.shape
        keys = queries if memory is None else memory.shape
        shapes = queries, keys, keys if values is None else values.shape
        widths = self.width, self.k_proj.weight.shape[0], self.v_proj.weight.shape[0]
        fit = all(len(shape) == 3 and shape[2] == width for shape, width in zip(shapes, widths, strict=True))
        shared = is_of_memory(kv_cache)  # by beams: it knows their number
        if not fit or (queries[0] != keys[0] and not shared) or shapes[2][:2] != keys[:2]:
            wanted = "x (B, Tq, {}), memory (B, Tk, {}) and values (B, Tk, {})".format(*widths)
            got = [None if array is None else array.shape for array in (x, memory, values)]
            raise ValueError(f"{NAME}: expected {wanted}, got {got[0]}, {got[1]} and {got[2]}")
        if self.rotary is not None and (memory is not None or values is not None):
            raise ValueError(f"{NAME}: expected no memory with rotary positions, which are those of self-attention")
        if self.rotary is None and positions is not None:
            raise ValueError(f"{NAME}: expected no positions without a rotary, got {np.shape(positions)}")
        check_scores(NAME, x, (memory, values), bias, mask, self.num_heads, kv_cache)
        check_memory_cache(NAME, kv_cache, x, (memory, values), self.causal, self.window)

    def extra_repr(self):
        text = f"{self.width}, num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}"
        text += ", causal=True" if self.causal else ""
        text += f", window={self.window}" if self.window is not None else ""
        text += f", scale={self.scale}" if self.scale is not None else ""
        return text + (f", dropout={self.dropout}" if self.dropout else "")


def _or(value, default):
    return default if value is None else value


def _check_settings(width, num_heads, num_kv_heads, widths, bias):
    if not isinstance(widths, AttentionWidths):
        raise ValueError(f"{NAME}: expected widths as AttentionWidths, got {widths!r}")
    if widths.head is None and width % num_heads:
        raise ValueError(f"{NAME}: expected heads that divide the width {width}, or widths.head, got {num_heads}")
    count(NAME, 1, num_kv_heads=num_kv_heads)
    if num_heads % num_kv_heads:
        raise ValueError(f"{NAME}: expected num_kv_heads that divide the {num_heads} heads, got {num_kv_heads}")
    if not isinstance(bias, bool) and bias != "qkv":
        raise ValueError(f"{NAME}: expected bias True, False or 'qkv', got {bias!r}")


def _check_rotary(rotary, head_width):
    if rotary is None:
        return
    if not isinstance(rotary, Rotary):
        raise ValueError(f"{NAME}: expected a Rotary or None, got {rotary!r}")
    turned = _or(rotary.width, head_width)
    if turned % 2 or turned > head_width:
        raise ValueError(
            f"{NAME}: expected a rotary of an even width of at most {head_width}, that of a head, got {turned}"
        )
