"""Named arrays on disk, in the safetensors format: a JSON header and raw numbers, no code that could run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from numtx.checkpoints.atomic import atomic_write

# Floats, signed and unsigned integers, booleans: what the format has a name for.
_KINDS = "fiub"


def save_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays to a safetensors file, atomically.

    Parameters
    ----------
    path : str or path
    arrays : mapping of name to array
        Of any memory order; the file holds them in C order, little-endian.
    metadata : mapping of str to str, optional
        Kept in the header. By default ``{"format": "pt"}``, without which Transformers refuses a file of weights.

    Raises
    ------
    ValueError
        If something is not an array of floats, integers or booleans, or metadata is not text.
    OSError
        If the file cannot be written; an old one then stays.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_arrays(f"{folder}/a.safetensors", {"x": np.eye(2).T, "n": np.array(3)})
    ...     print(load_arrays(f"{folder}/a.safetensors")["x"].tolist())
    [[1.0, 0.0], [0.0, 1.0]]
    """
    metadata = {"format": "pt"} if metadata is None else dict(metadata)
    if not all(isinstance(text, str) for item in metadata.items() for text in item):
        raise ValueError(f"save_arrays: expected metadata of str to str, got {metadata}")
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    # An empty dict of metadata beside no arrays makes safetensors write a header that it cannot read.
    atomic_write(path, save(plain, metadata=metadata or None))


def load_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all arrays of a safetensors file: each in its own memory, writable, in C order.

    Raises
    ------
    ValueError
        If the file is missing, broken (half-written, say), or holds a type that NumPy lacks, such as bfloat16.
    """
    try:
        return load_file(_existing("load_arrays", path))
    except TypeError as error:
        raise ValueError(f"load_arrays: expected types that NumPy has, got '{path}': {error}") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"load_arrays: expected a whole safetensors file, got '{path}': {error}") from None


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata of a safetensors file and none of its arrays; ValueError as in `load_arrays`."""
    try:
        with safe_open(_existing("load_metadata", path), framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"load_metadata: expected a whole safetensors file, got '{path}': {error}") from None


def _plain(name: str, array: Any) -> np.ndarray:
    """Return the array as the format needs it; safetensors would write the memory of any other as it lies there."""
    if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind not in _KINDS:
        got = array.dtype if isinstance(array, np.ndarray | np.generic) else type(array).__name__
        raise ValueError(f"save_arrays: expected '{name}' to be an array of floats, integers or booleans, got {got}")
    # np.ascontiguousarray would give a 0-d array an axis.
    return np.asarray(array, order="C")


def _existing(component: str, path: str | os.PathLike[str]) -> Path:
    if not Path(path).is_file():
        raise ValueError(f"{component}: expected a safetensors file, got '{path}', which is not a file")
    return Path(path)
