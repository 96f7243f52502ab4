"""What is on disk: arrays in safetensors, JSON, atomic writes, and the tables of other libraries' names."""

from numtx.checkpoints.arrays import load_arrays, load_metadata, save_arrays
from numtx.checkpoints.atomic import atomic_folder, atomic_write, remove_folder, remove_leftovers
from numtx.checkpoints.config import read_json, read_json_lines, write_json
from numtx.checkpoints.folder import open_checkpoint
from numtx.checkpoints.gguf_file import open_gguf
from numtx.checkpoints.gguf_tokenizer import gguf_tokenizer
from numtx.checkpoints.hub import resolve
from numtx.checkpoints.manifest import verify_manifest, write_manifest
from numtx.checkpoints.names import TRANSPOSED, NameTable, Transform
from numtx.checkpoints.pytorch_archive import open_pytorch_archive
from numtx.checkpoints.safetensors_file import open_arrays
from numtx.checkpoints.stored import Checkpoint, StoredArray, StoredArrays

__all__ = [
    "TRANSPOSED",
    "Checkpoint",
    "NameTable",
    "StoredArray",
    "StoredArrays",
    "Transform",
    "atomic_folder",
    "atomic_write",
    "gguf_tokenizer",
    "load_arrays",
    "load_metadata",
    "open_arrays",
    "open_checkpoint",
    "open_gguf",
    "open_pytorch_archive",
    "read_json",
    "read_json_lines",
    "remove_folder",
    "remove_leftovers",
    "resolve",
    "save_arrays",
    "verify_manifest",
    "write_json",
    "write_manifest",
]
