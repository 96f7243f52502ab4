"""Names of the Hugging Face hub: what is needed of a repository, fetched once and kept in the hub's own cache.

Everything goes through the package `huggingface_hub`, so its environment variables mean what they mean everywhere:
`HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`. What Transformers has fetched is found, and
Transformers finds what is fetched here.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numtx.checkpoints.hub_files import ALL_FILES, CONFIG_FILES, MODEL_FILES, TOKENIZER_FILES, TOKENIZER_FORMS, Wanted
from numtx.checkpoints.repository import Repository

__all__ = [
    "ALL_FILES",
    "CONFIG_FILES",
    "MODEL_FILES",
    "TOKENIZER_FILES",
    "TOKENIZER_FORMS",
    "Wanted",
    "local_path",
    "repository_of",
    "resolve",
]

NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
FILE_INSIDE = re.compile(r"([\w.-]+/[\w.-]+)/(.+\.gguf)", re.ASCII)


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    files: Iterable[Wanted] = MODEL_FILES,
) -> Path:
    """Return the folder in which a model lies: a folder or file as it is, a hub name after its files were fetched.

    Parameters
    ----------
    name_or_path : str or path
        A folder, a file, or a hub name: "gpt2", "owner/name", or one GGUF file of a repository,
        "owner/name/model.gguf" (the result is then the file).
    revision : str, optional
        Branch, tag or commit; default "main". Of hub names only.
    token : str or bool, optional
        Default: the hub's own way (`HF_TOKEN`, or the one that was logged in with); False sends none.
    cache_dir : path, optional
        Default: the hub's own cache.
    local_files_only : bool
        Use what is on disk and ask nobody; `HF_HUB_OFFLINE=1` in the environment does the same.
    files : iterable of Wanted
        What is fetched: `MODEL_FILES`, `TOKENIZER_FILES`, their sum, `CONFIG_FILES`. Twins of the weights for other
        frameworks never are.

    Raises
    ------
    ValueError
        In one line: there is nothing of that name, it is not on disk when offline (with the command that fetches it),
        the repository is gated or lacks the revision or a file, or the hub is out of reach.
    ImportError
        If it is no path and the extra `hub` is not installed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(resolve(folder) == Path(folder))
    True
    """
    path = local_path(name_or_path)
    if path is not None:
        return path
    repository = repository_of(
        name_or_path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    if repository.file is not None:
        return repository.get(repository.file)
    return repository.fetch(files)


def local_path(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Return the folder or file of this name, if there is one.

    Raises
    ------
    ValueError
        If there is none, and no hub name looks like this.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise ValueError(f"hub: expected a folder, a file, or a name, got {type(name_or_path).__name__}")
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if text and "\0" not in text and path.exists():
        return path
    if not NAME.fullmatch(text) and not _file_inside(text):
        raise ValueError(
            f"hub: expected a folder, a file, or a name such as 'gpt2' or 'owner/name', got {text!r}, which does not"
            " exist"
        )
    return None


def repository_of(name: str | os.PathLike[str], **access: Any) -> Repository:
    """Return the repository of a name that `local_path` did not refuse; `access` as in `resolve`."""
    inside = _file_inside(os.fspath(name))
    return Repository(*inside, **access) if inside else Repository(os.fspath(name), **access)


def _file_inside(text: str) -> tuple[str, str] | None:
    """The repository and the GGUF file in it that "owner/name/folder/file.gguf" names."""
    match = FILE_INSIDE.fullmatch(text)
    if not match or not NAME.fullmatch(match[1]) or ".." in match[2].split("/"):
        return None
    return match[1], match[2]
