"""Training batches are pure functions of seed and step; windows predict every token but the first once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.text import TokenBatches, windows


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 30), st.integers(0, 2**40), st.integers(0, 10**6))
def test_batches_are_stretches_of_the_text(batch, context, spare, seed, step):
    tokens = np.random.default_rng(0).permutation(context + 1 + spare) * 7
    ids, labels = TokenBatches(tokens, batch, context, seed).at(step)
    assert ids.shape == labels.shape == (batch, context)
    place = {token: i for i, token in enumerate(tokens.tolist())}
    for row, following in zip(ids.tolist(), labels.tolist(), strict=True):
        start = place[row[0]]
        assert row == tokens[start : start + context].tolist()
        assert following == tokens[start + 1 : start + context + 1].tolist()


def test_a_batch_depends_on_seed_and_step_alone():
    tokens = np.arange(10_000)
    one, other = TokenBatches(tokens, 8, 16, seed=3), TokenBatches(tokens, 8, 16, seed=3)
    in_order = [one.at(step) for step in range(6)]
    for step in (5, 0, 3, 3, 1):
        for got, expected in zip(other.at(step), in_order[step], strict=True):
            np.testing.assert_array_equal(got, expected)
    firsts = {tuple(ids[:, 0]) for ids, _ in in_order}
    assert len(firsts) == 6
    assert tuple(TokenBatches(tokens, 8, 16, seed=4).at(0)[0][:, 0]) not in firsts


def test_every_start_is_drawn_the_last_included():
    batches = TokenBatches(np.arange(7), batch=64, context=4, seed=0)
    starts = np.concatenate([batches.at(step)[0][:, 0] for step in range(5)])
    assert set(starts.tolist()) == {0, 1, 2}
    assert np.bincount(starts).min() > 320 / 3 * 0.7


def test_a_batch_may_be_changed_without_harm():
    tokens = np.arange(50)
    batches = TokenBatches(tokens, 2, 4, 0)
    for array in batches.at(0):
        array[:] = -1
    assert tokens.tolist() == list(range(50))
    assert batches.at(0)[0].min() >= 0


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 7))
def test_windows_predict_every_token_but_the_first_once(length, context, batch):
    tokens = np.random.default_rng(length).integers(0, 50, length)
    pieces = list(windows(tokens, context, batch))
    for ids, labels in pieces:
        assert ids.shape == labels.shape
        assert 1 <= ids.shape[0] <= batch
        assert 1 <= ids.shape[1] <= context
    assert np.concatenate([labels.ravel() for _, labels in pieces]).tolist() == tokens[1:].tolist()
    assert np.concatenate([ids.ravel() for ids, _ in pieces]).tolist() == tokens[:-1].tolist()
    assert all(ids.shape == (batch, context) for ids, _ in pieces[:-2])
    assert all(ids.shape[1] == context for ids, _ in pieces[:-1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: TokenBatches(np.arange(64), 2, 64, 0),
            r"TokenBatches: expected a text of at least context \+ 1 = 65 tokens, got 64",
        ),
        (lambda: TokenBatches(np.zeros(0, int), 2, 1, 0), "= 2 tokens, got 0"),
        (lambda: TokenBatches(np.zeros(9), 2, 1, 0), "TokenBatches: expected integer tokens, got dtype float64"),
        (lambda: TokenBatches(np.zeros((9, 9), int), 2, 1, 0), r"TokenBatches: expected tokens of shape \(N,\)"),
        (lambda: TokenBatches(np.arange(9), 0, 1, 0), "TokenBatches: expected batch of at least 1, got 0"),
        (lambda: TokenBatches(np.arange(9), 1, 0, 0), "TokenBatches: expected context of at least 1, got 0"),
        (lambda: TokenBatches(np.arange(9), 1, 1, -1), "TokenBatches: expected a seed of at least 0, got -1"),
        (lambda: windows(np.arange(1), 4, 1), "windows: expected at least 2 tokens"),
        (lambda: windows(np.arange(9), 0, 1), "windows: expected context of at least 1, got 0"),
        (lambda: windows(np.arange(9), 4, 0), "windows: expected batch of at least 1, got 0"),
        (lambda: windows(np.arange(9) / 2, 4, 1), "windows: expected integer tokens"),
        (lambda: windows(np.zeros((2, 3), int), 4, 1), "windows: expected tokens of shape"),
    ],
)
def test_bad_input_is_refused_at_the_door(call, message):
    with pytest.raises(ValueError, match=message):
        call()
