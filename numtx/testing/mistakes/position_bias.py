"""Classic mistakes of ALiBi's slopes and T5's buckets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numtx.functional.position_bias import alibi, alibi_slopes, relative_distances, relative_position_bucket
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


def _top_left(tq, tk=None):
    return np.arange(1 - tq, tq if tk is None else tk)


def _from_the_key(tq, tk=None):
    return -relative_distances(tq, tk)


def _by_the_formula(num_heads, dtype=np.float32):
    return (2.0 ** (-8 / num_heads * np.arange(1, num_heads + 1))).astype(dtype)


def _from_zero(num_heads, dtype=np.float32):
    slopes = alibi_slopes(num_heads, dtype)
    return slopes / slopes[0]


def _between_from_the_second(num_heads, dtype=np.float32):
    smaller = 2 ** (num_heads.bit_length() - 1)
    finer = _by_the_formula(2 * smaller, dtype)
    return np.concatenate([finer[1::2], finer[1::2][: num_heads - smaller]])


def _arithmetic(num_heads, dtype=np.float32):
    return (1 / np.arange(1, num_heads + 1)).astype(dtype)


def _up(num_heads, tq, tk=None, dtype=np.float32):
    return -alibi(num_heads, tq, tk, dtype)


def _not_aligned(num_heads, tq, tk=None, dtype=np.float32):
    return alibi_slopes(num_heads, dtype)[:, None] * -np.abs(_top_left(tq, tk)).astype(dtype)


def _later_keys_up(num_heads, tq, tk=None, dtype=np.float32):
    return alibi_slopes(num_heads, dtype)[:, None] * relative_distances(tq, tk).astype(dtype)


def _one_slope(num_heads, tq, tk=None, dtype=np.float32):
    return np.repeat(alibi(num_heads, tq, tk, dtype)[:1], num_heads, axis=0)


def _bucket(change: Callable[..., Any]) -> Callable[..., Any]:
    """The right buckets of changed arguments."""

    def forward(distance, *, bidirectional, num_buckets=32, max_distance=128):
        return relative_position_bucket(**change(distance, bidirectional, num_buckets, max_distance))

    return forward


def _changed(distance, bidirectional, num_buckets, max_distance):
    return {
        "distance": distance,
        "bidirectional": bidirectional,
        "num_buckets": num_buckets,
        "max_distance": max_distance,
    }


def _one_sided(distance, bidirectional, num_buckets, max_distance):
    return _changed(distance, False, num_buckets, max_distance)


def _two_sided(distance, bidirectional, num_buckets, max_distance):
    return _changed(distance, True, num_buckets, max_distance)


def _turned_round(distance, bidirectional, num_buckets, max_distance):
    return _changed(-distance, bidirectional, num_buckets, max_distance)


def _both_ways_back(distance, bidirectional, num_buckets, max_distance):
    return _changed(distance if bidirectional else -np.abs(distance), bidirectional, num_buckets, max_distance)


def _fixed_distance(distance, bidirectional, num_buckets, max_distance):
    return _changed(distance, bidirectional, num_buckets, 128)


def _none_shared(distance, *, bidirectional, num_buckets=32, max_distance=128):
    size = num_buckets // 2 if bidirectional else num_buckets
    back = np.minimum(np.abs(distance) if bidirectional else np.maximum(-distance, 0), size - 1)
    return back + (np.where(distance > 0, size, 0) if bidirectional else 0)


def _own_with_the_later(distance, *, bidirectional, num_buckets=32, max_distance=128):
    right = relative_position_bucket(
        distance, bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance
    )
    return np.where(distance == 0, num_buckets // 2, right) if bidirectional else right


def _all_exact_twice(distance, *, bidirectional, num_buckets=32, max_distance=128):
    """The sides share the buckets, and e is still half of all of them."""
    if not bidirectional:
        return relative_position_bucket(
            distance, bidirectional=False, num_buckets=num_buckets, max_distance=max_distance
        )
    size = num_buckets // 2
    return np.where(distance > 0, size, 0) + np.minimum(np.abs(distance), size - 1)


LENGTHS = {"tq": 2, "tk": 4}


def _lengths(**others: Any) -> Callable[[], Case]:
    return lambda: Case({}, {**LENGTHS, **others})


def _slopes(num_heads: int) -> Callable[[], Case]:
    return lambda: Case({}, {"num_heads": num_heads, "dtype": np.float64})


def _distances(bidirectional: bool, max_distance: int = 32) -> Callable[[], Case]:
    settings = {"bidirectional": bidirectional, "num_buckets": 8, "max_distance": max_distance}
    return lambda: Case({"distance": np.array([-40, -7, -3, -1, 0, 1, 2, 5, 30])}, settings)


def _mistake(of: str, name: str, why: str, hint: str, forward: Any, witness: Callable[[], Case]) -> Mistake:
    return Mistake(name=name, of=of, why=why, hint=hint, forward=forward, witness=witness)


SLOPES = _slopes(6)
ALIBI = _lengths(num_heads=2, dtype=np.float64)

MISTAKES = [
    _mistake(
        "relative_distances",
        "distances aligned top-left",
        "Query i is taken to stand at key i, as it does where there are as many of both.",
        "With one new query and a cache of keys, which key is its own?",
        _top_left,
        _lengths(),
    ),
    _mistake(
        "relative_distances",
        "distances counted from the key",
        "Query minus key is how far back a key lies, and feels natural; T5 and attention's bias count key minus query.",
        "Should a key before the query have a negative distance?",
        _from_the_key,
        _lengths(),
    ),
    _mistake(
        "alibi_slopes",
        "alibi slopes by the formula for every number of heads",
        "The paper gives one formula; what it does where the number is no power of two stands in its code.",
        "Try six heads.",
        _by_the_formula,
        SLOPES,
    ),
    _mistake(
        "alibi_slopes",
        "alibi slopes from zero",
        "The sequence starts at its ratio, 2^(-8/H), not at one.",
        "What is the last of the slopes?",
        _from_zero,
        _slopes(4),
    ),
    _mistake(
        "alibi_slopes",
        "alibi slopes given twice",
        "Every second slope of the finer sequence is taken, from the second on; those are there already.",
        "Six heads have six different slopes.",
        _between_from_the_second,
        SLOPES,
    ),
    _mistake(
        "alibi_slopes",
        "alibi slopes that are not geometric",
        "One over the number of the head is the first thing that comes to mind.",
        "Divide each slope by the one before it.",
        _arithmetic,
        _slopes(4),
    ),
    _mistake(
        "alibi",
        "alibi rewards the far keys",
        "The paper's figure has distances with a minus, and slopes without; one of the two is easily lost.",
        "Which of two equal keys should have more weight?",
        _up,
        ALIBI,
    ),
    _mistake(
        "alibi",
        "alibi aligned top-left",
        "Query i is taken to stand at key i, as it does where there are as many of both.",
        "With one new query and a cache of keys, which key has the bias zero?",
        _not_aligned,
        ALIBI,
    ),
    _mistake(
        "alibi",
        "alibi rewards the keys that are to come",
        "Under a causal mask nobody sees them, and slope times distance is all that is needed.",
        "Leave the mask away: which keys have a bias above zero?",
        _later_keys_up,
        ALIBI,
    ),
    _mistake(
        "alibi",
        "alibi with one slope for all heads",
        "The first slope is broadcast over the heads.",
        "Compare two heads.",
        _one_slope,
        ALIBI,
    ),
    _mistake(
        "relative_position_bucket",
        "buckets of one side where both are due",
        "The decoder's setting is taken for the encoder too.",
        "Do a key before the query and one after it share a bucket?",
        _bucket(_one_sided),
        _distances(True),
    ),
    _mistake(
        "relative_position_bucket",
        "buckets of both sides where one is due",
        "The encoder's setting is taken for the decoder too; half of its buckets then stay unused.",
        "How many distances have a bucket of their own?",
        _bucket(_two_sided),
        _distances(False),
    ),
    _mistake(
        "relative_position_bucket",
        "buckets of query minus key",
        "How far back a key lies is query minus key; the table was trained on key minus query.",
        "Which bucket has the key right before the query?",
        _bucket(_turned_round),
        _distances(False),
    ),
    _mistake(
        "relative_position_bucket",
        "buckets of later keys as of earlier ones",
        "The absolute value, which the encoder takes, is taken in the decoder too.",
        "Which bucket have keys that a decoder never sees?",
        _bucket(_both_ways_back),
        _distances(False),
    ),
    _mistake(
        "relative_position_bucket",
        "buckets with the distance fixed at 128",
        "It is the default of every checkpoint, and so the argument is not used.",
        "Try another largest distance.",
        _bucket(_fixed_distance),
        _distances(False),
    ),
    _mistake(
        "relative_position_bucket",
        "buckets that share nothing",
        "Clipping the distance, as Shaw et al. do, instead of taking the logarithm of the far ones.",
        "Do distances of 5 and 6 of a large table share a bucket?",
        _none_shared,
        _distances(False),
    ),
    _mistake(
        "relative_position_bucket",
        "buckets that share nothing where both sides are due",
        "The number of buckets is halved for the two sides, but not the number of those with one distance each.",
        "With 8 buckets for both sides, do distances 2 and 3 share one?",
        _all_exact_twice,
        _distances(True),
    ),
    _mistake(
        "relative_position_bucket",
        "bucket of the query's own key with the later ones",
        "Not before means after: ≥ is written for >.",
        "Which bucket has the distance 0?",
        _own_with_the_later,
        _distances(True),
    ),
]
