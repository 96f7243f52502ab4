"""BLEU, chrF and ROUGE: published examples, several references, signatures, resampling, bad input."""

import logging

import numpy as np
import pytest

from numtx.metrics import load

pytest.importorskip("sacrebleu", reason="no sacrebleu: pip install 'numtx[metrics]'")
pytest.importorskip("rouge_score", reason="no rouge_score: pip install 'numtx[metrics]'")

from metric_questions import questions

FRIENDS = {
    "predictions": [
        "The relationship between cats and dogs is not exactly friendly.",
        "a good bookshop is just a genteel black hole that knows how to read.",
    ],
    "references": [
        ["The relationship between dogs and cats is not exactly friendly."],
        ["A good bookshop is just a genteel Black Hole that knows how to read."],
    ],
}


def test_published_examples_of_bleu():
    given = {
        "predictions": ["hello there general kenobi", "on our way to ankh morpork"],
        "references": [["hello there general kenobi", "hello there !"], ["goodbye ankh morpork", "ankh morpork"]],
    }
    found = load("sacrebleu").compute(**given)
    assert round(found["score"], 1) == 39.8
    assert list(found) == ["score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len", "signature"]
    same = {
        "predictions": ["hello there general kenobi"],
        "references": [["hello there general kenobi", "hello there !"]],
    }
    assert round(load("sacrebleu").compute(**same)["score"], 1) == 100.0
    assert load("bleu").compute(**given)["bleu"] == found["score"] / 100
    assert round(load("bleu").compute(**same)["bleu"], 6) == 1.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 84.64214891738334),
        ({"word_order": 2}, 82.87263732906315),
        ({"word_order": 2, "lowercase": True}, 92.12853119829202),
    ],
)
def test_published_examples_of_chrf(settings, expected):
    found = load("chrf").compute(**FRIENDS, **settings)
    assert np.isclose(found["score"], expected, rtol=1e-12)
    assert (found["char_order"], found["word_order"], found["beta"]) == (6, settings.get("word_order", 0), 2)


