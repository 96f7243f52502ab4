"""The components: parameters and how the pairs compose. `forward` gives (y, cache), `backward` (dinputs, grads)."""

from numtx.nn import init
from numtx.nn.attention import MultiHeadAttention
from numtx.nn.decoder import Decoder, DecoderBlock
from numtx.nn.dropout import Dropout
from numtx.nn.embeddings import Embedding, LearnedPositions, SinusoidalPositions
from numtx.nn.feed_forward import FeedForward
from numtx.nn.heads import TiedLMHead
from numtx.nn.kv_cache import KVCache
from numtx.nn.linear import Linear
from numtx.nn.module import Module, ModuleList, flatten, unflatten
from numtx.nn.norms import LayerNorm, RMSNorm
from numtx.nn.residual import PostNorm, PreNorm
from numtx.nn.trace import Site, Trace, trace

__all__ = [
    "Decoder",
    "DecoderBlock",
    "Dropout",
    "Embedding",
    "FeedForward",
    "KVCache",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "Module",
    "ModuleList",
    "MultiHeadAttention",
    "PostNorm",
    "PreNorm",
    "RMSNorm",
    "SinusoidalPositions",
    "Site",
    "TiedLMHead",
    "Trace",
    "flatten",
    "init",
    "trace",
    "unflatten",
]
