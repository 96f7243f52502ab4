"""Write the golden files of grouped attention, gated feed-forward, heads, and tables of positions, in float64.

python tests/golden/make_golden_components.py
"""

import json
from copy import deepcopy

import numpy as np
import torch
from make_golden import component, normal, randomise, rotary_angles, write
from transformers import BertConfig, LlamaConfig
from transformers.models.bert.modeling_bert import BertPooler, BertPredictionHeadTransform
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRotaryEmbedding
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

TF = torch.nn.functional
WIDTH = 6


def grouped_attention():
    """Llama's: two heads to a key, rotary positions that are not 0, 1, 2, ..., causal."""
    rng = np.random.default_rng(10)
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    config = LlamaConfig(hidden_size=8, **sizes, attention_bias=True, attn_implementation="sdpa")
    module = LlamaAttention(config, layer_idx=0).eval()
    positions = np.array([[0, 1, 2, 3, 4], [3, 4, 7, 8, 30]])
    angles = rotary_angles(positions, 4, 100.0)
    both = torch.cat([angles, angles], -1)
    hidden = torch.full((5, 5), -torch.inf).triu(1)[None, None]
    component(
        "grouped_attention", module,
        lambda x: module(x, position_embeddings=(both.cos(), both.sin()), attention_mask=hidden)[0],
        {"x": normal(rng, 2, 5, 8)}, {"positions": positions}, rng,
        width=8, num_heads=4, num_kv_heads=2, widths={"head": 4}, causal=True, rotary={"layout": "half", "base": 100.0},
    )  # fmt: skip


def attention_of_three_widths():
    """PyTorch's kdim and vdim, over a memory with padding; and the weights of each head."""
    rng = np.random.default_rng(11)
    module = torch.nn.MultiheadAttention(WIDTH, 3, kdim=5, vdim=4, batch_first=True)
    real = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    inputs = {"x": normal(rng, 2, 3, WIDTH), "memory": normal(rng, 2, 5, 5), "values": normal(rng, 2, 5, 4)}
    settings = {"key_padding_mask": ~torch.from_numpy(real)}
    randomise(module, deepcopy(rng))  # with the numbers that `component` will draw
    tensors = map(torch.from_numpy, inputs.values())
    _, weights = module(*tensors, **settings, average_attn_weights=False)
    component(
        "attention_of_three_widths", module,
        lambda x, memory, values: module(x, memory, values, **settings, need_weights=False)[0],
        inputs, {"mask": real[:, None, None, :], "weights": weights.detach().numpy()}, rng,
        width=WIDTH, num_heads=3, widths={"memory": 5, "value": 4},
    )  # fmt: skip


def gated_feed_forward():
    rng = np.random.default_rng(12)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 7, "num_attention_heads": 2}
    module = LlamaMLP(LlamaConfig(**sizes, hidden_act="silu", mlp_bias=True))
    component(
        "gated_feed_forward", module, module, {"x": normal(rng, 2, 3, WIDTH)}, {}, rng,
        width=WIDTH, hidden=7, activation="swiglu",
    )  # fmt: skip


BERT = BertConfig(hidden_size=WIDTH, num_attention_heads=2, hidden_act="gelu", layer_norm_eps=1e-5)


class SequenceHead(torch.nn.Module):
    """BERT's classifier without its dropout."""

    def __init__(self):
        super().__init__()
        self.pooler, self.classifier = BertPooler(BERT), torch.nn.Linear(WIDTH, 3)

    def forward(self, x):
        return self.classifier(self.pooler(x))


class MeanHead(torch.nn.Module):
    """Log-probabilities from the mean over the real tokens."""

    def __init__(self, real):
        super().__init__()
        self.classifier, self.real = torch.nn.Linear(WIDTH, 3), torch.from_numpy(real)[:, :, None]

    def forward(self, x):
        return torch.log_softmax(self.classifier((x * self.real).sum(1) / self.real.sum(1)), -1)


class MaskedHead(torch.nn.Module):
    """BERT's head of masked tokens over a table that is lent to it."""

    def __init__(self):
        super().__init__()
        self.transform, self.bias = BertPredictionHeadTransform(BERT), torch.nn.Parameter(torch.zeros(9))

    def forward(self, x, weight):
        return TF.linear(self.transform(x), weight, self.bias)


def heads():
    rng = np.random.default_rng(13)
    x = {"x": normal(rng, 2, 4, WIDTH)}
    real = np.array([[0, 1, 1, 0], [1, 1, 1, 1]], bool)
    mask = {"mask": real[:, None, None, :]}
    component("sequence_head", head := SequenceHead(), head, x, {}, rng, width=WIDTH, num_labels=3)
    component("mean_head", head := MeanHead(real), head, x, mask, rng, width=WIDTH, num_labels=3, pooling="mean")
    component(
        "masked_head", head := MaskedHead(), head, x | {"weight": normal(rng, 9, WIDTH)}, {}, rng,
        width=WIDTH, vocab_size=9, activation="gelu", eps=1e-5,
    )  # fmt: skip


SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
}  # fmt: skip


def tables():
    """What is not differentiated. All but the buckets are in float32, as Transformers computes them."""
    torch.set_default_dtype(torch.float32)
    distance = torch.arange(-40, 41)
    arrays = {"distance": distance.numpy()}
    for name, both in (("bidirectional", True), ("unidirectional", False)):
        settings = {"bidirectional": both, "num_buckets": 16, "max_distance": 30}
        arrays[f"buckets {name}"] = T5Attention._relative_position_bucket(distance, **settings).numpy()
    for num_heads in (4, 6):
        arrays[f"alibi {num_heads}"] = build_mpt_alibi_tensor(num_heads, 7).numpy()[:, 0]  # one query, seven keys
    for name, scaling in SCALINGS.items():
        config = {"hidden_size": 64, "num_attention_heads": 1, "head_dim": 64, "max_position_embeddings": 4096}
        rope = LlamaRotaryEmbedding(LlamaConfig(**config, rope_theta=10000.0, rope_scaling=dict(scaling)))
        arrays[f"rotary {name}"] = rope.inv_freq.numpy()
    write("tables", arrays, scalings=json.dumps(SCALINGS))


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    grouped_attention()
    attention_of_three_widths()
    gated_feed_forward()
    heads()
    tables()
