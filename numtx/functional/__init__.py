"""The maths: pure pairs, f and f_backward, side by side; no classes, no state.

`y, cache = F.op(...)` and then `F.op_backward(dy, cache)`: one gradient for each differentiable array argument, in
forward's order; bare if the op has one, a tuple if several, None for an optional one that was not given.
"""

from numtx.functional.activations import (
    gelu,
    gelu_backward,
    gelu_tanh,
    gelu_tanh_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    tanh,
    tanh_backward,
)
from numtx.functional.attention import (
    attention_weights,
    scaled_dot_product_attention,
    scaled_dot_product_attention_backward,
)
from numtx.functional.dropout import dropout, dropout_backward
from numtx.functional.embedding import embedding, embedding_backward
from numtx.functional.gated import (
    geglu,
    geglu_backward,
    geglu_tanh,
    geglu_tanh_backward,
    glu,
    glu_backward,
    swiglu,
    swiglu_backward,
)
from numtx.functional.linear import linear, linear_backward
from numtx.functional.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_backward
from numtx.functional.losses import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
    cross_entropy,
    cross_entropy_backward,
    mse_loss,
    mse_loss_backward,
)
from numtx.functional.low_rank import low_rank, low_rank_backward
from numtx.functional.masks import causal_mask, combine_masks, padding_mask, sliding_window_mask
from numtx.functional.nll import nll_loss, nll_loss_backward
from numtx.functional.norms import layer_norm, layer_norm_backward, rms_norm, rms_norm_backward
from numtx.functional.pooling import pooling, pooling_backward
from numtx.functional.position_bias import alibi, alibi_slopes, relative_distances, relative_position_bucket
from numtx.functional.positions import sinusoidal_positions
from numtx.functional.rotary import rotary, rotary_backward, rotary_frequencies
from numtx.functional.softmax import log_softmax, log_softmax_backward, softmax, softmax_backward
from numtx.functional.tiled_attention import tiled_attention, tiled_attention_backward

__all__ = [
    "alibi",
    "alibi_slopes",
    "attention_weights",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_backward",
    "causal_mask",
    "combine_masks",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "dropout_backward",
    "embedding",
    "embedding_backward",
    "geglu",
    "geglu_backward",
    "geglu_tanh",
    "geglu_tanh_backward",
    "gelu",
    "gelu_backward",
    "gelu_tanh",
    "gelu_tanh_backward",
    "glu",
    "glu_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "linear_cross_entropy",
    "linear_cross_entropy_backward",
    "log_softmax",
    "log_softmax_backward",
    "low_rank",
    "low_rank_backward",
    "mse_loss",
    "mse_loss_backward",
    "nll_loss",
    "nll_loss_backward",
    "padding_mask",
    "pooling",
    "pooling_backward",
    "relative_distances",
    "relative_position_bucket",
    "relu",
    "relu_backward",
    "rms_norm",
    "rms_norm_backward",
    "rotary",
    "rotary_backward",
    "rotary_frequencies",
    "scaled_dot_product_attention",
    "scaled_dot_product_attention_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "sinusoidal_positions",
    "sliding_window_mask",
    "softmax",
    "softmax_backward",
    "swiglu",
    "swiglu_backward",
    "tanh",
    "tanh_backward",
    "tiled_attention",
    "tiled_attention_backward",
]
