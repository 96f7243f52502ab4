"""Spans of question answering: the labels of windows are the answer again, and logits the answers of a slow search."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_questions import FOLDERS

from numtx.text import AutoTokenizer, DataCollatorWithPadding, Dataset, span_answers, span_features

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")

WORDS = ["the", "assert", "statement", "is", "a", "convenient", "way", "to", "insert", "debugging", "assertions"]
WORDS += ["into", "naïve", "programs", "東京", "🙂", ",", "."]
LINE = st.lists(st.sampled_from(WORDS), min_size=3, max_size=40).map(" ".join)
NAMES = ("bert", "roberta", "gpt2")


@pytest.fixture(scope="module")
def tokenizers():
    made = {(name, side): AutoTokenizer.from_pretrained(FOLDERS / name) for name in NAMES for side in ("right", "left")}
    for (_, side), tokenizer in made.items():
        tokenizer.padding_side = side
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
    return made


def asked(context, first, last):
    """An example whose answer are the words `first` to `last`."""
    words = context.split(" ")
    first, last = sorted((first % len(words), last % len(words)))
    start = len(" ".join(words[:first])) + (first > 0)
    text = " ".join(words[first : last + 1])
    return {
        "id": "q",
        "question": "  what is it",
        "context": context,
        "answers": {"text": [text], "answer_start": [start]},
    }


many = pytest.mark.parametrize("side", ["right", "left"])
every = pytest.mark.parametrize("name", NAMES)


@every
@many
@given(
    context=LINE, first=st.integers(0, 99), last=st.integers(0, 99), max_length=st.integers(36, 60), pad=st.booleans()
)
def test_labels_are_the_answer_again(tokenizers, name, side, context, first, last, max_length, pad):
    tokenizer, example = tokenizers[name, side], asked(context, first, last)
    settings = {"max_length": max_length, "doc_stride": 9, "pad_to_max_length": pad}
    trained = span_features([example], tokenizer, **settings)
    places = span_features([example], tokenizer, **settings, evaluation=True)["offset_mapping"]
    start, text = example["answers"]["answer_start"][0], example["answers"]["text"][0]
    for window, offsets in zip(trained, places, strict=True):
        inside = [place for place in offsets if place is not None]
        i, j = window["start_positions"], window["end_positions"]
        if inside[0][0] <= start and start + len(text) <= inside[-1][1]:
            found = context[offsets[i][0] : offsets[j][1]]
            # Tokens may hold the space before a word.
            assert found.strip() == text
            assert i <= j
            # No token more than it takes, nor one less of a character that is several.
            assert i == 0 or offsets[i - 1] is None or offsets[i - 1][1] <= start
            assert offsets[j + 1 :][:1] in ([], [None]) or offsets[j + 1][0] >= start + len(text)
        else:
            ids, mark = window["input_ids"], tokenizer.cls_token_id or tokenizer.bos_token_id
            assert i == j == (ids.index(mark) if mark in ids else 0)
    if not pad:
        covered = {k for offsets in places for place in offsets if place for k in range(*place)}
        assert {k for k, letter in enumerate(context) if letter != " "} <= covered


def test_an_answer_at_the_very_end_of_a_window(tokenizers):
    example = asked("the assert statement is", 3, 3)
    (window,) = span_features([example], tokenizers["bert", "right"], doc_stride=0, max_length=64)
    (offsets,) = span_features([example], tokenizers["bert", "right"], doc_stride=0, max_length=64, evaluation=True)[
        "offset_mapping"
    ]
    assert window["end_positions"] == max(k for k, place in enumerate(offsets) if place)
    assert example["context"][offsets[window["start_positions"]][0] :] == "is"


@every
def test_answers_without_spaces_around_them(tokenizers, name):
    context = "way,the(assert)"
    for text in (",", "the", "(", "assert", ")"):
        start = context.index(text)
        example = {"id": 0, "question": "a", "context": context, "answers": {"text": [text], "answer_start": [start]}}
        (window,) = span_features([example], tokenizers[name, "right"], max_length=60)
        (places,) = span_features([example], tokenizers[name, "right"], max_length=60, evaluation=True)[
            "offset_mapping"
        ]
        first, last = places[window["start_positions"]], places[window["end_positions"]]
        assert first[0] <= start < first[1]
        assert last[0] < start + len(text) <= last[1]


def test_no_answer_is_the_first_token(tokenizers):
    example = asked("the assert statement", 0, 0) | {"answers": {"text": [], "answer_start": []}}
    features = span_features([example] * 2, tokenizers["bert", "right"], max_length=64)
    assert features["start_positions"] == features["end_positions"] == [0, 0]
    assert features.column_names == [
        "input_ids",
        "token_type_ids",
        "attention_mask",
        "start_positions",
        "end_positions",
    ]
    batch = DataCollatorWithPadding(tokenizers["bert", "right"])(list(features))
    assert batch["start_positions"].tolist() == [0, 0]


# --- logits to text


def slow(example, features, starts, ends, *, n_best_size, max_answer_length, nothing, threshold):
    """Every pair of places, one by one."""
    found, none = [], None
    for feature, start, end in zip(features, starts, ends, strict=True):
        if none is None or start[0] + end[0] < none:
            none = start[0] + end[0]
        for i, first in enumerate(feature["offset_mapping"]):
            for j, last in enumerate(feature["offset_mapping"]):
                if first is None or last is None or j < i or j - i + 1 > max_answer_length:
                    continue
                if sum(other > start[i] for other in start) >= n_best_size:
                    continue
                if sum(other > end[j] for other in end) >= n_best_size:
                    continue
                found.append((start[i] + end[j], example["context"][first[0] : last[1]]))
    found.sort(key=lambda one: -one[0])
    best = next(((score, text) for score, text in found if text), None)
    if not nothing:
        return found, (best[1] if best else "")
    return found, (best[1] if best and none - best[0] <= threshold else "")


@many
@given(
    contexts=st.lists(LINE, min_size=1, max_size=3),
    n_best=st.sampled_from((1, 3, 20)),
    longest=st.sampled_from((1, 4, 30)),
    nothing=st.booleans(),
    threshold=st.sampled_from((0.0, -3.0, 2.0)),
    seed=st.integers(0, 999),
)
def test_answers_are_those_of_a_slow_search(tokenizers, side, contexts, n_best, longest, nothing, threshold, seed):
    examples = [asked(context, 0, 1) | {"id": number} for number, context in enumerate(contexts)]
    tokenizer = tokenizers["bert", side]
    features = span_features(examples, tokenizer, max_length=40, doc_stride=9, evaluation=True)
    rng, width = np.random.default_rng(seed), max(len(ids) for ids in features["input_ids"])
    # As a model gives them: padded to the longest, with anything there.
    logits = rng.normal(size=(2, len(features), width)).astype(np.float32) * 3
    logits[:, :, 0 if side == "right" else -1] += 3
    settings = {"n_best_size": n_best, "max_answer_length": longest}
    got = span_answers(
        examples,
        features,
        *logits,
        **settings,
        version_2_with_negative=nothing,
        null_score_diff_threshold=threshold,
        padding_side=side,
    )
    assert list(got) == list(range(len(contexts)))
    lengths = [len(offsets) for offsets in features["offset_mapping"]]
    own = [
        [row[:n] if side == "right" else row[width - n :] for row, n in zip(part, lengths, strict=True)]
        for part in logits
    ]
    for example in examples:
        mine = [k for k, key in enumerate(features["example_id"]) if key == example["id"]]
        rows = [features[k] for k in mine]
        starts, ends = ([part[k] for k in mine] for part in own)
        found, text = slow(example, rows, starts, ends, **settings, nothing=nothing, threshold=threshold)
        answer = got[example["id"]]
        assert answer.text == text
        spans = [one["text"] for one in answer.n_best if one["end"]]
        assert spans == [text for _, text in found[: len(spans)]]
        assert len(spans) >= min(len(found), n_best) - nothing
        if answer.n_best:
            assert abs(sum(one["probability"] for one in answer.n_best) - 1) < 1e-9
        assert any(not one["end"] for one in answer.n_best) == nothing


@pytest.mark.parametrize(("second", "text"), [(9.0, ""), (3.0, "Paris")])
def test_all_windows_must_want_no_answer(second, text):
    examples = [{"id": "a", "context": "In Paris."}]
    features = [
        {"example_id": "a", "offset_mapping": [None, (0, 2), (3, 8)]},
        {"example_id": "a", "offset_mapping": [None, (3, 8), (8, 9)]},
    ]
    starts, ends = [[4.0, 0.0, 3.0], [second, 0.0, 0.0]], [[4.0, 0.0, 3.0], [0.0, 0.0, 0.0]]
    for order in (slice(None), slice(None, None, -1)):
        found = span_answers(examples, features[order], starts[order], ends[order], version_2_with_negative=True)
        assert found["a"].text == text
        assert found["a"].null_difference == min(8.0, second) - 6


def test_perfect_logits_answer_every_question(tokenizers):
    examples = [asked(" ".join(WORDS * 3), k, k + 2) | {"id": k} for k in range(0, 50, 7)]
    settings = {"max_length": 48, "doc_stride": 16}
    tokenizer = tokenizers["bert", "right"]
    trained = span_features(examples, tokenizer, **settings)
    features = span_features(examples, tokenizer, **settings, evaluation=True)
    starts, ends = (
        [10.0 * np.eye(len(ids))[place] for ids, place in zip(trained["input_ids"], trained[name], strict=True)]
        for name in ("start_positions", "end_positions")
    )
    found = span_answers(examples, features, starts, ends)
    # An emoji that the vocabulary lacks still has its place in the text.
    assert [found[one["id"]].text for one in examples] == [one["answers"]["text"][0] for one in examples]


# --- refusals

CONTEXT = "the assert statement is a way"
EXAMPLE = asked(CONTEXT, 1, 1)
BAD = [
    ([], {}, "expected a column question, got a dataset with the columns none"),
    (Dataset({"question": [], "context": [], "answers": []}), {}, "expected a dataset with rows, got an empty one"),
    (
        [{"question": "a", "context": "b"}],
        {},
        "expected a column answers, got a dataset with the columns question, context",
    ),
    ([{**EXAMPLE, "question": " "}], {}, "expected a text as question in row 0, got an empty one"),
    ([{**EXAMPLE, "context": 3}], {}, "expected a text as context in row 0, got int"),
    ([{**EXAMPLE, "answers": "the"}], {}, "answers with text and answer_start in row 0, got 'the'"),
    ([{**EXAMPLE, "answers": {"text": ["the"], "answer_start": []}}], {}, "for each answer in row 0, got 0 for 1"),
    (
        [{**EXAMPLE, "answers": {"text": ["assert"], "answer_start": [5]}}],
        {},
        "expected 'assert' at 5 of the context in row 0",
    ),
    ([{**EXAMPLE, "answers": {"text": ["y"], "answer_start": [-1]}}], {}, "expected 'y' at -1"),
    (
        [EXAMPLE],
        {"max_length": 8, "doc_stride": 4},
        "leave more than doc_stride 4 of max_length 8 tokens to the context",
    ),
    ([EXAMPLE], {"max_length": 0}, "max_length"),
]


@pytest.mark.parametrize(("examples", "settings", "message"), BAD)
def test_examples_that_make_no_features(tokenizers, examples, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        span_features(examples, tokenizers["bert", "right"], **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"starts": []}, {}, "expected start_logits for 1 features, got 0"),
        ({"ends": [[0.0]]}, {}, "expected logits for 4 tokens, got (1,)"),
        ({"ids": ["a", "a"]}, {}, "a different id for each of 2 examples, got 1"),
        ({"ids": ["b"]}, {}, "expected features of the examples, got one of 'a'"),
        ({"ids": ["a", "b"]}, {}, "expected features of each example, got none of 'b'"),
        ({}, {"n_best_size": 0}, "n_best_size"),
        ({}, {"padding_side": "up"}, "padding_side right or left, got 'up'"),
    ],
)
def test_logits_that_give_no_answers(change, settings, message):
    examples = [{"id": key, "context": "In Paris."} for key in change.get("ids", ["a"])]
    features = [{"example_id": "a", "offset_mapping": [None, (0, 2), (3, 8), (8, 9)]}]
    starts, ends = change.get("starts", [[0.0] * 4]), change.get("ends", [[0.0] * 4])
    with pytest.raises(ValueError, match=re.escape(message)):
        span_answers(examples, features, starts, ends, **settings)
