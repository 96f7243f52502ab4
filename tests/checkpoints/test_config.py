"""JSON settings and logs: round trips and errors of one line."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.checkpoints import read_json, read_json_lines, write_json

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=10)


@given(st.dictionaries(texts, values))
def test_round_trip(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("saved") / "config.json"
    write_json(path, content)
    assert read_json(path) == content
    assert list(read_json(path)) == list(content)


def test_the_file_is_readable_utf8_text(tmp_path):
    write_json(tmp_path / "a.json", {"name": "é", "layers": 2})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "name": "é",\n  "layers": 2\n}\n'.encode()


@pytest.mark.parametrize("content", [{"a": float("nan")}, {"a": float("inf")}, {"a": object()}, {"a": {1, 2}}])
def test_what_json_cannot_hold(tmp_path, content):
    with pytest.raises(ValueError, match=r"write_json: expected JSON content for '.*a\.json'"):
        write_json(tmp_path / "a.json", content)
    assert not (tmp_path / "a.json").exists()


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"a": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "a.json", {"a": 2})
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected whole JSON in '.*a.json', got broken JSON at line 1, column 1"),
        (b'{"a": 1,\n "b', "got broken JSON at line 2, column 2"),
        (b'{"a": 1} x', "got broken JSON"),
        (b"[" * 100_000, "got broken JSON"),
        (b"[1, 2]", "expected a JSON object in '.*a.json', got list"),
        (b"null", "got NoneType"),
        (b'{"a": "\xff"}', "expected UTF-8 in '.*a.json', got another byte at offset 7"),
    ],
)
def test_broken_file(tmp_path, data, message):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match="read_json: .*" + message) as raised:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(raised.value)


def test_no_file(tmp_path):
    for read in (read_json, read_json_lines):
        with pytest.raises(ValueError, match=f"{read.__name__}: expected the file '.*a.json', got nothing there"):
            read(tmp_path / "a.json")
        with pytest.raises(ValueError, match=f"{read.__name__}: expected a readable file"):
            read(tmp_path)


def test_lacking_keys_are_all_named(tmp_path):
    write_json(tmp_path / "a.json", {"b": None})
    assert read_json(tmp_path / "a.json", required=["b"]) == {"b": None}
    with pytest.raises(ValueError, match=r"expected the keys a, c in '.*a\.json', got a file without them"):
        read_json(tmp_path / "a.json", required=["a", "b", "c"])


@pytest.mark.parametrize(
    ("content", "got"), [({}, "none"), ({"format_version": 2}, "2"), ({"format_version": "1"}, "1")]
)
def test_another_version(tmp_path, content, got):
    write_json(tmp_path / "a.json", content)
    with pytest.raises(ValueError, match=rf"expected format_version 1 in '.*a\.json', got {got}"):
        read_json(tmp_path / "a.json", required=["x"], version=1)


def test_the_right_version(tmp_path):
    write_json(tmp_path / "a.json", {"format_version": 1})
    assert read_json(tmp_path / "a.json", version=1) == {"format_version": 1}


def test_log_lines(tmp_path):
    (tmp_path / "log").write_bytes('{"a": "é\u2028\u0085"}\n\n{"b": 2}\r\n'.encode())
    assert read_json_lines(tmp_path / "log") == [{"a": "é\u2028\u0085"}, {"b": 2}]
    (tmp_path / "log").write_bytes(b"")
    assert read_json_lines(tmp_path / "log") == []


def test_the_line_that_a_killed_process_was_writing_is_left_out(tmp_path):
    (tmp_path / "log").write_bytes(b'{"a": 1}\n{"a": 2')
    assert read_json_lines(tmp_path / "log") == [{"a": 1}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n{"a": \n{"a": 3}\n', "expected whole JSON in line 2 of '.*log'"),
        (b'{"a": 1}\n3\n', "expected a JSON object in line 2 of '.*log', got int"),
    ],
)
def test_a_broken_line_is_named(tmp_path, data, message):
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(ValueError, match="read_json_lines: " + message):
        read_json_lines(tmp_path / "log")
