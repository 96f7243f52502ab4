"""Encoder and decoder layers: attention and a feed-forward network, each with its residual, and PyTorch's two."""

import numpy as np

from numtx.functional.door import floating
from numtx.nn.attention import MultiHeadAttention
from numtx.nn.feed_forward import FeedForward
from numtx.nn.kv_cache import DecoderLayerCache, KVCache
from numtx.nn.module import Module
from numtx.nn.norms import LayerNorm
from numtx.nn.residual import PostNorm, PreNorm


class EncoderLayer(Module):
    """Self-attention and a feed-forward network: h = attention(x), y = feed_forward(h), x and y (B, T, C).

    Where the norms stand is a matter of the two parts; with causal attention it is the layer of a decoder-only model.
    Vaswani et al. (2017), section 3.1.

    Parameters
    ----------
    attention, feed_forward : Module
        Each a `PreNorm` or `PostNorm` around its sublayer. Of the gradients that the attention gives for its inputs the
        first is that of x, the last that of the bias.

    Examples
    --------
    >>> from numtx import nn
    >>> attention = nn.PreNorm(nn.RMSNorm(8), nn.MultiHeadAttention(8, 2, bias=False, rng=0))
    >>> layer = EncoderLayer(attention, nn.PreNorm(nn.RMSNorm(8), nn.FeedForward(8, 16, "silu", rng=1)))
    >>> layer(np.ones((1, 3, 8), np.float32)).shape
    (1, 3, 8)
    """

    def __init__(self, attention, feed_forward):
        self.attention, self.feed_forward = attention, feed_forward

    def forward(self, x, bias=None, *, mask=None, positions=None, kv_cache=None, rng=None, need_weights=False):
        """Return y. What is given besides x goes to the attention: the bias of the scores, mask, positions, cache.

        With a `kv_cache` backward is refused. With `need_weights` the result is (y, weights), as in
        `MultiHeadAttention`.
        """
        settings = given(bias=bias, mask=mask, positions=positions, kv_cache=kv_cache)
        settings |= {"need_weights": True} if need_weights else {}
        h, attention = self.attention.forward(x, rng=rng, **settings)  # (B, T, C)
        h, *weights = h if need_weights else (h,)
        y, feed_forward = self.feed_forward.forward(h, rng=rng)
        return (y, *weights) if need_weights else y, None if kv_cache is not None else (attention, feed_forward)

    def backward(self, dy, cache):
        """Return ((dx, dbias), grads); dbias is None where there was no bias."""
        if cache is None:
            raise ValueError(f"{type(self).__name__}: backward after a forward with kv_cache, whose old keys have no x")
        attention, feed_forward = cache
        dh, g_feed_forward = self.feed_forward.backward(dy, feed_forward)
        (dx, *_, dbias), g_attention = self.attention.backward(dh, attention)
        return (dx, dbias), {"attention": g_attention, "feed_forward": g_feed_forward}

    def new_cache(self):
        """Return an empty `kv_cache`."""
        return KVCache()


