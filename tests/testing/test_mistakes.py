"""The battery rejects every catalogued mistake: at its witness, and wherever it moves the result, at every scale."""

import math
from itertools import islice

import numpy as np
import pytest

from numtx.testing import MISTAKES, SCALES, SPECS, Drawer, diagnose, planted, rejected, rejection
from numtx.testing.battery import movement, outcome

FAULTS_OF_FORM = {"runs", "result's shape", "gradient's shape", "dtype kept"}
MOVES = 1e-5
CASES, DRAWS = 3, 200  # so many cases that move the result, out of at most so many drawn
NAMED = 60  # drawn cases that are enough to tell every mistake from all others

# These need huge, tied or far-off numbers, a second call, or a look at what went on inside, to show: what the scales
# draw is not moved by them.
AT_THE_WITNESS_ALONE = {
    "softmax without subtracting the maximum",
    "log_softmax as the logarithm of softmax",
    "binary cross-entropy by the logarithm of the sigmoid",
    "layer_norm with the one-pass variance",
    "cross-entropy with 1e-9 added to the probabilities",
    "cross-entropy targets found by comparing logit values",
    "dropout mask shared by two branches",
    "Dropout keeps its mask on self",
    "position off by one after a cache",
    "positions from zero after a cache",
    "causal mask aligned top-left after a cache",
    "GroupedQueryAttention counts from zero after a cache",
    "GroupedQueryAttention off by one after a cache",
    "GroupedQueryAttention turns what comes out of the cache",
    "last hidden state before the final norm",
    "weights of self-attention and over the memory exchanged",
    "weights shown as the mean over the heads",
}
TOO_SMALL = {("FeedForward takes gelu for gelu_tanh", 0.02)}  # both are x / 2 there
# Of the former, those whose numbers differ in the tenth digit, which is enough for a name.
YET_NAMED = {"cross-entropy with 1e-9 added to the probabilities"}

each = pytest.mark.parametrize("mistake", MISTAKES.values(), ids=lambda mistake: mistake.name)


@each
def test_rejected_at_its_witness_by_its_numbers(mistake):
    spec, case = SPECS[mistake.of], mistake.witness()
    assert rejection(spec, case) is None, "the right one is rejected at the witness"
    finding = rejected(mistake, spec)
    assert finding is not None, "not rejected at its witness"
    assert finding.check not in FAULTS_OF_FORM, f"a witness shows wrong numbers, not {finding}"


def moved(mistake, spec, case):
    """How far the mistake moves result and gradients; infinite where it raises."""
    right = outcome(spec, case)
    with planted(mistake):
        try:
            return movement(right, outcome(spec, case))
        except Exception:
            return math.inf


@pytest.mark.parametrize("scale", SCALES)
@each
def test_rejected_where_it_moves_the_result(mistake, scale):
    spec = SPECS[mistake.of]
    draws = 20 if mistake.name in AT_THE_WITNESS_ALONE else DRAWS
    drawn = (spec.draw(Drawer(seed, scale=scale)) for seed in range(draws))
    moving = list(islice((case for case in drawn if moved(mistake, spec, case) > MOVES), CASES))
    hidden = mistake.name in AT_THE_WITNESS_ALONE or (mistake.name, scale) in TOO_SMALL
    assert bool(moving) != hidden, "whether it shows at this scale"
    for case in moving:
        assert rejected(mistake, spec, case) is not None, f"not rejected at {case}"


@each
def test_somebody_who_made_it_is_told_its_name(mistake):
    """And never the name of another one; only what no drawn case shows stays without a name."""
    pair = SPECS[mistake.of].pair

    def forward(**keywords):
        with planted(mistake):
            return pair().forward(**keywords)

    def backward(dy, cache):
        with planted(mistake):
            return pair().backward(dy, cache)

    named = diagnose(mistake.of, forward, backward if pair().backward else None, count=NAMED)
    unseen = mistake.name in AT_THE_WITNESS_ALONE - YET_NAMED
    assert named is (None if unseen else mistake)


def test_what_merely_raises_is_no_known_mistake():
    def raising(**keywords):
        raise RuntimeError("no")

    for name in SPECS:
        assert diagnose(name, raising, raising, count=3) is None


def test_every_op_has_mistakes():
    """Components that only hand on to an op may have none."""
    of = {mistake.of for mistake in MISTAKES.values()}
    assert {name for name, spec in SPECS.items() if spec.kind == "functional"} <= of
    assert {"Linear", "LayerNorm", "Dropout", "FeedForward", "MultiHeadAttention", "PreNorm", "Decoder"} <= of
    assert "GPT2LMHeadModel" in of


def test_every_mistake_says_why_and_where_to_look():
    for name, mistake in MISTAKES.items():
        assert mistake.name == name
        assert mistake.of in SPECS
        assert mistake.why, name
        assert mistake.hint, name
    assert set(MISTAKES) >= AT_THE_WITNESS_ALONE


def test_movement_sees_shapes_and_nan():
    right = {"y": np.ones(3), "dx": np.ones(3)}
    assert movement(right, right) == 0.0
    assert movement(right, {"y": np.ones(2), "dx": np.ones(3)}) == np.inf
    assert movement(right, {"y": np.ones(3)}) == np.inf
    assert movement(right, {"y": np.ones(3), "dx": np.array([1, np.nan, 1])}) == np.inf
    assert movement(right, {"y": np.ones(3), "dx": np.array([1, 1.5, 1])}) == 0.5
