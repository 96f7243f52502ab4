"""What the golden archives of PyTorch hold, as NumPy has it; and pickles written by hand, opcode by opcode."""

import struct
import zipfile
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "archives"

BASE = np.arange(24, dtype=np.float32).reshape(4, 6) / 4
HELD = {
    "whole": BASE,
    "tied": BASE,
    "transposed": BASE.T,
    "block": BASE[1:3, 2:5],
    "strided": BASE[::2, ::3],
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "expanded": np.full(3, 7, np.float32),
    "parameter": np.array([1, -1], np.float32),
    "bfloat16": np.array([[1, -2, 0.15625]], np.float32),
    "float16": np.array([[1, -2], [0.1, 6e-8]], np.float16).T.astype(np.float32),
    "float64": np.array([0.1], np.float32).astype(np.float64),
    "int64": np.arange(5)[None],
    "int32": np.array([-3], np.int32),
    "int16": np.array([-300], np.int16),
    "int8": np.array([-5], np.int8),
    "uint8": np.array([200], np.uint8),
    "bool": np.array([True, False]),
}


def resident(path):
    """Bytes of a mapped file that lie in this process's memory, as Linux says."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.endswith(str(path)))
    return next(int(line.split()[1]) * 1024 for line in lines[begin:] if line.startswith("Rss:"))


def text(value):
    """The opcode of a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value):
    """The opcode of a number."""
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def numbers(values):
    return b"(" + b"".join(map(whole, values)) + b"t"


def pickled(body):
    return b"\x80\x02" + body + b"."


def storage(key="0", numel=6, kind="FloatStorage"):
    return b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu") + whole(numel) + b"tQ"


def tensor(offset=0, shape=(2, 3), strides=(3, 1), of=None):
    """The opcodes of a tensor, with every number as it is given."""
    arguments = (of or storage()) + whole(offset) + numbers(shape) + numbers(strides)
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"\x89" + b"NtR"


def write_zip(path, pickle, storages=None, **others):
    """Write an archive as torch.save does: the pickle, its storages by key, other entries by name."""
    storages = {"0": np.arange(6, dtype=np.float32).tobytes()} if storages is None else storages
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        for name, content in others.items():
            archive.writestr(f"archive/{name}", content)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def write_legacy(path, pickle, storages=None, keys=None):
    """Write an archive as torch.save did before PyTorch 1.6; `storages` maps a key to its count and bytes."""
    storages = {"0": (6, np.arange(6, dtype=np.float32).tobytes())} if storages is None else storages
    keys = storages if keys is None else keys
    magic = pickled(b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little"))
    listed = pickled(b"](" + b"".join(map(text, keys)) + b"e")
    numbers_of_each = b"".join(struct.pack("<q", count) + content for count, content in storages.values())
    path.write_bytes(magic + pickled(b"M\xe9\x03") + pickled(b"}") + pickle + listed + numbers_of_each)
    return path
