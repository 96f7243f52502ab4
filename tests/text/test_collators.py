"""Collators without their oracle: what a padded batch must be whatever the features, shares of masks, refusals."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.text import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    DefaultDataCollator,
    collator_rng,
    default_data_collator,
    encode_words,
    group_texts,
    token_labels,
)
from numtx.text.lengths import pad_encodings


class Tokenizer:
    """As much of a pretrained tokenizer as a collator asks for: ids below 5 are special."""

    pad_token_id, mask_token, mask_token_id, all_special_ids = 0, "[MASK]", 4, (0, 1, 2, 3, 4)

    def __init__(self, padding_side="right", size=1000):
        self.padding_side, self.size = padding_side, size

    def __len__(self):
        return self.size

    def pad(self, rows, padding=True, max_length=None, pad_to_multiple_of=None, return_tensors=None):
        settings = {"padding": padding, "max_length": max_length, "pad_to_multiple_of": pad_to_multiple_of}
        return pad_encodings(rows, pad_token_id=0, padding_side=self.padding_side, **settings).to_arrays()


sides = st.sampled_from(("right", "left"))
rows_of_ids = st.lists(st.lists(st.integers(5, 999), min_size=1, max_size=12), min_size=1, max_size=6)


def own(array, lengths, side):
    """Each row's own part of a padded array, and what is beside it."""
    width = array.shape[1]
    parts = [slice(0, n) if side == "right" else slice(width - n, width) for n in lengths]
    inside = [row[part].tolist() for row, part in zip(array, parts, strict=True)]
    beside = [np.delete(row, np.arange(width)[part]) for row, part in zip(array, parts, strict=True)]
    return inside, np.concatenate(beside)


