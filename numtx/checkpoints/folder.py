"""A folder of a trained model, as hubs hold them: ``config.json`` and the weights, in one file or several."""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

from numtx.checkpoints.config import read_json
from numtx.checkpoints.pytorch_archive import open_pytorch_archive
from numtx.checkpoints.safetensors_file import open_arrays
from numtx.checkpoints.stored import Checkpoint, StoredArray, StoredArrays

CONFIG = "config.json"
_OPENERS: dict[str, Callable[[str | os.PathLike[str]], StoredArrays]] = {
    ".safetensors": open_arrays,
    ".bin": open_pytorch_archive,
}
# In the order in which Transformers looks for them.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What weights of other programs are called, so that an error can say what lies there instead.
_OTHERS = ("*.gguf", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.incomplete")
_LISTED = 6


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a model's folder, or a GGUF file, without reading the weights.

    Parameters
    ----------
    path : str or path
        A folder with ``config.json`` and the first of ``model.safetensors``, ``model.safetensors.index.json`` with its
        shards, ``pytorch_model.bin``, ``pytorch_model.bin.index.json`` with its shards; or a file ``.gguf``.

    Raises
    ------
    ValueError
        In one line: there is no such folder, or none of these files in it (what was looked for is listed, and what
        lies there instead), or one of them is broken, or a shard is missing.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from numtx.checkpoints import save_arrays, write_json
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json(f"{folder}/config.json", {"model_type": "bert"})
    ...     save_arrays(f"{folder}/model.safetensors", {"pooler.dense.bias": np.zeros(3, np.float32)})
    ...     checkpoint = open_checkpoint(folder)
    ...     checkpoint.config["model_type"], checkpoint.arrays["pooler.dense.bias"].shape
    ('bert', (3,))
    """
    folder = Path(path)
    if folder.is_file() and folder.suffix == ".gguf":
        # Where it is used: its package is an extra.
        from numtx.checkpoints.gguf_file import open_gguf

        return open_gguf(folder)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise ValueError(f"open_checkpoint: expected a model's folder or a .gguf file at '{path}', got {got}")
    if not (folder / CONFIG).is_file():
        raise _nothing(folder, CONFIG)
    config = read_json(folder / CONFIG)
    arrays, files = _open_weights(folder)
    return Checkpoint(config, arrays, [folder / CONFIG, *files])


def _open_weights(folder: Path) -> tuple[StoredArrays, list[Path]]:
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise _nothing(folder, " or ".join(WEIGHTS))
    if found.suffix != ".json":
        return _OPENERS[found.suffix](found), [found]
    shards = read_index(found)
    return _open_shards(found, shards), [found, *(folder / shard for shard in dict.fromkeys(shards.values()))]


def read_index(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the index of a checkpoint in several files: which file, relative to the index, holds which array.

    Raises
    ------
    ValueError
        If the index is broken, names no files, or names one outside of its folder or of another kind.
    """
    shards = read_json(path, required=["weight_map"])["weight_map"]
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise ValueError(
            f"read_index: expected weight_map in '{path}' to name a file for each array, got something else"
        )
    kind = PurePosixPath(str(path).removesuffix(".index.json")).suffix
    for shard in dict.fromkeys(shards.values()):
        # By both systems' rules, so that a folder means the same everywhere.
        parts = [*PurePosixPath(shard).parts, *PureWindowsPath(shard).parts]
        leaves = ".." in parts or PurePosixPath(shard).is_absolute() or PureWindowsPath(shard).anchor
        if leaves or "\0" in shard or PurePosixPath(shard).suffix != kind:
            raise ValueError(f"read_index: expected files {kind} in the folder of '{path}', got {shard!r:.80}")
    return shards


def _open_shards(index: Path, shards: dict[str, str]) -> StoredArrays:
    """Open the files that an index names, all of them, so that a missing one is found before the work starts."""
    names = list(dict.fromkeys(shards.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"open_checkpoint: expected the {len(names)} files that '{index}' names, got a folder without "
            f"{_listed(missing)}"
        )
    entries: dict[str, StoredArray] = {}
    for name in names:
        opened = _OPENERS[Path(name).suffix](index.parent / name).entries
        # An entry of the file that the index does not name is taken as well, as Transformers does.
        entries |= {array: entry for array, entry in opened.items() if shards.get(array, name) == name}
    lacking = [array for array in shards if array not in entries]
    if lacking:
        raise ValueError(
            f"open_checkpoint: expected the {len(shards)} arrays that '{index}' names in its files, got files without "
            f"{_listed(lacking)}"
        )
    return StoredArrays(entries)


def _nothing(folder: Path, expected: str) -> ValueError:
    there = sorted({found.name for pattern in _OTHERS for found in folder.glob(pattern)})
    got = f"a folder with {_listed(there)} instead" if there else "a folder without"
    hint = "; a .gguf file is opened by its own path" if any(name.endswith(".gguf") for name in there) else ""
    return ValueError(f"open_checkpoint: expected {expected} in '{folder}', got {got}{hint}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"{name!r:.80}" for name in names[:_LISTED]) + more
