"""A folder's files are those that were written, or it is said which one is not."""

import json

import pytest

from numtx.checkpoints import verify_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.bin").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/state.json").write_text("{}")
    write_manifest(tmp_path)
    return tmp_path


def test_what_is_noted(folder):
    content = json.loads((folder / "manifest.json").read_text())
    assert content["files"]["sub/state.json"] == {
        "size": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }
    assert sorted(content["files"]) == ["empty", "model.bin", "sub/state.json"]
    verify_manifest(folder)
    write_manifest(folder)  # itself is never among them
    assert json.loads((folder / "manifest.json").read_text()) == content


def test_files_beside_do_not_count(folder):
    (folder / "notes.txt").write_text("mine")
    verify_manifest(folder)


@pytest.mark.parametrize("place", [0, 5000, -1])
def test_any_bit_is_noticed(folder, place):
    content = bytearray((folder / "model.bin").read_bytes())
    content[place] ^= 0x10
    (folder / "model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"^verify_manifest: [^\n]*got another content of model\.bin$"):
        verify_manifest(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.bin", b"short", r"5 bytes of model\.bin, which had 10240"),
        ("empty", b"x", "1 bytes of empty, which had 0"),
        ("model.bin", None, r"no model\.bin"),
        ("sub/state.json", None, r"no sub/state\.json"),
        ("manifest.json", None, r"expected manifest\.json in .*, got none"),
        ("manifest.json", b"", "whole JSON"),
        ("manifest.json", b'{"format_version": 1, "files": {"mod', "whole JSON"),
        ("manifest.json", b'{"format_version": 1, "files": {}}', "list of files"),
        ("manifest.json", b'{"format_version": 1, "files": ["model.bin"]}', "list of files"),
        ("manifest.json", b'{"format_version": 1, "files": {"model.bin": {"size": 10240}}}', "list of files"),
        ("manifest.json", b'{"format_version": 2, "files": {"model.bin": {"size": 1, "sha256": ""}}}', "list of files"),
        ("manifest.json", b"\xff\xfe", "expected"),
    ],
)
def test_damage_is_one_line(folder, name, content, said):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        verify_manifest(folder)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"expected manifest\.json"):
        verify_manifest(tmp_path / "nowhere")
