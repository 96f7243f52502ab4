"""What T5 is made of: its settings, its stacks, whose layers share a bias by distance, and its head.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (2020).
"""

from dataclasses import dataclass

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.functional.door import count
from numtx.models.config import ACTIVATIONS, GATES, PretrainedConfig
from numtx.nn.feed_forward import ACTIVATIONS as PLAIN


@dataclass(kw_only=True)
class T5Config(PretrainedConfig):
    """The settings of a T5, by the names of its `config.json`.

    Attributes
    ----------
    d_model, d_kv, num_heads, d_ff : int
        The width C, and that of a head, of which there may be more or fewer than fill C; of the feed-forward networks.
    num_layers, num_decoder_layers : int
        Of the encoder and the decoder; the same if None.
    feed_forward_proj : str
        An activation, or "gated-" and one. "gated-gelu" means the tanh form.
    scale_decoder_outputs : bool
        Whether the head scales what it reads by 1 / √C. As `tie_word_embeddings` if None: T5 does, T5 1.1 does not.

    Examples
    --------
    >>> T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False).bend()
    (True, 'geglu_tanh')
    """

    model_type = "t5"
    required = (
        "vocab_size",
        "d_model",
        "d_kv",
        "d_ff",
        "num_layers",
        "num_heads",
        "relative_attention_num_buckets",
        "layer_norm_epsilon",
    )
    sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    rates = ("dropout_rate", "classifier_dropout")
    positives = ("layer_norm_epsilon", "initializer_factor")
    layers = ("num_layers", "num_decoder_layers")
    matrices = (
        ("vocab_size", "d_model"),
        ("d_model", "num_heads", "d_kv"),
        ("d_model", "d_ff"),
        ("relative_attention_num_buckets", "num_heads"),
        ("num_labels", "d_model"),
    )

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    classifier_dropout: float = 0.0
    scale_decoder_outputs: bool | None = None
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_layers
        count("T5Config", 1, num_decoder_layers=self.num_decoder_layers)
        if self.scale_decoder_outputs is None:
            self.scale_decoder_outputs = self.tie_word_embeddings
        self.bend()
        for bidirectional in (True, False):  # the encoder's distances, and the decoder's
            self._check_buckets(bidirectional)

    def _check_buckets(self, bidirectional):
        settings = {
            "num_buckets": self.relative_attention_num_buckets,
            "max_distance": self.relative_attention_max_distance,
        }
        try:
            F.relative_position_bucket(np.zeros(1, int), bidirectional=bidirectional, **settings)
        except ValueError as error:
            said = str(error).partition(": ")[2].replace("num_buckets", "relative_attention_num_buckets")
            raise ValueError(f"T5Config: {said.replace('max_distance', 'relative_attention_max_distance')}") from None

    def bend(self) -> tuple[bool, str]:
        """Return whether the feed-forward networks are gated, and the name in `numtx.nn` of what bends them."""
        gated, _, activation = str(self.feed_forward_proj).rpartition("-")
        bend = ACTIVATIONS.get(activation)
        if gated == "gated":
            bend = GATES.get("gelu_tanh" if activation == "gelu" else str(bend))
        elif gated or bend not in PLAIN:
            bend = None
        if bend is None:
            raise ValueError(
                "T5Config: expected feed_forward_proj relu, gelu, gelu_new or silu, or gated- with one of the last "
                f"three, got {self.feed_forward_proj!r}"
            )
        return bool(gated), bend

    @classmethod
    def read(cls, entries):
        if entries.get("is_decoder"):
            raise ValueError("T5Config: expected is_decoder False, got True")
        return entries


