"""PyTorch's archives of weights (``pytorch_model.bin``), read without PyTorch and without running anything in them.

Two forms. A zip, since PyTorch 1.6: ``data.pkl``, a pickle in which tensors refer to storages by key, and beside it
the numbers of each as an entry ``data/KEY``. The legacy form before that: pickles one after the other (a magic number,
a version, the system, the object, the list of keys), then each storage, its count of numbers before it.
"""

import io
import mmap
import os
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numtx.checkpoints.pickle_machine import BrokenPickleError, read_pickle
from numtx.checkpoints.pytorch_tensors import Storage, Tensor, itemsize, known_globals, storage_of, stored_tensor
from numtx.checkpoints.stored import StoredArrays, map_file

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the legacy form
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip entry: signature, lengths of name and extra field
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_MOST_BESIDE = 100  # entries of a dict in which the state dict is searched by what they are, not by name


def open_pytorch_archive(path: str | os.PathLike[str]) -> StoredArrays:
    """Open a file that `torch.save` made of a state dict, of either form, without reading its numbers.

    The file is mapped copy-on-write, and a tensor is a view of it with the strides it was saved with; tensors that
    shared a storage still do. bfloat16 and float16 become float32, one array at each look-up, and what the legacy form
    puts at no multiple of its size is copied likewise. Of a dict that holds the state dict beside other things, the
    entry ``state_dict``, ``model_state_dict`` or ``model`` is taken, or else the only entry that holds tensors. The
    pickle is read by a machine of our own: what it names is looked up in a list of PyTorch's tensor functions, and
    anything else is an error before anything happens.

    Raises
    ------
    ValueError
        In one line: the file is missing, cut, of another form, names or calls what is not on the list, holds no
        tensors by name, or has tensors that reach beyond what is there.
    """
    mapped, data = map_file("open_pytorch_archive", path, "an archive of PyTorch")
    try:
        if data[:2].tobytes() == b"PK":
            opened = _open_zip(mapped, data)
        elif data[0] == 0x80:  # a pickle of protocol 2 or later
            opened = _open_legacy(mapped, data)
        elif data[257:262].tobytes() == b"ustar":
            raise BrokenPickleError("a tar archive of PyTorch before 0.1.10")
        else:
            raise BrokenPickleError("the first bytes of something else")
        tensors = _state_dict(opened.content)
        return StoredArrays(
            {
                name: stored_tensor(tensor, mapped, data, opened.storage(tensor.storage), big_endian=opened.big_endian)
                for name, tensor in tensors.items()
            }
        )
    except BrokenPickleError as error:
        expected = "an archive of PyTorch that holds tensors by name"
        raise ValueError(f"open_pytorch_archive: expected {expected}, got '{path}' with {error}") from None


class _Opened(NamedTuple):
    """What was pickled, with tensors described, and the function that says where a storage lies."""

    content: Any
    storage: Callable[[Storage], slice]
    big_endian: bool = False


def _open_zip(mapped: mmap.mmap, data: np.ndarray) -> _Opened:
    try:
        # A map has what ZipFile reads with, and never gives more bytes than there are.
        entries = {entry.filename: entry for entry in zipfile.ZipFile(mapped).infolist()}  # type: ignore[call-overload]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error, EOFError, OSError):
        raise BrokenPickleError("a zip that is cut or broken") from None
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise BrokenPickleError(f"a zip of {len(roots)} pickles where torch.save writes one, NAME/data.pkl")

    def place(name: str) -> slice:
        if roots[0] + name not in entries:
            raise BrokenPickleError(f"a zip without the entry {name!r:.60}")
        return _stored_entry(entries[roots[0] + name], data)

    order = data[place("byteorder")].tobytes() if roots[0] + "byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise BrokenPickleError(f"the byte order {order!r:.40}")

    def storage(described: Storage) -> slice:
        found = place(f"data/{described.key}")
        expected = described.numel * itemsize(described.dtype)
        there = found.stop - found.start
        if there != expected:
            raise BrokenPickleError(f"{there} bytes for storage {described.key!r:.40} of {expected}")
        return found

    pickled = io.BytesIO(data[place("data.pkl")].tobytes())
    return _Opened(read_pickle(pickled, known_globals(len(data)), storage_of), storage, order == b"big")


