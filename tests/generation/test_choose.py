"""The choice of a token: the largest, or by chance with the right frequencies."""

import numpy as np
import pytest

from numtx.generation import choose


def test_the_first_of_equals_is_taken():
    assert choose(np.array([[1.0, 3, 3], [-np.inf, -np.inf, -np.inf]])).tolist() == [1, 0]


def test_frequencies_are_those_of_the_softmax():
    scores = np.log(np.array([0.5, 0.2, 0.3])) + 800.0  # eˢ itself would overflow
    rows = np.tile(np.append(scores, -np.inf), (40_000, 1)).astype(np.float32)
    counts = np.bincount(choose(rows, np.random.default_rng(0)), minlength=4)
    assert counts[3] == 0
    np.testing.assert_allclose(counts[:3] / 40_000, [0.5, 0.2, 0.3], atol=4 * np.sqrt(0.25 / 40_000))


def test_one_number_a_row_is_drawn():
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    choose(np.zeros((5, 4)), rng)
    other.random(5)
    assert rng.random() == other.random()


@pytest.mark.parametrize(("row", "got"), [([np.nan, 1.0], "without NaN"), ([-np.inf, -np.inf], "finite largest")])
def test_what_cannot_be_drawn_from_is_refused(row, got):
    with pytest.raises(ValueError, match=rf"^generate: expected [^\n]*{got}[^\n]* in row 1"):
        choose(np.array([[0.0, 0.0], row]), np.random.default_rng(0))