class T5Stack(nn.Module):
    """One of the two stacks: layers that share a bias by distance, a norm, and dropout before and after.

    x (B, T, C) -> y (B, T, C); the decoder looks at a memory (B, Tk, C) too, without a bias.

    Parameters
    ----------
    config : T5Config
    decoder : bool
        A decoder is causal, and its distances go one way.

    Examples
    --------
    >>> config = T5Config(vocab_size=5, d_model=4, d_kv=3, d_ff=6, num_layers=2, num_heads=2)
    >>> T5Stack(config, rng=0)(np.ones((1, 3, 4), np.float32)).shape
    (1, 3, 4)
    """

    def __init__(self, config, *, decoder=False, rng=None, dtype=np.float32):
        made = {"rng": np.random.default_rng(rng), "dtype": dtype}
        self.positions = nn.RelativePositionBias(
            config.relative_attention_num_buckets,
            config.num_heads,
            bidirectional=not decoder,
            max_distance=config.relative_attention_max_distance,
            **made,
        )
        layers = [
            _layer(config, decoder, made) for _ in range(config.num_decoder_layers if decoder else config.num_layers)
        ]
        self.stack = nn.Stack(layers, nn.RMSNorm(config.d_model, config.layer_norm_epsilon, dtype=dtype))
        self.dropout = config.dropout_rate

    def __call__(self, *inputs, **settings):
        return self.forward(*inputs, keep=None, **settings)[0]

    def forward(
        self, x, memory=None, *, mask=None, memory_mask=None, kv_cache=None, rng=None, keep="all", frozen=(), **asked
    ):
        """Return y, or an `nn.StackOutput` where `asked`; the arguments are those of `nn.Stack`."""
        old = len(kv_cache[0]) if kv_cache else 0
        bias, placed = self.positions.forward(x.shape[1], old + x.shape[1])  # (H, Tq + Tk - 1)
        x, first = F.dropout(x, self.dropout, rng)
        given = {"mask": mask, "memory_mask": memory_mask, "kv_cache": kv_cache}
        given |= nn.told((*frozen, *nn.frozen_inputs(bias=self.positions).get("frozen", ())))
        y, stack = self.stack.forward(x, memory, bias, **given, rng=rng, keep=keep, **asked)
        shown = y if isinstance(y, nn.StackOutput) else nn.StackOutput(y, None, None, None)
        y, last = F.dropout(shown.y, self.dropout, rng)
        cache = None if stack is None else (placed, first, stack, last)
        if not any(asked.values()):
            return y, cache
        states = None if shown.hidden_states is None else (*shown.hidden_states[:-1], y)
        return shown._replace(y=y, hidden_states=states), cache

    def backward(self, dy, cache):
        """Return ((dx, dmemory), grads); dmemory is None without a memory, and each where it was frozen."""
        if cache is None:
            raise ValueError("T5Stack: backward after a forward with keep=None or a kv_cache, which leave it nothing")
        placed, first, stack, last = cache
        dy = F.dropout_backward(dy, last)
        (dx, dmemory, dbias), g_stack = self.stack.backward(dy, stack)
        _, g_positions = nn.backward_below(self.positions, dbias, placed)
        dx = None if dx is None else F.dropout_backward(dx, first)
        return (dx, dmemory), {"positions": g_positions, "stack": g_stack}

    def extra_repr(self):
        return f"dropout={self.dropout}" if self.dropout else ""


def _layer(config, decoder, made):
    """Make a layer: self-attention, in a decoder attention over the memory, and a feed-forward network."""
    width, rate = config.d_model, config.dropout_rate

    def around(sublayer):
        return nn.PreNorm(nn.RMSNorm(width, config.layer_norm_epsilon, dtype=made["dtype"]), sublayer, rate)

    def attention(causal):
        widths = nn.AttentionWidths(head=config.d_kv)
        return nn.GroupedQueryAttention(  # scores are not divided by √D: the weights are drawn so much smaller
            width, config.num_heads, widths=widths, scale=1.0, causal=causal, dropout=rate, bias=False, **made
        )

    gated, bend = config.bend()
    network = nn.GatedFeedForward if gated else nn.FeedForward
    own, cross = attention(decoder), [around(attention(False))] if decoder else []
    parts = [around(own), *cross, around(network(width, config.d_ff, bend, rate, bias=False, **made))]
    return (nn.DecoderLayer if decoder else nn.EncoderLayer)(*parts)


class T5LMHead(nn.TiedLMHead):
    """Scores from a table (V, C) that is borrowed: logits = (s · x) Eᵀ, (..., C) -> (..., V).

    T5, whose table is the embedding's, has s = 1 / √C, for its embeddings are drawn with variance 1; T5 1.1 has 1.

    Examples
    --------
    >>> T5LMHead(0.5)(np.ones((1, 2)), np.array([[1.0, 0.0], [2.0, 3.0]]))
    array([[0.5, 2.5]])
    """

    def __init__(self, scale=1.0):
        self.scale = scale

    def forward(self, x, weight, *, frozen=()):
        return super().forward(x * self.scale, weight, frozen=frozen)

    def backward(self, dy, cache):
        (dx, dweight), grads = super().backward(dy, cache)
        return (dx * self.scale, dweight), grads

    def extra_repr(self):
        return f"scale={self.scale:g}"
