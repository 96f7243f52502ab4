"""Text classification and zero-shot classification: shapes of answers, functions, bad input."""

import numpy as np
import pytest
from pipeline_questions import INFERENCE, MOODS, same

TEXT = "Paris is a convenient way"


@pytest.fixture
def classify(made):
    return made("sentiment-analysis", "moods")


def test_one_text_has_its_answer_in_a_list_unless_top_k_is_said(classify, made):
    best = classify(TEXT)
    assert [sorted(answer) for answer in best] == [["label", "score"]]
    assert same(classify([TEXT, TEXT]), best * 2)
    every = classify(TEXT, top_k=None)
    assert {answer["label"] for answer in every} == set(MOODS.values())
    assert [answer["score"] for answer in every] == sorted((answer["score"] for answer in every), reverse=True)
    assert every[0] == best[0]
    assert sum(answer["score"] for answer in every) == pytest.approx(1, abs=1e-6)
    assert classify(TEXT, top_k=2) == every[:2]
    assert classify(TEXT, top_k=9) == every
    assert made("text-classification", "moods", top_k=2)(TEXT) == [every[:2]]  # as Transformers has it


def test_the_functions_are_what_they_say(classify):
    scores = {
        function: np.array([a["score"] for a in classify(TEXT, top_k=None, function_to_apply=function)])
        for function in ("none", "sigmoid", "softmax", "default")
    }
    logits = scores["none"]
    np.testing.assert_allclose(scores["sigmoid"], 1 / (1 + np.exp(-logits)), rtol=1e-5)
    np.testing.assert_allclose(scores["softmax"], np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)
    assert (scores["default"] == scores["softmax"]).all()


def test_a_pair_is_not_its_first_text(classify):
    pair = {"text": TEXT, "text_pair": "a way"}
    assert classify(pair) != classify(TEXT)[0]
    assert classify([pair]) == [classify(pair)]
    assert classify([[[TEXT, "a way"]]]) == [classify(pair)]


@pytest.mark.parametrize(
    ("inputs", "options", "complaint"),
    [
        ([["a", "b"]], {}, "expected a text, or a pair as .*, got list"),
        ([3], {}, "expected a text, or a pair as .*, got int"),
        ({"text_pair": "b"}, {}, r"expected a text, or a pair as .*, got \['text_pair'\]"),
        (TEXT, {"top_k": 0}, "top_k"),
        (TEXT, {"top_k": "two"}, "top_k"),
        (TEXT, {"function_to_apply": "tanh"}, "expected function_to_apply of sigmoid, softmax, none, got 'tanh'"),
        (
            TEXT,
            {"truncate": True},
            "TextClassificationPipeline: expected settings of top_k, .*; the nearest is 'truncation'",
        ),
        (
            TEXT,
            {"topk": 3},
            "TextClassificationPipeline: expected settings of top_k, .*, got 'topk'; the nearest is 'top_k'",
        ),
        (TEXT, {"truncation": "only"}, "TextClassificationPipeline: expected truncation"),
        (TEXT * 30, {}, r"at most 64 tokens, the model's context, got .*\(truncation=True"),
    ],
)
def test_bad_input(inputs, options, complaint, classify):
    with pytest.raises(ValueError, match=complaint):
        classify(inputs, **options)


def test_a_wrong_setting_is_refused_when_the_pipeline_is_made(made):
    with pytest.raises(ValueError, match=r"expected settings of top_k, .*, got 'top_n'; the nearest is 'top_k'"):
        made("text-classification", "moods", top_n=2)
    assert made("text-classification", "moods", truncation=True, max_length=5)("a " * 99)


def test_a_decoder_only_classifier_without_padding_goes_one_by_one(made):
    last = made("text-classification", "last")
    assert last.model.config.pad_token_id is None
    assert last([TEXT, "a"], batch_size=8) == [*last(TEXT), *last("a")]
    last.tokenizer.pad_token = "<pad>"  # which the model's config does not name
    assert last([TEXT, "a"], batch_size=8) == [*last(TEXT), *last("a")]


# --- zero shot

