"""SQuAD's exact match and F1, and exact match of texts: published examples, normalization, bad input."""

import copy

import pytest

from numtx.metrics import load
from numtx.metrics.squad import normalized, word_f1

ONE = {
    "predictions": [{"prediction_text": "1976", "id": "56e10a3be3433e1400422b22"}],
    "references": [{"answers": {"answer_start": [97], "text": ["1976"]}, "id": "56e10a3be3433e1400422b22"}],
}


def test_published_examples_of_evaluate():
    assert load("squad").compute(**ONE) == {"exact_match": 100.0, "f1": 100.0}
    predictions = [ONE["predictions"][0] | {"no_answer_probability": 0.0}]
    assert load("squad_v2").compute(predictions=predictions, references=ONE["references"]) == {
        "exact": 100.0,
        "f1": 100.0,
        "total": 1,
        "HasAns_exact": 100.0,
        "HasAns_f1": 100.0,
        "HasAns_total": 1,
        "best_exact": 100.0,
        "best_exact_thresh": 0.0,
        "best_f1": 100.0,
        "best_f1_thresh": 0.0,
    }


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Cat's  hat!", "cats hat"),
        ("a an the", ""),
        ("A-bomb, theatre", "abomb theatre"),
        ("the U.S.A.", "usa"),
        ("L'École — «Größe»", "lécole — «größe»"),  # only ASCII punctuation goes
        ("naïve\u00a0the\tthing", "naïve thing"),
        ("", ""),
        ("!?", ""),
        ("a.m.", "am"),
        ("İstanbul", "i\u0307stanbul"),
    ],
)
def test_normalization(answer, expected):
    assert normalized(answer) == expected


def test_words_are_counted_as_often_as_they_are_in_both():
    assert word_f1("a b b b", "b b c") == 2 * 2 / (3 + 3)
    assert word_f1("the", "an") == word_f1("", "") == 0.0


def answers(*texts, golds, unsure=None):
    extra = [{} if unsure is None else {"no_answer_probability": one} for one in unsure or texts]
    predictions = [
        {"id": k, "prediction_text": text} | more for k, (text, more) in enumerate(zip(texts, extra, strict=True))
    ]
    return {
        "predictions": predictions,
        "references": [{"id": k, "answers": {"text": one}} for k, one in enumerate(golds)],
    }


def test_the_best_gold_answer_counts_for_each_score():
    found = load("squad").compute(**answers("red fox", golds=[["fox red", "red fox cub", "blue"]]))
    assert found == {"exact_match": 0.0, "f1": 100.0}


def test_where_the_two_versions_differ():
    """An answer without words, and a gold answer without words."""
    both = answers("", golds=[["the"]])
    assert load("squad").compute(**both) == {"exact_match": 100.0, "f1": 0.0}
    found = load("squad_v2").compute(**answers("", golds=[["the"]], unsure=[0.0]))
    assert (found["exact"], found["f1"]) == (100.0, 100.0)


def test_a_question_without_an_answer():
    given = answers("", "x", "y", golds=[[], [], ["y"]], unsure=[0.9, 0.9, 0.1])
    found = load("squad_v2").compute(**given)
    assert found["NoAns_exact"] == found["NoAns_f1"] == 50.0
    assert (found["HasAns_total"], found["NoAns_total"], found["total"]) == (1, 2, 3)
    # Silent above 0.5: now all are right, and that is what the best threshold would have given.
    assert load("squad_v2").compute(**given, no_answer_threshold=0.5)["exact"] == 100.0
    assert (found["best_exact"], found["best_exact_thresh"]) == (100.0, 0.1)