@given(rows=rows_of_ids, side=sides, multiple=st.sampled_from((None, 1, 3, 8)))
def test_padding_adds_only_padding(rows, side, multiple):
    tokenizer, lengths = Tokenizer(side), [len(row) for row in rows]
    features = [{"input_ids": row, "labels": row} for row in rows]
    width = -(-max(lengths) // (multiple or 1)) * (multiple or 1)
    for collator in (DataCollatorForTokenClassification, DataCollatorForSeq2Seq):
        batch = collator(tokenizer, pad_to_multiple_of=multiple)(features)
        for name, fill in (("input_ids", 0), ("labels", -100), ("attention_mask", 0)):
            assert (batch[name].shape, batch[name].dtype) == ((len(rows), width), np.int64)
            inside, beside = own(batch[name], lengths, side)
            assert inside == ([[1] * n for n in lengths] if name == "attention_mask" else rows)
            assert (beside == fill).all()
    assert features == [{"input_ids": row, "labels": row} for row in rows]


@given(rows=rows_of_ids, side=sides)
def test_causal_labels_are_the_ids_without_padding(rows, side):
    batch = DataCollatorForLanguageModeling(Tokenizer(side), mlm=False)(rows)
    assert sorted(batch) == ["input_ids", "labels"]
    for name, fill in (("input_ids", 0), ("labels", -100)):
        inside, beside = own(batch[name], [len(row) for row in rows], side)
        assert inside == rows
        assert (beside == fill).all()


@given(rows=rows_of_ids, side=sides, data=st.data())
def test_a_target_has_its_own_length(rows, side, data):
    targets = data.draw(st.lists(st.lists(st.integers(5, 99), max_size=15), min_size=len(rows), max_size=len(rows)))
    features = [{"input_ids": row, "label": target} for row, target in zip(rows, targets, strict=True)]
    labels = DataCollatorForSeq2Seq(Tokenizer(side))(features)["labels"]
    assert labels.shape == (len(rows), max(len(target) for target in targets))
    inside, beside = own(labels, [len(target) for target in targets], side)
    assert inside == targets
    assert (beside == -100).all()


def test_a_model_makes_what_its_decoder_reads():
    class Model:
        def prepare_decoder_input_ids_from_labels(self, labels):
            return np.where(labels == -100, 0, labels + 1)

    features = [{"input_ids": [5], "labels": [6, 7]}, {"input_ids": [8], "labels": [9]}]
    batch = DataCollatorForSeq2Seq(Tokenizer(), model=Model())(features)
    assert batch["decoder_input_ids"].tolist() == [[7, 8], [10, 0]]
    assert "decoder_input_ids" not in DataCollatorForSeq2Seq(Tokenizer(), model=object())(features)


@given(rows=rows_of_ids, side=sides, seed=st.integers(0, 999))
def test_masked_labels_and_inputs_together_are_the_text(rows, side, seed):
    collator = DataCollatorForLanguageModeling(Tokenizer(side), mlm_probability=0.5)
    features = [{"input_ids": [1, *row, 2]} for row in rows]
    lengths = [len(row) + 2 for row in rows]
    batch = collator(features, rng=np.random.default_rng(seed))
    asked = batch["labels"] != -100
    whole = np.where(asked, batch["labels"], batch["input_ids"])
    inside, beside = own(whole, lengths, side)
    assert inside == [[1, *row, 2] for row in rows]
    assert (beside == 0).all()
    assert not np.isin(batch["labels"][asked], Tokenizer.all_special_ids).any()
    again = collator(features, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(again["input_ids"], batch["input_ids"])


def test_shares_of_what_is_masked():
    n = 200_000
    ids = np.random.default_rng(0).integers(5, 1000, size=n)
    features = [{"input_ids": ids, "special_tokens_mask": (ids < 100).astype(int)}]
    batch = DataCollatorForLanguageModeling(Tokenizer())(features, rng=np.random.default_rng(1))
    free, asked = ids >= 100, batch["labels"][0] != -100
    got = batch["input_ids"][0]
    assert not asked[~free].any()
    masked, kept = got[asked] == 4, got[asked] == ids[asked]
    other = got[asked][~masked & ~kept]
    for share, expected, of in ((asked[free], 0.15, free.sum()), (masked, 0.8, asked.sum()), (kept, 0.1, asked.sum())):
        # A random token is the one that was there once in a thousand.
        assert abs(share.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / of) + 1e-4
    assert (got[~asked] == ids[~asked]).all()
    assert len(np.unique(other)) > 0.85 * min(len(other), 1000)  # of the whole vocabulary, special ones too
    assert other.min() < 100 < 900 < other.max()


def test_a_seed_goes_on_and_a_generator_is_the_callers():
    features = [{"input_ids": list(range(5, 60))}]
    collator = DataCollatorForLanguageModeling(Tokenizer(), seed=3)
    first, second = collator(features)["labels"], collator(features)["labels"]
    assert (first != second).any()
    rng = np.random.default_rng(3)
    for expected in (first, second):
        np.testing.assert_array_equal(collator(features, rng=rng)["labels"], expected)
    a, b = (collator(features, rng=collator_rng(0, step))["labels"] for step in (7, 8))
    assert (a != b).any()


def test_whole_words():
    # Words of the tokens 0, 1-2, 3 | special | 5, 6-7 and padding behind.
    offsets = [(0, 3), (4, 6), (6, 9), (10, 11), (0, 0), (0, 2), (3, 5), (5, 6)]
    words = [[0], [1, 2], [3], [5], [6, 7]]
    features = [
        {"input_ids": list(range(10, 18)), "special_tokens_mask": [0, 0, 0, 0, 1, 0, 0, 0], "offset_mapping": offsets},
        {"input_ids": [20] * 9, "special_tokens_mask": [0] * 9, "offset_mapping": [(i, i + 1) for i in range(9)]},
    ]
    for side in ("right", "left"):
        collator = DataCollatorForLanguageModeling(
            Tokenizer(side), whole_word_mask=True, mlm_probability=0.5, mask_replace_prob=1, random_replace_prob=0
        )
        seen = set()
        for seed in range(40):
            batch = collator(features, rng=np.random.default_rng(seed))
            masked = batch["labels"] != -100
            np.testing.assert_array_equal(batch["input_ids"] == 4, masked)
            (first, second), _ = own(masked, [8, 9], side)
            assert second in ([False] * 9, [True] * 9)  # one word
            found = tuple(all(first[token] for token in word) for word in words)
            assert sum(first) == sum(len(word) for word, yes in zip(words, found, strict=True) if yes)
            seen.add(found)
        assert len(seen) > 15
    with pytest.warns(UserWarning, match="with whole_word_mask, mask_replace_prob is 1"):
        collator = DataCollatorForLanguageModeling(Tokenizer(), whole_word_mask=True)
    assert (collator.mask_replace_prob, collator.random_replace_prob) == (1, 0)


def test_numbers_to_predict_keep_their_fraction():
    features = [{"input_ids": [5], "label": 0.25}, {"input_ids": [6, 7], "label": -1.5}]
    assert DataCollatorWithPadding(Tokenizer())(features)["labels"].tolist() == [0.25, -1.5]
    equal = [{**row, "input_ids": [1]} for row in features]
    assert default_data_collator(equal)["labels"].dtype == np.float32


# --- refusals

GOOD = {"input_ids": [5, 6], "labels": [1, 2]}
PADDING, TOKENS, SEQ2SEQ = DataCollatorWithPadding, DataCollatorForTokenClassification, DataCollatorForSeq2Seq
BAD = [
    (PADDING, {}, [], "expected a list of features, not empty, got none"),
    (PADDING, {}, {"input_ids": [[1]]}, "expected a list of features, not empty, got dict"),
    (PADDING, {}, [[5, 6]], "expected features that are dicts, got list as number 0"),
    (PADDING, {}, [{"input_ids": [5], "text": "a"}], "got text in text (dataset.remove_columns takes it out)"),
    (PADDING, {}, [{"input_ids": [5]}, GOOD], "got input_ids, and input_ids, labels in 1"),
    (PADDING, {}, [{"ids": [5]}], "expected rows with input_ids, got one without"),
    (PADDING, {"return_tensors": "pt"}, [GOOD], "expected return_tensors 'np', NumPy's arrays, got 'pt'"),
    (TOKENS, {}, [{"input_ids": [5, 6], "labels": [1]}], "a label for each of 2 tokens in row 0, got 1 labels"),
    (TOKENS, {}, [{"input_ids": [5, 6], "labels": 1}], "a label for each of 2 tokens in row 0, got labels of shape ()"),
    (SEQ2SEQ, {}, [{"input_ids": [5, 6], "labels": 3}], "a list of ids as labels in row 0, got 3"),
    (SEQ2SEQ, {}, [{"input_ids": [5, 6], "labels": [0.5]}], "a list of ids as labels in row 0, got [0.5]"),
    (
        SEQ2SEQ,
        {"padding": "max_length", "max_length": 2},
        [{"input_ids": [5], "labels": [1] * 3}],
        "at most max_length 2",
    ),
    (
        SEQ2SEQ,
        {"padding": False},
        [{"input_ids": [5], "labels": [1] * n} for n in (1, 2)],
        "labels of one length without padding, got 1 to 2",
    ),
]


@pytest.mark.parametrize(("collator", "settings", "features", "message"), BAD)
def test_features_that_make_no_batch(collator, settings, features, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        collator(Tokenizer(), **settings)(features)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_pad():
    with pytest.raises(ValueError, match="expected a pretrained tokenizer, which can pad, got object"):
        DataCollatorWithPadding(object())([{"input_ids": [1]}])


def test_features_that_do_not_stack():
    with pytest.raises(ValueError, match=r"input_ids of one length, got 1 to 2 \(DataCollatorWithPadding pads\)"):
        default_data_collator([{"input_ids": [1]}, {"input_ids": [1, 2]}])
    with pytest.raises(ValueError, match="expected numbers in words, got \"\\['a'\\]\""):
        DefaultDataCollator()([{"words": ["a"]}])
    with pytest.raises(ValueError, match="return_tensors 'np'"):
        default_data_collator([{"input_ids": [1]}], "pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlm_probability": 1.5}, r"mlm_probability in \[0, 1\], got 1.5"),
        ({"mlm_probability": None}, "got None"),
        ({"mask_replace_prob": 0.8, "random_replace_prob": 0.3}, "of at most 1, got 0.8 \\+ 0.3"),
        ({"mlm": False, "whole_word_mask": True}, "expected mlm=True for whole_word_mask"),
        ({"return_tensors": "pt"}, "return_tensors"),
    ],
)
def test_masks_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        DataCollatorForLanguageModeling(Tokenizer(), **settings)


