"""The loss of the next token: labels of both kinds, what is ignored, shards that add; and the tied table's gradient."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import nn
from numtx.models import GPT2Config, GPT2LMHeadModel
from numtx.models.loss import next_token_loss, next_token_loss_backward

VOCAB, CONTEXT = 11, 8


def config(**settings):
    return GPT2Config(VOCAB, CONTEXT, n_embd=8, n_layer=2, n_head=2, **settings)


@pytest.fixture(scope="module")
def model(randomized):
    return randomized(GPT2LMHeadModel(config(), dtype=np.float64))


def assert_same_bits(got, expected):
    assert list(got) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def shifted(labels):
    out = np.full_like(labels, -100)
    out[:, :-1] = labels[:, 1:]
    return out


def draw_batch(seed, batch=3, length=6, ignored=0.3):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCAB, (batch, length))
    labels = np.where(rng.random(ids.shape) < ignored, -100, rng.integers(0, VOCAB, ids.shape))
    return ids, labels


def by_definition(model, ids, shift_labels, num_items=None):
    """Minus the mean log-probability of each real label, one by one."""
    logits, terms = model(ids).logits, []
    for b, t in np.ndindex(*ids.shape):
        if shift_labels[b, t] != -100:
            row = logits[b, t] - logits[b, t].max()
            terms.append(math.log(np.exp(row).sum()) - row[shift_labels[b, t]])
    return sum(terms) / (num_items or max(1, len(terms)))


@given(seed=st.integers(0, 999), batch=st.integers(1, 3), length=st.integers(1, CONTEXT))
def test_labels_shift_inside_and_shift_labels_do_not(model, seed, batch, length):
    ids, labels = draw_batch(seed, batch, length)
    loss, grads = model.loss_and_grads({"input_ids": ids, "labels": labels})
    same_loss, same_grads = model.loss_and_grads({"input_ids": ids, "shift_labels": shifted(labels)})
    assert loss == same_loss
    assert_same_bits(nn.flatten(same_grads), nn.flatten(grads))
    np.testing.assert_allclose(loss, by_definition(model, ids, shifted(labels)), rtol=1e-11)
    assert model.loss({"input_ids": ids, "labels": labels}) == loss


def test_neither_batch_nor_labels_are_changed(model):
    ids, labels = draw_batch(0)
    batch = {"input_ids": ids.copy(), "labels": labels.copy()}
    model.loss_and_grads(batch)
    np.testing.assert_array_equal(batch["input_ids"], ids)
    np.testing.assert_array_equal(batch["labels"], labels)
    assert list(batch) == ["input_ids", "labels"]


def test_an_ignored_label_costs_nothing_and_counts_for_nothing(model):
    ids, labels = draw_batch(1, ignored=0.0)
    labels[1:] = -100
    loss, grads = model.loss_and_grads({"input_ids": ids, "labels": labels})
    alone, alone_grads = model.loss_and_grads({"input_ids": ids[:1], "labels": labels[:1]})
    np.testing.assert_allclose(loss, alone, rtol=1e-12)
    for name, gradient in nn.flatten(alone_grads).items():
        np.testing.assert_allclose(nn.flatten(grads)[name], gradient, rtol=1e-9, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("kind", ["labels", "shift_labels"])
def test_where_all_is_ignored_loss_and_gradients_are_zero(model, kind):
    ids = draw_batch(2)[0]
    for num_items in (None, 5):
        loss, grads = model.loss_and_grads({"input_ids": ids, kind: np.full_like(ids, -100)}, num_items=num_items)
        assert loss == 0
        assert all((gradient == 0).all() for gradient in nn.flatten(grads).values())


@given(
    cuts=st.sets(st.integers(1, 5), max_size=3),
    lengths=st.lists(st.integers(1, CONTEXT), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_shards_of_unequal_padding_add(model, cuts, lengths, seed):
    """Each divides by the items of the whole batch; a mean of the shards' means would be another number."""
    ids, labels = draw_batch(seed, batch=6, length=CONTEXT, ignored=0.1)
    mask = (np.arange(CONTEXT) < np.array(lengths)[:, None]).astype(int)
    labels[mask == 0] = -100
    whole = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    items = max(1, np.count_nonzero(labels[:, 1:] != -100))
    expected_loss, expected = model.loss_and_grads(whole)
    loss, grads = 0.0, {name: np.zeros_like(array) for name, array in model.named_parameters()}
    for rows in np.split(np.arange(6), sorted(cuts)):
        part, part_grads = model.loss_and_grads({n: a[rows] for n, a in whole.items()}, num_items=items)
        loss += part
        for name, gradient in nn.flatten(part_grads).items():
            grads[name] += gradient
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-11)
    largest = max(np.linalg.norm(gradient) for gradient in nn.flatten(expected).values())
    for name, gradient in nn.flatten(expected).items():
        np.testing.assert_allclose(grads[name], gradient, rtol=1e-9, atol=1e-12 * largest, err_msg=name)


