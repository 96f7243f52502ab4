"""The decoder-only block and the stack of them."""

import numpy as np

from numtx.nn.attention import MultiHeadAttention
from numtx.nn.feed_forward import FeedForward
from numtx.nn.module import Module, ModuleList
from numtx.nn.norms import LayerNorm
from numtx.nn.residual import PreNorm


class DecoderBlock(Module):
    """Causal self-attention and a feed-forward network, each with a norm before it and a residual around it.

    x (B, T, C) -> y (B, T, C). `dropout` is that of the two residual branches, `attention_dropout` that of the
    attention probabilities. Radford et al. (2019), section 2.3.

    Examples
    --------
    >>> DecoderBlock(8, 2, 32, rng=0)(np.ones((1, 3, 8), np.float32)).shape
    (1, 3, 8)
    """

    def __init__(
        self,
        width,
        num_heads,
        hidden,
        *,
        activation="gelu_tanh",
        eps=1e-5,
        dropout=0.0,
        attention_dropout=0.0,
        rng=None,
        dtype=np.float32,
    ):
        rng = np.random.default_rng(rng)
        attention = MultiHeadAttention(width, num_heads, causal=True, dropout=attention_dropout, rng=rng, dtype=dtype)
        feed_forward = FeedForward(width, hidden, activation, rng=rng, dtype=dtype)
        self.attention = PreNorm(LayerNorm(width, eps, dtype=dtype), attention, dropout)
        self.feed_forward = PreNorm(LayerNorm(width, eps, dtype=dtype), feed_forward, dropout)

    def forward(self, x, *, mask=None, kv_cache=None, rng=None):
        h, attention = self.attention.forward(x, mask=mask, kv_cache=kv_cache, rng=rng)
        y, feed_forward = self.feed_forward.forward(h, rng=rng)
        return y, None if kv_cache is not None else (attention, feed_forward)

    def backward(self, dy, cache):
        if cache is None:
            raise ValueError("DecoderBlock: backward after a forward with kv_cache, whose old keys have no x")
        attention, feed_forward = cache
        dh, g_feed_forward = self.feed_forward.backward(dy, feed_forward)
        (dx, _, _), g_attention = self.attention.backward(dh, attention)
        return dx, {"attention": g_attention, "feed_forward": g_feed_forward}


class Decoder(Module):
    """A stack of blocks with a norm at the end: x (B, T, C) -> y (B, T, C).

    `forward` takes `keep`: "all" keeps every block's cache; "inputs" keeps each block's input, and backward computes
    the block a second time (a third more work, and memory for one block instead of all); None keeps nothing and
    backward is refused. Each block draws its dropout from a generator of its own, so that the second computation draws
    the same.

    Examples
    --------
    >>> stack = Decoder([DecoderBlock(8, 2, 32, rng=i) for i in range(2)], LayerNorm(8))
    >>> stack(np.ones((1, 3, 8), np.float32)).shape
    (1, 3, 8)
    """

    def __init__(self, layers, norm):
        self.layers, self.norm = ModuleList(layers), norm

    def __call__(self, x, **settings):
        return self.forward(x, keep=None, **settings)[0]

    def forward(self, x, *, mask=None, kv_cache=None, rng=None, keep="all"):
        """Return y. `kv_cache` is a list of one KVCache a layer; with it nothing is kept."""
        if keep not in ("all", "inputs", None):
            raise ValueError(f"Decoder: expected keep 'all', 'inputs' or None, got {keep!r}")
        if kv_cache is not None:
            keep = None
            if len(kv_cache) != len(self.layers):
                raise ValueError(f"Decoder: expected {len(self.layers)} KVCaches, one a layer, got {len(kv_cache)}")
        keys = [None] * len(self.layers) if rng is None else rng.integers(2**63, size=len(self.layers)).tolist()
        kept = []
        for i, (layer, key) in enumerate(zip(self.layers, keys, strict=True)):
            before = x
            x, cache = layer.forward(
                x, mask=mask, kv_cache=None if kv_cache is None else kv_cache[i], rng=_generator(key)
            )
            if keep is not None:
                kept.append(cache if keep == "all" else before)
            del cache, before  # without `keep`, no activation outlives its layer
        y, norm = self.norm.forward(x)
        return y, None if keep is None else (keep, kept, keys, mask, norm)

    def backward(self, dy, cache):
        if cache is None:
            raise ValueError("Decoder: backward after a forward with keep=None or a kv_cache, which leave it nothing")
        keep, kept, keys, mask, norm = cache
        dx, g_norm = self.norm.backward(dy, norm)
        grads = dict.fromkeys(map(str, range(len(self.layers))))  # in the parameters' order, though backward goes back
        for i in reversed(range(len(self.layers))):
            layer, layer_cache = self.layers[i], kept[i]
            if keep == "inputs":
                _, layer_cache = layer.forward(kept[i], mask=mask, rng=_generator(keys[i]))
            dx, grads[str(i)] = layer.backward(dx, layer_cache)
        return dx, {"layers": grads, "norm": g_norm}


def _generator(key):
    return None if key is None else np.random.default_rng(key)
