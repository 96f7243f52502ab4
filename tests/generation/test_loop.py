"""The loop and its plan over a stand-in for a model: what is fed, when rows end, what is returned and streamed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.generation import GenerationConfig, Surroundings, choose, make_plan, sample
from numtx.generation.loop import Growing
from numtx.generation.stopping import MaxTime, StopStrings

V = 11


def logits_after(rows):
    """Logits (R, V) that depend on every id and its place: a stand-in for a whole model."""
    out = []
    for row in rows:
        seed = 1
        for token in row:
            seed = (seed * 31 + int(token) + 1) % 1_000_003
        out.append(np.random.default_rng([seed, len(row)]).normal(0, 2, V))
    return np.array(out)


class Step:
    """Remembers what it was fed, as a model's cache does."""

    def __init__(self):
        self.rows, self.fed = [], []

    def __call__(self, ids):
        self.fed.append(ids.shape)
        old = self.rows or [()] * len(ids)
        assert len(old) == len(ids)
        self.rows = [(*row, *new.tolist()) for row, new in zip(old, ids, strict=True)]
        return logits_after(self.rows)

    def reorder(self, rows):
        self.rows = [self.rows[row] for row in rows]


def planned(ids, *, around=None, **settings):
    return make_plan(GenerationConfig().merged(None, settings), np.array(ids), Surroundings("m", V, **(around or {})))


def by_definition(prompt, settings, count, ends, pad, seed):
    """Row by row from scratch, all rows in step because they share the generator."""
    plan = planned(prompt, **settings)
    n = settings.get("num_return_sequences", 1)
    ids = np.repeat(np.array(prompt), n, axis=0)
    rng, done = np.random.default_rng(seed), np.zeros(len(ids), bool)
    for _ in range(count):
        scores = plan.processors(ids, logits_after(ids.tolist()))
        new = choose(scores, rng if settings.get("do_sample") else None)
        new = np.where(done, pad, new) if len(ends) else new
        ids = np.concatenate([ids, new[:, None]], axis=1)
        done |= np.isin(new, ends)
        if done.all():
            break
    return ids


@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 4),
    count=st.integers(1, 9),
    ends=st.lists(st.integers(0, V - 1), max_size=3, unique=True),
    each=st.integers(1, 3),
    do_sample=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_the_loop_from_scratch(batch, length, count, ends, each, do_sample, seed):
    prompt = np.random.default_rng(seed).integers(0, V, (batch, length))
    settings = {"max_new_tokens": count, "eos_token_id": ends, "repetition_penalty": 1.3, "do_sample": do_sample}
    if do_sample:
        settings |= {"num_return_sequences": each, "temperature": 1.5, "top_k": 6}
    step, plan = Step(), planned(prompt, **settings)
    got = sample(step, plan, rng=np.random.default_rng(seed))
    pad = ends[0] if ends else 0
    np.testing.assert_array_equal(got.sequences, by_definition(prompt, settings, count, ends, pad, seed))
    assert step.fed[0] == (batch, length)  # the prompt is read once, for all rows that go on from it
    assert set(step.fed[1:]) <= {(batch * (each if do_sample else 1), 1)}
    assert got.scores is None
    assert got.logits is None


def test_scores_and_logits_on_request():
    settings = {"max_new_tokens": 4, "repetition_penalty": 2.0, "return_dict_in_generate": True}
    plan = planned([[1, 2]], output_scores=True, output_logits=True, **settings)
    got = sample(Step(), plan)
    for t, (scores, logits) in enumerate(zip(got.scores, got.logits, strict=True)):
        before = got.sequences[:, : 2 + t]
        np.testing.assert_array_equal(logits, logits_after(before.tolist()))
        np.testing.assert_array_equal(scores, plan.processors(before, logits))
        assert got.sequences[0, 2 + t] == scores[0].argmax()


class Streamer:
    def __init__(self):
        self.seen, self.ended = [], 0

    def put(self, ids):
        self.seen.append(ids.tolist())
        ids[...] = -1  # what a streamer does with it is its own affair

    def end(self):
        self.ended += 1


def test_a_streamer_gets_the_prompt_and_each_column_and_the_end():
    prompt, streamer = [[1, 2], [3, 4]], Streamer()
    got = sample(Step(), planned(prompt, max_new_tokens=3), streamer=streamer).sequences
    assert streamer.seen == [prompt, *got[:, 2:].T.tolist()]
    assert streamer.ended == 1
    columns = []
    sample(Step(), planned(prompt, max_new_tokens=3), streamer=columns.append)
    np.testing.assert_array_equal(np.stack(columns, axis=1), got[:, 2:])
    with pytest.raises(ValueError, match=r"^generate: expected a streamer with put and end, or a callable, got int$"):
        sample(Step(), planned(prompt, max_new_tokens=3), streamer=3)


