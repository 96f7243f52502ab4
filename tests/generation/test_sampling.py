"""The choice of the next token against plain definitions, and by statistics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.generation import Sampler, filter_logits

rows = st.lists(st.integers(-6, 6).map(lambda n: n / 2), min_size=1, max_size=9)


def probabilities(logits):
    kept = np.asarray(logits, dtype=np.float64)
    weights = np.exp(kept - kept.max())
    return weights / weights.sum()


def by_definition(row, temperature, top_k, top_p):
    """Temperature, top-k, top-p of one row, as a list of the tokens that stay and their logits."""
    scaled = [logit / temperature for logit in row]
    stay = list(range(len(row)))
    if top_k:
        smallest = sorted(scaled, reverse=True)[: min(top_k, len(row))][-1]
        stay = [token for token in stay if scaled[token] >= smallest]
    likely_first = sorted(stay, key=lambda token: (-scaled[token], -token))  # of equals the first drops out
    weights = [np.exp(scaled[token] - max(scaled)) for token in likely_first]
    nucleus, mass = [], 0.0
    for token, weight in zip(likely_first, weights, strict=True):
        nucleus.append(token)
        mass += weight / sum(weights)
        if mass >= top_p - 1e-12:
            break
    return {token: scaled[token] for token in (nucleus if top_p < 1 else stay)}


@given(rows, st.sampled_from([0.3, 0.7, 1.0, 2.0]), st.sampled_from([None, 0, 1, 2, 4, 50]), st.floats(0.05, 1.0))
def test_filter_equals_the_definition(row, temperature, top_k, top_p):
    expected = by_definition(row, temperature, top_k, top_p)
    weights = probabilities(list(by_definition(row, temperature, top_k, 1.0).values()))
    sums = np.cumsum(np.sort(weights)[::-1])
    if np.abs(sums - top_p).min() < 1e-9 and top_p < 1:
        return  # which side of the line is a matter of rounding
    got = filter_logits(np.array([row]), temperature=temperature, top_k=top_k, top_p=top_p)
    assert got.dtype == np.float64
    stayed = np.flatnonzero(np.isfinite(got[0]))
    assert stayed.tolist() == sorted(expected)
    np.testing.assert_allclose(
        probabilities(got[0])[stayed], probabilities([expected[token] for token in stayed.tolist()]), rtol=1e-12
    )


def kept(logits, **settings):
    return np.isfinite(filter_logits(np.array([logits], dtype=np.float32), **settings))[0].tolist()


def test_top_k_keeps_ties():
    assert kept([1, 3, 2, 2, 0], top_k=2) == [False, True, True, True, False]
    assert kept([1, 1, 1], top_k=1) == [True, True, True]


def test_top_k_of_all_or_more_changes_nothing():
    for top_k in (None, 0, 3, 99):
        assert kept([1, 2, 3], top_k=top_k) == [True] * 3


def test_top_p_keeps_the_token_that_crosses_the_line():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    assert kept(logits, top_p=0.6) == [True, True, False, False]
    assert kept(logits, top_p=0.4) == [True, False, False, False]
    assert kept(logits, top_p=0.81) == [True, True, True, False]
    assert kept(logits, top_p=1e-9) == [True, False, False, False]
    assert kept(logits, top_p=1.0) == [True] * 4


def test_top_p_reckons_with_what_top_k_left():
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    # Of all: 0.4 + 0.3 reaches 0.6. Of the first two, renormalised: 0.57 does not, so both stay; at 0.55 one does.
    assert kept(logits, top_p=0.55, top_k=2) == [True, False, False, False]
    assert kept(logits, top_p=0.55) == [True, True, False, False]


def test_temperature_comes_before_top_p():
    logits = np.log([0.5, 0.3, 0.2])
    assert kept(logits, top_p=0.6, temperature=0.2) == [True, False, False]
    assert kept(logits, top_p=0.6, temperature=5.0) == [True, True, False]


def test_rows_do_not_touch_one_another():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 11)).astype(np.float32)
    settings = {"temperature": 0.7, "top_k": 6, "top_p": 0.8}
    whole = filter_logits(logits, **settings)
    for row in range(5):
        np.testing.assert_array_equal(whole[row], filter_logits(logits[row : row + 1], **settings)[0])


def test_inputs_are_not_changed():
    logits = np.random.default_rng(0).normal(size=(2, 5))
    before = logits.copy()
    filter_logits(logits, temperature=0.5, top_k=2, top_p=0.5)
    Sampler(do_sample=True, top_k=2)(logits, np.random.default_rng(0))
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    "sampler", [Sampler(), Sampler(do_sample=True, temperature=0.0), Sampler(temperature=3.0, top_k=5, top_p=0.2)]
)
def test_greedy_takes_the_first_of_the_likeliest_and_needs_no_chance(sampler):
    assert sampler.is_greedy
    assert sampler(np.array([[0.0, 5.0, 5.0], [1.0, -1.0, 0.0]])).tolist() == [1, 0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 0.7},
        {"temperature": 1.5, "top_k": 4, "top_p": 0.9},
    ],
)
def test_frequencies_are_the_probabilities(settings):
    logits = np.array([0.2, 1.5, -1.0, 0.9, 0.0, -np.inf])
    draws = 40_000
    rng = np.random.default_rng(1)
    ids = Sampler(do_sample=True, **settings)(np.tile(logits, (draws, 1)).astype(np.float32), rng)
    expected = probabilities(filter_logits(logits[None], **settings)[0])
    counts = np.bincount(ids, minlength=6)
    assert counts[expected == 0].sum() == 0
    deviation = np.sqrt(draws * expected * (1 - expected))
    assert (np.abs(counts - draws * expected) <= 4.5 * deviation + 1e-9).all()


def test_rows_are_drawn_independently():
    rng = np.random.default_rng(2)
    sampler = Sampler(do_sample=True)
    pairs = np.array([sampler(np.zeros((2, 2)), rng) for _ in range(4000)])
    counts = np.bincount(pairs[:, 0] * 2 + pairs[:, 1], minlength=4)
    assert (np.abs(counts - 1000) < 140).all()


def test_the_same_seed_gives_the_same_tokens():
    logits = np.random.default_rng(0).normal(size=(50, 20))
    one, two, other = (Sampler(do_sample=True)(logits, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


class Fixed(np.random.Generator):
    """A generator whose next number in [0, 1) is given."""

    def __init__(self, number):
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, size=None):
        return np.full(size, self.number)


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_no_forbidden_token_at_the_ends_of_chance(number, token):
    logits = np.array([[-np.inf, 0.0, -np.inf, 0.0, -np.inf]])
    assert Sampler(do_sample=True)(logits, Fixed(number)).tolist() == [token]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 1.0, 1e30])
def test_extreme_logits_and_temperatures(dtype, scale, temperature):
    logits = (np.array([[-1.0, 0.5, 1.0, -3.0]]) * scale).astype(dtype)
    sampler = Sampler(do_sample=True, temperature=temperature, top_k=3, top_p=0.9)
    chosen = sampler(logits, np.random.default_rng(0))
    assert 0 <= chosen[0] < 3
    if scale / temperature > 1e6:
        assert chosen[0] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "expected temperature as a number of at least 0, got -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": -1}, "expected top_k as a whole number of at least 0, got -1"),
        ({"top_k": 2.5}, "top_k"),
        ({"top_p": 0.0}, r"expected top_p as a number in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=f"Sampler: .*{message}"):
        Sampler(**settings)


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(do_sample=True)])
@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros(3), r"expected floating logits of shape \(B, V\), got float64 of shape \(3,\)"),
        (np.zeros((1, 2, 3)), "shape"),
        (np.zeros((0, 3)), "shape"),
        (np.zeros((2, 3), dtype=int), "got int"),
        (np.array([[0.0, 1.0], [0.0, np.nan]]), "expected a finite largest logit in every row, got nan in row 1"),
        (np.array([[0.0, np.inf]]), "got inf in row 0"),
        (np.array([[-np.inf, -np.inf]]), "got -inf in row 0"),
    ],
)
def test_bad_logits(sampler, logits, message):
    with pytest.raises(ValueError, match=f"Sampler: .*{message}"):
        sampler(logits, np.random.default_rng(0))


@pytest.mark.parametrize("rng", [None, 3, np.random.RandomState(0)])
def test_sampling_needs_a_generator(rng):
    with pytest.raises(ValueError, match=r"Sampler: expected an np\.random\.Generator"):
        Sampler(do_sample=True)(np.zeros((1, 2)), rng)
