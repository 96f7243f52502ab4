"""Dropout of whole models beside PyTorch's, by equal masks: the same places, rates and order, and every gradient."""

import numpy as np
import pytest

from numtx.models import DecoderOnlyTransformer, EncoderDecoderTransformer, EncoderOnlyTransformer, Transformer

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
from planted_dropout import planted_in_numtx, planted_in_torch  # noqa: E402 - they need PyTorch
from torch_models import OneStack, Translator, randomise  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
TF = torch.nn.functional

SIZES = {"d_model": 6, "nhead": 2, "dim_feedforward": 8, "max_length": 9, "dropout": 0.3, "dtype": np.float64}
# Not ReLU alone: dropout commutes with it.
VARIANTS = {
    "post-norm": {"activation": "gelu"},
    "pre-norm": {"norm_first": True, "activation": "gelu", "positions": "learned"},
    "relu": {"activation": "relu"},
}
SOURCE = np.array([[3, 4, 1, 2, 0], [5, 1, 0, 0, 0], [2, 2, 6, 1, 5]])
REAL = SOURCE != 0
LABELS = np.array([[3, 4, 5, 2], [5, 2, -100, -100], [3, 3, 2, -100]])
each = pytest.mark.parametrize("variant", VARIANTS)


def check(agree, theirs, ours, call, asked, batch, draws):
    """The loss and all gradients under planted masks, and how many were drawn in which places."""
    with planted_in_torch() as expected:
        log_probs = call(theirs.train())
    loss = TF.nll_loss(log_probs.reshape(-1, log_probs.shape[-1]), torch.from_numpy(asked).reshape(-1))
    parameters = dict(theirs.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    with planted_in_numtx() as got:
        found, grads = ours.loss_and_grads(batch, rng=np.random.default_rng(0))
    assert got.drawn == expected.drawn
    assert len(got.drawn) == draws
    wanted = {name: g.numpy() for name, g in zip(parameters, gradients, strict=True)}
    named = ours.torch_state_dict(grads)
    agree(
        "dropout", ({"loss": found}, {name: named[name] for name in wanted}), ({"loss": loss.detach().numpy()}, wanted)
    )


@each
@pytest.mark.parametrize("pooling", ["mean", None])
def test_encoder_only(variant, pooling, agree):
    ours = EncoderOnlyTransformer(
        vocab_size=7, num_classes=3, pooling=pooling, pad_token_id=0, **SIZES, **VARIANTS[variant]
    )
    theirs = OneStack(ours.config, 3)
    randomise(theirs, ours)
    asked = np.array([2, 0, 1]) if pooling else np.where(REAL, SOURCE % 3, -100)

    def call(model):
        return model(torch.from_numpy(SOURCE), torch.from_numpy(REAL), pooling=pooling)

    check(agree, theirs, ours, call, asked, {"input_ids": SOURCE, "labels": asked}, draws=1 + 2 * 4 + 1)


@each
def test_decoder_only(variant, agree):
    ours = DecoderOnlyTransformer(vocab_size=7, **SIZES, **VARIANTS[variant])
    theirs = OneStack(ours.config, 7)
    randomise(theirs, ours)
    batch = {"input_ids": SOURCE, "shift_labels": SOURCE}
    check(agree, theirs, ours, lambda m: m(torch.from_numpy(SOURCE), causal=True), SOURCE, batch, draws=1 + 2 * 4 + 1)


@each
def test_encoder_decoder(variant, agree):
    ours = EncoderDecoderTransformer(
        src_vocab_size=7, tgt_vocab_size=6, num_encoder_layers=1, **SIZES, **VARIANTS[variant]
    )
    theirs = Translator(ours.config)
    randomise(theirs, ours)

    def call(model):
        return model(*map(torch.from_numpy, (SOURCE, LABELS, REAL)), start=1, pad=0)

    batch = {"input_ids": SOURCE, "labels": LABELS}
    check(agree, theirs, ours, call, LABELS, batch, draws=2 + 4 + 2 * 6 + 1)


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer(norm_first, agree):
    options = {"d_model": 6, "nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 2, "dim_feedforward": 8}
    options |= {"dropout": 0.3, "activation": "gelu", "norm_first": norm_first}
    theirs = torch.nn.Transformer(**options, batch_first=True).train()
    ours = Transformer(**options, dtype=np.float64)
    randomise(theirs, ours)
    rng = np.random.default_rng(1)
    src, tgt, dy = rng.standard_normal((2, 5, 6)), rng.standard_normal((2, 4, 6)), rng.standard_normal((2, 4, 6))
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in (("src", src), ("tgt", tgt))}
    leaves |= dict(theirs.named_parameters())
    future = torch.ones(4, 4, dtype=torch.bool).triu(1)
    with planted_in_torch() as expected:
        y = theirs(leaves["src"], leaves["tgt"], tgt_mask=future)
    gradients = torch.autograd.grad(y, list(leaves.values()), torch.from_numpy(dy))
    wanted = {name: g.numpy() for name, g in zip(leaves, gradients, strict=True)}
    with planted_in_numtx() as got:
        found, cache = ours.forward(src, tgt, tgt_mask=np.tri(4, dtype=bool), rng=np.random.default_rng(0))
        (dsrc, dtgt), grads = ours.backward(dy, cache)
    assert got.drawn == expected.drawn
    assert len(got.drawn) == 2 * 4 + 2 * 6
    named = {"src": dsrc, "tgt": dtgt} | ours.torch_state_dict(grads)
    agree("dropout", ({"y": found}, {name: named[name] for name in wanted}), ({"y": y.detach().numpy()}, wanted))
