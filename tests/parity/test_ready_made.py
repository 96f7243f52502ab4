"""The ready-made transformers beside the same models put together of torch.nn modules: loss and every gradient."""

import math
from itertools import product

import numpy as np
import pytest

from numtx.models import DecoderOnlyTransformer, EncoderDecoderTransformer, EncoderOnlyTransformer

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
TF = torch.nn.functional

SIZES = {"d_model": 6, "nhead": 2, "dim_feedforward": 8, "max_length": 9}
VARIANTS = {
    "post-norm": {},
    "pre-norm": {"norm_first": True, "activation": "gelu"},
    "learned": {"positions": "learned", "scale_embedding": False, "layer_norm_eps": 1e-3},
}
SOURCE = np.array([[3, 4, 1, 2, 0], [5, 1, 0, 0, 0], [2, 2, 6, 1, 5]])
REAL = SOURCE != 0
each = pytest.mark.parametrize("variant", VARIANTS)


class Embedding(torch.nn.Module):
    """A table, √C times or once, and positions: those of PyTorch's tutorial, or a table of their own."""

    def __init__(self, vocabulary, config):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, config.d_model)
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        if config.positions == "learned":
            self.positions = torch.nn.Embedding(config.max_length, config.d_model)

    def forward(self, ids):
        length, width = ids.shape[1], self.embedding.embedding_dim
        if hasattr(self, "positions"):
            rows = self.positions(torch.arange(length))
        else:
            rows = torch.zeros(length, width)
            angle = torch.arange(length)[:, None] * torch.exp(-math.log(10000.0) * torch.arange(0, width, 2) / width)
            rows[:, 0::2], rows[:, 1::2] = torch.sin(angle), torch.cos(angle)
        return self.scale * self.embedding(ids) + rows


class Head(torch.nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.out_proj = torch.nn.Linear(width, classes)

    def forward(self, x):
        return torch.log_softmax(self.out_proj(x), -1)


def layer_settings(config):
    return {
        "d_model": config.d_model, "nhead": config.nhead, "dim_feedforward": config.dim_feedforward, "dropout": 0.0,
        "activation": config.activation, "layer_norm_eps": config.layer_norm_eps, "norm_first": config.norm_first,
        "batch_first": True,
    }  # fmt: skip


class OneStack(torch.nn.Module):
    """Encoder-only or decoder-only, with the names of ours."""

    def __init__(self, config, classes):
        super().__init__()
        self.embedding = Embedding(config.vocab_size, config)
        layer = torch.nn.TransformerEncoderLayer(**layer_settings(config))
        norm = torch.nn.LayerNorm(config.d_model, config.layer_norm_eps)
        self.stack = torch.nn.TransformerEncoder(layer, config.num_layers, norm)
        self.head = Head(config.d_model, classes)

    def forward(self, ids, real=None, causal=False, pooling=None):
        hidden = None if real is None else ~real
        future = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1) if causal else None
        x = self.stack(self.embedding(ids), mask=future, src_key_padding_mask=hidden)
        if pooling == "mean":
            x = (x * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)
        return self.head(x[:, 0] if pooling == "first" else x)


