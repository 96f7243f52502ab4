"""Biases by distance: aligned with attention, in numbers of the papers, and refused where they cannot be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused_in_one_line

from numtx import functional as F


def table(bias, tq, tk):
    """A bias by distance as scores, (H, Tq, Tk)."""
    return np.array([[[row[j - i + tq - 1] for j in range(tk)] for i in range(tq)] for row in bias])


@given(tq=st.integers(1, 6), old=st.integers(0, 6))
def test_the_newest_queries_have_the_last_rows(tq, old):
    """With a cache of old keys the biases are the last rows of the whole square."""
    tk = old + tq
    distances = table(F.relative_distances(tq, tk)[None], tq, tk)
    np.testing.assert_array_equal(distances, table(F.relative_distances(tk)[None], tk, tk)[:, old:])
    square = table(F.alibi(3, tk), tk, tk)
    np.testing.assert_array_equal(table(F.alibi(3, tq, tk), tq, tk), square[:, old:])


@given(tq=st.integers(1, 5), tk=st.integers(1, 7), causal=st.booleans())
def test_attention_takes_them_by_distance(tq, tk, causal):
    rng = np.random.default_rng(tq + 10 * tk)
    query, key, value = (rng.standard_normal((2, 3, t, 4)) for t in (tq, tk, tk))
    bias = F.alibi(3, tq, tk, np.float64)
    by_distance, _ = F.scaled_dot_product_attention(query, key, value, bias, causal=causal)
    by_score, _ = F.scaled_dot_product_attention(query, key, value, table(bias, tq, tk)[None], causal=causal)
    np.testing.assert_array_equal(by_distance, by_score)


def test_slopes_of_the_paper():
    """Eight heads: 1/2, 1/4 .. 1/256; sixteen: the square root of them, and so on (section 3)."""
    np.testing.assert_array_equal(F.alibi_slopes(8, np.float64), [2.0**-h for h in range(1, 9)])
    np.testing.assert_allclose(F.alibi_slopes(16), [2.0 ** (-h / 2) for h in range(1, 17)], rtol=1e-7)
    np.testing.assert_allclose(F.alibi_slopes(12)[8:], [2.0 ** (-h / 2) for h in (1, 3, 5, 7)], rtol=1e-7)
    assert F.alibi_slopes(5).dtype == F.alibi(5, 2).dtype == np.float32
    for heads in range(1, 40):
        assert len(set(F.alibi_slopes(heads).tolist())) == heads


def test_buckets_in_numbers():
    """T5's own setting, 32 buckets up to 128, where ports go wrong."""
    distance = np.array([0, -1, -7, -8, -11, -12, -15, -16, -127, -128, -5000])
    encoder = F.relative_position_bucket(distance, bidirectional=True)
    np.testing.assert_array_equal(encoder, [0, 1, 7, 8, 8, 9, 9, 10, 15, 15, 15])
    np.testing.assert_array_equal(F.relative_position_bucket(-distance, bidirectional=True)[1:], encoder[1:] + 16)
    decoder = F.relative_position_bucket(distance, bidirectional=False)
    np.testing.assert_array_equal(decoder, [0, 1, 7, 8, 11, 12, 15, 16, 31, 31, 31])
    np.testing.assert_array_equal(F.relative_position_bucket(-distance, bidirectional=False), 0)


def test_buckets_on_the_border():
    """log(n / 4) / log(32) · 5 is a whole number at 8, 16, 32 and 64; in float64 some come out just below."""
    settings = {"bidirectional": False, "num_buckets": 9, "max_distance": 128}
    far = -np.array([7, 8, 15, 16, 31, 32, 63, 64, 127, 128])
    np.testing.assert_array_equal(F.relative_position_bucket(far, **settings), [4, 5, 5, 6, 6, 7, 7, 8, 8, 8])


@given(bidirectional=st.booleans(), halves=st.integers(2, 40), more=st.integers(1, 300), kind=st.sampled_from("bhil"))
def test_every_distance_has_a_bucket_and_farther_ones_none_before(bidirectional, halves, more, kind):
    settings = {"bidirectional": bidirectional, "num_buckets": 2 * halves, "max_distance": halves + more}
    distance = np.arange(-128, 128).astype(kind)
    buckets = F.relative_position_bucket(distance, **settings)
    assert buckets.min() >= 0
    assert buckets.max() < 2 * halves
    assert np.all(np.diff(buckets[:129]) <= 0)
    if bidirectional:
        assert np.all(np.diff(buckets[129:]) >= 0)
        assert np.all(buckets[129:] > halves - 1)
        assert np.all(buckets[:129] < halves)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_no_warning_at_distance_zero(bidirectional):
    with np.errstate(all="raise"):
        F.relative_position_bucket(np.zeros((2, 3), int), bidirectional=bidirectional)


D = np.arange(3)
BAD = {
    "distances without keys": (lambda: F.relative_distances(2, 0), "relative_distances", ["tk", "0"]),
    "distances of a fraction": (lambda: F.relative_distances(1.5), "relative_distances", ["1.5"]),
    "slopes of no head": (lambda: F.alibi_slopes(0), "alibi_slopes", ["num_heads", "0"]),
    "alibi of no head": (lambda: F.alibi(0, 2), "alibi", ["num_heads", "0"]),
    "alibi without queries": (lambda: F.alibi(2, 0, 3), "alibi", ["tq", "0"]),
    "floating distances": (
        lambda: F.relative_position_bucket(D * 1.0, bidirectional=True),
        "relative_position_bucket",
        ["float64"],
    ),
    "unsigned distances": (
        lambda: F.relative_position_bucket(D.astype(np.uint8), bidirectional=True),
        "relative_position_bucket",
        ["uint8"],
    ),
    "odd buckets": (
        lambda: F.relative_position_bucket(D, bidirectional=True, num_buckets=9),
        "relative_position_bucket",
        ["even", "9"],
    ),
    "two buckets for two sides": (
        lambda: F.relative_position_bucket(D, bidirectional=True, num_buckets=2),
        "relative_position_bucket",
        ["4", "2"],
    ),
    "one bucket": (
        lambda: F.relative_position_bucket(D, bidirectional=False, num_buckets=1),
        "relative_position_bucket",
        ["2", "1"],
    ),
    "distance within the exact ones": (
        lambda: F.relative_position_bucket(D, bidirectional=False, max_distance=16),
        "relative_position_bucket",
        ["max_distance", "17", "16"],
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_refused_in_one_line(what):
    refused_in_one_line(*BAD[what])
