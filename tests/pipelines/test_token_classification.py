"""Token classification: entities of planted scores, places in the text, windows, bad input."""

import warnings

import numpy as np
import pytest
from pipeline_questions import ENTITIES, long_texts, same

import numtx
from numtx.pipelines.entities import STRATEGIES, Token, groups, merged_overlaps, one_a_word

NAMES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "I-LOC"}
TEXT = "Alice and Bob co-operate in Zürich, naïve."


@pytest.fixture
def tag(made):
    return made("ner", "entities")


# --- entities of scores that are planted


def token(word, scores, start, goes_on=False):
    return Token(word, np.array(scores), start, start + len(word), 1, goes_on)


MICROSOFT = [
    token("Micro", [0.1, 0.6, 0.3, 0.0], 0),
    token("soft", [0.0, 0.05, 0.7, 0.25], 5, goes_on=True),
    token("Word", [0.05, 0.0, 0.0, 0.95], 10),
]


@pytest.mark.parametrize(
    ("strategy", "entities", "score"),
    [("first", ["B-PER", "I-LOC"], 0.6), ("average", ["I-PER", "I-LOC"], 0.5), ("max", ["I-PER", "I-LOC"], 0.7)],
)
def test_the_tokens_of_a_word_agree(strategy, entities, score):
    found = one_a_word(MICROSOFT, NAMES, STRATEGIES[strategy], "".join)
    assert [one["entity"] for one in found] == entities
    assert [(one["word"], one["start"], one["end"]) for one in found] == [("Microsoft", 0, 9), ("Word", 10, 14)]
    assert found[0]["score"] == pytest.approx(score)


def classes(*names):
    return [
        {"entity": name, "score": 1 / (i + 1), "word": str(i), "start": i, "end": i + 1} for i, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["B-PER", "I-PER", "I-PER"], [("PER", "0 1 2")]),
        (["B-PER", "B-PER"], [("PER", "0"), ("PER", "1")]),  # a B begins anew
        (["I-PER", "I-LOC"], [("PER", "0"), ("LOC", "1")]),
        (["PER", "PER", "I-PER"], [("PER", "0 1 2")]),  # no letter counts as I
        (["B-PER", "PER"], [("PER", "0 1")]),
        (["O", "O", "B-PER", "O"], [("O", "0 1"), ("PER", "2"), ("O", "3")]),
        (["B-A-B", "I-A-B", "I-A"], [("A-B", "0 1"), ("A", "2")]),
        ([], []),
    ],
)
def test_neighbours_of_one_class_are_joined(names, expected):
    found = groups(classes(*names), " ".join)
    assert [(one["entity_group"], one["word"]) for one in found] == expected


def test_a_group_s_score_is_the_mean_of_its_words():
    (found,) = groups(classes("B-PER", "I-PER", "I-PER"), " ".join)
    assert (found["score"], found["start"], found["end"]) == (pytest.approx((1 + 1 / 2 + 1 / 3) / 3), 0, 3)


def span(start, end, score):
    return {"start": start, "end": end, "score": score}


@pytest.mark.parametrize(
    ("spans", "kept"),
    [
        ([(0, 4, 0.1), (2, 5, 0.9)], [(0, 4, 0.1)]),  # the longer
        ([(0, 3, 0.1), (2, 5, 0.9)], [(2, 5, 0.9)]),  # of equal ones the surer
        ([(0, 3, 0.9), (0, 3, 0.9)], [(0, 3, 0.9)]),
        ([(4, 6, 0.5), (0, 4, 0.5)], [(0, 4, 0.5), (4, 6, 0.5)]),  # side by side
        ([(0, 3, 0.1), (2, 6, 0.2), (5, 7, 0.9)], [(2, 6, 0.2)]),
    ],
)
def test_windows_are_merged(spans, kept):
    assert merged_overlaps([span(*one) for one in spans]) == [span(*one) for one in kept]


# --- the pipeline


def test_places_are_those_of_the_text(tag):
    found = tag(TEXT, ignore_labels=[])
    assert list(found[0]) == ["entity", "score", "index", "word", "start", "end"]
    assert [one["index"] for one in found] == list(range(1, len(found) + 1))
    assert "".join(TEXT[one["start"] : one["end"]] for one in found) == TEXT.replace(" ", "")
    assert {one["entity"] for one in found} <= set(ENTITIES.values())
    joined = tag(TEXT, ignore_labels=[], aggregation_strategy="first")
    assert list(joined[0]) == ["entity_group", "score", "word", "start", "end"]
    assert "".join(TEXT[one["start"] : one["end"]] for one in joined).replace(" ", "") == TEXT.replace(" ", "")


