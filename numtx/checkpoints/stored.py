"""Arrays that stay in their file until somebody asks for one, and a checkpoint made of them."""

import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_LFS_POINTER = b"version https://git-lfs"


class StoredArray(NamedTuple):
    """An array in a file: its type there, its shape, and the function that reads it."""

    dtype: str  # as PyTorch calls it: "float32", "bfloat16", "int64"; a GGUF's "Q4_1"
    shape: tuple[int, ...]
    nbytes: int  # in the file
    read: Callable[[], np.ndarray]


class StoredArrays(Mapping[str, np.ndarray]):
    """Arrays by name, each read when it is looked up.

    Numbers of a type that NumPy has are views of the mapped file: free, shared by every look-up, and writable in this
    process alone (copy-on-write). Others come as a fresh array at each look-up, so whoever goes through them one by one
    holds one at a time: bfloat16, float16 and quantised blocks as float32, and what lies in the file at no multiple of
    its size (old files) or in the other byte order.

    Parameters
    ----------
    entries : mapping of name to StoredArray

    Examples
    --------
    >>> arrays = StoredArrays({"x": StoredArray("float32", (2,), 8, lambda: np.ones(2, np.float32))})
    >>> arrays["x"].sum(), arrays.entries["x"].dtype
    (np.float32(2.0), 'float32')
    """

    def __init__(self, entries: Mapping[str, StoredArray]) -> None:
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self.entries  # Mapping's own would read the array

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"StoredArrays of {len(self)} names, {self.nbytes} bytes on disk"

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(entry.nbytes for entry in self.entries.values())


@dataclass(frozen=True)
class Checkpoint:
    """What a folder (or one file) of a trained model holds.

    Parameters
    ----------
    config : dict
        The entries of its ``config.json``, or what stands for them.
    arrays : mapping of name to array
        Under the names of the file, in its layouts, read when looked up: `StoredArrays`.
    files : list of path
        The files that were opened.
    """

    config: dict[str, Any]
    arrays: StoredArrays
    files: list[Path] = field(default_factory=list)


def map_file(component: str, path: str | os.PathLike[str], what: str) -> tuple[mmap.mmap, np.ndarray]:
    """Map a file copy-on-write: the map, and its bytes as a writable array of uint8.

    Nothing is read before it is looked at, what is written stays in this process, and the file must not be cut while
    the arrays live. `what` says in errors what the file should be.

    Raises
    ------
    ValueError
        If there is no such file, or it is empty, or it cannot be read.
    """
    if not Path(path).is_file():  # a pipe would block
        raise ValueError(f"{component}: expected {what}, got '{path}', which is not a file")
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ValueError(f"{component}: expected {what}, got '{path}', which is empty")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise ValueError(f"{component}: expected {what}, got '{path}': {error.strerror}") from None
    if mapped[: len(_LFS_POINTER)] == _LFS_POINTER:
        raise ValueError(
            f"{component}: expected {what}, got '{path}', a Git LFS pointer to it: `git lfs pull` fetches the file"
        )
    return mapped, np.frombuffer(mapped, np.uint8)


def release(mapped: mmap.mmap, begin: int, end: int) -> None:
    """Let go of the memory behind these bytes of a map, of which a copy was made; the next look reads the file again.

    Only for bytes of which no view was given away: what was written to them is forgotten. Without it, opening a file of
    bfloat16 would hold both widths in the end.
    """
    if sys.platform == "linux":
        first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            mapped.madvise(mmap.MADV_DONTNEED, first, last - first)


def widened(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return stored numbers as NumPy works with them: native, aligned, and half the width of float32 as float32.

    Parameters
    ----------
    array : array
        The numbers as they lie in the file, of either byte order; bfloat16 as uint16.
    dtype : str
        What they are: ``bfloat16``, ``float16``, or any other type, which stays.

    Examples
    --------
    >>> widened(np.array([0x3F80, 0xC000], np.uint16), "bfloat16")
    array([ 1., -2.], dtype=float32)
    """
    if dtype == "bfloat16":
        # bfloat16 is the upper half of a float32.
        bits = array.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    if dtype == "float16":
        with np.errstate(invalid="ignore"):  # a signalling NaN stays a NaN
            return array.astype(np.float32)
    native = array.dtype.newbyteorder("=")
    return array if array.flags.aligned and array.dtype == native else array.astype(native)