class Translator(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.src_embedding = Embedding(config.src_vocab_size, config)
        self.tgt_embedding = Embedding(config.tgt_vocab_size, config)
        self.transformer = torch.nn.Transformer(
            num_encoder_layers=config.num_encoder_layers, num_decoder_layers=config.num_decoder_layers,
            **layer_settings(config),
        )  # fmt: skip
        self.head = Head(config.d_model, config.tgt_vocab_size)

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


def check(agree, where, theirs, ours, log_probs, labels, *batches):
    """The loss of ours by its own `loss_and_grads`, for every batch; that of theirs by PyTorch's nll_loss."""
    target = torch.from_numpy(labels)
    loss = TF.nll_loss(log_probs.reshape(-1, log_probs.shape[-1]), target.reshape(-1))
    parameters = dict(theirs.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    expected = {name: g.numpy() for name, g in zip(parameters, gradients, strict=True)}
    for batch, keep in product(batches, ("all", "inputs")):
        got, grads = ours.loss_and_grads(batch, keep=keep)
        named = ours.torch_state_dict(grads)
        assert sorted(named) == sorted(expected)
        agree(
            f"{where} {keep}",
            ({"loss": got}, {name: named[name] for name in expected}),
            ({"loss": loss.detach().numpy()}, expected),
        )


@each
@pytest.mark.parametrize("pooling", ["mean", "first", None])
def test_encoder_only(variant, pooling, agree):
    ours = EncoderOnlyTransformer(
        vocab_size=7, num_classes=3, pooling=pooling, pad_token_id=0, dropout=0.0, **SIZES, **VARIANTS[variant],
        dtype=np.float64,
    )  # fmt: skip
    theirs = OneStack(ours.config, 3)
    randomise(theirs, ours)
    labels = np.array([2, 0, 1]) if pooling else np.where(REAL, SOURCE % 3, -100)
    log_probs = theirs(torch.from_numpy(SOURCE), torch.from_numpy(REAL), pooling=pooling)
    batch = {"input_ids": SOURCE, "labels": labels}  # padding by its id, and by a mask
    masked = {**batch, "attention_mask": REAL.astype(int)}
    check(agree, f"{variant} {pooling}", theirs, ours, log_probs, labels, batch, masked)


@each
def test_decoder_only(variant, agree):
    ours = DecoderOnlyTransformer(vocab_size=7, dropout=0.0, **SIZES, **VARIANTS[variant], dtype=np.float64)
    theirs = OneStack(ours.config, 7)
    randomise(theirs, ours)
    labels = np.where(REAL, SOURCE, -100)
    log_probs = theirs(torch.from_numpy(SOURCE), causal=True)
    batch = {"input_ids": SOURCE, "labels": labels}
    check(agree, variant, theirs, ours, log_probs[:, :-1], labels[:, 1:], batch)


@each
def test_encoder_decoder(variant, agree):
    ours = EncoderDecoderTransformer(
        src_vocab_size=7, tgt_vocab_size=6, num_encoder_layers=1, dropout=0.0, **SIZES, **VARIANTS[variant],
        dtype=np.float64,
    )  # fmt: skip
    theirs = Translator(ours.config)
    randomise(theirs, ours)
    labels = np.array([[3, 4, 5, 2], [5, 2, -100, -100], [3, 3, 2, -100]])
    log_probs = theirs(*map(torch.from_numpy, (SOURCE, labels, REAL)), start=1, pad=0)
    check(agree, variant, theirs, ours, log_probs, labels, {"input_ids": SOURCE, "labels": labels})


def test_greedy_translation_token_by_token():
    """What is written with a cache is what PyTorch's model finds likeliest, read anew at every step."""
    ours = EncoderDecoderTransformer(src_vocab_size=7, tgt_vocab_size=6, dropout=0.0, **SIZES, dtype=np.float64)
    theirs = Translator(ours.config)
    lengths = set()
    for seed in range(6):
        randomise(theirs, ours, seed)
        expected, ended = torch.zeros((3, 0), dtype=torch.long), torch.zeros(3, dtype=torch.bool)
        while expected.shape[1] < 9 and not ended.all():
            asked = torch.cat([expected, torch.zeros((3, 1), dtype=torch.long)], 1)  # the last is not read
            with torch.no_grad():
                last = theirs(torch.from_numpy(SOURCE), asked, torch.from_numpy(REAL), start=1, pad=0)[:, -1]
            new = torch.where(ended, torch.zeros(3, dtype=torch.long), last.argmax(-1))
            expected, ended = torch.cat([expected, new[:, None]], 1), ended | (new == 2)
        lengths.add(expected.shape[1])
        np.testing.assert_array_equal(ours.generate(SOURCE), expected.numpy())
    assert len(lengths) > 1, "some end before the longest"
