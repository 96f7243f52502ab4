"""Decoding: with a cache as without, over the edge of the context, by seed, and to the end token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import generation, nn
from numtx.models import GPT2Config, GPT2LMHeadModel

VOCAB, CONTEXT = 12, 10


@pytest.fixture(scope="module")
def model(randomized):
    config = GPT2Config(VOCAB, CONTEXT, n_embd=8, n_layer=2, n_head=2)
    return randomized(GPT2LMHeadModel(config, dtype=np.float64), seed=4, scale=0.6)


def caches(model):
    return [nn.KVCache() for _ in range(model.config.n_layer)]


@st.composite
def cuts(draw, length):
    """Where to cut a text into pieces, none of them empty."""
    return sorted(draw(st.sets(st.integers(1, length - 1), max_size=4))) if length > 1 else []


@given(length=st.integers(1, CONTEXT), batch=st.integers(1, 3), data=st.data(), seed=st.integers(0, 99))
def test_cached_decoding_equals_the_full_forward(model, length, batch, data, seed):
    ids = np.random.default_rng(seed).integers(0, VOCAB, (batch, length))
    kv_cache = caches(model)
    pieces = [model(piece, kv_cache=kv_cache).logits for piece in np.split(ids, data.draw(cuts(length)), axis=1)]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), model(ids).logits, rtol=1e-9, atol=1e-11)
    assert [len(cache) for cache in kv_cache] == [length, length]


@given(lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=3), data=st.data(), seed=st.integers(0, 99))
def test_cached_decoding_of_a_left_padded_batch(model, lengths, data, seed):
    longest = max(lengths)
    ids = np.random.default_rng(seed).integers(0, VOCAB, (len(lengths), longest))
    mask = (np.arange(longest) >= longest - np.array(lengths)[:, None]).astype(int)
    positions = np.maximum(0, mask.cumsum(axis=1) - 1)
    kv_cache, start, pieces = caches(model), 0, []
    for stop in [*data.draw(cuts(longest)), longest]:
        part = slice(start, stop)
        pieces.append(model(ids[:, part], mask[:, :stop], positions[:, part], kv_cache=kv_cache).logits)
        start = stop
    got, full = np.concatenate(pieces, axis=1), model(ids, mask, positions).logits
    np.testing.assert_allclose(got[mask == 1], full[mask == 1], rtol=1e-9, atol=1e-11)


def test_backward_after_decoding_is_refused(model):
    outputs, cache = model.forward(np.array([[1, 2]]), kv_cache=caches(model))
    with pytest.raises(ValueError, match=r"^GPT2LMHeadModel: backward after a forward with [^\n]*kv_cache$"):
        model.backward({"logits": outputs.logits}, cache)


def test_the_context_ends_for_a_cache_too(model):
    kv_cache = caches(model)
    model(np.zeros((1, CONTEXT - 1), int), kv_cache=kv_cache)
    with pytest.raises(
        ValueError, match=r"^GPT2Model: expected input_ids of at most n_positions = 10 [^\n]*, got 11[^\n]*$"
    ):
        model(np.zeros((1, 2), int), kv_cache=kv_cache)
    assert [len(cache) for cache in kv_cache] == [CONTEXT - 1] * 2


WRONG = {
    "another batch": ({"input_ids": np.zeros((2, 1), int)}, r"KVCache: expected .*"),
    "a mask of the new tokens alone": (
        {"input_ids": np.zeros((1, 1), int), "attention_mask": np.ones((1, 1), int)},
        r"GPT2Model: expected attention_mask .*\(1, 4\), got \(1, 1\)",
    ),
    "ids out of range": ({"input_ids": np.array([[VOCAB]])}, r"GPT2Model: expected input_ids .*"),
    "positions out of range": (
        {"input_ids": np.zeros((1, 1), int), "position_ids": np.array([CONTEXT])},
        r"LearnedPositions: .*",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_a_call_that_fails_leaves_the_caches_as_they_were(model, call, message):
    ids = np.array([[1, 2, 3, 4]])
    kv_cache = caches(model)
    model(ids[:, :3], kv_cache=kv_cache)
    with pytest.raises(ValueError, match=rf"^{message}$"):
        model(**call, kv_cache=kv_cache)
    assert [len(cache) for cache in kv_cache] == [3, 3]
    got = model(ids[:, 3:], kv_cache=kv_cache).logits
    np.testing.assert_allclose(got, model(ids).logits[:, 3:], rtol=1e-9)


@pytest.mark.parametrize("kv_cache", [[], [nn.KVCache()], [nn.KVCache() for _ in range(3)]], ids=len)
def test_there_must_be_a_cache_for_every_layer(model, kv_cache):
    with pytest.raises(ValueError, match=r"^(GPT2LMHeadModel|Decoder): expected 2 [^\n]*, got \d$"):
        model(np.array([[1]]), kv_cache=kv_cache)


# stream -----------------------------------------------------------------------------------------------------------


def write(model, prompt, **settings):
    """The prompt and what `stream` writes after it."""
    return np.concatenate([np.asarray(prompt), np.stack(list(model.stream(prompt, **settings)), axis=1)], axis=1)


def by_recomputation(model, ids, count, sampler=None, seed=0):
    """Every token from scratch, after the last tokens that the context can hold."""
    sampler, rng = sampler or generation.Sampler(), np.random.default_rng(seed)
    for _ in range(count):
        logits = model(ids[:, -CONTEXT:]).logits[:, -1]
        ids = np.concatenate([ids, sampler(logits, rng)[:, None]], axis=1)
    return ids


@given(
    length=st.integers(1, 2 * CONTEXT),
    count=st.integers(1, 14),
    batch=st.integers(1, 2),
    do_sample=st.booleans(),
    seed=st.integers(0, 99),
)
def test_stream_equals_recomputation_over_the_edge_of_the_context_too(model, length, count, batch, do_sample, seed):
    prompt = np.random.default_rng(seed).integers(0, VOCAB, (batch, length))
    before = prompt.copy()
    settings = {"do_sample": do_sample, "temperature": 1.3, "top_k": 7, "top_p": 0.95}
    got = write(model, prompt, max_new_tokens=count, seed=seed, **settings)
    expected = by_recomputation(model, prompt, count, generation.Sampler(**settings), seed)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(prompt, before)


def test_a_seed_gives_the_text(model):
    def text(seed):
        return write(model, np.array([[1, 2]]), max_new_tokens=30, do_sample=True, seed=seed).tolist()

    assert text(1) == text(1)
    assert text(1) == text(np.random.default_rng(1))
    assert text(1) != text(2)
    rng = np.random.default_rng(1)
    assert text(rng) != text(rng)


def test_greedy_needs_no_seed_and_is_the_default(model):
    first, again = (write(model, [[1, 2]], max_new_tokens=12) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert write(model, [[1, 2]]).shape == (1, 22)


def test_dropout_plays_no_part(model):
    assert model.config.resid_pdrop > 0
    np.testing.assert_array_equal(model(np.array([[1, 2]])).logits, model.forward(np.array([[1, 2]]))[0].logits)


def greedy(model, prompt, count=9):
    return write(model, prompt, max_new_tokens=count)[:, prompt.shape[1] :]


def test_a_row_ends_with_the_end_token(model):
    prompt = np.array([[1, 2]])
    written = greedy(model, prompt)[0].tolist()
    end = written[3]
    stop = written.index(end) + 1
    got = write(model, prompt, max_new_tokens=9, eos_token_id=end)
    assert got[0, 2:].tolist() == written[:stop]
    others = [token for token in range(VOCAB) if token not in written]
    got = write(model, prompt, max_new_tokens=9, eos_token_id=[*others, end])
    assert got[0, 2:].tolist() == written[:stop]


def test_rows_that_ended_wait_for_the_others(model):
    prompt = np.array([[1, 2], [7, 9], [3, 0]])
    written = greedy(model, prompt)
    end = int(written[1, 2])
    got = write(model, prompt, max_new_tokens=9, eos_token_id=end)[:, 2:]
    for row, free in zip(got.tolist(), written.tolist(), strict=True):
        stop = free.index(end) + 1 if end in free else 9
        assert row[:stop] == free[:stop]
        assert set(row[stop:]) <= {end}


def test_the_end_token_of_the_config_is_the_default(randomized):
    free = greedy(randomized(GPT2LMHeadModel(GPT2Config(VOCAB, CONTEXT, 8, 2, 2)), seed=4), np.array([[1, 2]]))
    end = int(free[0, 4])
    config = GPT2Config(VOCAB, CONTEXT, 8, 2, 2, eos_token_id=end)
    model = randomized(GPT2LMHeadModel(config), seed=4)
    got = greedy(model, np.array([[1, 2]]))
    assert got[0].tolist() == free[0, : free[0].tolist().index(end) + 1].tolist()
    got = write(model, np.array([[1, 2]]), max_new_tokens=9, eos_token_id=())  # nowhere
    assert got[:, 2:].tolist() == free.tolist()


def test_stream_gives_one_column_at_a_time(model):
    prompt = np.array([[1, 2], [3, 4]])
    stream = model.stream(prompt, max_new_tokens=5)
    columns = [next(stream)]
    assert columns[0].shape == (2,)
    columns.extend(stream)
    np.testing.assert_array_equal(np.stack(columns, axis=1), greedy(model, prompt, 5))


PROMPTS = {
    "one axis": (np.array([1, 2]), {}, r"generate: expected a prompt of integer ids .*"),
    "nothing": (np.zeros((1, 0), int), {}, r"generate: expected a prompt of integer ids .*"),
    "floats": (np.array([[1.0]]), {}, r"generate: expected a prompt of integer ids .*"),
    "out of range": (np.array([[VOCAB]]), {}, r"GPT2Model: expected input_ids in \[0, 12\), got 12 .*tokenizer\?\)"),
    "no tokens": (np.array([[1]]), {"max_new_tokens": 0}, r"generate: expected max_new_tokens .*"),
    "cold": (np.array([[1]]), {"temperature": -1.0}, r"Sampler: expected .*"),
    "beams": (np.array([[1]]), {"num_beams": 4}, r"GPT2LMHeadModel\.generate: expected the settings .*, got num_beams"),
    "no mass": (np.array([[1]]), {"top_p": 0.0}, r"Sampler: expected .*"),
}


@pytest.mark.parametrize(("prompt", "settings", "message"), PROMPTS.values(), ids=PROMPTS)
def test_what_cannot_be_streamed_is_refused_in_one_line(model, prompt, settings, message):
    with pytest.raises(ValueError, match=rf"^{message}$"):
        write(model, prompt, **settings)
