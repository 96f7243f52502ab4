"""The ready-made transformers built of `torch.nn`, with the weights of a numtx model: the opponents of the examples."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as tF

from numtx.models.output import LogProbsOutput
from numtx.training import available_threads, decayed_by_default

IGNORE = -100


class Twin:
    """A numtx model in PyTorch. It answers to the calls of the original that the examples make, in NumPy arrays."""

    def __init__(self, model):
        kinds = {
            "encoder_only_transformer": EncoderOnly,
            "decoder_only_transformer": DecoderOnly,
            "encoder_decoder_transformer": EncoderDecoder,
        }
        self.config = model.config
        self.count_labels = model.count_labels
        self.network = kinds[model.config.model_type](model.config)
        weights = {name: torch.from_numpy(array.copy()) for name, array in model.torch_state_dict().items()}
        self.network.load_state_dict(weights)

    def train(self, loop):
        """Make the steps that a numtx TrainingLoop makes: its batches, rates, AdamW and clipping."""
        torch.set_num_threads(available_threads())
        torch.manual_seed(loop.plan.seed)
        config, network = loop.plan, self.network.train()
        decay = {name: decayed_by_default(name, p) for name, p in network.named_parameters()}
        groups = [
            {"params": [p for name, p in network.named_parameters() if decay[name]]},
            {"params": [p for name, p in network.named_parameters() if not decay[name]], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)
        losses = []
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate(step)
            optimizer.zero_grad(set_to_none=True)
            loss = self._mean_loss(loop.batches.at_step(step)[0])
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimizer.step()
            losses.append(loss.item())
        network.eval()
        return losses

    def _mean_loss(self, batch):
        ids, labels = torch.from_numpy(batch["input_ids"]), torch.from_numpy(batch["shift_labels"])
        scores = self.network(ids, labels)  # (..., V)
        return tF.cross_entropy(scores.flatten(0, -2), labels.flatten(), ignore_index=IGNORE)

    @torch.no_grad()
    def loss(self, batch, num_items):
        """Return the summed loss of a batch over `num_items`."""
        return self._mean_loss(batch).item() * np.count_nonzero(batch["shift_labels"] != IGNORE) / num_items

    @torch.no_grad()
    def __call__(self, input_ids):
        scores = self.network(torch.from_numpy(input_ids), None)
        return LogProbsOutput(scores.log_softmax(-1).numpy())

    @torch.no_grad()
    def generate(self, input_ids, max_new_tokens):
        """Write the likeliest target, token by token, without a cache: ids (B, Ts) -> (B, new)."""
        source = torch.from_numpy(input_ids)
        memory = self.network.encode(source)
        written = torch.full((len(source), 1), self.config.decoder_start_token_id)
        done = torch.zeros(len(source), dtype=torch.bool)
        for _ in range(max_new_tokens):
            new = self.network.decode(written, memory, source)[:, -1].argmax(-1)
            new[done] = self.config.pad_token_id
            done |= new == self.config.eos_token_id
            written = torch.cat([written, new[:, None]], dim=1)
            if done.all():
                break
        return written[:, 1:].numpy()


def causal_mask(length):
    """PyTorch's way: True where one may not attend."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def layer_settings(config):
    """Return the arguments of a layer of `torch.nn`."""
    return {
        "d_model": config.d_model,
        "nhead": config.nhead,
        "dim_feedforward": config.dim_feedforward,
        "dropout": config.dropout,
        "activation": config.activation,
        "layer_norm_eps": config.layer_norm_eps,
        "norm_first": config.norm_first,
        "batch_first": True,
    }


class Embedded(nn.Module):
    """ids -> dropout(√C E[ids] + sinusoids)."""

    def __init__(self, config, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.scale = math.sqrt(config.d_model)
        angles = torch.arange(config.max_length)[:, None] * torch.exp(
            torch.arange(0, config.d_model, 2) * (-math.log(10000.0) / config.d_model)
        )
        positions = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # sin, cos, sin, cos ...
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, ids):
        return self.dropout(self.scale * self.embedding(ids) + self.positions[: ids.shape[1]])


class Head(nn.Module):
    """Dropout and a product, as `numtx.nn.ClassifierHead` has them before its log-softmax."""

    def __init__(self, config, outputs):
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.out_proj = nn.Linear(config.d_model, outputs)

    def forward(self, x):
        return self.out_proj(self.dropout(x))


def encoder_stack(config, layers):
    """Return an encoder with a norm at its end. Nested tensors are a fast path for inference alone."""
    layer = nn.TransformerEncoderLayer(**layer_settings(config))
    norm = nn.LayerNorm(config.d_model, config.layer_norm_eps)
    return nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)


class EncoderStack(nn.Module):
    """What encoder-only and decoder-only models share."""

    def __init__(self, config, outputs):
        super().__init__()
        self.config = config
        self.embedding = Embedded(config, config.vocab_size)
        self.stack = encoder_stack(config, config.num_layers)
        self.head = Head(config, outputs)


class EncoderOnly(EncoderStack):
    """Mean of the last hidden states over the real tokens, then the classes."""

    def __init__(self, config):
        super().__init__(config, config.num_classes)

    def forward(self, ids, labels):
        padding = ids == self.config.pad_token_id
        x = self.stack(self.embedding(ids), src_key_padding_mask=padding)
        real = (~padding)[..., None].to(x.dtype)
        return self.head((x * real).sum(1) / real.sum(1))


class DecoderOnly(EncoderStack):
    """A score for each next token."""

    def __init__(self, config):
        super().__init__(config, config.vocab_size)

    def forward(self, ids, labels):
        return self.head(self.stack(self.embedding(ids), mask=causal_mask(ids.shape[1]), is_causal=True))


class EncoderDecoder(nn.Module):
    """`torch.nn.Transformer` between two embeddings and a head, the target shifted right."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.src_embedding = Embedded(config, config.src_vocab_size)
        self.tgt_embedding = Embedded(config, config.tgt_vocab_size)
        self.transformer = nn.Transformer(
            **layer_settings(config),
            custom_encoder=encoder_stack(config, config.num_encoder_layers),
            num_decoder_layers=config.num_decoder_layers,
        )
        self.head = Head(config, config.tgt_vocab_size)

    def encode(self, source):
        padding = source == self.config.pad_token_id
        return self.transformer.encoder(self.src_embedding(source), src_key_padding_mask=padding)

    def decode(self, read, memory, source):
        padding = source == self.config.pad_token_id
        mask = causal_mask(read.shape[1])
        x = self.transformer.decoder(
            self.tgt_embedding(read), memory, tgt_mask=mask, memory_key_padding_mask=padding, tgt_is_causal=True
        )
        return self.head(x)

    def forward(self, source, labels):
        start = torch.full((len(labels), 1), self.config.decoder_start_token_id)
        before = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE, self.config.pad_token_id)
        return self.decode(torch.cat([start, before], dim=1), self.encode(source), source)
