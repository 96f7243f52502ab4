"""Where text comes from, and the split."""

import io
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.text import python_topics, read_corpus, split_corpus


def test_python_topics_in_the_order_of_their_keys():
    from pydoc_data.topics import topics

    text = python_topics()
    assert text == "\n".join(value for _, value in sorted(topics.items()))
    assert len(text) > 300_000


def test_topics_in_any_order_give_the_same_text(monkeypatch):
    module = types.ModuleType("topics")
    module.topics = {"b": "second", "a": "first"}
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)
    assert python_topics() == "first\nsecond"


def test_python_without_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="python_topics: expected CPython"):
        python_topics()


def test_a_file_of_any_name_comes_as_it_stands(tmp_path):
    path = tmp_path / "poem.xyz"
    path.write_bytes("één\r\ntwo\n\n  three\t€\n".encode())
    assert read_corpus(path) == read_corpus(str(path)) == "één\r\ntwo\n\n  three\t€\n"


def test_byte_order_mark_is_dropped_in_front_only(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\xef\xbb\xbfb")
    assert read_corpus(tmp_path / "a.txt") == "a\ufeffb"


def test_folder_in_the_order_of_paths(tmp_path):
    for name, text in {
        "b.txt": "second",
        "a/z.md": "first",
        "c/d.RST": "third",
        "c/image.png": "\x00",
        ".hidden.txt": "no",
        ".git/x.txt": "no",
        "noend": "no",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "folder.txt").mkdir()
    assert read_corpus(tmp_path) == "first\nsecond\nthird"


def test_a_folder_inside_a_hidden_one_is_read(tmp_path):
    (tmp_path / ".cache" / "texts").mkdir(parents=True)
    (tmp_path / ".cache" / "texts" / "a.txt").write_text("read")
    assert read_corpus(tmp_path / ".cache" / "texts") == "read"


def stdin_with(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


def test_standard_input(monkeypatch):
    stdin_with(monkeypatch, "piped ü\r\n".encode())
    assert read_corpus("-") == "piped ü\r\n"


def test_standard_input_that_is_empty_or_not_utf8(monkeypatch):
    stdin_with(monkeypatch, b"")
    with pytest.raises(ValueError, match="read_corpus: expected text, got nothing in standard input"):
        read_corpus("-")
    stdin_with(monkeypatch, b"ab\xff")
    with pytest.raises(ValueError, match="got byte 0xff at offset 2 of standard input"):
        read_corpus("-")


def test_not_utf8_says_where(tmp_path):
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    for source in (tmp_path / "latin.txt", tmp_path):
        with pytest.raises(ValueError, match=r"expected UTF-8, got byte 0xef at offset 2 of '.*latin\.txt'") as raised:
            read_corpus(source)
        assert "\n" not in str(raised.value)


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match=r"got '.*none\.txt', which does not exist"):
        read_corpus(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"expected text files \(\.txt .*\), got none in"):
        read_corpus(tmp_path)
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("")
    for source in (tmp_path / "a.txt", tmp_path):
        with pytest.raises(ValueError, match="read_corpus: expected text, got nothing in"):
            read_corpus(source)


def test_a_file_below_a_file_is_an_error_of_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="read_corpus: expected"):
        read_corpus(tmp_path / "a.txt" / "b.txt")


@given(st.integers(2, 2000), st.floats(0.01, 0.99))
def test_split_is_whole_in_order_and_of_the_size_asked(length, held_out):
    tokens = np.arange(length)
    wanted = length * held_out
    if not 0.5 < wanted < length - 0.5:
        return
    train, validation = split_corpus(tokens, held_out)
    assert np.concatenate([train, validation]).tolist() == tokens.tolist()
    assert abs(len(validation) - wanted) <= 0.5 + 1e-6
    assert len(train) > 0


def test_last_tenth_of_text():
    text = python_topics()
    train, validation = split_corpus(text)
    assert train + validation == text
    assert len(train) == pytest.approx(0.9 * len(text), abs=1)


@pytest.mark.parametrize("held_out", [0, 1, -0.1, 1.5, float("nan")])
def test_fraction_out_of_range(held_out):
    with pytest.raises(ValueError, match="split_corpus: expected held_out between 0 and 1"):
        split_corpus("some text", held_out)


@pytest.mark.parametrize("text", ["", "a", "abcd"])
def test_too_short_to_split(text):
    with pytest.raises(ValueError, match="split_corpus: expected enough text"):
        split_corpus(text, 0.1)