@given(rows=st.integers(1, 3), start=st.integers(1, 5), more=st.integers(1, 200))
def test_growing(rows, start, more):
    ids = np.random.default_rng(0).integers(0, 9, (rows, start + more))
    growing = Growing(ids[:, :start], start + more)
    for t in range(start, start + more):
        np.testing.assert_array_equal(growing.ids, ids[:, :t])
        growing.append(ids[:, t])
    np.testing.assert_array_equal(growing.ids, ids)


# --- the plan

LENGTHS = {
    "nothing said": ({}, 23, 0),
    "new": ({"max_new_tokens": 4, "min_new_tokens": 2}, 7, 5),
    "all": ({"max_length": 5, "min_length": 4}, 5, 4),
}


@pytest.mark.parametrize(("settings", "most", "least"), LENGTHS.values(), ids=LENGTHS)
def test_lengths(settings, most, least):
    plan = planned([[1, 2, 3]], **settings)
    assert (plan.max_length, plan.config.min_length, plan.prompt_length) == (most, least, 3)


REFUSED = {
    "over the context": ({"max_new_tokens": 4}, {"context": 6}, "a length of at most 6 tokens"),
    "a prompt that fills the context": ({}, {"context": 3}, "a max_length over the 3 tokens of the prompt"),
    "a length within the prompt": ({"max_length": 3}, {}, "a max_length over the 3 tokens of the prompt"),
    "no room": ({"max_length": 6, "min_new_tokens": 4}, {}, "a min_new_tokens that fits into 6 tokens"),
    "no such word": ({"bad_words_ids": [[1], [2, V]]}, {}, rf"bad_words_ids in \[0, {V}\), got {V}"),
    "no such bias": ({"sequence_bias": [[[V], 1.0]]}, {}, rf"sequence_bias in \[0, {V}\), got {V}"),
    "no such token": ({"forced_eos_token_id": V}, {}, rf"forced_eos_token_id in \[0, {V}\), got {V}"),
    "no such end": ({"eos_token_id": [1, 50], "min_length": 5}, {}, rf"eos_token_id in \[0, {V}\), got 50"),
    "no tokenizer": ({"stop_strings": "a"}, {}, "tokenizer=, which stop_strings are read with, got NoneType"),
}