def test_the_signature_says_how():
    found = load("sacrebleu").compute(**FRIENDS, lowercase=True, tokenize="intl", smooth_method="add-k")["signature"]
    assert found.startswith("nrefs:1|case:lc|eff:no|tok:intl|smooth:add-k[1.00]|version:")
    uneven = {"predictions": ["a", "b"], "references": [["a"], ["b", "c"]]}
    assert (
        load("chrf")
        .compute(**uneven)["signature"]
        .startswith("nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    )


def test_one_reference_may_stand_alone():
    for name in ("sacrebleu", "bleu", "chrf", "rouge"):
        plain = {**FRIENDS, "references": [one for (one,) in FRIENDS["references"]]}
        assert load(name).compute(**plain) == load(name).compute(**FRIENDS)


def test_a_third_reference_can_only_help_rouge():
    for predictions, references, _ in questions("rouge", 40, seed=3):
        one = load("rouge").compute(predictions=predictions, references=references)
        more = [
            [*([own] if isinstance(own, str) else own), text] for own, text in zip(references, predictions, strict=True)
        ]
        two = load("rouge").compute(predictions=predictions, references=more)
        assert all(two[name] >= one[name] for name in one)


def test_sentences_are_scored_in_effective_order():
    from sacrebleu import sentence_bleu, sentence_chrf

    for name, theirs in (("sacrebleu", sentence_bleu), ("chrf", sentence_chrf)):
        for predictions, references, _ in questions(name, 20, seed=4):
            found = load(name).compute(predictions=predictions, references=references, sentence_scores=True)
            several = [[one] if isinstance(one, str) else one for one in references]
            expected = [theirs(text, own).score for text, own in zip(predictions, several, strict=True)]
            assert found["sentence_scores"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["sacrebleu", "chrf", "rouge"])
def test_a_resampling_is_the_score_of_the_texts_that_were_drawn(name):
    predictions = [text for one in questions(name, 6, seed=5) for text in one[0]]
    references = [own for one in questions(name, 6, seed=5) for own in one[1]]
    key = {"rouge": "rougeL"}.get(name, "score")
    found = load(name).compute(predictions=predictions, references=references, bootstrap=40, confidence=0.5, seed=1)
    rng, scores, n = np.random.default_rng(1), [], len(predictions)
    for _ in range(40):
        drawn = rng.integers(n, size=n)
        given = {"predictions": [predictions[k] for k in drawn], "references": [references[k] for k in drawn]}
        scores.append(load(name).compute(**given)[key])
    assert np.allclose(found["confidence_intervals"][key], np.quantile(scores, [0.25, 0.75]), rtol=1e-12)
    assert "char_order" not in found["confidence_intervals"]


def test_texts_that_look_tokenized_are_warned_of_unless_forced(caplog):
    given = {"predictions": ["a b ."] * 100, "references": ["a b ."] * 100}
    with caplog.at_level(logging.WARNING, logger="sacrebleu"):
        load("sacrebleu").compute(**given, force=True)
        assert not caplog.records
        load("sacrebleu").compute(**given)
        assert "tokenized" in caplog.text


def test_published_example_of_rouge():
    texts = ["hello there", "general kenobi"]
    expected = {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0, "rougeLsum": 1.0}
    assert load("rouge").compute(predictions=texts, references=texts) == expected
    each = load("rouge").compute(predictions=texts, references=texts, rouge_types=["rouge1"], use_aggregator=False)
    assert each == {"rouge1": [1.0, 1.0]}
    each = load("rouge").compute(predictions=texts, references=texts, use_aggregator=False, bootstrap=9)
    assert each.pop("confidence_intervals") == {}  # a text's own score depends on no other
    assert all(scores == [1.0, 1.0] for scores in each.values())


def test_lines_count_for_rouge_lsum_alone():
    found = load("rouge").compute(predictions=["the end\nthe beginning"], references=["the beginning\nthe end"])
    assert found["rougeLsum"] == 1.0
    assert found["rougeL"] < 1.0


def test_another_script_needs_a_tokenizer():
    given = {"predictions": ["東京 タワー"], "references": ["東京 タワー"]}
    assert load("rouge").compute(**given)["rouge1"] == 0.0
    assert load("rouge").compute(**given, tokenizer=str.split)["rouge1"] == 1.0


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("sacrebleu", {"references": ["a", []]}, "at least one text as reference 1, got none"),
        ("sacrebleu", {"references": ["a", 3]}, "a text or a list of texts as reference 1, got int"),
        ("chrf", {"predictions": ["a", ["b"]]}, "a text as prediction 1, got list"),
        ("bleu", {"smooth_method": "linear"}, "smooth_method none, floor, add-k, exp, got 'linear'"),
        ("sacrebleu", {"tokenize": "moses"}, "tokenize .*13a.*, got 'moses'"),
        ("sacrebleu", {"max_order": 0}, "max_order of at least 1, got 0"),
        ("chrf", {"char_order": 0}, "char_order of at least 1, got 0"),
        ("chrf", {"word_order": -1}, "word_order of at least 0, got -1"),
        ("rouge", {"rouge_types": "rouge1"}, "a list of rouge1 to rouge9, rougeL or rougeLsum, got rouge1"),
        ("rouge", {"rouge_types": ["rougeW", "rouge0"]}, "got rougeW, rouge0"),
        ("rouge", {"rouge_types": []}, "got none"),
        ("rouge", {"tokenizer": 3}, "a tokenizer that makes words of a text, got int"),
    ],
)
def test_bad_input(name, changed, words):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*{words}") as caught:
        load(name).compute(**{"predictions": ["a", "b"], "references": ["a", "b"], **changed})
    assert "\n" not in str(caught.value)
