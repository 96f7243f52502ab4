"""The decoder-only block, and the stack of them."""

import numpy as np

from numtx.nn.attention import MultiHeadAttention
from numtx.nn.feed_forward import FeedForward
from numtx.nn.layers import EncoderLayer
from numtx.nn.norms import LayerNorm
from numtx.nn.residual import PreNorm
from numtx.nn.stack import Stack


class DecoderBlock(EncoderLayer):
    """Causal self-attention and a feed-forward network, each with a norm before it and a residual around it.

    x (B, T, C) -> y (B, T, C). `dropout` is that of the two residual branches, `attention_dropout` that of the
    attention probabilities, and `scale` what the scores are multiplied by, 1/√D if None. Radford et al. (2019), section
    2.3.

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
        scale=None,
        rng=None,
        dtype=np.float32,
    ):
        rng = np.random.default_rng(rng)
        attention = MultiHeadAttention(
            width, num_heads, causal=True, scale=scale, dropout=attention_dropout, rng=rng, dtype=dtype
        )
        feed_forward = FeedForward(width, hidden, activation, rng=rng, dtype=dtype)
        super().__init__(
            PreNorm(LayerNorm(width, eps, dtype=dtype), attention, dropout),
            PreNorm(LayerNorm(width, eps, dtype=dtype), feed_forward, dropout),
        )


class Decoder(Stack):
    """A `Stack` into which nothing flows but x, with a norm at the end: backward gives dx alone.

    Examples
    --------
    >>> stack = Decoder([DecoderBlock(8, 2, 32, rng=i) for i in range(2)], LayerNorm(8))
    >>> stack(np.ones((1, 3, 8), np.float32)).shape
    (1, 3, 8)
    """

    def __init__(self, layers, norm):
        super().__init__(layers, norm)

    def forward(  # type: ignore[override]
        self,
        x,
        *,
        mask=None,
        positions=None,
        kv_cache=None,
        rng=None,
        keep="all",
        frozen=(),
        output_hidden_states=False,
        output_attentions=False,
    ):
        """Return y, or a `StackOutput` where one of the last two is asked for."""
        looks = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        settings = {"mask": mask, "positions": positions, "kv_cache": kv_cache, "rng": rng, "keep": keep}
        return super().forward(x, **settings, frozen=frozen, **looks)

    def backward(self, dy, cache):
        """Return (dx, grads)."""
        (dx, _, _), grads = super().backward(dy, cache)
        return dx, grads
