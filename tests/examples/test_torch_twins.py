"""The opponents of the examples are the same models: same losses, and the same training where there is no dropout."""

import importlib.util

import numpy as np
import pytest

from numtx.models import DecoderOnlyTransformer, EncoderDecoderTransformer, EncoderOnlyTransformer
from numtx.training import Callback, TrainingConfig, TrainingLoop

if importlib.util.find_spec("torch") is None:
    pytest.skip("PyTorch is not installed: pip install 'numtx[parity]'", allow_module_level=True)

SIZES = {"d_model": 16, "nhead": 2, "dim_feedforward": 24, "max_length": 12, "norm_first": True}
MODELS = {
    "encoder-only": lambda dropout=0.0: EncoderOnlyTransformer(
        vocab_size=11, num_classes=3, pad_token_id=0, dropout=dropout, rng=1, **SIZES
    ),
    "decoder-only": lambda dropout=0.0: DecoderOnlyTransformer(vocab_size=11, dropout=dropout, rng=1, **SIZES),
    "encoder-decoder": lambda dropout=0.0: EncoderDecoderTransformer(
        src_vocab_size=11, dropout=dropout, rng=1, **SIZES
    ),
}


class Batches:
    """Random rows, padded on the right."""

    def __init__(self, kind):
        self.kind = kind

    def at(self, step):
        rng = np.random.default_rng(step)
        ids = rng.integers(3, 11, (6, 7))
        lengths = rng.integers(2, 8, 6)
        labels = {"encoder-only": rng.integers(0, 3, 6), "decoder-only": (ids + 1) % 11, "encoder-decoder": ids.copy()}
        labels = labels[self.kind]
        if labels.ndim == 2:
            labels[np.arange(7) >= lengths[:, None]] = -100
        if self.kind != "decoder-only":
            ids[np.arange(7) >= lengths[:, None]] = 0
        return {"input_ids": ids, "shift_labels": labels}


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_step(self, loop, report):
        self.losses.append(report.loss)


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_training(kind):
    """Thirty steps of float32: rounding alone may part them."""
    from torch_twins import Twin

    model, losses = MODELS[kind](), Losses()
    twin = Twin(model)
    config = TrainingConfig(steps=30, batch=6, lr=1e-2, warmup=3, eval_every=30, threads=1)
    loop = TrainingLoop(model, Batches(kind), plan=config, callbacks=[losses])
    loop.train()
    theirs = twin.train(loop)
    assert losses.losses[0] == pytest.approx(theirs[0], rel=1e-6)
    assert losses.losses == pytest.approx(theirs, rel=1e-3)
    batch = Batches(kind).at(99)
    if kind != "encoder-decoder":
        ours = model(batch["input_ids"]).log_probs
        assert np.abs(ours - twin(batch["input_ids"]).log_probs).max() < 1e-2
    else:
        got = model.generate(batch["input_ids"], max_new_tokens=9)
        assert (got == twin.generate(batch["input_ids"], max_new_tokens=9)).mean() > 0.9


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_function(kind):
    """Before training, in all that the examples ask of it."""
    from torch_twins import Twin

    model = MODELS[kind]()
    twin, batch = Twin(model), Batches(kind).at(0)
    twin.network.eval()
    assert twin.loss(batch, num_items=7) == pytest.approx(float(model.loss(batch, num_items=7)), rel=1e-6)
    if kind != "encoder-decoder":
        assert twin(batch["input_ids"]).log_probs == pytest.approx(model(batch["input_ids"]).log_probs, abs=1e-5)
    else:
        got, theirs = (each.generate(batch["input_ids"], max_new_tokens=9) for each in (model, twin))
        assert (got == theirs).all()


@pytest.mark.parametrize("kind", MODELS)
def test_dropout_stands_where_numtx_has_it(kind):
    """At a rate of 0.3 the mean loss over many draws is the same."""
    import torch
    from torch_twins import Twin

    model = MODELS[kind](dropout=0.3)
    twin, batch = Twin(model), Batches(kind).at(0)
    torch.manual_seed(0)
    twin.network.train()
    rng = np.random.default_rng(0)
    ours = [float(model.loss_and_grads(batch, rng=rng)[0]) for _ in range(300)]
    theirs = [twin._mean_loss(batch).item() for _ in range(300)]
    error = (np.var(ours) / 300 + np.var(theirs) / 300) ** 0.5
    assert abs(np.mean(ours) - np.mean(theirs)) < 5 * error
    assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.3)
