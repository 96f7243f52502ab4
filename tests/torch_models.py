"""The ready-made transformers put together of torch.nn modules: for parity, and to write golden files."""

import math

import numpy as np
import torch


class Embedding(torch.nn.Module):
    """A table, √C times or once, and positions: those of PyTorch's tutorial, or a table of their own."""

    def __init__(self, vocabulary, config):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, config.d_model)
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        if config.positions == "learned":
            self.positions = torch.nn.Embedding(config.max_length, config.d_model)
        self.dropout = torch.nn.Dropout(config.dropout)

    def forward(self, ids):
        length, width = ids.shape[1], self.embedding.embedding_dim
        if hasattr(self, "positions"):
            rows = self.positions(torch.arange(length))
        else:
            rows = torch.zeros(length, width)
            angle = torch.arange(length)[:, None] * torch.exp(-math.log(10000.0) * torch.arange(0, width, 2) / width)
            rows[:, 0::2], rows[:, 1::2] = torch.sin(angle), torch.cos(angle)
        return self.dropout(self.scale * self.embedding(ids) + rows)


class Head(torch.nn.Module):
    """Log-probabilities of what is pooled already."""

    def __init__(self, config, classes):
        super().__init__()
        self.dropout = torch.nn.Dropout(config.dropout)
        self.out_proj = torch.nn.Linear(config.d_model, classes)

    def forward(self, x):
        return torch.log_softmax(self.out_proj(self.dropout(x)), -1)


def layer_settings(config):
    """The arguments of PyTorch's layers and of its Transformer."""
    names = ("d_model", "nhead", "dim_feedforward", "dropout", "activation", "layer_norm_eps", "norm_first")
    return {**{name: getattr(config, name) for name in names}, "batch_first": True}


class OneStack(torch.nn.Module):
    """Encoder-only or decoder-only, with the names of ours."""

    def __init__(self, config, classes):
        super().__init__()
        self.embedding = Embedding(config.vocab_size, config)
        layer = torch.nn.TransformerEncoderLayer(**layer_settings(config))
        norm = torch.nn.LayerNorm(config.d_model, config.layer_norm_eps)
        self.stack = torch.nn.TransformerEncoder(layer, config.num_layers, norm)
        self.head = Head(config, classes)

    def forward(self, ids, real=None, causal=False, pooling=None):
        hidden = None if real is None else ~real
        future = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1) if causal else None
        x = self.stack(self.embedding(ids), mask=future, src_key_padding_mask=hidden)
        if pooling == "mean":
            x = (x * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)
        return self.head(x[:, 0] if pooling == "first" else x)


class Translator(torch.nn.Module):
    """Encoder and decoder, with the names of ours."""

    def __init__(self, config):
        super().__init__()
        self.src_embedding = Embedding(config.src_vocab_size, config)
        self.tgt_embedding = Embedding(config.tgt_vocab_size, config)
        self.transformer = torch.nn.Transformer(
            num_encoder_layers=config.num_encoder_layers, num_decoder_layers=config.num_decoder_layers,
            **layer_settings(config),
        )  # fmt: skip
        self.head = Head(config, config.tgt_vocab_size)

    def forward(self, ids, target, real, start, pad):
        read = torch.cat(
            [torch.full_like(target[:, :1], start), target[:, :-1].masked_fill(target[:, :-1] < 0, pad)], 1
        )
        future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        x = self.transformer(
            self.src_embedding(ids), self.tgt_embedding(read), tgt_mask=future,
            src_key_padding_mask=~real, memory_key_padding_mask=~real,
        )  # fmt: skip
        return self.head(x)


def randomise(theirs, ours, seed=0):
    """Random numbers into PyTorch's model, and from there into ours."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            mean = 0.7 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(torch.from_numpy(mean + 0.5 * rng.standard_normal(parameter.shape)))
    ours.load_torch_state_dict({name: value.detach().numpy() for name, value in theirs.state_dict().items()})
