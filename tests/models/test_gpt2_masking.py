"""Who may influence whom in GPT-2: the future never, padding never, whatever is drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import nn
from numtx.models import GPT2Config, GPT2LMHeadModel

VOCAB, CONTEXT = 12, 10


@pytest.fixture(scope="module")
def models(randomized):
    def model_of(tied):
        config = GPT2Config(VOCAB, CONTEXT, n_embd=8, n_layer=2, n_head=2, tie_word_embeddings=tied)
        return randomized(GPT2LMHeadModel(config, dtype=np.float64), seed=int(tied))

    return {tied: model_of(tied) for tied in (True, False)}


def gradients_from(model, inputs, dlogits):
    _, cache = model.forward(**inputs)
    return nn.flatten(model.backward({"logits": dlogits}, cache)[1])


@given(
    tied=st.booleans(),
    length=st.integers(2, CONTEXT),
    data=st.data(),
    keep=st.sampled_from(["all", "inputs"]),
    seed=st.integers(0, 99),
)
def test_no_gradient_flows_from_a_token_to_a_later_one(models, tied, length, data, keep, seed):
    """Each position holds an id of its own, so that a row of the embedding's gradient is that of one token."""
    model, rng = models[tied], np.random.default_rng(seed)
    order = rng.permutation(VOCAB)
    ids, answer = order[None, :length], order[-1]  # the tied table also collects at the answer's row: none of the ids
    t = data.draw(st.integers(0, length - 1))
    dlogits = np.zeros((1, length, VOCAB))
    dlogits[0, t, answer] = rng.normal()
    _, cache = model.forward(ids, keep=keep)
    grads = nn.flatten(model.backward({"logits": dlogits}, cache)[1])
    seen = np.arange(length) <= t
    assert grads["body.embedding.weight"][ids[0]].any(axis=1).tolist() == seen.tolist()
    assert grads["body.positions.weight"][:length].any(axis=1).tolist() == seen.tolist()
    assert not grads["body.positions.weight"][length:].any()


@given(length=st.integers(2, CONTEXT), data=st.data(), seed=st.integers(0, 99))
def test_no_logit_depends_on_a_later_token(models, length, data, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCAB, (2, length))
    t = data.draw(st.integers(1, length - 1))
    changed = ids.copy()
    changed[:, t:] = (ids[:, t:] + rng.integers(1, VOCAB, (2, length - t))) % VOCAB
    before, after = models[True](ids).logits, models[True](changed).logits
    np.testing.assert_array_equal(after[:, :t], before[:, :t])
    assert (after[:, t:] != before[:, t:]).any(axis=-1).all()


MASKS = st.lists(st.booleans(), min_size=2, max_size=CONTEXT).filter(lambda mask: any(mask) and not all(mask))


@given(mask=MASKS, seed=st.integers(0, 99))
def test_no_real_token_depends_on_padding_bit_for_bit(models, mask, seed):
    """Padding may stand anywhere: before, behind and between."""
    rng, real = np.random.default_rng(seed), np.array(mask)
    ids = rng.integers(0, VOCAB, (3, len(mask)))
    attention_mask = np.tile(real, (3, 1))
    attention_mask[1] = True  # padding of one row is no business of another
    changed = np.where(attention_mask, ids, rng.integers(0, VOCAB, ids.shape))
    before = models[True](ids, attention_mask).logits
    after = models[True](changed, attention_mask).logits
    np.testing.assert_array_equal(after[attention_mask], before[attention_mask])
    assert np.isfinite(before).all()


@given(mask=MASKS, seed=st.integers(0, 99))
def test_no_gradient_flows_to_padding(models, mask, seed):
    rng, real = np.random.default_rng(seed), np.array(mask)
    order = rng.permutation(VOCAB)
    ids = order[None, : len(mask)]
    dlogits = np.zeros((1, len(mask), VOCAB))
    dlogits[0, real] = rng.normal(size=(real.sum(), VOCAB))
    grads = gradients_from(models[False], {"input_ids": ids, "attention_mask": real[None]}, dlogits)
    assert grads["body.embedding.weight"][ids[0]].any(axis=1).tolist() == real.tolist()
    assert grads["body.positions.weight"][: len(mask)].any(axis=1).tolist() == real.tolist()


@given(
    lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=4),
    left=st.booleans(),
    seed=st.integers(0, 99),
)
def test_padding_a_batch_changes_nothing_for_real_tokens(models, lengths, left, seed):
    model, rng = models[True], np.random.default_rng(seed)
    rows = [rng.integers(0, VOCAB, length) for length in lengths]
    longest = max(lengths)
    inputs = {name: np.zeros((len(rows), longest), int) for name in ("input_ids", "attention_mask", "position_ids")}
    labels = np.full((len(rows), longest), -100)
    places = [slice(longest - n, longest) if left else slice(n) for n in lengths]
    for b, (row, place) in enumerate(zip(rows, places, strict=True)):
        inputs["input_ids"][b] = rng.integers(0, VOCAB, longest)  # whatever stands in the padding
        inputs["input_ids"][b, place] = labels[b, place] = row
        inputs["attention_mask"][b, place] = 1
        inputs["position_ids"][b, place] = np.arange(len(row))
    if not left:
        del inputs["position_ids"]
    logits = model(**inputs).logits
    items = max(1, sum(lengths) - len(lengths))
    # Left padding: the last padding token would be asked for the first real one, which no row alone is.
    shifted = np.full_like(labels, -100)
    for b, place in enumerate(places):
        shifted[b, place.start or 0 : place.stop - 1] = rows[b][1:]
    loss, grads = model.loss_and_grads({**inputs, "shift_labels": shifted}, num_items=items)
    expected_loss, expected = 0.0, None
    for b, (row, place) in enumerate(zip(rows, places, strict=True)):
        np.testing.assert_allclose(logits[b, place], model(row[None]).logits[0], rtol=1e-9, atol=1e-11)
        part, alone = model.loss_and_grads({"input_ids": row[None], "labels": row[None]}, num_items=items)
        expected_loss += part
        alone = nn.flatten(alone)
        expected = alone if expected is None else {name: expected[name] + alone[name] for name in alone}
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-11)
    for name, gradient in nn.flatten(grads).items():
        largest = np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-9, atol=1e-10 * (1 + largest), err_msg=name)


def test_left_padding_needs_positions(models):
    """The other way round: without them the real tokens stand at later positions, and the logits differ."""
    ids = np.array([[0, 0, 3, 4]])
    mask = np.array([[0, 0, 1, 1]])
    plain = models[True](ids, mask).logits[0, 2:]
    assert np.abs(plain - models[True](ids[:, 2:]).logits[0]).max() > 1e-3


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8])
def test_a_row_of_padding_alone_is_finite_and_has_no_gradient_from_others(models, dtype):
    model = models[False]
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    mask = np.array([[1, 1, 1], [0, 0, 0]], dtype)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": np.where(mask, ids, -100)}
    assert np.isfinite(model(ids, mask).logits).all()
    loss, grads = model.loss_and_grads(batch)
    alone_loss, alone = model.loss_and_grads({"input_ids": ids[:1], "labels": ids[:1]})
    np.testing.assert_allclose(loss, alone_loss, rtol=1e-12)
    assert not grads["body"]["embedding"]["weight"][ids[1]].any()
    for name, gradient in nn.flatten(alone).items():
        np.testing.assert_allclose(nn.flatten(grads)[name], gradient, rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_mask_of_ones_is_no_mask(models):
    ids = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(models[True](ids, np.ones((2, 4), int)).logits, models[True](ids).logits)
