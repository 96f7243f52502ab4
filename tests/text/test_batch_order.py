"""Which rows stand in which batch: each once an epoch, the same again from the seed, rows of like length together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.text import BatchOrder, Dataset, length_grouped_indices, row_lengths

sizes = {"rows": st.integers(1, 200), "batch": st.integers(1, 17), "seed": st.integers(0, 99)}


@given(**sizes, by_length=st.booleans(), shuffle=st.booleans())
def test_every_row_once_an_epoch(rows, batch, seed, by_length, shuffle):
    lengths = [1 + (7 * row) % 31 for row in range(rows)] if by_length else None
    order = BatchOrder(rows, batch, seed, lengths=lengths, shuffle=shuffle or by_length)
    for epoch in (0, 3):
        batches = list(order.epoch(epoch))
        assert len(batches) == len(order) == -(-rows // batch)
        assert [len(one) for one in batches[:-1]] == [batch] * (len(batches) - 1)
        assert sorted(np.concatenate(batches)) == list(range(rows))
        if not shuffle and not by_length:
            assert np.concatenate(batches).tolist() == list(range(rows))


@given(**sizes, by_length=st.booleans(), steps=st.lists(st.integers(0, 500), min_size=1, max_size=8))
def test_a_batch_depends_on_seed_and_step_alone(rows, batch, seed, by_length, steps):
    lengths = [1 + (7 * row) % 31 for row in range(rows)] if by_length else None
    order = BatchOrder(rows, batch, seed, lengths=lengths)
    for step in steps:  # whatever was asked for before
        fresh = BatchOrder(rows, batch, seed, lengths=lengths)
        assert order.at(step).tolist() == fresh.at(step).tolist()


def test_epochs_and_seeds_differ():
    orders = {tuple(BatchOrder(50, 5, seed).order(epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_last_batch_may_be_left_out():
    order = BatchOrder(10, 4, drop_last=True)
    assert (len(order), [len(order.at(step)) for step in range(4)]) == (2, [4] * 4)
    assert set(order.at(2)) | set(order.at(3)) <= set(range(10))


@given(lengths=st.lists(st.integers(1, 99), min_size=1, max_size=300), batch=st.integers(1, 9), seed=st.integers(0, 9))
def test_lengths_in_a_batch_are_near(lengths, batch, seed):
    order = length_grouped_indices(lengths, batch, rng=np.random.default_rng(seed))
    assert sorted(order) == list(range(len(lengths)))
    assert lengths[order[0]] == max(lengths)


def test_batches_by_length_pad_less():
    lengths = np.random.default_rng(0).integers(1, 100, size=2000)

    def padding(order):
        batches = [lengths[rows] for rows in order.epoch(0)]
        return sum(int((one.max() - one).sum()) for one in batches)

    free, grouped = BatchOrder(2000, 8), BatchOrder(2000, 8, lengths=lengths.tolist())
    assert padding(grouped) < 0.1 * padding(free)
    # Still shuffled: not the same rows together in each epoch.
    assert {*map(tuple, grouped.epoch(0))} != {*map(tuple, grouped.epoch(1))}


def test_lengths_of_rows():
    dataset = Dataset({"input_ids": [[1, 2], [], [3]]})
    assert row_lengths(dataset) == [2, 0, 1]
    with pytest.raises(ValueError, match=r"^Trainer: expected a column ids, got a dataset with the columns input_ids"):
        row_lengths(dataset, "ids", owner="Trainer")


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((0, 1), {}, "expected rows as a whole number of at least 1, got 0"),
        ((3, 0), {}, "batch_size"),
        ((3, 1, -1), {}, "seed"),
        ((3, 1), {"lengths": [1, 2]}, "a length for each of 3 rows, got 2"),
        ((3, 1), {"lengths": [1, 2, 3], "shuffle": False}, "expected shuffle=True with lengths"),
        ((3, 4), {"drop_last": True}, "at least 4 rows with drop_last, got 3"),
    ],
)
def test_orders_that_cannot_be(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        BatchOrder(*arguments, **settings)


def test_steps_and_lengths_that_cannot_be():
    with pytest.raises(ValueError, match="step"):
        BatchOrder(3, 1).at(-1)
    with pytest.raises(ValueError, match="lengths of rows, got none"):
        length_grouped_indices([], 2, rng=np.random.default_rng(0))
