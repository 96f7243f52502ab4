"""The battery rejects every catalogued mistake: at its witness, and wherever it moves the result, at every scale."""

import numpy as np
import pytest

from numtx.testing import MISTAKES, SCALES, SPECS, Drawer, find_spec, planted, rejected, rejection
from numtx.testing.battery import movement, outcome

FAULTS_OF_FORM = {"runs", "result's shape", "gradient's shape", "dtype kept"}
DRAWS = {"functional": 16, "component": 12, "model": 8}


@pytest.mark.parametrize("name", MISTAKES)
def test_rejected_at_its_witness_by_its_numbers(name):
    mistake = MISTAKES[name]
    spec = find_spec(mistake.of)
    assert rejection(spec, mistake.witness()) is None, f"{name}: the right one is rejected at the witness"
    finding = rejected(mistake, spec)
    assert finding is not None, f"{name}: not rejected at its witness"
    assert finding.check not in FAULTS_OF_FORM, f"{name}: {finding.check}, {finding.note}"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", MISTAKES)
def test_rejected_wherever_it_moves_the_result(name, scale):
    mistake = MISTAKES[name]
    spec = find_spec(mistake.of)
    for seed in range(DRAWS[spec.kind]):
        case = spec.draw(Drawer(seed, scale=scale))
        if moved(mistake, spec, case) > 1e-5:
            assert rejected(mistake, spec, case) is not None, f"{name}: not rejected at scale {scale}, seed {seed}"


def moved(mistake, spec, case):
    """How far the mistake moves result and gradients; infinite where it raises."""
    right = outcome(spec, case)
    with planted(mistake):
        try:
            return movement(right, outcome(spec, case))
        except Exception:
            return float("inf")


# What shows only under magnitudes, seeds, states or caches that drawn cases compare by other means than numbers.
SHOWN_ELSEWHERE = {
    "softmax without subtracting the maximum",
    "log_softmax as the logarithm of softmax",
    "layer_norm with the one-pass variance",
    "dropout mask shared by two branches",
    "Dropout keeps its mask on self",
    "position off by one after a cache",
    "attention dropout mask shared by the heads",
    "binary cross-entropy by the logarithm of the sigmoid",
    "cross-entropy with 1e-9 added to the probabilities",
    "cross-entropy targets found by comparing logit values",
}


@pytest.mark.parametrize("name", sorted(set(MISTAKES) - SHOWN_ELSEWHERE))
def test_it_moves_some_drawn_case(name):
    """A mistake that no drawn case shows would make the test above empty."""
    mistake = MISTAKES[name]
    spec = find_spec(mistake.of)
    drawn = (spec.draw(Drawer(seed, scale=1.0)) for seed in range(60))
    assert any(moved(mistake, spec, case) > 1e-5 for case in drawn)


def test_every_mistake_says_why_and_where_to_look():
    for name, mistake in MISTAKES.items():
        assert mistake.name == name
        assert mistake.of in SPECS
        assert mistake.why, name
        assert mistake.hint, name
    assert set(MISTAKES) >= SHOWN_ELSEWHERE


def test_the_classic_ones_are_in_the_catalogue():
    """Every op that people get wrong has its mistakes."""
    of = {mistake.of for mistake in MISTAKES.values()}
    assert of >= {
        "linear",
        "embedding",
        "relu",
        "gelu",
        "softmax",
        "layer_norm",
        "dropout",
        "scaled_dot_product_attention",
        "cross_entropy",
        "causal_mask",
        "MultiHeadAttention",
        "PreNorm",
        "GPT2LMHeadModel",
    }


def test_movement_sees_shapes_and_nan():
    right = {"y": np.ones(3), "dx": np.ones(3)}
    assert movement(right, right) == 0.0
    assert movement(right, {"y": np.ones(2), "dx": np.ones(3)}) == np.inf
    assert movement(right, {"y": np.ones(3)}) == np.inf
    assert movement(right, {"y": np.ones(3), "dx": np.array([1, np.nan, 1])}) == np.inf
    assert movement(right, {"y": np.ones(3), "dx": np.array([1, 1.5, 1])}) == 0.5
