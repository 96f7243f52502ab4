"""GGUF files, llama.cpp's format: settings by key, a table of tensors, then their numbers.

Only the form is read here, by our own reader: every count and every length in the file is checked against the bytes
that are there before anything of that size is made.
"""

import os
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numtx.checkpoints.gguf_blocks import BLOCK_TYPES, OTHER_TYPES, BlockType
from numtx.checkpoints.stored import map_file

MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # version 1 counted in 32 bits, for a few weeks of 2023
_ALIGNMENT = 32  # where the file does not say
_MOST_AXES = 4
_LONGEST_NAME = 256  # characters; the format allows keys of 65,535 and names of 64
_SHORTEST_SETTING = 13  # bytes: the length of its key, its type, one byte of value
_SHORTEST_TENSOR = 32  # bytes of the table: the length of its name, one axis, its type, its offset

_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_TRUTH, _TEXT, _ARRAY = 7, 8, 9


class GGUFTensor(NamedTuple):
    """Where one tensor stands in the file."""

    shape: tuple[int, ...]  # outermost axis first, as NumPy counts; the file says it the other way round
    kind: BlockType
    stored: np.ndarray  # its bytes, (rows, bytes of a row): a view of the mapped file


class GGUFFile(NamedTuple):
    """What a GGUF file holds. Settings are numbers, bools, strings, lists of strings, or 1-D arrays of numbers."""

    path: Path
    settings: dict[str, Any]
    tensors: dict[str, GGUFTensor]


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file that begins as a GGUF does."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Read the settings and the table of a GGUF file; its numbers stay where they are, in the mapped file.

    Raises
    ------
    ValueError
        If there is no such file, or it is no GGUF, of another version or byte order, cut short, or says things about
        itself that cannot be; or holds a type of numbers that numtx does not read (named).
    """
    path = Path(path)
    _, data = map_file("read_gguf", path, "a GGUF file")
    try:
        return _read(path, data)
    except _BrokenError as error:
        raise ValueError(f"read_gguf: expected a whole GGUF file, got '{path}': {error}") from None


class _BrokenError(ValueError):
    """What is wrong with the file."""


class _Cursor:
    """A place in the file that moves on with what is read, and never past the end."""

    def __init__(self, data: np.ndarray) -> None:
        self.bytes = data.data.toreadonly()
        self.place = 0

    def take(self, count: int, what: str) -> memoryview:
        if count > len(self.bytes) - self.place:
            raise _BrokenError(f"it ends inside {what}, at byte {len(self.bytes)}")
        start, self.place = self.place, self.place + count
        return self.bytes[start : self.place]

    def number(self, form: str, what: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def count(self, smallest: int, what: str, form: str = "<Q") -> int:
        """Read how many of something follow, each of at least `smallest` bytes."""
        count = self.number(form, what)
        if count * smallest > len(self.bytes) - self.place:
            raise _BrokenError(f"{what} counts {count}, more than fit into the file")
        return count

    def name(self, what: str) -> str:
        name = self.text(what)
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise _BrokenError(f"{what} is {name[:_LONGEST_NAME]!r}, which cannot be one")
        return name

    def text(self, what: str) -> str:
        length = self.count(1, what)
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError:
            raise _BrokenError(f"{what} is not UTF-8") from None


def _read(path: Path, data: np.ndarray) -> GGUFFile:
    cursor = _Cursor(data)
    if cursor.take(len(MAGIC), "its first four bytes") != MAGIC:
        raise _BrokenError(f"it begins with {bytes(data[:4])!r}, not with {MAGIC!r}")
    version = cursor.number("<I", "its version")
    if version not in _VERSIONS:
        if version & 0xFFFF == 0:
            raise _BrokenError("it is written in big-endian byte order")
        raise _BrokenError(f"it is of version {version}, and numtx reads {' and '.join(map(str, _VERSIONS))}")
    tensors = cursor.number("<Q", "the number of tensors")
    count = cursor.count(_SHORTEST_SETTING, "the number of settings")
    settings: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.name("a key")
        if key in settings:
            raise _BrokenError(f"the setting {key} stands there twice")
        settings[key] = _value(cursor, f"the setting {key}")
    table = _table(cursor, tensors)
    return GGUFFile(path, settings, _placed(data, table, cursor.place, _alignment(settings)))


def _value(cursor: _Cursor, what: str) -> Any:
    kind = cursor.number("<I", what)
    if kind == _TEXT:
        return cursor.text(what)
    if kind != _ARRAY:
        return _numbers(cursor, kind, 1, what)[0].item()
    kind = cursor.number("<I", what)
    if kind == _TEXT:
        return [cursor.text(what) for _ in range(cursor.count(8, what))]
    return _numbers(cursor, kind, cursor.number("<Q", what), what)


def _numbers(cursor: _Cursor, kind: int, count: int, what: str) -> np.ndarray:
    if kind not in _NUMBERS:
        raise _BrokenError(f"{what} is of type {kind}, which a setting cannot be")
    dtype = np.dtype(_NUMBERS[kind])
    array = np.frombuffer(cursor.take(count * dtype.itemsize, what), dtype).astype(dtype.newbyteorder("="))
    return array.astype(bool) if kind == _TRUTH else array


def _table(cursor: _Cursor, count: int) -> dict[str, tuple[tuple[int, ...], BlockType, int]]:
    if count * _SHORTEST_TENSOR > len(cursor.bytes) - cursor.place:
        raise _BrokenError(f"the number of tensors is {count}, more than fit into the file")
    table = {}
    for _ in range(count):
        name = cursor.name("a tensor's name")
        what = f"the tensor {name}"
        axes = cursor.number("<I", what)
        if not 1 <= axes <= _MOST_AXES:
            raise _BrokenError(f"{what} has {axes} axes")
        shape = struct.unpack(f"<{axes}Q", cursor.take(8 * axes, what))[::-1]
        number, offset = cursor.number("<I", what), cursor.number("<Q", what)
        if name in table:
            raise _BrokenError(f"{what} stands there twice")
        if number not in BLOCK_TYPES:
            known = ", ".join(kind.name for kind in BLOCK_TYPES.values())
            got = OTHER_TYPES.get(number, f"type {number}")
            raise _BrokenError(f"{what} is stored as {got}, and numtx reads {known}")
        kind = BLOCK_TYPES[number]
        if prod(shape) == 0 or shape[-1] % kind.size:
            raise _BrokenError(f"{what} has the shape {shape}, which {kind.name} in blocks of {kind.size} cannot have")
        table[name] = shape, kind, offset
    return table


def _alignment(settings: dict[str, Any]) -> int:
    alignment = settings.get("general.alignment", _ALIGNMENT)
    # A power of two, and a multiple of eight, so that every number stands at an address that its type allows.
    if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
        raise _BrokenError(f"general.alignment is {str(alignment)[:20]!r}, not a power of two from 8 on")
    return alignment


def _placed(data: np.ndarray, table: dict, place: int, alignment: int) -> dict[str, GGUFTensor]:
    """Give each tensor its bytes. They stand in the order of the table, each from the next aligned place on."""
    start = _next(place, alignment)
    tensors, expected = {}, 0
    for name, (shape, kind, offset) in table.items():
        if offset != expected:
            raise _BrokenError(
                f"the tensor {name} is said to be at offset {offset}, and the one before ends at {expected}"
            )
        row = shape[-1] // kind.size * kind.nbytes
        nbytes = prod(shape[:-1]) * row
        if start + offset + nbytes > len(data):
            raise _BrokenError(
                f"the tensor {name} needs the bytes up to {start + offset + nbytes}, and the file has {len(data)}: cut "
                "short, it seems"
            )
        stored = data[start + offset : start + offset + nbytes].reshape(-1, row)
        tensors[name] = GGUFTensor(shape, kind, stored)
        expected = _next(offset + nbytes, alignment)
    return tensors


def _next(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment
