"""Writing a safetensors file array by array, for checkpoints that are larger than the memory."""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from numtx.checkpoints.safetensors_file import _TYPES

CODES = {dtype: (code, kind) for code, (dtype, kind) in _TYPES.items()}
BLOCK = 1 << 20  # numbers that are rounded at a time


class Planned(NamedTuple):
    """An array that will be written: its type, as PyTorch calls it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * np.dtype(CODES[self.dtype][1]).itemsize


def stream_arrays(path: str | os.PathLike[str], plan: Mapping[str, Planned], read: Callable[[str], np.ndarray]) -> None:
    """Write a safetensors file that Transformers opens, holding one array at a time.

    The file is not written atomically: its place is a folder that `atomic_folder` gave.

    Parameters
    ----------
    path : str or path
    plan : mapping of name to Planned
    read : callable
        `read(name)` gives the array; it is called once a name, in the order of the plan.

    Raises
    ------
    ValueError
        If an array has another shape than was planned, or a number too large for its type.

    Examples
    --------
    >>> import tempfile
    >>> from numtx.checkpoints import open_arrays
    >>> plan = {"x": Planned("bfloat16", (2,))}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stream_arrays(f"{folder}/a.safetensors", plan, {"x": np.array([1, 0.1], np.float32)}.__getitem__)
    ...     open_arrays(f"{folder}/a.safetensors")["x"]
    array([1.        , 0.10009766], dtype=float32)
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without which Transformers refuses the file
    end = 0
    for name, planned in plan.items():
        start, end = end, end + planned.nbytes
        header[name] = {"dtype": CODES[planned.dtype][0], "shape": planned.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, planned in plan.items():
            _write(file, name, planned, read(name))


def _write(file: BinaryIO, name: str, planned: Planned, array: np.ndarray) -> None:
    """Write an array, which nobody holds afterwards."""
    if array.shape != planned.shape:
        raise ValueError(f"stream_arrays: expected {name!r} of shape {planned.shape}, got {array.shape}")
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, flat.size, BLOCK):
        file.write(_rounded(flat[start : start + BLOCK], planned.dtype, name).tobytes())


def _rounded(numbers: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Return numbers as they are stored in a type, rounded to the nearest, to even where there are two."""
    kind = CODES[dtype][1]
    if dtype == "bfloat16":
        stored = bfloat16(numbers)
        infinite = (stored & 0x7FFF) == 0x7F80
    else:
        with np.errstate(over="ignore"):
            stored = numbers.astype(kind, copy=False)
        infinite = np.isinf(stored) if stored.dtype.kind == "f" else None
    if infinite is not None and np.any(infinite & np.isfinite(numbers)):
        largest = float(np.max(np.abs(numbers[np.isfinite(numbers)])))
        raise ValueError(f"stream_arrays: expected numbers that {dtype} holds in {name!r}, got {largest:.3g}")
    return stored


def bfloat16(numbers: np.ndarray) -> np.ndarray:
    """Return the upper halves of float32 numbers, rounded to the nearest, to even where there are two; uint16.

    Examples
    --------
    >>> [hex(bits) for bits in bfloat16(np.array([1.0, -2.0, 1.00390625, np.nan], np.float32))]
    ['0x3f80', '0xc000', '0x3f80', '0x7fc0']
    """
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    # Half of the last place that stays, less one bit where that place is even, carries exactly when it should.
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), (bits >> 16).astype(np.uint16) | np.uint16(0x40), rounded)
