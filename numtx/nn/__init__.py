"""The components: parameters and how the pairs compose. `forward` gives (y, cache), `backward` (dinputs, grads)."""

from numtx.nn import init
from numtx.nn.adapting import add_lora, lora_layers, lora_targets, merge_lora, remove_lora, unmerge_lora
from numtx.nn.attention import MultiHeadAttention
from numtx.nn.decoder import Decoder, DecoderBlock
from numtx.nn.dropout import Dropout
from numtx.nn.embeddings import Embedding, LearnedPositions, SinusoidalPositions
from numtx.nn.feed_forward import FeedForward, GatedFeedForward
from numtx.nn.flops import count_flops
from numtx.nn.freezing import backward_below, freeze, frozen_inputs, matching, unfreeze
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
from numtx.nn.lora import LoRALinear, LoRAMultiHeadAttention
from numtx.nn.module import Module, ModuleList, flatten, told, unflatten
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
    "LoRALinear",
    "LoRAMultiHeadAttention",
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
    "add_lora",
    "backward_below",
    "count_flops",
    "flatten",
    "freeze",
    "frozen_inputs",
    "init",
    "lora_layers",
    "lora_targets",
    "matching",
    "merge_lora",
    "remove_lora",
    "told",
    "trace",
    "unflatten",
    "unfreeze",
    "unmerge_lora",
]