LABELS = ["politics", "cooking", "cars"]


@pytest.fixture
def judge(made):
    return made("zero-shot-classification", "inference")


def test_the_scores_come_of_the_hypotheses(judge, made):
    answer = judge(TEXT, LABELS)
    assert list(answer) == ["sequence", "labels", "scores"]
    assert answer["sequence"] == TEXT
    assert sorted(answer["labels"]) == sorted(LABELS)
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    classify = made("text-classification", "inference", function_to_apply="none", top_k=None)
    pairs = [{"text": TEXT, "text_pair": f"This example is {label}."} for label in LABELS]
    logits = [{each["label"]: each["score"] for each in one} for one in classify(pairs)]
    entailed = np.exp([one["entailment"] for one in logits])
    expected = dict(zip(LABELS, entailed / entailed.sum(), strict=True))
    np.testing.assert_allclose(answer["scores"], [expected[label] for label in answer["labels"]], rtol=1e-5)
    several = judge(TEXT, LABELS, multi_label=True)
    alone = {
        label: 1 / (1 + np.exp(one["contradiction"] - one["entailment"]))
        for label, one in zip(LABELS, logits, strict=True)
    }
    np.testing.assert_allclose(several["scores"], [alone[label] for label in several["labels"]], rtol=1e-5)
    assert same(judge([TEXT], "politics, cooking,cars,"), [answer])
    assert judge(TEXT, ["cars"])["scores"] == pytest.approx([alone["cars"]], rel=1e-5)


def test_entailment_may_be_the_first_class(judge):
    # The same model with its classes in the other order, as some are published.
    expected = judge(TEXT, LABELS, multi_label=True)
    order = [2, 1, 0]
    config, head = judge.model.config, dict(judge.model.named_parameters())
    for name in head:
        if name.endswith(("head.out_proj.weight", "head.out_proj.bias")):
            head[name][...] = head[name][..., order]
    config.id2label = {0: INFERENCE[2], 1: INFERENCE[1], 2: INFERENCE[0]}
    assert judge.entailment_id == 0
    answer = judge(TEXT, LABELS, multi_label=True)
    assert answer["labels"] == expected["labels"]
    np.testing.assert_allclose(answer["scores"], expected["scores"], rtol=1e-5)


def test_a_model_of_no_inference_is_said_to_be_none(made):
    assert INFERENCE[2] == "entailment"
    with pytest.warns(UserWarning, match=r"no class of the model begins with 'entail' \(sad, so-so, glad\)"):
        other = made("zero-shot-classification", "moods")
    assert other.entailment_id == -1


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        ("", {"candidate_labels": LABELS}, "expected a text, got an empty one"),
        ([], {"candidate_labels": LABELS}, "expected at least one text, got none"),
        ([3], {"candidate_labels": LABELS}, "expected a text, got int"),
        (TEXT, {}, "expected candidate_labels, got none"),
        (TEXT, {"candidate_labels": []}, "expected candidate_labels as one or more texts"),
        (TEXT, {"candidate_labels": " , "}, "expected candidate_labels as one or more texts"),
        (TEXT, {"candidate_labels": [1]}, "expected candidate_labels as one or more texts"),
        (TEXT, {"candidate_labels": 3}, "expected candidate_labels as one or more texts, got 3"),
        (TEXT, {"candidate_labels": LABELS, "hypothesis_template": "none"}, "a hypothesis_template with {}"),
        (TEXT, {"candidate_labels": LABELS, "hypothesis_template": "{label}"}, "a hypothesis_template with {}"),
        (TEXT, {"candidate_labels": LABELS, "multi_class": True}, "the nearest is 'multi_label'"),
    ],
)
def test_bad_input_of_zero_shot(text, options, complaint, judge):
    with pytest.raises(ValueError, match=complaint):
        judge(text, **options)


def test_a_long_text_is_cut_and_the_hypothesis_never(judge):
    tail = judge("word " * 500, LABELS)["scores"]
    assert tail == judge("word " * 900, LABELS)["scores"]
    assert len(set(np.round(tail, 6))) == len(LABELS)