def test_what_is_ignored_is_left_out(tag):
    every = tag(TEXT, ignore_labels=[])
    present = {one["entity"] for one in every}
    assert len(present) > 2
    for left_out in present:
        assert same(tag(TEXT, ignore_labels=[left_out]), [one for one in every if one["entity"] != left_out])
    assert same(tag(TEXT), [one for one in every if one["entity"] != "O"])


def test_words_of_the_reader_s_own(tag):
    words = TEXT.split()
    (found,) = tag(words, is_split_into_words=True, ignore_labels=[])  # in a list, as Transformers has it
    plain = tag(TEXT, ignore_labels=[])
    assert same(found, plain)
    dashed = tag([words, words], is_split_into_words=True, delimiter="--", ignore_labels=[])
    text = "--".join(words)
    for one in dashed:
        assert "".join(text[each["start"] : each["end"]] for each in one) == "".join(words)


def test_a_long_text_is_cut_without_a_stride_and_read_whole_with_one(tag):
    text = long_texts(2, 1)[0]
    cut = tag(text, aggregation_strategy="simple")
    whole = tag(text, aggregation_strategy="simple", stride=16)
    assert max(one["end"] for one in cut) < len(text) / 4 < len(text) * 0.9 < max(one["end"] for one in whole)
    assert [one["start"] for one in whole] == sorted(one["start"] for one in whole)
    for batch_size in (1, 7):
        assert same(tag([text, TEXT], aggregation_strategy="simple", stride=16, batch_size=batch_size)[0], whole)


def test_the_older_names_of_the_strategies(tag):
    for older, strategy in (
        ({"grouped_entities": True}, "simple"),
        ({"grouped_entities": True, "ignore_subwords": True}, "first"),
        ({"grouped_entities": False}, "none"),
        ({"ignore_subwords": True}, "none"),
    ):
        assert tag(TEXT, **older) == tag(TEXT, aggregation_strategy=strategy)


def test_a_tokenizer_that_does_not_mark_subwords_is_said_to_be_one(made):
    bytes_ = made("ner", "entities_bytes")
    with pytest.warns(UserWarning, match="does not mark the parts of a word"):
        bytes_(TEXT, aggregation_strategy="first")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bytes_(TEXT, aggregation_strategy="simple")


def test_words_that_the_tokenizer_would_join_are_refused(made, folders):
    said = r"expected a tokenizer that keeps words apart .*, got one that joins them \(.*add_prefix_space"
    bytes_ = made("ner", "entities_bytes")
    with pytest.raises(ValueError, match=said):
        bytes_(TEXT.split(), is_split_into_words=True)
    with pytest.raises(ValueError, match=said):
        made("ner", "entities_bytes", is_split_into_words=True)
    spaced = numtx.AutoTokenizer.from_pretrained(folders["entities_bytes"], add_prefix_space=True)
    bytes_ = numtx.pipeline("ner", folders["entities_bytes"], tokenizer=spaced)
    words = TEXT.split()
    (found,) = bytes_(words, is_split_into_words=True, ignore_labels=[])
    assert sum(one["word"].startswith("Ġ") for one in found) == len(words)


@pytest.mark.parametrize(
    ("inputs", "options", "complaint"),
    [
        ([], {}, "expected at least one text, got none"),
        ([3], {}, "expected a text, got int"),
        ("a", {"is_split_into_words": True}, "expected a list of words, got str"),
        ([["a"]], {}, "expected a text, got list"),
        ("a", {"aggregation_strategy": "mean"}, "expected aggregation_strategy of none, .*, got 'mean'"),
        ("a", {"ignore_labels": "O"}, "expected ignore_labels as a list"),
        ("a", {"ignore_labels": 3}, "expected ignore_labels as a list of names, got 3"),
        ("a", {"stride": 64}, "expected stride below model_max_length = 64, got 64"),
        ("a", {"stride": -1}, "stride"),
        ("a", {"stride": 4, "aggregation_strategy": "none"}, "other than 'none' with a stride"),
        ("a", {"strategy": "max"}, "expected settings of .*, got 'strategy'"),
    ],
)
def test_bad_input(inputs, options, complaint, tag):
    with pytest.raises(ValueError, match=complaint):
        tag(inputs, **options)


def test_a_tokenizer_without_places_is_refused(tag):
    pytest.importorskip("sentencepiece", reason="no sentencepiece: pip install 'numtx[hub]'")
    from pipeline_questions import TOKENIZERS

    marian = numtx.AutoTokenizer.from_pretrained(TOKENIZERS / "marian")
    with pytest.raises(ValueError, match="expected a tokenizer that knows places"):
        numtx.pipeline("ner", tag.model, tokenizer=marian)
