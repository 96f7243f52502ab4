"""Writes that happen wholly or not at all.

New content is written beside the old, forced to the disk, and only then given its name; so a full disk, a Ctrl-C or a
power cut leaves the old content as it was. Errors of the system pass through as OSError.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFTOVER = re.compile(r"\..+\.(new|old)\.[0-9a-f]{8}")  # what `_beside` names


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file, replacing an old one; text is written as UTF-8 with its line ends as they are.

    The folder is made if need be. On any error the old file stays and nothing is left behind.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write(f"{folder}/note.txt", "kept")
    ...     print(Path(folder, "note.txt").read_text())
    kept
    """
    with atomic_file(path) as new, open(new, "xb") as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a new file to write, which takes the name `path` when the block ends well.

    The folder is made if need be. On any error the old file stays and nothing is left behind.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_file(f"{folder}/note.txt") as new:
    ...         _ = new.write_text("kept")
    ...     print(Path(folder, "note.txt").read_text())
    kept
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(path, "new")
    try:
        yield new
        with open(new, "r+b") as file:  # Windows forces only files that are open for writing
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new folder to fill, which takes the name `path` when the block ends well.

    On any error inside the block or after it, the old folder (if there was one) stays and nothing is left behind. Two
    renames replace a full folder, as no system call common to all systems does it in one: a power cut exactly between
    them leaves the old content beside, as ``.NAME.old.*``.

    Raises
    ------
    ValueError
        If `path` is a file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     with atomic_folder(f"{runs}/run") as folder:
    ...         _ = (folder / "a.txt").write_text("whole")
    ...     print(Path(runs, "run", "a.txt").read_text())
    whole
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"atomic_folder: expected a folder or nothing at '{path}', got a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(path, "new")
    try:
        new.mkdir()
        yield new
        _sync_tree(new)
        _take_place(new, path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Remove a folder so that at no moment half of it stands under its name.

    Raises
    ------
    OSError
        If it cannot be given up its name; it is whole then. What cannot be removed after that stays as a leftover.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     Path(runs, "old").mkdir()
    ...     remove_folder(f"{runs}/old")
    ...     print(os.listdir(runs))
    []
    """
    path = Path(path)
    old = _beside(path, "old")
    os.replace(path, old)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove what writes left in a folder when their process was killed; nobody else may be writing there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, ".log.jsonl.new.00c0ffee").write_text("half a li")
    ...     remove_leftovers(folder)
    ...     print(os.listdir(folder))
    []
    """
    for path in Path(folder).iterdir():
        if not LEFTOVER.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _beside(path: Path, purpose: str) -> Path:
    # Of the same folder, because a rename is atomic within one file system only; hidden, so that no pattern for
    # finished work (checkpoint-*) finds it; random, so that two processes never write into one another's file.
    return path.with_name(f".{path.name}.{purpose}.{secrets.token_hex(4)}")


def _take_place(new: Path, path: Path) -> None:
    if not path.exists():
        os.replace(new, path)
        return
    old = _beside(path, "old")
    os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            # Windows forces only files that are open for writing.
            with open(os.path.join(parent, name), "r+b") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk; a rename is not on it before."""
    if os.name == "nt":  # no handle of a folder there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(handle)
