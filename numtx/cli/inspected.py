"""What is known of a model without reading its weights: from the headers of its files, on disk or on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numtx.checkpoints import StoredArray, StoredArrays
    from numtx.checkpoints.repository import Repository


class Stored(NamedTuple):
    """An array in a file: its type, as PyTorch calls it, its shape, and its bytes there."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Inspected:
    """A model as its files describe it.

    Attributes
    ----------
    config : dict
        The entries of its `config.json`.
    arrays : dict of name to Stored, or None
        None where that cannot be known without fetching the weights.
    again : set of names
        Those of arrays that are another one's memory, as tied weights are in PyTorch's archives.
    files : dict of name to bytes
    place : str
        Where the files lie.
    fetched : bool
        Whether they are on this disk.
    """

    config: Mapping[str, Any]
    arrays: Mapping[str, Stored] | None
    again: frozenset[str]
    files: Mapping[str, int]
    place: str
    fetched: bool = True


def inspect(name: str, *, revision: str | None = None, fetch: bool = False) -> Inspected:
    """Return what is known of a folder, a GGUF file, or a name on the hub; weights are fetched only if asked to.

    Raises
    ------
    ValueError
        In one line: there is no such model, or its files are not whole.
    """
    from numtx.checkpoints.hub import ALL_FILES, local_path, repository_of

    path = local_path(name)
    if path is not None:
        return _on_disk(path)
    repository = repository_of(name, revision=revision)
    if repository.file is not None:
        path = repository.get(repository.file) if fetch else repository.on_disk(repository.file)
        return _file_elsewhere(repository, repository.file) if path is None else _on_disk(path)
    if fetch:
        return _on_disk(repository.fetch(ALL_FILES))
    return _folder_elsewhere(repository)


def aliases(arrays: StoredArrays) -> frozenset[str]:
    """Return the names of arrays that are another one's memory, without reading one.

    PyTorch's archives hold a tied weight once, under all its names. Of those the one that Transformers writes is kept:
    the embedding's rather than the head's or the stack's.
    """
    found: dict[Any, list[str]] = {}
    for name, entry in arrays.entries.items():
        place = _place(entry)
        if place is not None and entry.nbytes:
            found.setdefault(place, []).append(name)
    return frozenset(name for names in found.values() for name in _surplus(names))


def _place(entry: StoredArray) -> Any:
    """The numbers that an entry of a PyTorch archive views, as something to compare; None for other files."""
    from numtx.checkpoints.pytorch_tensors import Tensor

    given = entry.read.args if isinstance(entry.read, partial) else ()
    if given and isinstance(given[0], Tensor):
        return id(given[1]), given[0]  # the map of the file, and the view of a storage in it
    return None


def _surplus(names: list[str]) -> Iterator[str]:
    lent = [name for name in names if name.rpartition(".")[0].endswith(LENT)]
    return iter(lent if len(lent) < len(names) else lent[1:])


# What is tied to the embedding, or to the head's own bias, in Transformers' models.
LENT = ("lm_head", "decoder", "encoder.embed_tokens", "decoder.embed_tokens", "vocab_projector", "embed_out")


def _on_disk(path: Path) -> Inspected:
    """What a folder or a file holds."""
    from numtx.checkpoints import open_checkpoint
    from numtx.checkpoints.hub import ALL_FILES

    checkpoint = open_checkpoint(path)
    files = list(checkpoint.files)
    if path.is_dir():
        beside = [path / file for file in names_of(ALL_FILES)]
        files += [file for file in beside if file.is_file() and file not in files and not _weights(file.name)]
    folder = path if path.is_dir() else path.parent
    arrays = {name: Stored(*entry[:3]) for name, entry in checkpoint.arrays.entries.items()}
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    return Inspected(checkpoint.config, arrays, aliases(checkpoint.arrays), sizes, str(folder))


def _folder_elsewhere(repository: Repository) -> Inspected:
    """What a repository of the hub holds: its config is fetched, of its weights the headers if that can be."""
    from numtx.checkpoints import read_json
    from numtx.checkpoints.folder import read_index
    from numtx.checkpoints.hub import MODEL_FILES
    from numtx.checkpoints.repository import Repository

    config = repository.get("config.json")
    here = Repository(repository.name, revision=repository.commit, local_files_only=True)
    try:
        return _on_disk(here.fetch(MODEL_FILES))
    except ValueError:
        if repository.offline or repository.unreachable:
            raise
    entries, place = read_json(config), f"{repository.constants.ENDPOINT}/{repository.name}"
    headers = repository.safetensors_headers()
    if headers is not None:
        arrays = {name: Stored(*entry) for file in headers.values() for name, entry in file.items()}
        sizes = {file: sum(entry[2] for entry in held.values()) for file, held in headers.items()}
        return Inspected(entries, arrays, frozenset(), sizes, place, fetched=False)
    archives = ["pytorch_model.bin"]
    index = repository.find("pytorch_model.bin.index.json")
    if index is not None:
        archives += dict.fromkeys(read_index(index).values())
    found = {file: repository.size(file) for file in archives}
    sizes = {file: size for file, size in found.items() if size is not None}
    if not sizes:
        repository.fetch(MODEL_FILES)  # which says what is lacking
    return Inspected(entries, None, frozenset(), sizes, place, fetched=False)


def _file_elsewhere(repository: Repository, file: str) -> Inspected:
    """What is known of a GGUF file that was not fetched: that it is there."""
    size = repository.size(file)
    if size is None:
        repository.get(file)  # which says why
    place = f"{repository.constants.ENDPOINT}/{repository.name}"
    return Inspected({}, None, frozenset(), {file: size or 0}, place, fetched=False)


def names_of(files: Any) -> list[str]:
    """Return all file names in what is fetched of a repository."""
    names: list[str] = []
    for wanted in files:
        names += [*wanted.needed, *wanted.optional, *(file for choice in wanted.first_of for file in choice)]
    return list(dict.fromkeys(names))


def _weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".index.json"))