class DecoderLayer(Module):
    """Self-attention, attention over a memory, a feed-forward network: x (B, T, C), memory (B, Tk, Cm) -> y (B, T, C).

        h = attention(x)        g = cross_attention(h, memory)        y = feed_forward(g)

    Queries come from the decoder, keys and values from the memory. Vaswani et al. (2017), sections 3.1 and 3.2.3.

    Parameters
    ----------
    attention, cross_attention, feed_forward : Module
        Each a `PreNorm` or `PostNorm` around its sublayer.

    Examples
    --------
    >>> layer = TransformerDecoderLayer(8, 2, 16, rng=0)
    >>> layer(np.ones((1, 3, 8), np.float32), np.ones((1, 5, 8), np.float32)).shape
    (1, 3, 8)
    """

    def __init__(self, attention, cross_attention, feed_forward):
        self.attention, self.cross_attention, self.feed_forward = attention, cross_attention, feed_forward

    def forward(
        self,
        x,
        memory,
        bias=None,
        *,
        mask=None,
        memory_mask=None,
        positions=None,
        kv_cache=None,
        rng=None,
        need_weights=False,
    ):
        """Return y. `bias`, `mask` and `positions` are those of self-attention.

        `memory_mask` says which tokens of the memory may be seen: (B, 1, 1, Tk) for one that is padded. `kv_cache` is a
        `DecoderLayerCache`, or a `KVCache` for self-attention alone; then the memory is projected at every step. With
        `need_weights` the result is (y, (weights, weights over the memory)).
        """
        own, of_memory = kv_cache, None
        if isinstance(kv_cache, DecoderLayerCache):
            own, of_memory = kv_cache.self_attention, kv_cache.cross_attention
        shown = {"need_weights": True} if need_weights else {}
        self._check(x, memory, memory_mask, of_memory)
        settings = given(bias=bias, mask=mask, positions=positions, kv_cache=own)
        h, attention = self.attention.forward(x, rng=rng, **settings, **shown)  # (B, T, C)
        h, *weights = h if need_weights else (h,)
        settings = given(mask=memory_mask, kv_cache=of_memory)
        g, cross_attention = self.cross_attention.forward(h, memory, rng=rng, **settings, **shown)
        g, *over_memory = g if need_weights else (g,)
        y, feed_forward = self.feed_forward.forward(g, rng=rng)
        result = (y, (*weights, *over_memory)) if need_weights else y
        return result, None if kv_cache is not None else (attention, cross_attention, feed_forward)

    def backward(self, dy, cache):
        """Return ((dx, dmemory, dbias), grads); dbias is None where there was no bias."""
        if cache is None:
            raise ValueError(f"{type(self).__name__}: backward after a forward with kv_cache, whose old keys have no x")
        attention, cross_attention, feed_forward = cache
        dg, g_feed_forward = self.feed_forward.backward(dy, feed_forward)
        (dh, dmemory, *_), g_cross = self.cross_attention.backward(dg, cross_attention)
        (dx, *_, dbias), g_attention = self.attention.backward(dh, attention)
        grads = {"attention": g_attention, "cross_attention": g_cross, "feed_forward": g_feed_forward}
        return (dx, dmemory, dbias), grads

    def new_cache(self):
        """Return an empty `kv_cache`, of the tokens and of the memory."""
        return DecoderLayerCache()

    def _check(self, x, memory, memory_mask, of_memory):
        # At the door, before a kv_cache grows; and without a memory cross-attention would look at x.
        name = type(self).__name__
        if memory is None:
            raise ValueError(f"{name}: expected a memory (B, Tk, C), got None")
        floating(name, x=x, memory=memory)
        if x.ndim != 3 or memory.ndim != 3 or (len(x) != len(memory) and of_memory is None):
            raise ValueError(
                f"{name}: expected x (B, T, C) and memory (B, Tk, C) of one batch, got {x.shape} and {memory.shape}"
            )
        self.cross_attention.check_inputs(x, memory, **given(mask=memory_mask, kv_cache=of_memory))


class _AsInPyTorch(Module):
    """The arguments of PyTorch's two layers: attentions, as many as the layer has, and a feed-forward network."""

    def __init__(
        self,
        d_model,
        nhead,
        dim_feedforward=2048,
        dropout=0.1,
        activation="relu",
        layer_norm_eps=1e-5,
        norm_first=False,
        bias=True,
        *,
        causal=False,
        rng=None,
        dtype=np.float32,
    ):
        settings = {"dropout": dropout, "bias": bias, "rng": np.random.default_rng(rng), "dtype": dtype}
        sublayers: list[Module] = [MultiHeadAttention(d_model, nhead, causal=causal, **settings)]
        if isinstance(self, DecoderLayer):
            sublayers.append(MultiHeadAttention(d_model, nhead, **settings))
        sublayers.append(FeedForward(d_model, dim_feedforward, activation, **settings))
        residual = PreNorm if norm_first else PostNorm
        norms = [LayerNorm(d_model, layer_norm_eps, bias, dtype=dtype) for _ in sublayers]
        super().__init__(*(residual(*parts, dropout) for parts in zip(norms, sublayers, strict=True)))


class TransformerEncoderLayer(_AsInPyTorch, EncoderLayer):
    """The twin of `torch.nn.TransformerEncoderLayer`, with its arguments; batch comes first.

    Dropout stands in four places: on the attention probabilities, after the activation, after each sublayer. `causal`
    is a setting here, where PyTorch wants a mask. Activations: as in `FeedForward`.

    Examples
    --------
    >>> TransformerEncoderLayer(8, 2, 16, norm_first=True, rng=0)(np.ones((1, 3, 8), np.float32)).shape
    (1, 3, 8)
    """


class TransformerDecoderLayer(_AsInPyTorch, DecoderLayer):
    """The twin of `torch.nn.TransformerDecoderLayer`, with its arguments; batch comes first.

    Dropout stands in six places: on the probabilities of both attentions, after the activation, after each of the three
    sublayers. `causal` is that of self-attention, and a setting here, where PyTorch wants a mask.

    Examples
    --------
    >>> layer = TransformerDecoderLayer(8, 2, 16, causal=True, rng=0)
    >>> layer(np.ones((1, 3, 8), np.float32), np.ones((1, 5, 8), np.float32)).shape
    (1, 3, 8)
    """


def given(**settings):
    """Return the settings that are not None, so that a part is asked only for what it was given."""
    return {name: value for name, value in settings.items() if value is not None}
