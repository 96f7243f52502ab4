"""Opening a checkpoint or a model and reading every weight once: mapped files beside the safetensors package.

    python benchmarks/open_checkpoint.py
    python benchmarks/open_checkpoint.py --megabytes 500 --runs 7 --json rows.json

A file of float32 matrices, in safetensors and as PyTorch's archive writes it, and a Llama's folder that
`AutoModelForCausalLM` opens; each is opened and all its numbers are summed, in turn with `safetensors.numpy.load_file`,
which reads the same file into memory of its own. The file lies in the system's cache for both. Memory is the most that
a fresh process holds for itself alone while it does so (pages that it mapped and no other process has, and pages that
it wrote): all of it, the interpreter's included. Linux only.
"""

import argparse
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
from measure import Row, median, print_table, write_json

ROWS, COLUMNS = 1024, 2048  # of each matrix: 8 MB
AGAINST = "safetensors"
TIME_LIMIT, MEMORY_LIMIT = 1.5, 1.1
EVERY = 0.005  # seconds between two looks at the memory


def write_files(folder, megabytes):
    """Write the same matrices in both forms: the paths by form, and the bytes of the numbers."""
    from numtx.checkpoints import save_arrays

    rng = np.random.default_rng(0)
    count = max(1, megabytes * 10**6 // (4 * ROWS * COLUMNS))
    arrays = {f"layers.{k}.weight": rng.standard_normal((ROWS, COLUMNS), dtype=np.float32) for k in range(count)}
    paths = {"safetensors": folder / "model.safetensors", "archive": folder / "pytorch_model.bin"}
    save_arrays(paths["safetensors"], arrays)
    write_archive(paths["archive"], arrays)
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in arrays.items()}
    paths["bfloat16"] = folder / "halves.safetensors"
    write_halves(paths["bfloat16"], halves)
    return paths, sum(array.nbytes for array in arrays.values())


def write_model(folder, megabytes):
    """Write a Llama's folder of about that size: the bytes of its numbers."""
    from numtx.models import LlamaConfig, LlamaForCausalLM

    width = 1024 if megabytes >= 200 else 256
    layer = 4 * width * width + 3 * width * 4 * width  # numbers
    table = 16 * width * width
    config = LlamaConfig(
        vocab_size=16 * width,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=max(1, (megabytes * 10**6 // 4 - table) // layer),
        num_attention_heads=16,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config, rng=0)
    model.save_pretrained(folder)
    return sum(array.nbytes for _, array in model.named_parameters())


def write_archive(path, arrays):
    """Write a zip as `torch.save` does, without PyTorch: a pickle, and the numbers as entries on 64 bytes."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    items = b""
    for key, (name, array) in enumerate(arrays.items()):
        of = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(key)) + text("cpu")
        of += b"J" + struct.pack("<i", array.size) + b"tQ"
        shape, strides = (b"J" + struct.pack("<i", a) + b"J" + struct.pack("<i", b) + b"\x86" for a, b in (
            array.shape, (array.shape[1], 1)))  # fmt: skip
        items += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + of + b"K\x00" + shape + strides + b"\x89NtR"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}(" + items + b"u.")
        for key, array in enumerate(arrays.values()):
            entry = zipfile.ZipInfo(f"archive/data/{key}")
            begin = archive.fp.tell() + 30 + len(entry.filename) + 4
            pad = -begin % 64
            entry.extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
            archive.writestr(entry, memoryview(array).cast("B"))


def write_halves(path, halves):
    """Write uint16 arrays as safetensors' BF16."""
    header, end = {}, 0
    for name, array in halves.items():
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in halves.values():
            file.write(memoryview(array).cast("B"))


def opened(which, path):
    """Return all arrays of a file, as a model would hold them."""
    if which == "theirs":
        from safetensors.numpy import load_file

        return load_file(path / "model.safetensors" if path.is_dir() else path)
    if path.is_dir():
        from numtx import AutoModelForCausalLM

        return dict(AutoModelForCausalLM.from_pretrained(path).named_parameters())
    from numtx.checkpoints import open_arrays, open_pytorch_archive

    arrays = (open_pytorch_archive if str(path).endswith(".bin") else open_arrays)(path)
    return {name: arrays[name] for name in arrays}


def seconds(which, path):
    """Return the time of opening a file and reading every number of it once, and their sum."""
    began = time.perf_counter()
    total = math.fsum(float(array.sum()) for array in opened(which, path).values())
    return time.perf_counter() - began, total


def private_bytes():
    """Return the bytes that this process alone holds."""
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) * 1024


def memory_of(which, path):
    """Return the most private memory of this process while it opens a file and reads it, in MB."""
    most, done = private_bytes(), threading.Event()

    def look():
        nonlocal most
        while not done.wait(EVERY):
            most = max(most, private_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    arrays = opened(which, path)
    for array in arrays.values():
        array.sum()
    most = max(most, private_bytes())  # everything is there now, and nothing was given back
    done.set()
    watcher.join()
    return most / 1e6


def memory_in_a_process(which, path):
    """Return `memory_of` in a process of its own."""
    run = [sys.executable, __file__, "--memory", which, "--file", str(path)]
    return float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def run(megabytes=500, runs=5):
    """Return the rows: time beside the package's, memory beside the size of the numbers as float32."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths, size = write_files(Path(folder), megabytes)
        sizes = dict.fromkeys(paths, size)
        paths["model"] = Path(folder, "model")
        sizes["model"] = write_model(paths["model"], megabytes)
        for form, limit in (("safetensors", TIME_LIMIT), ("archive", None), ("model", TIME_LIMIT)):
            against = paths["model" if form == "model" else AGAINST]
            pairs = []
            for _ in range(runs + 1):
                (ours, total), (theirs, reference) = seconds("ours", paths[form]), seconds("theirs", against)
                if not math.isclose(total, reference, rel_tol=1e-5):  # in another order
                    raise SystemExit(f"open_checkpoint: expected the same numbers from both, got {total}, {reference}")
                pairs.append((ours, theirs))
            pairs = pairs[1:]  # the first brings the file into the cache
            ratios = [a / b for a, b in pairs]
            a, b = (median([pair[k] for pair in pairs]) * 1e3 for k in (0, 1))
            spread = (min(ratios), max(ratios))
            rows.append(Row(form, "time", AGAINST, median(ratios), a, b, "ms", limit, spread))
        for form, path in paths.items():
            held, size = memory_in_a_process("ours", path), sizes[form]
            limit = MEMORY_LIMIT if form != "bfloat16" else None
            rows.append(Row(form, "memory", "its numbers in float32", held / size * 1e6, held, size / 1e6, "MB", limit))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--memory", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not os.path.exists("/proc/self/smaps_rollup"):
        raise SystemExit("open_checkpoint: expected Linux, whose /proc says what a process holds")
    if arguments.memory:
        print(memory_of(arguments.memory, Path(arguments.file)))
        return
    rows = run(arguments.megabytes, arguments.runs)
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
