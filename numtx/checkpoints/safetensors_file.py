"""A safetensors file, mapped: opening reads its header alone, and its arrays are views of the file.

The format: 8 bytes, little-endian, the length of the header; the header, JSON, ``{name: {dtype, shape, data_offsets}}``
with ``__metadata__`` beside; then the numbers, little-endian, in C order, end to end.
"""

import json
import math
import mmap
import os
from functools import partial
from typing import Any

import numpy as np

from numtx.checkpoints.stored import StoredArray, StoredArrays, map_file, release, widened

# The format's name, what PyTorch calls it, and the bytes as NumPy reads them.
_TYPES = {
    "F64": ("float64", "<f8"),
    "F32": ("float32", "<f4"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"),
    "I32": ("int32", "<i4"),
    "I16": ("int16", "<i2"),
    "I8": ("int8", "i1"),
    "U64": ("uint64", "<u8"),
    "U32": ("uint32", "<u4"),
    "U16": ("uint16", "<u2"),
    "U8": ("uint8", "u1"),
    "BOOL": ("bool", "?"),
}
_MOST_HEADER = 100_000_000  # bytes; the format's own limit
_MOST_AXES = 32
_KEYS = {"dtype", "shape", "data_offsets"}


def open_arrays(path: str | os.PathLike[str]) -> StoredArrays:
    """Open a safetensors file without reading its numbers.

    The file is mapped copy-on-write: an array is a view of it that costs no memory of this process until it is
    written to, and the file never changes. bfloat16 and float16 become float32, one array at each look-up.
    `load_arrays` reads everything at once instead.

    Raises
    ------
    ValueError
        In one line: the file is missing, cut or longer than its header says; the header is no JSON of the format,
        names a type that is not read, or gives offsets that lie outside of the file, overlap, leave holes, or do not
        fit the shape.

    Examples
    --------
    >>> import tempfile
    >>> from numtx.checkpoints import save_arrays
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_arrays(f"{folder}/a.safetensors", {"x": np.eye(2, dtype=np.float32)})
    ...     arrays = open_arrays(f"{folder}/a.safetensors")
    ...     arrays.entries["x"].shape, arrays["x"].trace()
    ((2, 2), np.float32(2.0))
    """
    mapped, data = map_file("open_arrays", path, "a safetensors file")
    header, start = _header(data, path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _broken(path, "__metadata__ that is not text by name")
    placed = [(*_checked(name, entry, path), name) for name, entry in header.items()]
    _end_to_end([(begin, end, name) for begin, end, _, _, name in placed], len(data) - start, path)
    return StoredArrays(
        {
            name: StoredArray(
                dtype, shape, end - begin, partial(_read, mapped, data, start + begin, start + end, dtype, shape)
            )
            for begin, end, dtype, shape, name in placed
        }
    )


def _read(mapped: mmap.mmap, data: np.ndarray, begin: int, end: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    stored = data[begin:end].view(_AS_NUMPY[dtype]).reshape(shape)
    array = widened(stored, dtype)
    if array is not stored:
        release(mapped, begin, end)
    return array


_AS_NUMPY = dict(_TYPES.values())


def _header(data: np.ndarray, path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """Return the header and where the numbers begin."""
    if len(data) < 8:
        raise _broken(path, f"{len(data)} bytes, too few for a header's length")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(len(data) - 8, _MOST_HEADER):
        raise _broken(path, f"a header of {length} bytes in a file of {len(data)}")
    try:
        header = json.loads(data[8 : 8 + length].tobytes().decode("utf-8"), object_pairs_hook=_no_name_twice)
    except _NamedTwiceError as error:
        raise _broken(path, f"a header that names {error.args[0]!r} twice") from None
    except (ValueError, RecursionError):
        raise _broken(path, "a header that is not JSON") from None
    if not isinstance(header, dict):
        raise _broken(path, f"a header that is JSON of type {type(header).__name__}")
    return header, 8 + length


class _NamedTwiceError(Exception):
    """A JSON object has a name twice."""


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _NamedTwiceError(name)
        found[name] = value
    return found


def _checked(name: str, entry: Any, path: str | os.PathLike[str]) -> tuple[int, int, str, tuple[int, ...]]:
    """Return begin, end, type and shape of an entry that is as the format says."""
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise _broken(path, f"an entry {name!r} that is not dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _TYPES:
        kind = entry["dtype"] if isinstance(entry["dtype"], str) else "that is no text"
        raise _broken(path, f"{name!r} of a type {kind!r:.40}, which is not among {', '.join(_TYPES)}")
    dtype, stored = _TYPES[entry["dtype"]]
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _sizes(shape) or len(shape) > _MOST_AXES or math.prod(size or 1 for size in shape) >= 2**60:
        raise _broken(path, f"{name!r} of a shape that no array has")
    if not _sizes(offsets) or len(offsets) != 2:
        raise _broken(path, f"{name!r} with data_offsets that are not two positions")
    begin, end = offsets
    if end - begin != math.prod(shape) * np.dtype(stored).itemsize:
        raise _broken(path, f"{name!r} {dtype} {tuple(shape)} with the {end - begin} bytes from {begin} to {end}")
    return begin, end, dtype, tuple(shape)


def _sizes(values: Any) -> bool:
    # bool is an int in Python, and a number without bound could not even be printed.
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _end_to_end(spans: list[tuple[int, int, str]], size: int, path: str | os.PathLike[str]) -> None:
    """Refuse offsets that overlap, leave a hole or end elsewhere than the file."""
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            raise _broken(path, f"{name!r} at byte {begin} of the numbers where the one before ends at {reached}")
        reached = end
    if reached != size:
        raise _broken(path, f"{size} bytes of numbers where the header says {reached}")


def _broken(path: str | os.PathLike[str], got: str) -> ValueError:
    return ValueError(f"open_arrays: expected a whole safetensors file, got '{path}' with {got}")
