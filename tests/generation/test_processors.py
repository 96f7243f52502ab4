"""Every processor and warper against a plain definition, row by row; and that none changes what it was given."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.generation import processors, warpers
from numtx.generation.ngrams import NoEncoderNGrams, NoRepeatNGrams, SequenceBias

V, INF = 7, math.inf
ENDS = np.array([1, 4])
SOURCE = np.array([[3, 3, 5, 2], [0, 6, 1, 0]])
BIASES = {(2,): 1.5, (6, 2): 2.5, (3, 5): -INF, (0, 0, 1): 2.0, (5,): -3.0}


def softmax(row):
    largest = max(row)
    if largest == -INF:
        return [0.0] * len(row)
    weights = [math.exp(s - largest) for s in row]
    return [w / sum(weights) for w in weights]


def entropy(p):
    return -sum(q * math.log(q) for q in p if q > 0)


def kept(row, stay):
    return [s if token in stay else -INF for token, s in enumerate(row)]


def penalised(row, tokens, penalty):
    return [(s * penalty if s < 0 else s / penalty) if i in tokens else s for i, s in enumerate(row)]


def ngram(row, ids, n, text):
    last = list(ids[len(ids) - n + 1 :]) if n > 1 else []
    if len(ids) < n - 1:
        return row
    banned = {text[i + n - 1] for i in range(len(text) - n + 1) if list(text[i : i + n - 1]) == last}
    return [-INF if token in banned else s for token, s in enumerate(row)]


def biased(row, ids):
    row = list(row)
    for words, bias in BIASES.items():
        before = list(words[:-1])
        if len(before) <= len(ids) and list(ids[len(ids) - len(before) :]) == before:
            row[words[-1]] += bias
    return row


def top_k(row, k):
    return [s if s >= sorted(row, reverse=True)[min(k, V) - 1] else -INF for s in row]


def top_p(row, p, keep):
    chosen, mass = [], 0.0
    for token in sorted(range(V), key=lambda i: -row[i]):
        if len(chosen) >= keep and mass >= p:
            break
        chosen.append(token)
        mass += softmax(row)[token]
    return kept(row, chosen)


def min_p(row, share, keep):
    p = softmax(row)
    best = sorted(range(V), key=lambda i: -p[i])[:keep]
    return kept(row, [i for i in range(V) if p[i] >= share * max(p) or i in best])


def typical(row, mass, keep):
    p = softmax(row)
    far = {i: abs(-math.log(p[i]) - entropy(p)) for i in range(V) if p[i] > 0}
    chosen, total = [], 0.0
    for token in sorted(far, key=far.get):
        if len(chosen) >= keep and total >= mass:
            break
        chosen.append(token)
        total += p[token]
    return kept(row, chosen)


def cutoff(row, least, keep):
    p, enough = softmax(row), sorted(row, reverse=True)[keep - 1]
    return [s if p[i] >= least or s >= enough else -INF for i, s in enumerate(row)]


def eta(row, epsilon, keep):
    return cutoff(row, min(epsilon, math.sqrt(epsilon) * math.exp(-entropy(softmax(row)))), keep)


def decay(row, t):
    late = max(t - 2, 0)
    return [s + abs(s) * (1.5**late - 1) if i in ENDS and late and s > -INF else s for i, s in enumerate(row)]


def finite(row):
    largest = float(np.finfo(np.float64).max)
    return [min(max(s, -largest), largest) for s in row]


def normalised(row):
    return [math.log(p) if p > 0 else -INF for p in softmax(row)]


def ends_forbidden(row):
    return [-INF if i in ENDS else s for i, s in enumerate(row)]


def forced(tokens):
    return [0.0 if i in tokens else -INF for i in range(V)]


# The processor, and its definition of (row, ids, the row's prompt).
CASES = {
    "repetition": (processors.RepetitionPenalty(1.7), lambda row, ids, b: penalised(row, set(ids), 1.7)),
    "repetition behind padding": (
        processors.RepetitionPenalty(0.6, np.array([0, 2])),
        lambda row, ids, b: penalised(row, set(ids[(0, 2)[b] :]) | {ids[-1]}, 0.6),
    ),
    "encoder repetition": (
        processors.EncoderRepetitionPenalty(1.7, SOURCE),
        lambda row, ids, b: penalised(row, set(SOURCE[b]), 1 / 1.7),
    ),
    "no unigram twice": (NoRepeatNGrams(1), lambda row, ids, b: ngram(row, ids, 1, ids)),
    "no bigram twice": (NoRepeatNGrams(2), lambda row, ids, b: ngram(row, ids, 2, ids)),
    "no trigram twice": (NoRepeatNGrams(3), lambda row, ids, b: ngram(row, ids, 3, ids)),
    "no unigram of the source": (NoEncoderNGrams(1, SOURCE), lambda row, ids, b: ngram(row, ids, 1, SOURCE[b])),
    "no bigram of the source": (NoEncoderNGrams(2, SOURCE), lambda row, ids, b: ngram(row, ids, 2, SOURCE[b])),
    "no trigram of the source": (NoEncoderNGrams(3, SOURCE), lambda row, ids, b: ngram(row, ids, 3, SOURCE[b])),
    "sequence bias": (SequenceBias(BIASES), lambda row, ids, b: biased(row, ids)),
    "min length": (
        processors.MinLength(4, ENDS),
        lambda row, ids, b: ends_forbidden(row) if len(ids) < 4 else row,
    ),
    "forced": (processors.ForcedTokens(3, ENDS), lambda row, ids, b: forced(ENDS) if len(ids) == 3 else row),
    "suppressed": (processors.SuppressTokens(ENDS), lambda row, ids, b: ends_forbidden(row)),
    "suppressed at first": (
        processors.SuppressTokens(ENDS, 3),
        lambda row, ids, b: ends_forbidden(row) if len(ids) == 3 else row,
    ),
    "decay": (processors.ExponentialDecay(2, 1.5, ENDS), lambda row, ids, b: decay(row, len(ids))),
    "finite": (processors.RemoveInvalid(), lambda row, ids, b: finite(row)),
    "renormalize": (processors.Renormalize(), lambda row, ids, b: normalised(row)),
    "temperature": (warpers.Temperature(0.7), lambda row, ids, b: [s / 0.7 for s in row]),
    "top-k": (warpers.TopK(3), lambda row, ids, b: top_k(row, 3)),
    "top-k of more than there are": (warpers.TopK(30), lambda row, ids, b: row),
    "top-k that keeps": (warpers.TopK(1, 3), lambda row, ids, b: top_k(row, 3)),
    "top-p": (warpers.TopP(0.63), lambda row, ids, b: top_p(row, 0.63, 1)),
    "top-p that keeps": (warpers.TopP(0.1, 3), lambda row, ids, b: top_p(row, 0.1, 3)),
    "min-p": (warpers.MinP(0.31), lambda row, ids, b: min_p(row, 0.31, 1)),
    "min-p that keeps": (warpers.MinP(0.9, 3), lambda row, ids, b: min_p(row, 0.9, 3)),
    "typical-p": (warpers.TypicalP(0.47), lambda row, ids, b: typical(row, 0.47, 1)),
    "typical-p that keeps": (warpers.TypicalP(0.1, 3), lambda row, ids, b: typical(row, 0.1, 3)),
    "epsilon": (warpers.EpsilonCutoff(0.11), lambda row, ids, b: cutoff(row, 0.11, 1)),
    "epsilon that keeps": (warpers.EpsilonCutoff(0.6, 3), lambda row, ids, b: cutoff(row, 0.6, 3)),
    "eta": (warpers.EtaCutoff(0.3), lambda row, ids, b: eta(row, 0.3, 1)),
}


@pytest.mark.parametrize(("processor", "definition"), CASES.values(), ids=CASES)
@given(length=st.integers(1, 6), each=st.integers(1, 3), forbidden=st.sampled_from([0, 0.3]), seed=st.integers(0, 9999))
def test_a_processor_does_what_is_written(processor, definition, length, each, forbidden, seed):
    rng = np.random.default_rng(seed)
    rows = 2 * each  # of two prompts
    ids = rng.integers(0, V, (rows, length))
    scores = rng.normal(0, 2, (rows, V))
    scores[:, :-1][rng.random((rows, V - 1)) < forbidden] = -np.inf
    before = ids.copy(), scores.copy()
    got = processor(ids, scores)
    np.testing.assert_array_equal(ids, before[0])
    np.testing.assert_array_equal(scores, before[1])
    for r in range(rows):
        expected = definition(scores[r].tolist(), ids[r].tolist(), r // each)
        np.testing.assert_allclose(got[r], expected, rtol=1e-9, atol=1e-12, err_msg=f"row {r} of {scores[r]}, {ids[r]}")
    single = processor(ids, scores.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_array_equal(processor(ids, scores), got)


def test_ties_at_the_border_of_top_k_all_stay():
    np.testing.assert_array_equal(warpers.TopK(2)(None, np.array([[1.0, 2, 1, 1, 0]])), [[1, 2, 1, 1, -INF]])


def test_of_equals_at_the_border_of_top_p_the_first_drop():
    row = np.log(np.array([[0.125, 0.25, 0.125, 0.25, 0.125, 0.125]]))
    got = warpers.TopP(0.7)(None, row)
    assert np.isfinite(got[0]).tolist() == [False, True, False, True, True, True]


def test_a_row_without_a_token_left_stays_so():
    nothing = np.full((1, V), -np.inf)
    every = [processor for name, (processor, _) in CASES.items() if name not in ("forced", "finite")]
    for processor in every:
        got = processor(np.array([[0, 1], [1, 0]]), np.concatenate([nothing, nothing]))
        assert (got == -np.inf).all(), processor


def test_processors_go_one_after_another():
    both = processors.Processors([processors.SuppressTokens(np.array([0])), processors.ForcedTokens(1, np.array([0]))])
    np.testing.assert_array_equal(both(np.array([[5]]), np.zeros((1, 2))), [[0, -INF]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1e-320, 1e-38, 1e-300])
def test_under_a_tiny_temperature_the_likeliest_alone_is_left(dtype, temperature):
    scores = np.array([[3.0, 5.0, -INF], [-7.0, -5.0, -6.0], [-INF, 0.0, -1.0], [-INF, -INF, -INF]], dtype)
    with np.errstate(all="raise", under="ignore", over="ignore"):
        got = warpers.Temperature(temperature)(None, scores)
    assert got.dtype == dtype
    assert got[:3].argmax(axis=1).tolist() == [1, 1, 1]
    for row in got[:3]:
        np.testing.assert_array_equal(np.exp(row - row[1]), [0, 1, 0])
    assert (got[3] == -INF).all()