def test_the_format_of_the_dataset_files_is_read_too():
    given = copy.deepcopy(ONE)
    given["references"][0]["answers"] = [{"text": "1976", "answer_start": 97}]
    assert load("squad").compute(**given) == {"exact_match": 100.0, "f1": 100.0}


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "words"),
    [
        ("squad", ["a"], [{"id": 0, "answers": {"text": ["a"]}}], "id, prediction_text in prediction 0, got str"),
        ("squad", [{"id": 0}], [{"id": 0, "answers": {"text": ["a"]}}], "prediction_text in prediction 0, got id"),
        (
            "squad",
            [{"id": 0, "prediction_text": None}],
            [{"id": 0, "answers": {"text": ["a"]}}],
            "a text as prediction_text",
        ),
        (
            "squad",
            [{"id": [0], "prediction_text": "a"}],
            [{"id": 0, "answers": []}],
            "a text as id of prediction 0, got list",
        ),
        (
            "squad",
            [{"id": 0, "prediction_text": "a"}],
            [{"id": [0], "answers": []}],
            "a text as id of reference 0, got list",
        ),
        ("squad", [{"id": 0, "prediction_text": "a"}], [{"id": 0, "answers": None}], "with a list of texts, got None"),
        (
            "squad_v2",
            [{"id": 0, "prediction_text": "a", "no_answer_probability": "low"}],
            [{"id": 0, "answers": []}],
            "a number as no_answer_probability of prediction 0, got 'low'",
        ),
        ("squad", [{"id": 0, "prediction_text": "a"}], [{"id": 0}], "id and answers in reference 0, got id"),
        ("squad", [{"id": 0, "prediction_text": "a"}], [{"id": 0, "answers": {"text": "a"}}], "with a list of texts"),
        (
            "squad",
            [{"id": 0, "prediction_text": "a"}],
            [{"id": 0, "answers": {"text": []}}],
            "a gold answer for 0, got none",
        ),
        (
            "squad",
            [{"id": 1, "prediction_text": "a"}],
            [{"id": 0, "answers": {"text": ["a"]}}],
            "each question, got none for 0",
        ),
        (
            "squad",
            [{"id": 0, "prediction_text": "a"}] * 2,
            [{"id": 0, "answers": {"text": ["a"]}}] * 2,
            "got two for 0",
        ),
        (
            "squad_v2",
            [{"id": 0, "prediction_text": "a"}],
            [{"id": 0, "answers": {"text": []}}],
            "no_answer_probability",
        ),
    ],
)
def test_bad_input(metric, predictions, references, words):
    with pytest.raises(ValueError, match=rf"^{metric}: expected .*{words}") as caught:
        load(metric).compute(predictions=predictions, references=references)
    assert "\n" not in str(caught.value)


# --- exact match of texts --------------------------------------------------------------------------------------------

CATS = {
    "references": ["the cat", "theater", "YELLING", "agent007"],
    "predictions": ["cat?", "theater", "yelling", "agent"],
}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.25),
        ({"regexes_to_ignore": ["the ", "yell"], "ignore_case": True, "ignore_punctuation": True}, 0.5),
        ({"regexes_to_ignore": ["the ", "yell", "YELL"], "ignore_case": True, "ignore_punctuation": True}, 0.75),
        (
            {
                "regexes_to_ignore": ["the ", "yell", "YELL"],
                "ignore_case": True,
                "ignore_punctuation": True,
                "ignore_numbers": True,
            },
            1.0,
        ),
    ],
)
def test_published_examples_of_exact_match(settings, expected):
    assert load("exact_match").compute(**CATS, **settings) == {"exact_match": expected}


def test_texts_of_which_nothing_is_left():
    compute = load("exact_match").compute
    assert compute(predictions=["!", "!", "", " "], references=["?", "!", "", ""], ignore_punctuation=True) == {
        "exact_match": 0.5
    }


def test_bad_input_of_exact_match():
    for changed, words in (
        ({"predictions": [1, "a", "b", "c"]}, "a text as prediction 0, got int"),
        ({"references": [["a"], "a", "b", "c"]}, "a text as reference 0, got list"),
        ({"regexes_to_ignore": "the"}, "regexes_to_ignore as a list"),
        ({"regexes_to_ignore": ["("]}, "regular expressions in regexes_to_ignore"),
    ):
        with pytest.raises(ValueError, match=rf"^exact_match: expected {words}"):
            load("exact_match").compute(**{**CATS, **changed})
