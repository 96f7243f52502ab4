"""generate() beside Transformers' over drawn settings: the same tokens, and the same scores at every step."""

import numpy as np
import pytest

pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
import transformers
from generation_draws import (
    FAMILIES,
    ask,
    ask_theirs,
    draw_case,
    writers,
)

transformers.logging.set_verbosity_error()
DRAWS, ROUNDS = 12, 6  # configurations of a test, and tests of a family


def probabilities(scores):
    """The distribution that scores stand for; a row without one is all zero."""
    with np.errstate(invalid="ignore"):
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.nan_to_num(p / p.sum(axis=-1, keepdims=True))


def compare_scores(case, got, expected):
    assert len(got) == len(expected), f"{len(got)} steps beside {len(expected)}: {case}"
    for step, (mine, reference) in enumerate(zip(got, expected, strict=True)):
        reference = reference.numpy()
        assert mine.shape == reference.shape
        error = np.abs(probabilities(mine) - probabilities(reference)).max()
        assert error <= 1e-6, f"step {step}: the distribution is off by {error:.1e}: {case}"
        left = np.isneginf(reference) | np.isnan(reference)  # a row of nothing but -inf is normalised to NaN
        assert np.array_equal(np.isneginf(mine), left), f"step {step}: other tokens left: {case}"


def drawn(ours, case, seed):
    """What numtx draws; None where the settings forbid every token, which both libraries refuse."""
    try:
        return ask(ours, case, seed=seed)
    except ValueError as error:
        if "finite largest score" in str(error):
            return None
        raise


@pytest.mark.parametrize("part", range(ROUNDS))
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_writes_the_same_tokens(family, part):
    theirs, ours = writers(family)
    for seed in range(part * DRAWS, (part + 1) * DRAWS):
        case = draw_case(family, seed)
        got, expected = ask(ours, case), ask_theirs(theirs, case)
        np.testing.assert_array_equal(got.sequences, expected.sequences.numpy(), err_msg=f"{family} {seed}: {case}")
        compare_scores(case, got.scores, expected.scores)
        compare_scores(case, got.logits, expected.logits)


@pytest.mark.parametrize("part", range(ROUNDS))
@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_draws_from_the_same_distribution(family, part):
    theirs, ours = writers(family)
    compared = 0
    for seed in range(part * DRAWS, (part + 1) * DRAWS):
        case = draw_case(family, seed, sampling=True)
        got = drawn(ours, case, seed)
        if got is None:
            continue
        prompt = got.sequences.shape[1] - len(got.scores)
        expected = ask_theirs(theirs, case, got.sequences[:, prompt:])
        np.testing.assert_array_equal(got.sequences, expected.sequences.numpy(), err_msg=f"{family} {seed}: {case}")
        compare_scores(case, got.scores, expected.scores)
        compared += 1
    assert compared >= DRAWS // 2
