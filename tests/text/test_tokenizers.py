"""Character and byte tokenizers: round trips, streaming, files, bad input."""

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.text import ByteTokenizer, CharTokenizer, load_tokenizer, python_topics

TRICKY = (
    "Hello  world .\r\n\t it 's  ,  naïve €😀 </s> <|endoftext|> [UNK] <unk> \u2028\u00a0e\u0301\x00\ufeff end \n\n"
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


def reference_byte_names() -> dict[int, str]:
    """GPT-2's bytes_to_unicode, as OpenAI wrote it."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    names = {byte: chr(byte) for byte in shown}
    extra = 0
    for byte in range(256):
        if byte not in names:
            names[byte] = chr(256 + extra)
            extra += 1
    return names


@given(texts, texts)
def test_char_ids_are_places_in_the_vocabulary(text, more):
    tokenizer = CharTokenizer.from_text(text + more + "x")
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert ids.shape == (len(text),)
    assert ids.tolist() == [tokenizer.characters.index(character) for character in text]
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == len(set(text + more + "x"))


def test_char_vocabulary_keeps_the_order_given():
    tokenizer = CharTokenizer("zaö")
    assert tokenizer.encode("aöz").tolist() == [1, 2, 0]
    assert CharTokenizer.from_text("zaöaz").characters == "azö"


@given(texts)
def test_bytes_are_the_utf8_form(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert ids.tolist() == list(text.encode("utf-8"))
    assert tokenizer.decode(ids) == text


@given(st.binary())
def test_any_bytes_decode(data):
    assert ByteTokenizer().decode(list(data)) == data.decode("utf-8", errors="replace")


@given(st.binary(), st.lists(st.integers(0, 12)))
def test_byte_stream_equals_the_whole(data, cuts):
    decoder = ByteTokenizer().text_decoder()
    pieces, start = [], 0
    for length in cuts:
        pieces.append(decoder.decode(list(data[start : start + length])))
        start += length
    pieces.append(decoder.decode(list(data[start:]), final=True))
    assert "".join(pieces) == data.decode("utf-8", errors="replace")


def test_a_character_is_printed_only_when_whole():
    decoder = ByteTokenizer().text_decoder()
    assert [decoder.decode([byte]) for byte in "a€😀".encode()] == ["a", "", "", "€", "", "", "", "😀"]
    assert decoder.decode([0xE2, 0x82]) == ""
    assert decoder.decode([], final=True) == "\ufffd"


def test_two_streams_do_not_share_bytes():
    tokenizer = ByteTokenizer()
    first, second = tokenizer.text_decoder(), tokenizer.text_decoder()
    assert first.decode([0xC3]) == ""
    assert second.decode([0xA9], final=True) == "\ufffd"
    assert first.decode([0xA9]) == "é"


def test_char_stream():
    decoder = CharTokenizer("ab").text_decoder()
    assert decoder.decode([1]) + decoder.decode([], final=True) + decoder.decode(np.array([0])) == "ba"


@given(texts.filter(bool))
def test_saved_characters_come_back(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("saved")
    CharTokenizer.from_text(text).save(folder)
    loaded = load_tokenizer(folder)
    assert isinstance(loaded, CharTokenizer)
    assert loaded.characters == CharTokenizer.from_text(text).characters


def test_saved_vocabulary_of_more_than_ten_keeps_its_order(tmp_path):
    characters = "zyxwvutsrqponmlkjihgfedcba"
    CharTokenizer(characters).save(tmp_path / "new" / "folder")
    assert load_tokenizer(tmp_path / "new" / "folder").encode("za").tolist() == [0, 25]


def test_saved_bytes_come_back(tmp_path):
    ByteTokenizer().save(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), ByteTokenizer)


def test_byte_names_are_those_of_gpt2(tmp_path):
    ByteTokenizer().save(tmp_path)
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert {byte: name for name, byte in vocabulary.items()} == reference_byte_names()


@pytest.mark.parametrize("tokenizer", [CharTokenizer.from_text(TRICKY), ByteTokenizer()])
def test_tricky_text(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    np.testing.assert_array_equal(loaded.encode(TRICKY), tokenizer.encode(TRICKY))
    assert loaded.decode(loaded.encode(TRICKY)) == TRICKY


@pytest.mark.parametrize("tokenizer", [CharTokenizer("a"), ByteTokenizer()])
def test_nothing_encodes_to_nothing(tokenizer):
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.encode("").dtype == np.int64
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(tokenizer.encode("")) == ""


def test_the_default_text_is_encoded_fast():
    text = python_topics()
    tokenizer = CharTokenizer.from_text(text)
    for each in (tokenizer, ByteTokenizer()):
        best = np.inf
        for _ in range(3):
            began = time.perf_counter()
            ids = each.encode(text)
            best = min(best, time.perf_counter() - began)
        assert best < 0.1
        assert each.decode(ids) == text


@pytest.mark.parametrize(
    ("characters", "text", "message"),
    [
        (
            "abc",
            "ab€c",
            r"CharTokenizer: expected characters of its vocabulary of 3, got '€' \(U\+20AC\) at position 2",
        ),
        ("ac", "abc", r"got 'b' \(U\+0062\) at position 1"),
        ("abc", "\n\n", r"got '\\n' \(U\+000A\) at position 0"),
        ("abc", "a\udcff", r"got the lone surrogate U\+DCFF at position 1"),
    ],
)
def test_unknown_character(characters, text, message):
    with pytest.raises(ValueError, match=message) as raised:
        CharTokenizer(characters).encode(text)
    assert "\n" not in str(raised.value)


def test_bytes_refuse_a_lone_surrogate():
    with pytest.raises(ValueError, match=r"ByteTokenizer: expected text .*lone surrogate U\+DCFF at position 2"):
        ByteTokenizer().encode("ab\udcff")


@pytest.mark.parametrize(
    ("characters", "message"),
    [("", "at least one"), ("aba", "each character once, got 'a'"), ("a\ud800", "lone surrogate")],
)
def test_bad_vocabulary(characters, message):
    with pytest.raises(ValueError, match=message):
        CharTokenizer(characters)


@pytest.mark.parametrize("tokenizer", [CharTokenizer("abc"), ByteTokenizer()])
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, -1], "expected ids from 0 to .*, got -1"),
        ([0, 256, -1], "expected ids from 0 to .*, got 256"),
        ([0.0, 1.0], "expected integer ids, got dtype float64"),
        ([True], "expected integer ids, got dtype bool"),
        ([[0, 1]], r"expected ids of shape \(T,\), got shape \(1, 2\)"),
        (0, r"expected ids of shape \(T,\), got shape \(\)"),
    ],
)
def test_bad_ids(tokenizer, ids, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(ids)


@pytest.mark.parametrize("tokenizer", [CharTokenizer("abc"), ByteTokenizer()])
def test_text_must_be_text(tokenizer):
    with pytest.raises(ValueError, match="expected a str, got bytes"):
        tokenizer.encode(b"abc")


def changed(folder, change):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["model"].update(type="Unigram"),
        lambda content: content["model"]["vocab"].update({"ab": 3}),
        lambda content: content["model"]["vocab"].update({"d": 4}),
        lambda content: content["model"]["vocab"].update({"d": "3"}),
        lambda content: content["model"].update(vocab={}),
        lambda content: content["model"].update(vocab=[["a", 0.0]]),
        lambda content: content.update(model="WordLevel"),
        lambda content: content.update(normalizer={"type": "Lowercase"}),
        lambda content: content.update(post_processor={"type": "ByteLevel"}),
        lambda content: content.update(post_processor="ByteLevel"),
        lambda content: content.update(
            post_processor={"type": "TemplateProcessing", "single": [], "special_tokens": {"<s>": {}}}
        ),
        lambda content: content.update(added_tokens=[{"id": 3, "content": "<s>"}]),
    ],
)
def test_another_kind_of_tokenizer_is_refused(tmp_path, change):
    CharTokenizer("abc").save(tmp_path)
    changed(tmp_path, change)
    with pytest.raises(ValueError, match="load_tokenizer: expected a tokenizer of characters or bytes"):
        load_tokenizer(tmp_path)


def test_bytes_with_merges_are_refused(tmp_path):
    ByteTokenizer().save(tmp_path)
    changed(tmp_path, lambda content: content["model"].update(merges=["a b"]))
    with pytest.raises(ValueError, match="load_tokenizer: expected a tokenizer of characters or bytes"):
        load_tokenizer(tmp_path)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ValueError, match=r"expected the file '.*tokenizer\.json', got nothing there"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type"')
    with pytest.raises(ValueError, match=r"expected whole JSON in '.*tokenizer\.json'"):
        load_tokenizer(tmp_path)
