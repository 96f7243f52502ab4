"""Filling in and feature extraction: what the answers say, their shapes, bad input."""

import numpy as np
import pytest
from pipeline_questions import same

import numtx


@pytest.fixture
def fill(made):
    return made("fill-mask", "masked")


def test_an_answer_is_the_model_s_softmax_at_the_mask(fill):
    text = "The [MASK] is here"
    found = fill(text)
    assert [list(one) for one in found] == [["score", "token", "token_str", "sequence"]] * 5
    ids = fill.tokenizer(text, return_tensors="np")
    logits = fill.model(**{k: v for k, v in ids.items() if k in fill.model.arguments}).logits[0]
    at = int(np.flatnonzero(ids["input_ids"][0] == fill.tokenizer.mask_token_id)[0])
    scores = np.exp(logits[at] - logits[at].max())
    scores /= scores.sum()
    assert [one["token"] for one in found] == np.argsort(-scores)[:5].tolist()
    np.testing.assert_allclose([one["score"] for one in found], np.sort(scores)[::-1][:5], rtol=1e-5)
    for one in found:
        assert one["token_str"] == fill.tokenizer.decode([one["token"]])
        filled = ids["input_ids"][0].copy()
        filled[at] = one["token"]
        assert one["sequence"] == fill.tokenizer.decode(filled, skip_special_tokens=True)


def test_shapes(fill):
    assert isinstance(fill("[MASK]")[0], dict)
    assert same(fill(["[MASK]"]), fill("[MASK]"))  # a list of one comes without the list, as in Transformers
    both = fill(["[MASK]", "a [MASK]"])
    assert [isinstance(one[0], dict) for one in both] == [True, True]
    several = fill("[MASK] and [MASK]", top_k=2)
    assert [len(one) for one in several] == [2, 2]
    # The other mask, and the special tokens, stay where there are several.
    assert all("[MASK]" in one["sequence"] and "[CLS]" in one["sequence"] for row in several for one in row)


def test_targets(fill):
    vocabulary = fill.tokenizer.get_vocab()
    found = fill("The [MASK] is", targets=["the", "a", "is", "the"])
    assert sorted(one["token"] for one in found) == sorted(vocabulary[token] for token in ("the", "a", "is"))
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    every = {one["token"]: one["score"] for one in fill("The [MASK] is", top_k=fill.model.config.vocab_size)}
    assert all(one["score"] == every[one["token"]] for one in found)
    assert len(fill("The [MASK] is", targets="a")) == 1


def test_a_target_that_is_no_token_counts_as_its_first(fill):
    with pytest.warns(UserWarning, match="the target 'debugginx' is no token; '.*' is taken"):
        (found,) = fill("a [MASK]", targets="debugginx")
    assert found["token"] == fill.tokenizer("debugginx", add_special_tokens=False)["input_ids"][0]


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        ("no mask", {}, r"expected a text with the mask token \[MASK\], got one without"),
        (["[MASK]", ""], {}, r"expected a text with the mask token \[MASK\], got one without"),
        ("[MASK]", {"top_k": 0}, "top_k"),
        ("[MASK]", {"top_k": 513}, "expected top_k of at most 512, the tokens of the vocabulary, got 513"),
        ("[MASK]", {"targets": []}, "expected at least one target that is a token, got none"),
        ("[MASK]", {"targets": [3]}, r"expected targets as one or more texts, got \[3\]"),
        ("[MASK]", {"targets": 3}, "expected targets as one or more texts"),
        ("[MASK]", {"tokenizer_kwargs": {"trunc": True}}, "expected options among"),
        ("[MASK]", {"tokenizer_kwargs": 3}, "expected tokenizer_kwargs as a dict of options .*, got 3$"),
        ([3], {}, "expected a str, got int"),
    ],
)
def test_bad_input(text, options, complaint, fill):
    with pytest.raises(ValueError, match=complaint):
        fill(text, **options)


def test_a_tokenizer_without_a_mask_is_refused(fill, folders):
    tokenizer = numtx.AutoTokenizer.from_pretrained(folders["features_bytes"])
    with pytest.raises(ValueError, match="expected a tokenizer with a mask token, got one without"):
        numtx.pipeline("fill-mask", fill.model, tokenizer=tokenizer)


# --- features


def test_features_are_the_last_hidden_state_of_each_text(made):
    extract = made("feature-extraction", "features")
    asked = ["Hello, world!", "a", "The assert statement is a way"]
    found = extract(asked, return_tensors=True, batch_size=3)
    for text, features in zip(asked, found, strict=True):
        ids = extract.tokenizer(text, return_tensors="np")
        expected = extract.model(**{k: v for k, v in ids.items() if k in extract.model.arguments}).last_hidden_state
        assert features.shape == (1, ids["input_ids"].shape[1], 8)  # no padding, whatever the batch
        np.testing.assert_allclose(features, expected, atol=1e-5)
    assert same(extract(asked), [features.tolist() for features in found])
    assert np.shape(extract("a")) == (1, 3, 8)


def test_an_encoder_decoder_s_features_are_its_decoder_s(made):
    assert np.shape(made("feature-extraction", "inference_bart")("Hello")[0])[-1] == 32


def test_truncation_is_said_once(made):
    extract = made("feature-extraction", "features")
    assert np.shape(extract("word " * 90, truncation=True))[1] == 64
    assert np.shape(extract("word " * 90, tokenize_kwargs={"truncation": True, "max_length": 9}))[1] == 9
    with pytest.raises(ValueError, match=r"expected tokenize_kwargs as a dict of options .*, got 3$"):
        extract("a", tokenize_kwargs=3)
    with pytest.raises(ValueError, match="expected truncation once"):
        extract("a", truncation=True, tokenize_kwargs={"truncation": True})