def test_masks_need_a_token_a_generator_and_places():
    nameless = Tokenizer()
    nameless.mask_token = None
    with pytest.raises(
        ValueError, match=r"with a mask token, got Tokenizer without \(mlm=False trains a causal model\)"
    ):
        DataCollatorForLanguageModeling(nameless)
    assert DataCollatorForLanguageModeling(nameless, mlm=False)([GOOD | {"labels": [0, 0]}])["labels"].tolist() == [
        [5, 6]
    ]
    with pytest.raises(ValueError, match=r"expected a seed, or rng=np.random.default_rng\(...\) to draw from"):
        DataCollatorForLanguageModeling(Tokenizer())([{"input_ids": [5]}])
    make = {"whole_word_mask": True, "mask_replace_prob": 1, "random_replace_prob": 0, "seed": 0}
    with pytest.raises(ValueError, match="expected offset_mapping in the features"):
        DataCollatorForLanguageModeling(Tokenizer(), **make)([{"input_ids": [5]}])


# --- labels of words, blocks of text


@given(words=st.lists(st.integers(1, 4), min_size=1, max_size=8), data=st.data())
def test_the_first_token_of_a_word_has_its_label(words, data):
    labels = data.draw(st.lists(st.integers(0, 9), min_size=len(words), max_size=len(words)))
    ids = [None, *(word for word, tokens in enumerate(words) for _ in range(tokens)), None]
    made = token_labels(ids, labels)
    assert [label for label in made if label != -100] == labels
    assert made[0] == made[-1] == -100
    everywhere = token_labels(ids, labels, continuation=lambda label: label + 10)
    assert all(
        again == (first if first != -100 or word is None else labels[word] + 10)
        for again, first, word in zip(everywhere, made, ids, strict=True)
    )


