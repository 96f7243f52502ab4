"""The components: parameters and how the pairs compose. `forward` gives (y, cache), `backward` (dinputs, grads)."""

from numtx.nn import init
from numtx.nn.attention import MultiHeadAttention
from numtx.nn.decoder import Decoder, DecoderBlock
from numtx.nn.dropout import Dropout
from numtx.nn.embeddings import Embedding, LearnedPositions, SinusoidalPositions
from numtx.nn.feed_forward import FeedForward, GatedFeedForward
from numtx.nn.flops import count_flops
from numtx.nn.grouped_attention import AttentionWidths, GroupedQueryAttention
from numtx.nn.heads import (
    ClassificationHead,
    ClassifierHead,
    MaskedLMHead,
    RegressorHead,
    Seq2SeqLMHead,
    SequenceClassificationHead,
    SpanHead,
    TiedLMHead,
    TokenClassificationHead,
    ValueHead,
)
from numtx.nn.kv_cache import DecoderLayerCache, KVCache, MemoryCache
from numtx.nn.layers import DecoderLayer, EncoderLayer, TransformerDecoderLayer, TransformerEncoderLayer
from numtx.nn.linear import Linear
from numtx.nn.module import Module, ModuleList, flatten, unflatten
from numtx.nn.norms import LayerNorm, RMSNorm
from numtx.nn.pooling import Pooler, Pooling
from numtx.nn.position_bias import ALiBi, RelativePositionBias
from numtx.nn.residual import PostNorm, PreNorm
from numtx.nn.rotary import Rotary
from numtx.nn.stack import Stack, StackOutput
from numtx.nn.trace import Site, Trace, trace

__all__ = [
    "ALiBi",
    "AttentionWidths",
    "ClassificationHead",
    "ClassifierHead",
    "Decoder",
    "DecoderBlock",
    "DecoderLayer",
    "DecoderLayerCache",
    "Dropout",
    "Embedding",
    "EncoderLayer",
    "FeedForward",
    "GatedFeedForward",
    "GroupedQueryAttention",
    "KVCache",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "MaskedLMHead",
    "MemoryCache",
    "Module",
    "ModuleList",
    "MultiHeadAttention",
    "Pooler",
    "Pooling",
    "PostNorm",
    "PreNorm",
    "RMSNorm",
    "RegressorHead",
    "RelativePositionBias",
    "Rotary",
    "Seq2SeqLMHead",
    "SequenceClassificationHead",
    "SinusoidalPositions",
    "Site",
    "SpanHead",
    "Stack",
    "StackOutput",
    "TiedLMHead",
    "TokenClassificationHead",
    "Trace",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "ValueHead",
    "count_flops",
    "flatten",
    "init",
    "trace",
    "unflatten",
]