def test_the_mean_is_the_sum_over_the_items(model):
    ids, labels = draw_batch(3)
    batch = {"input_ids": ids, "labels": labels}
    total, total_grads = model.loss_and_grads(batch, num_items=1)
    for items in (7, np.int64(7)):
        loss, grads = model.loss_and_grads(batch, num_items=items)
        np.testing.assert_allclose(loss, total / 7, rtol=1e-14)
        np.testing.assert_allclose(
            grads["body"]["stack"]["norm"]["weight"], total_grads["body"]["stack"]["norm"]["weight"] / 7, rtol=1e-12
        )
    np.testing.assert_allclose(model.loss(batch, num_items=7), total / 7, rtol=1e-14)


def test_the_same_dropout_by_seed_and_whatever_is_kept(randomized):
    model = randomized(GPT2LMHeadModel(config(resid_pdrop=0.2, embd_pdrop=0.3, attn_pdrop=0.4)))
    ids, labels = draw_batch(4)
    batch = {"input_ids": ids, "labels": labels}
    loss, grads = model.loss_and_grads(batch, rng=np.random.default_rng(5))
    for keep in ("all", "inputs"):
        again, again_grads = model.loss_and_grads(batch, rng=np.random.default_rng(5), keep=keep)
        assert again == loss
        assert_same_bits(nn.flatten(again_grads), nn.flatten(grads))
    assert model.loss_and_grads(batch, rng=np.random.default_rng(6))[0] != loss
    assert model.loss_and_grads(batch)[0] == model.loss(batch) != loss


@pytest.mark.parametrize("settings", [{"embd_pdrop": 0.3}, {"resid_pdrop": 0.3}, {"attn_pdrop": 0.3}], ids=str)
def test_every_rate_of_the_config_drops_something(settings, randomized):
    rates = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)
    model = randomized(GPT2LMHeadModel(config(**{**rates, **settings})))
    ids, labels = draw_batch(4)
    batch = {"input_ids": ids, "labels": labels}
    assert model.loss_and_grads(batch, rng=np.random.default_rng(5))[0] != model.loss(batch)
    still = randomized(GPT2LMHeadModel(config(**rates)))
    assert still.loss_and_grads(batch, rng=np.random.default_rng(5))[0] == still.loss(batch)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_at_the_start_nothing_is_known(tied, dtype):
    """A fresh model gives each of V tokens about 1/V: its loss is about log V."""
    fresh = GPT2LMHeadModel(
        GPT2Config(65, 32, n_embd=64, n_layer=4, n_head=4, tie_word_embeddings=tied), rng=0, dtype=dtype
    )
    ids = np.random.default_rng(0).integers(0, 65, (4, 32))
    loss = fresh.loss({"input_ids": ids, "labels": ids})
    assert loss.dtype == dtype
    assert abs(loss - math.log(65)) < 0.1


# The tied table ---------------------------------------------------------------------------------------------------


