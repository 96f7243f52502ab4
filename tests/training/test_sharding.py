"""Shards of a batch: the same loss and gradients, and the same bits on any number of threads."""

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st

from numtx import nn
from numtx.models import DecoderOnlyTransformer, EncoderDecoderTransformer, EncoderOnlyTransformer
from numtx.training import FlatParameters, ShardedGradients, Workers, evaluate
from numtx.training.sharding import split_rows


def padded_batch(vocab_size, rows=5, length=8, seed=0, labels="shift_labels"):
    """Rows of very unequal real length, as padding makes them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(vocab_size, size=(rows, length))
    real = np.arange(length) < rng.integers(2, length + 1, size=(rows, 1))
    real[0] = True
    return {"input_ids": ids, labels: np.where(real, ids, -100), "attention_mask": real.astype(int)}


@pytest.mark.parametrize("labels", ["labels", "shift_labels"])
@pytest.mark.parametrize("shards", [2, 3, 5, 8])
def test_unequal_padding_sums_to_the_whole_batch(make_model, shards, labels):
    model = make_model(dtype=np.float64)
    batch = padded_batch(model.config.vocab_size, labels=labels)
    expected_loss, expected = model.loss_and_grads(batch)
    loss, gradients = ShardedGradients(model, shards)(batch, step=0)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    for name, array in nn.flatten(expected).items():
        np.testing.assert_allclose(gradients.views[name], array, rtol=1e-9, atol=1e-14)


def test_micro_batches_weigh_by_their_real_labels(make_model):
    model = make_model(dtype=np.float64)
    parts = [padded_batch(model.config.vocab_size, rows, seed=rows) for rows in (2, 5, 3)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    expected_loss, expected = model.loss_and_grads(whole)
    loss, gradients = ShardedGradients(model, 2)(parts, step=0)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    for name, array in nn.flatten(expected).items():
        np.testing.assert_allclose(gradients.views[name], array, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_threads_change_no_bit(make_model, threads, worth_threads):
    batch = [padded_batch(make_model().config.vocab_size, seed=seed) for seed in (1, 2)]
    alone, alone_gradients = ShardedGradients(make_model(dropout=0.3), 3, seed=7)(batch, step=4)
    with Workers(threads) as workers:
        loss, gradients = ShardedGradients(make_model(dropout=0.3), 3, seed=7, workers=workers)(batch, step=4)
    assert loss == alone
    np.testing.assert_array_equal(gradients.buffer, alone_gradients.buffer)


def test_shard_k_of_step_s_draws_from_seed_s_k(make_model):
    model = make_model(dropout=0.5)
    batch = padded_batch(model.config.vocab_size)
    items = model.count_labels(batch)
    loss, total = 0.0, 0.0
    for k, part in enumerate(split_rows(batch, 2)):
        part_loss, grads = model.loss_and_grads(part, rng=np.random.default_rng([7, 4, k]), num_items=items)
        loss, total = loss + float(part_loss), total + nn.flatten(grads)["body.embedding.weight"]
    found, gradients = ShardedGradients(model, 2, seed=7)(batch, step=4)
    assert found == loss
    np.testing.assert_array_equal(gradients.views["body.embedding.weight"], total)


def test_no_two_pieces_of_a_step_drop_the_same(make_model):
    model = make_model(dropout=0.5)
    batch = padded_batch(model.config.vocab_size)
    sharded = ShardedGradients(model, 3, seed=7)
    keys = [piece.key for step in range(2) for piece in sharded.pieces([batch, batch], step)]
    assert keys == [(7, step, number) for step in range(2) for number in range(6)]
    alone = ShardedGradients(model, 1, seed=7)
    assert alone([batch, batch], 0)[0] != pytest.approx(alone(batch, 0)[0])


def test_seed_step_and_shards_matter(make_model):
    model = make_model(dropout=0.5)
    batch = padded_batch(model.config.vocab_size)
    losses = {
        ShardedGradients(model, shards, seed=seed)(batch, step)[0]
        for shards, seed, step in [(2, 0, 0), (2, 0, 1), (2, 1, 0), (3, 0, 0)]
    }
    assert len(losses) == 4


def test_recomputing_changes_no_bit(make_model):
    batch = padded_batch(make_model().config.vocab_size)
    loss, gradients = ShardedGradients(make_model(dropout=0.3), 2)(batch, 0)
    again, recomputed = ShardedGradients(make_model(dropout=0.3), 2, recompute=True)(batch, 0)
    assert loss == again
    np.testing.assert_array_equal(gradients.buffer, recomputed.buffer)


def test_nothing_to_predict_gives_zero(make_model):
    model = make_model()
    ids = np.zeros((4, 8), int)
    loss, gradients = ShardedGradients(model, 2)({"input_ids": ids, "shift_labels": np.full_like(ids, -100)}, 0)
    assert loss == 0
    assert not gradients.buffer.any()


@given(rows=st.integers(1, 40), shards=st.integers(1, 12))
def test_rows_are_split_evenly_and_in_order(rows, shards):
    parts = split_rows({"input_ids": np.arange(rows * 2).reshape(rows, 2), "none": None}, shards)
    sizes = [len(part["input_ids"]) for part in parts]
    assert len(sizes) == min(rows, shards)
    assert max(sizes) - min(sizes) <= 1
    np.testing.assert_array_equal(np.concatenate([part["input_ids"] for part in parts]).ravel(), np.arange(rows * 2))


def test_positions_of_one_row_belong_to_all():
    parts = split_rows({"input_ids": np.zeros((4, 3), int), "position_ids": np.arange(3)}, 2)
    assert all(part["position_ids"].tolist() == [0, 1, 2] for part in parts)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"input_ids": np.zeros((2, 3), int), "labels": np.zeros((3, 3), int)}, "same number of rows"),
        ({"input_ids": np.zeros((0, 3), int), "labels": np.zeros((0, 3), int)}, "at least one"),
        ({"input_ids": np.zeros((2, 3), int)}, "labels or shift_labels, got input_ids"),
        ([], "at least one batch"),
    ],
)
def test_bad_batches(make_model, batch, message):
    with pytest.raises(ValueError, match=message):
        ShardedGradients(make_model(), 2)(batch, 0)


def test_shares_the_optimizer_s_buffer(make_model):
    flat = FlatParameters(make_model())
    assert ShardedGradients(flat, 2).gradients.flat is flat


def blas_threads():
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


def test_workers_hold_blas_at_one_thread_and_give_it_back():
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with Workers(2) as workers:
            inside = workers.map(lambda _: blas_threads(), range(3))
        assert all(threads == 1 for found in inside for threads in found)
        assert blas_threads() == before


def test_workers_see_the_caller_s_errstate():
    with np.errstate(over="ignore"), Workers(2) as workers:
        assert workers.map(lambda x: np.float32(x) * np.float32(1e38), [1e38, 1e38]) == [np.inf, np.inf]
    with np.errstate(over="raise"), Workers(2) as workers, pytest.raises(FloatingPointError):
        workers.map(lambda x: np.float32(x) * np.float32(1e38), [1e38, 1e38])


def test_workers_keep_order_and_raise():
    def divide(x):
        return 6 // x

    with Workers(3) as workers:
        assert workers.map(divide, [1, 2, 3]) == [6, 3, 2]
        with pytest.raises(ZeroDivisionError):
            workers.map(divide, [1, 0])
    with pytest.raises(ValueError, match="to be entered"):
        Workers(2).map(divide, [1, 2])
    with pytest.raises(ValueError, match="at least one thread, got 0"):
        Workers(0)


def ready_made(kind):
    sizes = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "dropout": 0.0, "rng": 0, "dtype": np.float64}
    ids, length = np.random.default_rng(5).integers(3, 9, size=(5, 6)), 4
    if kind == "encoder-only":
        return EncoderOnlyTransformer(vocab_size=9, num_classes=3, **sizes), {"input_ids": ids, "labels": ids[:, 0] % 3}
    labels = np.where(np.arange(length) < np.array([[4], [3], [1], [2], [4]]), ids[:, :length], -100)
    if kind == "encoder-decoder":
        return EncoderDecoderTransformer(src_vocab_size=9, **sizes), {"input_ids": ids, "labels": labels}
    model = DecoderOnlyTransformer(vocab_size=9, **sizes)
    return model, {"input_ids": ids[:, :length], "labels": labels}


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("kind", ["encoder-only", "decoder-only", "encoder-decoder"])
def test_each_model_counts_its_own_labels(kind, shards):
    """A classifier predicts the first row's label too, a translator the first token's."""
    model, batch = ready_made(kind)
    expected_loss, expected = model.loss_and_grads(batch)
    loss, gradients = ShardedGradients(model, shards)(batch, 0)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    for name, array in nn.flatten(expected).items():
        np.testing.assert_allclose(gradients.views[name], array, rtol=1e-9, atol=1e-14)
    assert evaluate(model, split_rows(batch, shards)).loss == pytest.approx(expected_loss, rel=1e-12)