def _stored_entry(entry: zipfile.ZipInfo, data: np.ndarray) -> slice:
    """Return where the bytes of a zip entry lie."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
        raise BrokenPickleError(f"the entry {entry.filename!r:.60} compressed or encrypted; torch.save does neither")
    start = entry.header_offset
    header = data[start : start + _LOCAL_HEADER.size].tobytes() if start >= 0 else b""
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise BrokenPickleError(f"no entry {entry.filename!r:.60} where the zip says it is")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    start += _LOCAL_HEADER.size + name + extra
    if start + entry.file_size > len(data):
        raise BrokenPickleError(f"the entry {entry.filename!r:.60} beyond the end of the file")
    return slice(start, start + entry.file_size)


def _open_legacy(mapped: mmap.mmap, data: np.ndarray) -> _Opened:
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        storage = storage_of(identity)
        before = storages.setdefault(storage.key, storage)
        if before._replace(first=storage.first) != storage:
            raise BrokenPickleError(f"storage {storage.key!r:.40} of two types or sizes")
        return storage

    known = known_globals(len(data))
    if read_pickle(mapped, {}) != _MAGIC:  # type: ignore[arg-type]
        raise BrokenPickleError("a pickle that torch.save did not write")
    version, _ = (read_pickle(mapped, {}) for _ in range(2))  # type: ignore[arg-type]
    if version != _VERSION:
        raise BrokenPickleError(f"another version of the legacy form than {_VERSION}")
    content = read_pickle(mapped, known, persistent)  # type: ignore[arg-type]
    keys = read_pickle(mapped, {})  # type: ignore[arg-type]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise BrokenPickleError("a list of storages that are not named by text")
    placed = {}
    position = mapped.tell()
    for key in keys:
        if key not in storages or key in placed:
            raise BrokenPickleError(f"a storage {key!r:.40} that no tensor has, or twice")
        _, dtype, numel, _ = storages[key]
        written = int.from_bytes(data[position : position + 8].tobytes(), "little")
        if written != numel:
            raise BrokenPickleError(f"storage {key!r:.40} of {written} numbers where the tensors say {numel}")
        start, position = position + 8, position + 8 + numel * itemsize(dtype)
        if position > len(data):
            raise BrokenPickleError(f"storage {key!r:.40} beyond the end of the file")
        placed[key] = slice(start, position)
    lacking = [key for key in storages if key not in placed]
    if lacking:
        raise BrokenPickleError(f"no storage {lacking[0]!r:.40}")
    return _Opened(content, lambda storage: placed[storage.key])


def _state_dict(content: Any) -> dict[str, Tensor]:
    """Return the tensors by name, out of the dict that holds them."""
    if not isinstance(content, dict):
        raise BrokenPickleError(f"something of type {type(content).__name__}")
    for name in _WRAPPERS:
        if _tensors(content.get(name)):
            return _tensors(content[name])
    found = _tensors(content)
    if found:
        return found
    searched = content if len(content) <= _MOST_BESIDE else {}
    below = [name for name, value in searched.items() if isinstance(name, str) and _tensors(value)]
    if not below:
        raise BrokenPickleError("no tensors")
    if len(below) > 1:
        raise BrokenPickleError(f"{len(below)} entries that hold some: {', '.join(f'{name!r:.40}' for name in below)}")
    return _tensors(content[below[0]])


def _tensors(content: Any) -> dict[str, Tensor]:
    """Return the entries that are tensors named by text: beside them stand numbers, texts, `_extra_state`."""
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
