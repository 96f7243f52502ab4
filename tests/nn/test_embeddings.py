"""Tables with a row for padding, and tables of positions with an offset."""

import numpy as np
import pytest

from numtx import nn

IDS = np.array([[3, 0, 2, 2], [2, 3, 1, 0]])


def test_the_row_of_padding_does_not_learn_and_the_others_do():
    plain, padded = (nn.Embedding(5, 3, padding_idx=row, rng=0, dtype=np.float64) for row in (None, 2))
    np.testing.assert_array_equal(padded(IDS), plain(IDS))
    dy = np.random.default_rng(0).normal(size=(2, 4, 3))
    (_, grads), (_, expected) = (one.backward(dy, one.forward(IDS)[1]) for one in (padded, plain))
    assert not grads["weight"][2].any()
    np.testing.assert_array_equal(np.delete(grads["weight"], 2, axis=0), np.delete(expected["weight"], 2, axis=0))
    assert expected["weight"][2].any()
    assert repr(padded) == "Embedding(5, 3, padding_idx=2)"


@pytest.mark.parametrize("positions", [None, np.array([2, 0, 4, 4]), IDS], ids=["counted", "for all", "for each"])
def test_positions_with_an_offset_are_those_of_a_longer_table(positions):
    shifted = nn.LearnedPositions(5, 3, offset=2, rng=0, dtype=np.float64)
    longer = nn.LearnedPositions(7, 3, rng=0, dtype=np.float64)
    assert shifted.weight.shape == (7, 3)
    x, dy = np.random.default_rng(0).normal(size=(2, 2, 4, 3))
    y, cache = shifted.forward(x, positions=positions)
    expected, cache_longer = longer.forward(x, positions=(np.arange(4) if positions is None else positions) + 2)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(
        shifted.backward(dy, cache)[1]["weight"], longer.backward(dy, cache_longer)[1]["weight"]
    )
    assert repr(shifted) == "LearnedPositions(7, 3, offset=2)"


def test_the_position_of_padding_does_not_learn():
    """RoBERTa's: real tokens count on from the padding id."""
    table = nn.LearnedPositions(8, 3, padding_idx=1, rng=0, dtype=np.float64)
    positions = np.array([[2, 3, 4, 1], [2, 3, 1, 1]])
    dy = np.ones((2, 4, 3))
    _, grads = table.backward(dy, table.forward(dy, positions=positions)[1])
    np.testing.assert_array_equal(grads["weight"][:, 0], [0, 0, 2, 2, 1, 0, 0, 0])


REFUSED = {
    "a row that is not there": (lambda: nn.Embedding(5, 3, padding_idx=5), "Embedding: .*padding_idx under 5, .* 5"),
    "a row before the first": (lambda: nn.Embedding(5, 3, padding_idx=-1), "Embedding: .*padding_idx .*got -1"),
    "an offset back": (lambda: nn.LearnedPositions(5, 3, offset=-1), "LearnedPositions: .*offset .*got -1"),
    "a position's row that is not there": (
        lambda: nn.LearnedPositions(5, 3, offset=2, padding_idx=7),
        "LearnedPositions: .*padding_idx under 7, .* 7",
    ),
    "a position behind the last": (
        lambda: nn.LearnedPositions(5, 3, offset=2)(np.zeros((1, 6, 3), np.float32)),
        "LearnedPositions: expected positions under 5, the context, got 5",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=rf"^{message}$"):
        call()
