"""What a pretrained model's tokenizer does: options, results, special tokens, refusals."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer_questions import FOLDERS, NAMES, SLOW, TEXTS

from numtx.checkpoints import read_json
from numtx.text import AutoTokenizer, python_topics
from numtx.text.sentencepiece_model import load_processor

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
pytest.importorskip("sentencepiece", reason="no sentencepiece: pip install 'numtx[hub]'")

LONG = TEXTS[16]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def opened():
    return {name: AutoTokenizer.from_pretrained(FOLDERS / name) for name in NAMES}


def with_padding(tokenizer):
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


# --- what holds of every one


@pytest.mark.parametrize("name", NAMES)
@given(
    rows=st.lists(texts, min_size=1, max_size=4), side=st.sampled_from(("left", "right")), multiple=st.integers(1, 9)
)
def test_padding_adds_only_padding(opened, name, rows, side, multiple):
    tokenizer = with_padding(opened[name])
    batch = tokenizer(rows, padding=True, padding_side=side, pad_to_multiple_of=multiple, return_tensors="np")
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
    assert batch.input_ids.shape[1] % multiple == 0
    for ids, mask, text in zip(batch.input_ids, batch.attention_mask, rows, strict=True):
        real = ids[mask == 1]
        assert real.tolist() == tokenizer.encode(text)
        assert (ids[mask == 0] == tokenizer.pad_token_id).all()
        edge = mask[: len(mask) - real.size] if side == "left" else mask[real.size :]
        assert not edge.any()
    collated = tokenizer.pad([tokenizer(text) for text in rows], padding_side=side, pad_to_multiple_of=multiple)
    assert collated["input_ids"] == batch.input_ids.tolist()
    assert collated["attention_mask"] == batch.attention_mask.tolist()


@pytest.mark.parametrize("name", NAMES)
@given(text=texts, limit=st.integers(3, 12))
def test_truncation_keeps_the_beginning_or_the_end(opened, name, text, limit):
    tokenizer = opened[name]
    special = tokenizer.num_special_tokens_to_add()
    whole = tokenizer.encode(text, add_special_tokens=False)
    kept = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
    assert len(kept) == min(limit, len(whole) + special)
    assert tokenizer.encode(text, add_special_tokens=False, truncation=True, max_length=limit) == whole[:limit]
    tokenizer.truncation_side = "left"
    try:
        assert tokenizer.encode(text, add_special_tokens=False, max_length=limit) == whole[-limit:]
    finally:
        tokenizer.truncation_side = "right"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SLOW])
@given(text=texts, limit=st.integers(6, 12), stride=st.integers(0, 3))
def test_windows_cover_every_token_and_share_the_stride(opened, name, text, limit, stride):
    tokenizer = opened[name]
    whole = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    windows = tokenizer(
        text,
        truncation=True,
        max_length=limit,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        add_special_tokens=False,
    )
    rows = windows["input_ids"]
    assert windows["overflow_to_sample_mapping"] == [0] * len(rows)
    joined, spans = list(rows[0]), list(windows["offset_mapping"][0])
    for row, offsets in zip(rows[1:], windows["offset_mapping"][1:], strict=True):
        assert row[:stride] == joined[len(joined) - stride :]
        joined += row[stride:]
        spans += offsets[stride:]
    assert joined == whole["input_ids"]
    assert spans == whole["offset_mapping"]


@pytest.mark.parametrize("name", ["gpt2", "roberta", "llama"])
@given(text=texts)
@example(text=" ")
@example(text=" 0")
def test_byte_level_text_comes_back(opened, name, text):
    tokenizer = opened[name]
    if any(token in text for token in tokenizer.get_vocab() if token.startswith("<")):
        return
    whole = text
    if name == "llama":
        text = text.replace("▁", "")
        whole = text.removeprefix(" ")  # taken for the prefix: " 0" and "0" have the same ids, in Transformers too
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == whole


@pytest.mark.parametrize("name", NAMES)
@given(text=texts)
@example(text="0'0")  # "0 ' 0" until the clean-up
def test_text_that_grows_ends_as_it_is_decoded_at_once(opened, name, text):
    tokenizer = opened[name]
    ids = tokenizer.encode(text)
    growing = tokenizer.text_decoder()
    assert "".join(growing.decode([i]) for i in ids) + growing.decode([], final=True) == tokenizer.decode(
        ids, skip_special_tokens=True
    )


def test_a_long_text_grows_too(opened):
    for name in ("gpt2", "llama"):
        ids = opened[name].encode("naïve 😀 中文 of the end " * 40)
        growing = opened[name].text_decoder()
        parts = [growing.decode([i]) for i in ids]
        assert "".join(parts) + growing.decode([], final=True) == opened[name].decode(ids, skip_special_tokens=True)
        assert sum(map(bool, parts)) > len(parts) / 4


PROSE = [line for line in python_topics().split("\n") if line.strip()][3000:3200]


@pytest.mark.parametrize(("name", "file"), [("t5", "spiece.model"), ("llama", "tokenizer.model")])
def test_pieces_are_those_of_sentencepiece_itself(opened, name, file):
    processor = load_processor(FOLDERS / name / file)
    for line in PROSE:
        text = " ".join(line.split())
        assert opened[name].encode(text, add_special_tokens=False) == processor.encode(text)


def test_marian_reads_each_side_with_its_own_file(opened):
    tokenizer = opened["marian_separate"]
    for target, name, side in ((False, "vocab.json", "source.spm"), (True, "target_vocab.json", "target.spm")):
        table = read_json(FOLDERS / "marian_separate" / name)
        processor = load_processor(FOLDERS / "marian_separate" / side)
        for line in PROSE:
            pieces = processor.encode(line, out_type=str)
            ids = tokenizer(**{"text_target" if target else "text": line}, add_special_tokens=False)["input_ids"]
            assert ids == [table.get(piece, table["<unk>"]) for piece in pieces]


def test_of_added_tokens_the_longest_counts():
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / "marian")
    tokenizer.add_tokens(["<a>", "<a>b", "c<a>b"])
    assert tokenizer.tokenize("<a>b") == ["<a>b"]
    assert tokenizer.tokenize("c<a>b<a>") == ["c<a>b", "<a>"]


def test_padding_counts_as_special(opened):
    rows = [opened["bert"](text, return_special_tokens_mask=True) for text in ("of", "of the end")]
    padded = opened["bert"].pad(rows)
    assert padded["special_tokens_mask"][0] == [1, 0, 1] + [1] * (len(padded["input_ids"][1]) - 3)
    assert padded["token_type_ids"][0] == [0] * len(padded["input_ids"][1])


# --- results


def test_spans_lead_back_to_the_text(opened):
    encoded = opened["bert"]("Hello, world!", "of the end", return_offsets_mapping=True)
    for i, (start, end) in enumerate(encoded["offset_mapping"]):
        span = encoded.token_to_chars(i)
        assert span is None or tuple(span) == (start, end)
    place = encoded.char_to_token(8)
    assert encoded.tokens()[place] == opened["bert"].tokenize("Hello, world!")[place - 1]
    assert encoded.sequence_ids()[0] is None
    assert set(encoded.sequence_ids()) == {None, 0, 1}
    assert encoded.word_ids()[place] == encoded.token_to_word(place) == 2
    first = encoded.word_to_tokens(2)
    assert first.start <= place < first.end
    with pytest.raises(AttributeError, match="input_ids"):
        _ = encoded.labels


def test_a_tokenizer_without_spans_says_so(opened):
    with pytest.raises(ValueError, match="tokenizers package"):
        opened["marian"]("hi").word_ids()


def test_target_text_is_read_with_the_target_s_file(opened):
    tokenizer = opened["marian_separate"]
    text = "statement returned objects"
    both = tokenizer([text], text_target=[text])
    assert both["labels"] != both["input_ids"]
    assert tokenizer.batch_decode(both["labels"], skip_special_tokens=True) == [text]
    assert tokenizer(text_target=text)["input_ids"] == both["labels"][0]


def test_codes_of_languages(opened):
    tokenizer = opened["marian"]
    assert tokenizer.supported_language_codes == [">>fra<<", ">>deu<<"]
    assert tokenizer.tokenize(">>fra<< of")[0] == ">>fra<<"
    assert tokenizer.encode(">>fra<< of")[0] == tokenizer.convert_tokens_to_ids(">>fra<<")


def test_a_piece_without_an_id_is_unknown(opened):
    tokenizer = opened["marian"]
    assert tokenizer.unk_token_id in tokenizer.encode("中")


# --- special tokens


def test_special_tokens_can_be_set_and_added():
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / "gpt2")
    size = len(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    with pytest.raises(ValueError, match="add_special_tokens"):
        tokenizer.pad_token = "[PAD]"
    assert tokenizer.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": ["<a>", "<s>"]}) == 2
    assert (tokenizer.pad_token_id, len(tokenizer)) == (size, size + 2)
    assert tokenizer.tokenize("x[PAD]y<a>") == ["x", "[PAD]", "y", "<a>"]
    assert tokenizer.decode(tokenizer.encode("x[PAD]y<a>"), skip_special_tokens=True) == "xy"
    assert tokenizer.add_tokens(["new word", "[PAD]"]) == 1
    assert tokenizer.decode(tokenizer.encode("a new word"), skip_special_tokens=True) == "a new word"
    tokenizer.pad_token_id = 3
    assert tokenizer.pad_token == tokenizer.convert_ids_to_tokens(3)
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    with pytest.raises(ValueError, match="got 9999"):
        tokenizer.pad_token_id = 9999


def test_added_tokens_are_saved(tmp_path):
    for name in ("bert", "marian"):
        tokenizer = AutoTokenizer.from_pretrained(FOLDERS / name)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<a>"]})
        tokenizer.save_pretrained(tmp_path / name)
        again = AutoTokenizer.from_pretrained(tmp_path / name)
        assert again.encode("x <a> y") == tokenizer.encode("x <a> y")
        assert again.get_vocab() == tokenizer.get_vocab()
        assert again.additional_special_tokens == ["<a>"]


@pytest.mark.parametrize("name", ["bert", "llama", "marian"])
def test_a_copy_answers_the_same(opened, name):
    for copied in (copy.deepcopy(opened[name]), pickle.loads(pickle.dumps(opened[name]))):
        assert copied.encode("of the <mask>") == opened[name].encode("of the <mask>")
        assert copied.special_tokens_map == opened[name].special_tokens_map
        assert copied.get_added_vocab() == opened[name].get_added_vocab()


# --- decoding


def test_clean_up(opened):
    tokenizer = opened["bert_json"]
    ids = tokenizer.encode("[CLS] do n't , ok ?", add_special_tokens=False)
    assert opened["gpt2"].decode(opened["gpt2"].encode("a , b"), clean_up_tokenization_spaces=True) == "a , b"
    assert tokenizer.clean_up_tokenization("do n't , it 's ok ?") == "don't, it's ok?"
    assert " ," not in tokenizer.decode(ids)


def test_ids_of_spare_rows_give_nothing(opened):
    for name in NAMES:
        ids = opened[name].encode("of the")
        assert opened[name].decode([*ids, 100_000]) == opened[name].decode(ids)


def test_decoding_takes_ids_in_any_form(opened):
    tokenizer = opened["gpt2"]
    ids = tokenizer.encode("of the")
    assert tokenizer.decode(np.array(ids)) == tokenizer.decode(ids) == "of the"
    assert tokenizer.decode([ids, ids]) == tokenizer.batch_decode(np.array([ids, ids])) == ["of the"] * 2
    assert tokenizer.decode(ids[0]) == tokenizer.decode(np.int64(ids[0]))
    assert tokenizer.decode([]) == ""
    for wrong in ([-100], [1.5], ["a"], [True]):
        with pytest.raises(ValueError, match="expected ids"):
            tokenizer.decode(wrong)


# --- refusals


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((None,), {}, "text or text_target"),
        ((3,), {}, "expected a str, got int"),
        ((["a", 3],), {}, "expected a str, got int"),
        (("a", 3), {}, "expected a str, got int"),
        ((["a"], ["b", "c"]), {}, "expected 1 second texts"),
        ((["a"], "b"), {}, "second texts"),
        (([],), {}, "empty batch"),
        (("a\ud800",), {}, "lone surrogate"),
        (("a",), {"is_split_into_words": True}, "list of words"),
        (("a",), {"padding": "both"}, "padding"),
        (("a",), {"truncation": "first"}, "truncation"),
        (("a",), {"return_tensors": "pt"}, "return_tensors"),
        (("a",), {"padding_side": "top"}, "padding_side"),
        (("a",), {"max_length": 0}, "max_length"),
        (("a",), {"stride": -1}, "stride"),
        (("a",), {"no_such_option": 1}, "no_such_option"),
    ],
)
def test_refused(opened, name, arguments, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        opened[name](*arguments, **options)
    assert "\n" not in str(caught.value)


def test_lengths_that_cannot_be():
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / "bert")
    with pytest.raises(ValueError, match="max_length of at least 2, the special tokens of a row, got 1"):
        tokenizer("a", truncation=True, max_length=1)
    with pytest.raises(ValueError, match="at least 3"):
        tokenizer("a", "b", truncation=True, max_length=2)
    with pytest.raises(ValueError, match="stride below 3"):
        tokenizer(LONG, truncation=True, max_length=5, stride=3, return_overflowing_tokens=True)
    with pytest.raises(ValueError, match="multiple of pad_to_multiple_of 8, got 9"):
        tokenizer("a", truncation=True, padding=True, max_length=9, pad_to_multiple_of=8)
    with pytest.raises(ValueError, match="padding=True"):
        tokenizer(["a", "of the end"], return_tensors="np")
    with pytest.raises(ValueError, match="these options"):
        tokenizer("a", LONG, truncation="only_first", max_length=6)


@pytest.mark.parametrize("how", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("room", range(3, 12))
@pytest.mark.parametrize("stride", [1, 2, 5])
def test_a_stride_that_a_half_has_no_room_for(how, room, stride, capfd):
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / "bert")
    for pair in (("of the end", LONG), (LONG, "of the end"), (LONG, LONG), ("of", LONG), (LONG, "of")):
        try:
            encoded = tokenizer(*pair, truncation=how, max_length=room, stride=stride, return_overflowing_tokens=True)
        except ValueError as refused:
            said = str(refused)
        else:
            said = ""
            assert max(map(len, encoded.input_ids)) <= room
        assert "\n" not in said
    assert capfd.readouterr().err == ""  # where a panic shows


def test_a_stride_is_refused_no_sooner_than_it_must():
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / "bert")
    short, settings = len(tokenizer.tokenize("of")), {"truncation": True, "return_overflowing_tokens": True}
    most = 20 - 3 - short - 1  # all but the special tokens, the short text and one
    assert len(tokenizer("of", LONG, max_length=20, stride=most, **settings).input_ids) > 1
    with pytest.raises(
        ValueError, match=rf"expected stride below {most + 1}, the tokens that max_length 20 and longest"
    ):
        tokenizer("of", LONG, max_length=20, stride=most + 1, **settings)


def test_what_collators_ask_for(opened):
    tokenizer = opened["bert"]
    encoded = tokenizer("of the end", return_special_tokens_mask=True)
    mask = tokenizer.get_special_tokens_mask(encoded["input_ids"], already_has_special_tokens=True)
    assert mask == encoded["special_tokens_mask"] == [1, *[0] * (len(mask) - 2), 1]
    with pytest.raises(ValueError, match="already_has_special_tokens=True"):
        tokenizer.get_special_tokens_mask([1])
    assert tokenizer.pad_token_type_id == 0
    found = tokenizer.added_tokens_decoder
    assert {str(token.content): index for index, token in found.items()} == tokenizer.get_added_vocab()
    assert found[tokenizer.pad_token_id].special


def test_no_padding_token():
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / "gpt2")
    with pytest.raises(ValueError, match=r"tokenizer\.pad_token = tokenizer\.eos_token"):
        tokenizer(["a"], padding=True)
    with pytest.raises(ValueError, match="padding token"):
        tokenizer.pad([{"input_ids": [1]}])


def test_what_is_too_long_is_said_once():
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / "bert")
    with pytest.warns(UserWarning, match=r"at most 64 tokens, got \d+ .truncation=True"):
        tokenizer(LONG)
    tokenizer(LONG)  # warnings are errors here
    assert len(tokenizer(LONG, truncation=True)["input_ids"]) == 64
    with pytest.warns(UserWarning, match="max_length is not used"):
        tokenizer("a", padding=True, max_length=4)


def test_marian_has_no_windows():
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / "marian")
    for option in ("return_overflowing_tokens", "return_offsets_mapping"):
        with pytest.raises(ValueError, match=option):
            tokenizer("a", **{option: True})
    with pytest.raises(ValueError, match="expected a second text of at least"):
        tokenizer(LONG, truncation="only_second", max_length=5)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "none"),
        ({"attention_mask": [1]}, "attention_mask"),
        ([{"input_ids": [1]}, {}], "one without"),
        ({"input_ids": [[1], [2]], "attention_mask": [[1]]}, "2 rows of attention_mask, got 1"),
    ],
)
def test_rows_that_cannot_be_padded(opened, rows, words):
    with pytest.raises(ValueError, match=words):
        opened["bert"].pad(rows)
