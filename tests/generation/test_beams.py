"""Beam search against its definition in loops, over a model that is a function of all ids so far."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numtx.generation import GenerationConfig
from numtx.generation.beams import NEVER, beam_search
from numtx.generation.largest import BLOCK, largest
from numtx.generation.plan import Surroundings, make_plan

VOCAB = 7


def logits_after(row, sharpness=2.0):
    """Logits (V,) that depend on every id of a row."""
    seed = 1
    for token in row:
        seed = (seed * 31 + int(token) + 1) % 1_000_003
    return sharpness * np.random.default_rng(seed).normal(size=VOCAB)


class Model:
    """A step that remembers its rows, and what was asked of it."""

    def __init__(self, logits=logits_after):
        self.rows, self.logits, self.fed, self.reordered = None, logits, [], []

    def __call__(self, ids):
        self.fed.append(ids.shape)
        self.rows = ids if self.rows is None else np.concatenate([self.rows, ids], axis=1)
        return np.array([self.logits(row) for row in self.rows])

    def reorder(self, rows):
        self.reordered.append(rows)
        self.rows = self.rows[rows]


def plan_of(prompts, **settings):
    settings = {"num_beams": 3, "max_new_tokens": 5} | settings
    return make_plan(GenerationConfig(**settings).merged(), np.array(prompts), Surroundings("model", vocab_size=VOCAB))


def search(prompts, model=None, rng=None, **settings):
    return beam_search(Model() if model is None else model, plan_of(prompts, **settings), rng=rng)


def log_softmax(logits):
    return logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())


# --- the definition ---------------------------------------------------------------------------------------------------


def defined(prompt, beams, new, penalty=1.0, ends=(), early=False, logits=logits_after):
    """The answers to one prompt with their scores, the best first: (ids behind the prompt, score), by loops."""
    running = [((), 0.0)]
    kept = []
    for length in range(1, new + 1):
        continuations = []
        for written, score in running:
            log_probs = log_softmax(logits([*prompt, *written]))
            continuations += [((*written, token), score + log_probs[token]) for token in range(VOCAB)]
        continuations.sort(key=lambda pair: -pair[1])
        found = continuations[: max(2, 1 + len(ends)) * beams]
        running = []
        for rank, (written, score) in enumerate(found):
            if written[-1] in ends or length == new:
                if rank < beams:
                    kept.append((written, score / length**penalty))
            elif len(running) < beams:
                running.append((written, score))
        kept = sorted(kept, key=lambda pair: -pair[1])[:beams]
        if not running:
            break
        if len(kept) == beams:
            longest = new if early == "never" and penalty > 0 else length
            if early is True or running[0][1] / longest**penalty <= kept[-1][1]:
                break
    return kept


@settings(max_examples=200)
@given(
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3),
    beams=st.integers(2, 4),
    new=st.integers(2, 6),
    penalty=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
    ends=st.sampled_from([(), (0,), (0, 4), (1, 2, 3)]),
    early=st.sampled_from([True, False, "never"]),
)
def test_the_search_is_its_definition(prompt, beams, new, penalty, ends, early):
    settings = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": new, "length_penalty": penalty}
    got = search([prompt], **settings, early_stopping=early, eos_token_id=list(ends) or None, pad_token_id=6)
    expected = defined(prompt, beams, new, penalty, ends, early)
    answers = []
    for row, score in zip(got.sequences[:, len(prompt) :].tolist(), got.sequences_scores, strict=True):
        end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        assert set(row[end:]) <= {6}
        if score > NEVER / 2:
            answers.append((tuple(row[:end]), score))
    assert [ids for ids, _ in answers] == [ids for ids, _ in expected]
    np.testing.assert_allclose([score for _, score in answers], [score for _, score in expected], atol=1e-12)


def test_so_many_beams_as_there_are_texts_find_the_likeliest():
    texts = itertools.product(range(VOCAB), repeat=3)

    def total(text):
        return sum(log_softmax(logits_after([2, *text[:i]]))[token] for i, token in enumerate(text))

    best = max(texts, key=total)
    got = search([[2]], num_beams=VOCAB**2, max_new_tokens=3)
    assert got.sequences[0].tolist() == [2, *best]
    assert got.sequences_scores[0] == pytest.approx(total(best) / 3, abs=1e-12)


@pytest.mark.parametrize("early", [True, False, "never"])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 2.0])
@pytest.mark.parametrize("first", range(VOCAB))
def test_prompts_do_not_see_each_other(early, penalty, first):
    """One that is done goes on while others do, and finds nothing more."""
    prompts, settings = [[first, 2], [3, first], [first, 6]], {"early_stopping": early, "length_penalty": penalty}
    settings |= {"eos_token_id": [0, 1], "num_return_sequences": 2, "pad_token_id": 5, "max_new_tokens": 9}
    together = search(prompts, **settings)
    for i, prompt in enumerate(prompts):
        alone = search([prompt], **settings)
        rows = together.sequences[2 * i : 2 * i + 2]
        np.testing.assert_array_equal(rows[:, : alone.sequences.shape[1]], alone.sequences)
        assert (rows[:, alone.sequences.shape[1] :] == 5).all()
        np.testing.assert_array_equal(together.sequences_scores[2 * i : 2 * i + 2], alone.sequences_scores)


def test_scores_can_be_told_from_the_origins():
    settings = {"eos_token_id": [0, 1], "length_penalty": 0.7, "num_return_sequences": 3, "pad_token_id": 6}
    got = search([[1, 2], [3, 4]], **settings, output_scores=True, output_logits=True, return_dict_in_generate=True)
    for row, origins, score in zip(got.sequences[:, 2:], got.beam_indices, got.sequences_scores, strict=True):
        length = int((origins >= 0).sum())
        assert (origins[length:] == -1).all()
        total = sum(got.scores[i][origins[i], row[i]] for i in range(length))
        assert score == pytest.approx(total / length**0.7, abs=1e-12)
        for i in range(length):
            np.testing.assert_allclose(got.scores[i][origins[i]], log_softmax(got.logits[i][origins[i]]), atol=1e-12)


def test_the_prompt_is_read_once_and_then_one_token_a_beam():
    model = Model()
    search([[1, 2, 3], [3, 4, 5]], model)
    assert model.fed == [(2, 3)] + [(6, 1)] * 4
    np.testing.assert_array_equal(model.reordered[0], [0, 0, 0, 1, 1, 1])
    assert all((rows // 3 == [0, 0, 0, 1, 1, 1]).all() for rows in model.reordered[1:])  # none changes its prompt


def test_the_processors_have_their_say_before_the_beams_do():
    got = search([[1, 2], [3, 4]], num_return_sequences=3, suppress_tokens=[0, 3, 5], no_repeat_ngram_size=1)
    for row in got.sequences[:, 2:]:
        assert not set(row.tolist()) & {0, 3, 5}


def test_behind_an_end_stands_padding_and_the_end_token_where_padding_is_token_0():
    def logits(row):
        return np.where(np.arange(VOCAB) == (4 if row[0] == 1 else 2), 9.0, 0.0)

    settings = {"eos_token_id": 4, "max_new_tokens": 3, "early_stopping": True, "num_beams": 2}
    assert search([[1], [3]], Model(logits), **settings, pad_token_id=5).sequences[0].tolist() == [1, 4, 5, 5]
    assert search([[1], [3]], Model(logits), **settings, pad_token_id=0).sequences[0].tolist() == [1, 4, 4, 4]


@pytest.mark.parametrize("prompt", range(4))
def test_there_may_be_less_to_write_than_beams(prompt):
    """Two texts alone are possible: what fills the place of a third does not keep the search from ending."""
    settings = {"suppress_tokens": [0, 1, 2, 3, 6], "no_repeat_ngram_size": 1, "max_new_tokens": 2}
    got = search([[prompt]], **settings, num_return_sequences=3)
    assert sorted(got.sequences[:2].tolist()) == [[prompt, 4, 5], [prompt, 5, 4]]
    assert got.sequences_scores[1] > NEVER / 1e3 > got.sequences_scores[2]


def test_nothing_is_written_behind_the_longest():
    got = search(
        [[1]],
        Model(lambda row: np.array([9.0, 0, 0, 0, 0, 0, 0])),
        eos_token_id=0,
        early_stopping=True,
        max_new_tokens=50,
    )
    assert got.sequences.shape[1] == 1 + int((got.beam_indices >= 0).sum(axis=1).max())


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_sampling_is_told_by_its_seed_and_needs_one():
    def sampled(seed):
        return search([[1, 2]], rng=np.random.default_rng(seed), do_sample=True, top_k=0).sequences.tolist()

    assert sampled(3) == sampled(3)
    assert len({tuple(map(tuple, sampled(seed))) for seed in range(8)}) > 1
    with pytest.raises(ValueError, match=r"expected an np[.]random[.]Generator to sample with, got NoneType"):
        search([[1, 2]], do_sample=True)


def test_continuations_are_drawn_by_their_probabilities_without_replacement():
    """At one step of two beams, where all end: the chance of each pair to be the two best of four draws."""
    probabilities = np.array([0.4, 0.25, 0.15, 0.1, 0.05, 0.04, 0.01])
    settings = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 1, "do_sample": True, "top_k": 0}
    plan, counts, draws = plan_of([[1]] * 4000, **settings), np.zeros((VOCAB, VOCAB)), 4000
    got = beam_search(Model(lambda row: np.log(probabilities)), plan, rng=np.random.default_rng(0))
    pairs = got.sequences[:, 1].reshape(-1, 2)
    np.add.at(counts, (pairs.min(axis=1), pairs.max(axis=1)), 1)
    assert counts.trace() == 0
    expected = np.zeros((VOCAB, VOCAB))
    for drawn in itertools.permutations(range(VOCAB), 4):
        left = 1 - np.cumsum([0, *probabilities[list(drawn[:-1])]])  # what is not drawn yet
        expected[*sorted(drawn)[:2]] += np.prod(probabilities[list(drawn)] / left)  # the likeliest token is 0
    assert abs(expected.sum() - 1) < 1e-12
    spread = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(counts / draws - expected) <= 4.5 * spread + 1e-12).all()


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input():
    with pytest.raises(ValueError, match="expected log-probabilities without NaN"):
        search([[1]], Model(lambda row: np.array([0, np.nan, 0, 0, 0, 0, 0])))
    with pytest.raises(ValueError, match="expected log-probabilities without NaN"):
        search([[1]], Model(lambda row: np.array([0, np.inf, 0, 0, 0, 0, 0])))
    with pytest.raises(ValueError, match="at least 9 tokens for num_beams = 3 beside 8 end tokens, got 7"):
        plan_of([[1]], eos_token_id=[*range(6), 6, 6])


def test_rows_that_nothing_was_found_for_are_told_by_their_score():
    # One token alone may come: the other beams find nothing.
    got = search([[1]], num_beams=3, num_return_sequences=3, max_new_tokens=1, forced_eos_token_id=2, pad_token_id=0)
    assert (got.sequences_scores > NEVER / 2).tolist() == [True, False, False]


# --- the largest of many ----------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 40) | st.integers(BLOCK, 2 * BLOCK**2),
    count=st.integers(1, 9),
    kinds=st.sampled_from([2, 30, 300, 3000, 100_000]),
)
def test_the_largest_are_those_of_a_stable_sort(seed, size, count, kinds):
    rng, count = np.random.default_rng(seed), min(size, count)
    scores = rng.integers(0, kinds, (2, size)).astype(float)  # equals abound
    scores[rng.random((2, size)) < 0.2] = -np.inf
    np.testing.assert_array_equal(largest(scores, count), np.argsort(-scores, axis=1, kind="stable")[:, :count])
