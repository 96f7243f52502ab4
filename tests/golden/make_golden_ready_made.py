"""Write the golden files of the ready-made transformers: put together of torch.nn modules, in float64.

python tests/golden/make_golden_ready_made.py
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from make_golden import randomise, write

sys.path.insert(0, str(Path(__file__).parents[1]))
from torch_models import OneStack, Translator

TF = torch.nn.functional
SIZES = {"d_model": 6, "nhead": 2, "dim_feedforward": 8, "max_length": 9, "dropout": 0.0, "layer_norm_eps": 1e-5}
IDS = np.array([[3, 4, 1, 2, 0], [5, 1, 0, 0, 0], [2, 2, 6, 1, 5]])
REAL = IDS != 0


def model(name, module, call, labels, seed, **options):
    """Write one model: its settings and weights, ids and labels, log-probabilities, the loss and all gradients."""
    randomise(module, np.random.default_rng(seed))
    log_probs = call(module)
    loss = TF.nll_loss(log_probs.reshape(-1, log_probs.shape[-1]), torch.from_numpy(labels).reshape(-1))
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    arrays = {"input_ids": IDS, "shift_labels": labels, "log_probs": log_probs.detach().numpy()}
    arrays |= {"loss": loss.detach().numpy()}
    arrays |= {f"parameter/{key}": value.detach().numpy() for key, value in parameters.items()}
    arrays |= {f"gradient/{key}": g.numpy() for key, g in zip(parameters, gradients, strict=True)}
    write(name, arrays, options=json.dumps(options))


def encoder_only():
    options = {
        **SIZES, "vocab_size": 7, "num_classes": 3, "num_layers": 2, "pooling": "mean", "pad_token_id": 0,
        "activation": "relu", "norm_first": False, "positions": "sinusoidal", "scale_embedding": True,
    }  # fmt: skip
    model(
        "encoder_only", OneStack(SimpleNamespace(**options), 3),
        lambda module: module(torch.from_numpy(IDS), torch.from_numpy(REAL), pooling="mean"),
        np.array([2, 0, 1]), 10, **options,
    )  # fmt: skip


def decoder_only():
    options = {
        **SIZES, "vocab_size": 7, "num_layers": 2, "activation": "gelu", "norm_first": True, "positions": "learned",
        "scale_embedding": False,
    }  # fmt: skip
    labels = np.full(IDS.shape, -100)
    labels[:, :-1] = np.where(REAL, IDS, -100)[:, 1:]
    model(
        "decoder_only", OneStack(SimpleNamespace(**options), 7),
        lambda module: module(torch.from_numpy(IDS), causal=True), labels, 11, **options,
    )  # fmt: skip


def encoder_decoder():
    options = {
        **SIZES, "src_vocab_size": 7, "tgt_vocab_size": 6, "num_encoder_layers": 1, "num_decoder_layers": 2,
        "pad_token_id": 0, "decoder_start_token_id": 1, "activation": "gelu", "norm_first": False,
        "positions": "sinusoidal", "scale_embedding": True,
    }  # fmt: skip
    labels = np.array([[3, 4, 5, 2], [5, 2, -100, -100], [3, 3, 2, -100]])
    model(
        "encoder_decoder", Translator(SimpleNamespace(**options)),
        lambda module: module(*map(torch.from_numpy, (IDS, labels, REAL)), start=1, pad=0), labels, 12, **options,
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    encoder_only()
    decoder_only()
    encoder_decoder()
