"""Atomic writes: whole or not at all, whatever fails, in an order that a power cut cannot spoil."""

import errno
import os
import stat
import subprocess
import sys
import textwrap

import pytest

from numtx.checkpoints import atomic_folder, atomic_write, remove_leftovers
from numtx.checkpoints.atomic import _beside

FULL = OSError(errno.ENOSPC, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def failing(monkeypatch, function, error, at_call=1):
    """Let the at_call-th call of os.<function> fail."""
    real, calls = getattr(os, function), []

    def wrapper(*arguments, **options):
        calls.append(arguments)
        if len(calls) == at_call:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(os, function, wrapper)
    return calls


def test_bytes_and_text_as_they_stand(tmp_path):
    atomic_write(tmp_path / "a", b"\x00\xff\r\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff\r\n"
    atomic_write(str(tmp_path / "a"), "é\r\n\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\r\n\n"
    assert names(tmp_path) == ["a"]


def test_folders_above_are_made(tmp_path):
    atomic_write(tmp_path / "b" / "c" / "a", "x")
    with atomic_folder(tmp_path / "d" / "e") as folder:
        (folder / "a").write_text("y")
    assert (tmp_path / "b" / "c" / "a").read_text() == "x"
    assert (tmp_path / "d" / "e" / "a").read_text() == "y"


@pytest.mark.skipif(os.name == "nt", reason="no such modes there")
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    atomic_write(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
@pytest.mark.parametrize("old", [True, False])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, function, error, old):
    if old:
        (tmp_path / "a").write_text("old")
    calls = failing(monkeypatch, function, error)
    with pytest.raises(type(error)):
        atomic_write(tmp_path / "a", "new")
    assert calls
    assert names(tmp_path) == (["a"] if old else [])
    assert not old or (tmp_path / "a").read_text() == "old"


@pytest.mark.skipif(os.name == "nt", reason="no limits there")
def test_a_disk_that_is_really_full(tmp_path):
    """The kernel refuses the bytes in the middle: a limit of the file size stands for the full disk."""
    script = """
        import resource, signal, sys
        import numpy as np
        from numtx.checkpoints import atomic_folder, atomic_write, save_arrays
        folder = sys.argv[1]
        atomic_write(folder + "/a", b"old")
        save_arrays(folder + "/b.safetensors", {"x": np.arange(3)})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        failed = 0
        try:
            atomic_write(folder + "/a", b"n" * 100_000)
        except OSError:
            failed += 1
        try:
            save_arrays(folder + "/b.safetensors", {"x": np.zeros(100_000)})
        except OSError:
            failed += 1
        try:
            with atomic_folder(folder + "/run") as run:
                save_arrays(run / "small.safetensors", {"x": np.zeros(1)})
                save_arrays(run / "large.safetensors", {"x": np.zeros(100_000)})
        except OSError:
            failed += 1
        assert failed == 3
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True, env=environment, cwd=os.getcwd()
    )
    assert names(tmp_path) == ["a", "b.safetensors"]
    assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / "b.safetensors").stat().st_size < 200


@pytest.mark.skipif(os.name == "nt", reason="folders are not forced there")
def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    events = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else os.fstat(handle).st_size)
        real_fsync(handle)

    def replace(source, target):
        events.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    atomic_write(tmp_path / "a", b"12345")
    assert events == [5, "rename", "folder"]
    events.clear()
    with atomic_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("1234567")
        (folder / "sub").mkdir()
        (folder / "sub" / "b").write_text("12")
    assert events == [7, "folder", 2, "folder", "rename", "folder"]


def test_a_folder_shows_only_when_whole(tmp_path):
    with atomic_folder(tmp_path / "checkpoint-5") as folder:
        (folder / "a").write_text("x")
        assert not list(tmp_path.glob("checkpoint-*"))
        assert folder.parent == tmp_path
    assert names(tmp_path) == ["checkpoint-5"]
    assert names(tmp_path / "checkpoint-5") == ["a"]


def test_a_full_folder_is_replaced_whole(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "run") as folder:
            (folder / content).write_text(content)
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["new"]


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), ValueError("mine")], ids=repr)
def test_an_error_inside_leaves_the_old_folder(tmp_path, error):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_text("old")

    def fill():
        with atomic_folder(tmp_path / "run") as folder:
            (folder / "a").write_text("new")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert names(tmp_path) == ["run"]
    assert (tmp_path / "run" / "a").read_text() == "old"


@pytest.mark.parametrize(("function", "at_call"), [("fsync", 1), ("replace", 1), ("replace", 2)])
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
def test_an_error_at_the_end_leaves_the_old_folder(tmp_path, monkeypatch, function, at_call, error):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_text("old")
    calls = failing(monkeypatch, function, error, at_call)

    def fill():
        with atomic_folder(tmp_path / "run") as folder:
            (folder / "a").write_text("new")

    with pytest.raises(type(error)):
        fill()
    assert len(calls) >= at_call
    assert names(tmp_path) == ["run"]
    assert (tmp_path / "run" / "a").read_text() == "old"


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "run").write_text("precious")
    with (
        pytest.raises(ValueError, match="atomic_folder: expected a folder or nothing"),
        atomic_folder(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run").read_text() == "precious"


@pytest.mark.skipif(os.name == "nt", reason="folders are not forced there")
@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_force_folders_will_do(tmp_path, monkeypatch, number, passes):
    failing(monkeypatch, "fsync", OSError(number, "no"), at_call=2)
    if passes:
        atomic_write(tmp_path / "a", "x")
    else:
        with pytest.raises(OSError, match="no"):
            atomic_write(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


def test_leftovers_of_killed_writes_are_removed(tmp_path, monkeypatch):
    """Half a file, half a folder and a folder that was about to be replaced; nothing that somebody else put there."""
    for name in ("config.json", ".notes.new.txt", ".hidden", "checkpoint-5/.log.new.00c0ffee"):
        atomic_write(tmp_path / name, "kept")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("numtx.checkpoints.atomic.os.fsync", killed)
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
    monkeypatch.setattr("numtx.checkpoints.atomic.shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "config.json", "new")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "checkpoint-5") as folder:
        (folder / "a").write_text("half")
    monkeypatch.undo()
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4").rename(_beside(tmp_path / "checkpoint-4", "old"))
    assert len(sorted(tmp_path.rglob("*"))) == len(before) + 4
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def killed(*_):
    raise KeyboardInterrupt
