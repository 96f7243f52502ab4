"""GPT-2 over a large vocabulary: the loss without all logits is the loss with them, in every respect but memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import functional as F
from numtx import nn
from numtx.models import GPT2Config, GPT2LMHeadModel, causal_lm
from numtx.testing import SPECS, Drawer, battery, small_blocks
from numtx.testing.findings import failures

VOCAB, CONTEXT = 13, 8


@pytest.fixture
def large(monkeypatch):
    """Every vocabulary is a large one."""
    monkeypatch.setattr(causal_lm, "LARGE_VOCABULARY", 1)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request, randomized):
    config = GPT2Config(VOCAB, CONTEXT, n_embd=8, n_layer=2, n_head=2, tie_word_embeddings=request.param)
    return randomized(GPT2LMHeadModel(config, dtype=np.float64))


def draw_batch(seed, ignored=0.3):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCAB, (3, 6))
    mask = (np.arange(6) < rng.integers(1, 7, (3, 1))).astype(int)
    labels = np.where(rng.random(ids.shape) < ignored, -100, rng.integers(0, VOCAB, ids.shape))
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def both(model, call):
    """What `call` gives with all logits, and without."""
    with pytest.MonkeyPatch.context() as patch, small_blocks(elements=1 << 16, logits=30, classes=4):
        results = []
        for least in (VOCAB + 1, VOCAB):
            patch.setattr(causal_lm, "LARGE_VOCABULARY", least)
            results.append(call(model))
    return results


@given(seed=st.integers(0, 999), items=st.none() | st.integers(1, 9), keep=st.sampled_from(["all", "inputs"]))
def test_loss_and_gradients_are_the_same(model, seed, items, keep):
    batch, settings = draw_batch(seed), {"num_items": items, "keep": keep}
    (expected, tree), (loss, grads) = both(
        model, lambda m: m.loss_and_grads(batch, rng=np.random.default_rng(seed), **settings)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    tree, grads = nn.flatten(tree), nn.flatten(grads)
    assert list(grads) == list(tree)
    largest = max(np.abs(gradient).max() for gradient in tree.values())
    for name, gradient in tree.items():
        np.testing.assert_allclose(grads[name], gradient, rtol=1e-9, atol=1e-12 * largest, err_msg=name)
    np.testing.assert_allclose(*both(model, lambda m: m.loss(batch, num_items=items)), rtol=1e-12)


def test_the_loss_alone_has_the_same_bits(model, large):
    batch = draw_batch(1)
    assert model.loss(batch) == model.loss_and_grads(batch)[0]


def test_no_logits_are_made(model, large, monkeypatch):
    monkeypatch.setattr(F, "cross_entropy", None)
    monkeypatch.setitem(vars(model.head), "forward", None)
    model.loss_and_grads(draw_batch(2))
    model.loss(draw_batch(2))


def test_real_size_takes_this_way(randomized, monkeypatch):
    model = randomized(GPT2LMHeadModel(GPT2Config(50257, 4, n_embd=4, n_layer=1, n_head=1)))
    monkeypatch.setattr(F, "cross_entropy", None)
    batch = {"input_ids": np.array([[1, 50256, 7]]), "labels": np.array([[1, 50256, 7]])}
    loss, grads = model.loss_and_grads(batch, rng=np.random.default_rng(0))
    assert loss.dtype == np.float32
    assert grads["body"]["embedding"]["weight"].shape == (50257, 4)


def test_gradients_of_two_calls_are_apart(model, large):
    first = nn.flatten(model.loss_and_grads(draw_batch(3))[1])
    kept = {name: gradient.copy() for name, gradient in first.items()}
    model.loss_and_grads(draw_batch(4))
    for name, gradient in kept.items():
        np.testing.assert_array_equal(first[name], gradient, err_msg=name)


def test_the_trace_has_a_place_for_it(model, large):
    with nn.trace(model) as t:
        model.loss_and_grads(draw_batch(5))
    site = t["GPT2LMHeadModel/linear_cross_entropy"]
    assert site.doutput == 1.0
    assert site.inputs[0] is t["body.stack.norm"].output


def test_refused(model, large):
    batch = draw_batch(6)
    with pytest.raises(ValueError, match=r"^GPT2LMHeadModel: expected a batch of .* labels or shift_labels"):
        model.loss_and_grads({"input_ids": batch["input_ids"]})
    with pytest.raises(ValueError, match=r"expected labels in \[0, 13\), got 13"):
        model.loss_and_grads({"input_ids": batch["input_ids"], "labels": np.full((3, 6), 13)})
    with pytest.raises(ValueError, match=r"keep=None"):
        model.loss_and_grads(batch, keep=None)


@pytest.mark.parametrize("seed", range(6))
def test_battery(large, seed):
    spec = SPECS["GPT2LMHeadModel-loss"]
    with small_blocks(elements=1 << 16, logits=20, classes=2):
        failed = failures(battery(spec, spec.draw(Drawer(seed))))
    assert not failed, "\n".join(f"{f.check} of {f.subject}: {f.note} ({f.error:.3g})" for f in failed)