@pytest.mark.parametrize(("settings", "around", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_planned_is_refused_in_one_line(settings, around, message):
    with pytest.raises(ValueError, match=rf"^m: expected {message}[^\n]*$"):
        planned([[1, 2, 3]], around=around, **settings)


def test_a_least_length_of_the_folder_does_not_stop_a_short_answer():
    config = GenerationConfig(max_length=5).merged(GenerationConfig(min_length=40, eos_token_id=0))
    with pytest.warns(UserWarning, match=r"^m: expected a min_length that fits into 5 tokens"):
        plan = make_plan(config, np.array([[1]]), Surroundings("m", V))
    assert sample(Step(), plan).sequences.shape == (1, 5)


def left(plan, ids):
    """The tokens that can be chosen after ids."""
    scores = plan.processors(np.array([ids]), np.linspace(0, 1, V)[None])
    return set(np.flatnonzero(scores[0] > -np.inf).tolist())


def test_what_is_forced_comes_first_and_last():
    plan = planned([[1]], forced_bos_token_id=3, forced_eos_token_id=[4, 5], max_new_tokens=4)
    assert [left(plan, [1, *[6] * t]) for t in range(4)] == [{3}, set(range(V)), set(range(V)), {4, 5}]


def test_an_end_token_is_no_bad_word():
    assert left(planned([[1]], bad_words_ids=[[7], [2], [8, 7]], eos_token_id=7), [1, 8]) == set(range(V)) - {2, 7}
    assert left(planned([[1]], bad_words_ids=[[7], [2], [8, 7]], eos_token_id=7), [1]) == set(range(V)) - {2}


def test_what_is_suppressed_at_first_is_so_behind_what_is_forced():
    plan = planned([[1]], begin_suppress_tokens=[5], forced_bos_token_id=3)
    assert [left(plan, ids) for ids in ([1], [1, 3], [1, 3, 6])] == [{3}, set(range(V)) - {5}, set(range(V))]
    plan = planned([[1, 2]], begin_suppress_tokens=[5], forced_bos_token_id=3)
    assert [left(plan, ids) for ids in ([1, 2], [1, 2, 6])] == [set(range(V)) - {5}, set(range(V))]


@pytest.mark.parametrize("filtered", [{"top_k": 1}, {"top_p": 0.01, "top_k": 0}, {"min_p": 1.0, "top_k": 0}])
@pytest.mark.parametrize(("ends", "beams", "many"), [([1, 2], 1, 1), ([1, 2], 3, 3), ([1], 3, 2), ([], 3, 2)])
def test_beams_keep_a_token_that_does_not_end(filtered, ends, beams, many):
    assert len(left(planned([[1]], do_sample=True, num_beams=beams, eos_token_id=ends, **filtered), [1])) == many


def test_padding_defaults_to_the_first_end():
    assert planned([[1]], eos_token_id=[7, 3]).pad_id == 7
    assert planned([[1]], eos_token_id=[7, 3], pad_token_id=4).pad_id == 4
    assert planned([[1]], eos_token_id=[7, 3], pad_token_id=-1).pad_id == 7  # some files have -1 for none


# --- stopping


class Letters:
    """A tokenizer of syllables, of which one is a part of a character."""

    words = ("s", "t", "o", "p", "op", "st", " stop", "pped", "\N{REPLACEMENT CHARACTER}", "x")

    def decode(self, ids, **settings):
        return "".join(self.words[i] for i in ids)


STOPS = {
    "whole": ([5, 4], True),
    "letter by letter": ([0, 1, 2, 3], True),
    "a token that says more": ([0, 1, 2, 7], True),
    "within one token": ([9, 6], True),
    "over already": ([5, 4, 9], False),
    "not yet": ([5, 2], False),
    "parts apart": ([5, 9, 4], False),
}


@pytest.mark.parametrize(("ids", "stops"), STOPS.values(), ids=STOPS)
def test_a_stop_string_is_completed_by_the_newest_token(ids, stops):
    assert StopStrings(["stop", "zz"], Letters())(np.array([ids])).tolist() == [stops]
    assert StopStrings("stop", Letters())(np.array([[9] * 20 + ids])).tolist() == [stops]


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids, **settings):
        return bytes(ids).decode("utf-8", "replace")


@pytest.mark.parametrize(("text", "stops"), [("x€", True), ("x€y", False), ("€", True), ("xé", False)])
def test_a_stop_string_of_characters_in_parts(text, stops):
    ids = np.array([list(text.encode())])
    assert StopStrings("€", Bytes())(ids).tolist() == [stops]
    assert StopStrings("€", Bytes())(ids[:, :-1]).tolist() == [text == "x€y"]


def test_time_runs_out(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    criterion = MaxTime(2.0)
    assert criterion(np.zeros((2, 3), int)).tolist() == [False, False]
    now[0] = 102.5
    assert criterion(np.zeros((2, 3), int)).tolist() == [True, True]


NOTHING_LEFT = {
    "never": {"suppress_tokens": list(range(V))},
    "words": {"bad_words_ids": [[i] for i in range(V)]},
    "biases": {"sequence_bias": {(i,): -np.inf for i in range(V)}},
    "together": {"suppress_tokens": list(range(6)), "bad_words_ids": [[i] for i in range(5, V)]},
    "at first": {"begin_suppress_tokens": list(range(1, V)), "suppress_tokens": [0]},
    "but ends": {"suppress_tokens": list(range(1, V)), "eos_token_id": 0, "min_new_tokens": 1},
}


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"do_sample": True}], ids=["greedy", "beams", "sampling"])
@pytest.mark.parametrize("settings", NOTHING_LEFT.values(), ids=NOTHING_LEFT)
def test_settings_that_forbid_every_token_are_refused(settings, how):
    names = "suppress_tokens|bad_words_ids|sequence_bias"
    with pytest.raises(ValueError, match=rf"^m: expected a token that may come, got [^\n]*({names})[^\n]* all {V}$"):
        planned([[1, 2]], **settings, **how)


ENOUGH_LEFT = {
    "one left": {"suppress_tokens": list(range(1, V))},
    "an end is no bad word": {"bad_words_ids": [[i] for i in range(V)], "eos_token_id": 3},
    "ends behind the least length": {"suppress_tokens": list(range(1, V)), "eos_token_id": 0},
    "made finite": {"bad_words_ids": [[i] for i in range(V)], "remove_invalid_values": True},
    "what is forced": {"begin_suppress_tokens": list(range(V)), "forced_bos_token_id": 3},
}


@pytest.mark.parametrize("settings", ENOUGH_LEFT.values(), ids=ENOUGH_LEFT)
def test_settings_that_leave_a_token_are_not(settings):
    plan = planned([[1]], **settings, max_new_tokens=1)
    assert np.isfinite(plan.processors(plan.ids, np.zeros((1, V))).max())
