"""Multi-head attention: projections around the pair."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count, rate, sequence
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
from numtx.nn.module import Module, gradients, told


class MultiHeadAttention(Module):
    """Attention in `num_heads` subspaces: Y = concat_h(attention(Q_h, K_h, V_h)) Wᵒ. Vaswani et al. (2017), 3.2.2.

    Self-attention: queries, keys and values all come from x (B, T, C). Cross-attention: keys and values come from a
    memory (B, Tk, C). The three projections stand side by side in `in_proj_weight` (C, 3C), as in PyTorch (there
    transposed), so that self-attention is one product.

    Parameters
    ----------
    width, num_heads : int
        The heads must divide the width.
    causal : bool, window : int or None, scale : float or None, dropout : float
        As in `F.scaled_dot_product_attention`.
    bias : bool
        Whether the projections have one.

    Examples
    --------
    >>> attention = MultiHeadAttention(8, 2, causal=True, rng=0)
    >>> attention(np.ones((1, 3, 8), np.float32)).shape
    (1, 3, 8)
    """

    def __init__(
        self,
        width,
        num_heads,
        *,
        causal=False,
        window=None,
        scale=None,
        dropout=0.0,
        bias=True,
        rng=None,
        dtype=np.float32,
    ):
        count("MultiHeadAttention", 1, width=width, num_heads=num_heads)
        count("MultiHeadAttention", 1, **({} if window is None else {"window": window}))
        rate("MultiHeadAttention", "dropout", dropout)
        if width % num_heads:
            raise ValueError(f"MultiHeadAttention: expected heads that divide the width {width}, got {num_heads}")
        rng = np.random.default_rng(rng)
        self.in_proj_weight = init.xavier_uniform((width, 3 * width), rng, dtype)
        self.in_proj_bias = init.zeros(3 * width, dtype) if bias else None
        self.out_proj = Linear(width, width, bias, rng=rng, dtype=dtype)
        if self.out_proj.bias is not None:
            self.out_proj.bias[:] = 0
        self.width, self.num_heads = width, num_heads
        self.causal, self.window, self.scale, self.dropout = causal, window, scale, dropout

    def forward(self, x, memory=None, bias=None, *, mask=None, kv_cache=None, rng=None, need_weights=False):
        """Return y (B, Tq, C). With a `kv_cache` the new keys and values join the old ones, and backward is refused.

        The cache of a memory is a `MemoryCache`: it is filled at the first step, and its keys are not made again.

        With `need_weights` the result is (y, weights), the weights (B, H, Tq, Tk) of each head before dropout, as
        `F.attention_weights` gives them: to look at, not to differentiate. Backward takes dy of y alone.
        """
        self.check_inputs(x, memory, bias, mask=mask, kv_cache=kv_cache)
        query, key, value, projections = self._project(x, memory, kv_cache, rng)
        settings = {"causal": self.causal, "window": self.window, "scale": self.scale, "dropout": self.dropout}
        y, attended, weights = attend_to(
            kv_cache, query, key, value, bias, mask=mask, rng=rng, need_weights=need_weights, **settings
        )  # (B, H, Tq, D)
        y, out = self.out_proj.forward(merge_heads(y), rng=rng)
        result = (y, weights) if need_weights else y
        return result, None if kv_cache is not None else (projections, attended, out)

    def check_inputs(self, x, memory=None, bias=None, *, mask=None, kv_cache=None):
        others = {} if memory is None else {"memory": memory}
        if is_of_memory(kv_cache):  # it knows how many rows, beams, ask one of the memory's
            sequence("MultiHeadAttention", self.width, x=x)
            sequence("MultiHeadAttention", self.width, **others or {"x": x})
        else:
            sequence("MultiHeadAttention", self.width, x=x, **others)
        check_scores("MultiHeadAttention", x, (memory,), bias, mask, self.num_heads, kv_cache)
        check_memory_cache("MultiHeadAttention", kv_cache, x, (memory,), self.causal, self.window)

    def backward(self, dy, cache):
        """Return ((dx, dmemory, dbias), grads); dmemory and dbias are None where they were not given."""
        if cache is None:
            raise ValueError("MultiHeadAttention: backward after a forward with kv_cache, whose old keys have no x")
        projections, attended, out = cache
        dy, g_out = self.out_proj.backward(dy, out)
        dquery, dkey, dvalue, dbias = attend_backward(split_heads(dy, self.num_heads), attended)
        dx, dmemory, grads = self._project_backward(dquery, dkey, dvalue, projections)
        return (dx, dmemory, dbias), grads | {"out_proj": g_out}

    def _project(self, x, memory, kv_cache=None, rng=None):
        """Return Q, K, V (B, H, T, D), and what backward needs. `rng`: as in `Linear`."""
        width, weight, bias = self.width, self.in_proj_weight, self.in_proj_bias
        frozen = told([name.removeprefix("in_proj_") for name in self.frozen])
        if memory is None:
            qkv, cache = F.linear(x, weight, bias, **frozen)  # (B, T, 3C)
            query, key, value = (split_heads(part, self.num_heads) for part in np.split(qkv, 3, axis=-1))
            return query, key, value, (cache,)
        bias_q, bias_kv = (None, None) if bias is None else (bias[:width], bias[width:])
        query, q_cache = F.linear(x, weight[:, :width], bias_q, **frozen)  # (B, Tq, C)
        query = split_heads(query, self.num_heads)
        if kv_cache:  # of the memory, which went through before
            return query, kv_cache.key, kv_cache.value, None
        kv, memory_cache = F.linear(memory, weight[:, width:], bias_kv, **frozen)  # (B, Tk, 2C)
        key, value = (split_heads(part, self.num_heads) for part in np.split(kv, 2, axis=-1))
        if kv_cache is not None:
            key, value = kv_cache.fill(key, value, memory)
        return query, key, value, (q_cache, memory_cache)

    def _project_backward(self, dquery, dkey, dvalue, projections):
        """Return dx, dmemory, and the gradients of the packed projections."""
        if len(projections) == 1:
            dx, dweight, dbias = F.linear_backward(merge_heads(dquery, dkey, dvalue), projections[0])
            return dx, None, gradients(in_proj_weight=dweight, in_proj_bias=dbias)
        q_cache, memory_cache = projections
        dx, dweight_q, dbias_q = F.linear_backward(merge_heads(dquery), q_cache)
        dmemory, dweight_kv, dbias_kv = F.linear_backward(merge_heads(dkey, dvalue), memory_cache)
        dweight = None if dweight_q is None else np.concatenate([dweight_q, dweight_kv], axis=1)
        dbias = None if dbias_q is None else np.concatenate([dbias_q, dbias_kv])
        return dx, dmemory, gradients(in_proj_weight=dweight, in_proj_bias=dbias)

    def extra_repr(self):
        text = f"{self.width}, num_heads={self.num_heads}"
        text += ", causal=True" if self.causal else ""
        text += f", window={self.window}" if self.window is not None else ""
        text += f", scale={self.scale}" if self.scale is not None else ""
        return text + (f", dropout={self.dropout}" if self.dropout else "")
