"""The loop against its definition: every token is chosen after the last `context` ids, however they were fed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.generation import Sampler, generate, stream

VOCAB = 11


def logits_after(ids):
    """Logits (B, V) that depend on every id and on its place in the window: a stand-in for a whole model."""
    out = []
    for row in np.asarray(ids).tolist():
        seed = 1
        for token in row:
            seed = (seed * 31 + token + 1) % 1_000_003
        out.append(np.random.default_rng([seed, len(row)]).normal(size=VOCAB))
    return np.array(out)


class Model:
    """Counts what is fed, and refuses more ids than its context."""

    def __init__(self, context=None):
        self.context = context
        self.fed = []

    def start(self):
        remembered = []
        self.fed.append([])

        def step(ids):
            remembered.append(np.array(ids))
            self.fed[-1].append(ids.shape[1])
            whole = np.concatenate(remembered, axis=1)
            assert self.context is None or whole.shape[1] <= self.context
            return logits_after(whole)

        return step


def by_definition(prompt, count, context, sampler, seed):
    ids, rng = prompt, np.random.default_rng(seed)
    for _ in range(count):
        window = ids if context is None else ids[:, -context:]
        ids = np.concatenate([ids, sampler(logits_after(window), rng)[:, None]], axis=1)
    return ids


@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 8),
    count=st.integers(1, 12),
    context=st.none() | st.integers(1, 9),
    do_sample=st.booleans(),
)
def test_equals_the_plain_loop(batch, length, count, context, do_sample):
    prompt = np.random.default_rng(length).integers(0, VOCAB, (batch, length))
    before = prompt.copy()
    sampler = Sampler(do_sample=do_sample, top_k=5)
    got = generate(
        Model(context).start,
        prompt,
        max_new_tokens=count,
        context=context,
        sampler=sampler,
        rng=np.random.default_rng(4),
    )
    np.testing.assert_array_equal(got, by_definition(prompt, count, context, sampler, seed=4))
    np.testing.assert_array_equal(prompt, before)


def fed(length, count, context):
    model = Model(context)
    generate(model.start, np.zeros((1, length), dtype=int), max_new_tokens=count, context=context)
    return model.fed


def test_nothing_is_fed_twice_until_the_context_is_full():
    assert fed(length=3, count=4, context=None) == [[3, 1, 1, 1]]
    assert fed(length=3, count=4, context=6) == [[3, 1, 1, 1]]


def test_a_full_context_slides():
    assert fed(length=3, count=5, context=5) == [[3, 1, 1], [5], [5]]
    assert fed(length=5, count=2, context=5) == [[5], [5]]


def test_a_prompt_longer_than_the_context_is_cut_to_its_end():
    assert fed(length=9, count=2, context=4) == [[4], [4]]


def test_each_token_comes_before_the_next_is_reckoned():
    model = Model()
    tokens = stream(model.start, np.array([[1, 2]]), max_new_tokens=3)
    assert model.fed == []
    first = next(tokens)
    assert first.shape == (1,)
    assert first.dtype == np.int64
    assert model.fed == [[2]]
    next(tokens)
    assert model.fed == [[2, 1]]


def successor():
    return lambda ids: np.eye(VOCAB)[(ids[:, -1] + 1) % VOCAB]


def written(prompt, **options):
    return [ids.tolist() for ids in stream(successor, np.array(prompt), max_new_tokens=6, **options)]


def test_the_end_token_is_given_and_ends():
    assert written([[3]], eos_token_id=6) == [[4], [5], [6]]
    assert written([[3]], eos_token_id=[9, 5]) == [[4], [5]]
    assert written([[3]], eos_token_id=2) == [[4], [5], [6], [7], [8], [9]]


def test_an_end_token_in_the_prompt_does_not_end():
    assert written([[6]], eos_token_id=6)[:2] == [[7], [8]]


def test_rows_that_ended_wait_with_padding():
    assert written([[3], [1]], eos_token_id=5) == [[4, 2], [5, 3], [5, 4], [5, 5]]
    assert written([[3], [1]], eos_token_id=5, pad_token_id=0) == [[4, 2], [5, 3], [0, 4], [0, 5]]
    assert written([[3], [1]], eos_token_id=[8, 5]) == [[4, 2], [5, 3], [5, 4], [5, 5]]
    assert written([[1], [3]], eos_token_id=0, pad_token_id=7)[-1] == [7, 9]


def test_rows_of_a_batch_equal_rows_alone():
    prompt = np.random.default_rng(0).integers(0, VOCAB, (4, 3))
    together = generate(Model().start, prompt, max_new_tokens=7, context=5)
    for row in range(4):
        alone = generate(Model().start, prompt[row : row + 1], max_new_tokens=7, context=5)
        np.testing.assert_array_equal(together[row], alone[0])


def test_the_same_seed_writes_the_same():
    def text(seed):
        sampler, rng = Sampler(do_sample=True), np.random.default_rng(seed)
        return generate(Model().start, np.array([[1]]), max_new_tokens=30, sampler=sampler, rng=rng).tolist()

    assert text(1) == text(1)
    assert text(1) != text(2)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (np.array([1, 2]), {}, r"expected a prompt of integer ids of shape \(B, T\)"),
        (np.zeros((1, 0), dtype=int), {}, r"at least \(1, 1\), got int64 of shape \(1, 0\)"),
        (np.zeros((0, 2), dtype=int), {}, "shape"),
        (np.array([[1.0]]), {}, "got float64"),
        (np.array([[1]]), {"max_new_tokens": 0}, "max_new_tokens as a whole number of at least 1, got 0"),
        (np.array([[1]]), {"max_new_tokens": 2.5}, "max_new_tokens as a whole number of at least 1, got 2.5"),
        (np.array([[1]]), {"context": 0}, "context as a whole number of at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_at_the_call(prompt, options, message):
    with pytest.raises(ValueError, match=f"generate: .*{message}"):
        stream(successor, prompt, **{"max_new_tokens": 2, **options})
