"""The list of a folder's files with their sizes and hashes, by which damage is found before anything is loaded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from numtx.checkpoints.config import read_json, write_json

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


def write_manifest(folder: str | os.PathLike[str]) -> None:
    """Write manifest.json: the size and SHA-256 of every file in a folder and below. Write it last.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.txt").write_text("whole")
    ...     write_manifest(folder)
    ...     verify_manifest(folder)
    ...     _ = Path(folder, "a.txt").write_text("whale")
    ...     try:
    ...         verify_manifest(folder)
    ...     except ValueError as error:
    ...         print(str(error).replace(folder, "FOLDER"))
    verify_manifest: expected 'FOLDER' as it was written, got another content of a.txt
    """
    folder = Path(folder)
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    write_json(folder / MANIFEST, {"format_version": FORMAT_VERSION, "files": files})


def verify_manifest(folder: str | os.PathLike[str]) -> None:
    """Require every file that a folder's manifest names to be as it was written; files beside them do not count.

    Raises
    ------
    ValueError
        In one line, with the first file that is missing, of another size or of another content, or because there is no
        whole manifest.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"verify_manifest: expected {MANIFEST} in '{folder}', got none")
    for name, noted in _files(folder).items():
        path = folder / name
        if not path.is_file():
            got = f"no {name}"
        elif path.stat().st_size != noted["size"]:
            got = f"{path.stat().st_size} bytes of {name}, which had {noted['size']}"
        elif _sha256(path) != noted["sha256"]:
            got = f"another content of {name}"
        else:
            continue
        raise ValueError(f"verify_manifest: expected '{folder}' as it was written, got {got}")


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files")
    whole = (
        manifest.get("format_version") == FORMAT_VERSION
        and isinstance(files, dict)
        and all(isinstance(noted, dict) and {"size", "sha256"} <= noted.keys() for noted in files.values())
    )
    if not whole or not files:
        raise ValueError(f"verify_manifest: expected the list of files in '{folder / MANIFEST}', got something else")
    return files


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"verify_manifest: expected to read '{path}', got: {error.strerror or error}") from error