def test_the_tied_tables_gradient_is_the_sum_of_its_two_uses(randomized):
    """An untied model with the same numbers has the two gradients apart."""
    tied = randomized(GPT2LMHeadModel(config(), dtype=np.float64))
    untied = GPT2LMHeadModel(config(tie_word_embeddings=False), dtype=np.float64)
    untied.load_state_dict({**tied.state_dict(), "decoder": tied.body.embedding.weight})
    ids, labels = draw_batch(6)
    batch = {"input_ids": ids, "labels": labels}
    loss, grads = (part if k == 0 else nn.flatten(part) for k, part in enumerate(tied.loss_and_grads(batch)))
    untied_loss, untied_grads = untied.loss_and_grads(batch)
    parts = nn.flatten(untied_grads)
    np.testing.assert_allclose(loss, untied_loss, rtol=1e-12)
    both = parts["body.embedding.weight"] + parts["decoder"]
    assert np.abs(parts["body.embedding.weight"]).max() > 1e-3
    assert np.abs(parts["decoder"]).max() > 1e-3
    np.testing.assert_allclose(grads["body.embedding.weight"], both, rtol=1e-9, atol=1e-12)
    assert "decoder" not in grads
    assert "decoder" not in tied.state_dict()


@pytest.mark.parametrize("tied", [True, False])
def test_the_tables_gradient_against_finite_differences(tied, randomized):
    model = randomized(GPT2LMHeadModel(config(tie_word_embeddings=tied), dtype=np.float64))
    ids, labels = draw_batch(7)
    batch = {"input_ids": ids, "labels": labels}
    grads = nn.flatten(model.loss_and_grads(batch)[1])
    for name in ["body.embedding.weight", *([] if tied else ["decoder"])]:
        table, gradient = model.get_parameter(name), grads[name]
        numeric = np.zeros_like(gradient)
        for place in np.ndindex(*table.shape):
            before, ends = table[place], []
            for step in (1e-5, -1e-5):
                table[place] = before + step
                ends.append(model.loss(batch))
            table[place] = before
            numeric[place] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(gradient, numeric, rtol=1e-8, atol=1e-9, err_msg=name)


# The pair itself --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), items=st.none() | st.integers(1, 9), dtype=st.sampled_from([np.float32, np.float64]))
def test_next_token_loss_is_a_pair(seed, items, dtype):
    _, labels = draw_batch(seed, 2, 4)
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 4, VOCAB)).astype(dtype)
    loss, cache = next_token_loss(logits, labels=labels, num_items=items)
    dlogits = next_token_loss_backward(1.7, cache)
    assert loss.dtype == dlogits.dtype == dtype
    assert dlogits.shape == logits.shape
    assert not dlogits[:, -1].any()
    wide, direction = logits.astype(np.float64), rng.normal(size=logits.shape)
    ends = [next_token_loss(wide + h * direction, labels=labels, num_items=items)[0] for h in (1e-5, -1e-5)]
    # Of a thousand draws the worst were 2e-8 in float32, and in float64 2e-11, which is the quotient's own rounding.
    tolerance = 5e-7 if dtype == np.float32 else 5e-10
    size = np.linalg.norm(dlogits) * np.linalg.norm(direction)
    assert abs(np.sum(dlogits * direction) - 1.7 * (ends[0] - ends[1]) / 2e-5) <= tolerance * size


LOGITS = np.zeros((2, 3, VOCAB))
IDS = np.array([[1, 2, 3], [4, 5, 6]])
WRONG = {
    "neither": ({}, "either labels or shift_labels"),
    "both": ({"labels": IDS, "shift_labels": IDS}, "either labels or shift_labels"),
    "float labels": ({"labels": IDS + 0.7}, "expected integer labels .*got float64"),
    "float shift_labels": ({"shift_labels": IDS + 0.7}, "expected integer .*got float64"),
    "one axis": ({"labels": IDS[0]}, r"expected .*labels \(2, 3\), got int64 \(3,\)"),
    "too short": ({"labels": IDS[:, :2]}, r"expected .*labels \(2, 3\), got int64 \(2, 2\)"),
    "out of range": ({"labels": IDS + 6}, r"expected targets in \[0, 11\) or -100, got 11"),
    "negative": ({"shift_labels": -IDS}, r"expected targets in \[0, 11\) or -100, got -"),
    "no items": ({"labels": IDS, "num_items": 0}, "expected num_items .*got 0"),
    "negative items": ({"labels": IDS, "num_items": -1}, "expected num_items .*got -1"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_labels_that_cannot_be_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=rf"^(next_token_loss|cross_entropy): [^\n]*{message}[^\n]*$"):
        next_token_loss(LOGITS, **arguments)
