"""What is on disk: arrays in safetensors, JSON, atomic writes, and the tables of other libraries' names."""

from numtx.checkpoints.arrays import load_arrays, load_metadata, save_arrays
from numtx.checkpoints.atomic import atomic_folder, atomic_write, remove_leftovers
from numtx.checkpoints.config import read_json, read_json_lines, write_json
from numtx.checkpoints.names import TRANSPOSED, NameTable, Transform

__all__ = [
    "TRANSPOSED",
    "NameTable",
    "Transform",
    "atomic_folder",
    "atomic_write",
    "load_arrays",
    "load_metadata",
    "read_json",
    "read_json_lines",
    "remove_leftovers",
    "save_arrays",
    "write_json",
]
