"""The ready-made transformers beside the same models put together of torch.nn modules: loss and every gradient."""

from itertools import product

import numpy as np
import pytest

from numtx.models import DecoderOnlyTransformer, EncoderDecoderTransformer, EncoderOnlyTransformer

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
from torch_models import OneStack, Translator, randomise  # noqa: E402 - it needs PyTorch

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