def test_words_without_labels():
    with pytest.raises(ValueError, match="a label for each word, got 1, and word 1"):
        token_labels([0, 1], [3])
    columns = {"tokens": [["a", "b"]], "labels": [[0]]}
    with pytest.raises(ValueError, match="expected a column tags, got a dataset with the columns tokens, labels"):
        encode_words(columns, Tokenizer(), labels="tags")
    with pytest.raises(ValueError, match="tokenizer of the tokenizers package, got Tokenizer"):
        encode_words(columns, Tokenizer())
    fast = Tokenizer()
    fast.is_fast = True
    with pytest.raises(ValueError, match="in row 0, got 1 labels for 2 words"):
        encode_words(columns, fast)
    with pytest.raises(ValueError, match="in row 0, got a text"):
        encode_words({"tokens": ["ab"], "labels": [[0, 1]]}, fast)


@pytest.mark.parametrize("family", ["gpt2", "roberta", "bart"])
def test_words_of_a_byte_level_vocabulary_need_a_space_before_each(family):
    pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
    folder = Path(__file__).parents[1] / "golden/tokenizers" / family
    columns = {"tokens": [["big", "dogs"]], "labels": [[1, 2]]}
    with pytest.raises(
        ValueError, match=r"^encode_words: .* got one that joins them \(open it with add_prefix_space=True"
    ):
        encode_words(columns, AutoTokenizer.from_pretrained(folder, add_prefix_space=False))
    tokenizer = AutoTokenizer.from_pretrained(folder, add_prefix_space=True)
    encoded = encode_words(columns, tokenizer)
    ids, labels = (np.array(encoded[name][0]) for name in ("input_ids", "labels"))
    assert ids.tolist() == tokenizer("big dogs")["input_ids"]
    assert [token[0] for token in tokenizer.convert_ids_to_tokens(ids[labels >= 0].tolist())] == ["Ġ", "Ġ"]
    assert labels[labels >= 0].tolist() == [1, 2]


@given(rows=st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=9), size=st.integers(1, 12))
def test_blocks_are_the_text_without_its_end(rows, size):
    blocks = group_texts({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}, size)
    text = [token for row in rows for token in row]
    joined = [token for block in blocks["input_ids"] for token in block]
    assert all(len(block) == size for block in blocks["input_ids"])
    assert joined == text[: len(text) // size * size]
    assert np.shape(blocks["input_ids"]) == np.shape(blocks["attention_mask"])


def test_what_cannot_be_cut_into_blocks():
    with pytest.raises(ValueError, match="lists of ids in text"):
        group_texts({"text": ["abc"]}, 2)
    with pytest.raises(ValueError, match="as many entries in every column, got a 1, b 2"):
        group_texts({"a": [[1]], "b": [[1, 2]]}, 2)
    with pytest.raises(ValueError, match="block_size"):
        group_texts({"a": [[1]]}, 0)
