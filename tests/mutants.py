"""Opens thousands of damaged checkpoints in a process of its own, its memory limited; says what became of them.

python tests/mutants.py FOLDER SEED COUNT

FOLDER holds checkpoints, a folder each. One file of one is damaged at a time: bits flipped, bytes overwritten, cut out,
put in, swapped, the end cut off. The checkpoint must open, every array readable, or raise a ValueError of one line.
"""

import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from numtx.checkpoints import open_checkpoint

MEMORY = 512 * 2**20  # bytes over what the process has mapped when it begins


def limit_memory():
    """Have allocations beyond the limit fail, where the system can."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))


def damaged(content, rng):
    """Return the bytes with one to three injuries, more often one."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if not content:
            break
        # Half of them where something is written, as much of a file of PyTorch is padding.
        place = int(rng.integers(len(content)))
        if rng.random() < 0.5:
            written = np.flatnonzero(np.frombuffer(bytes(content), np.uint8))
            place = int(rng.choice(written)) if len(written) else place
        length = int(min(rng.integers(1, 9) if rng.random() < 0.8 else rng.integers(1, 400), len(content) - place))
        other = int(rng.integers(len(content)))
        injury = rng.choice([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7])
        if injury == 0:
            content[place] ^= 1 << int(rng.integers(8))
        elif injury == 1:
            content[place] = int(rng.integers(256))
        elif injury == 2:
            content[place : place + length] = bytes([int(rng.choice([0, 0x7F, 0x80, 0xFF]))]) * length
        elif injury == 3:
            del content[place : place + length]
        elif injury == 4:
            content[place:place] = rng.bytes(length)
        elif injury == 5:
            content[other:other] = content[place : place + length]
        elif injury == 6:
            first, second = content[place : place + length], content[other : other + length]
            content[place : place + length], content[other : other + length] = second, first
        else:
            del content[place:]
    return bytes(content)


def outcome(folder):
    """Open a checkpoint and read all of it: 'opened' or 'refused'."""
    try:
        arrays = open_checkpoint(folder).arrays
    except ValueError as error:
        if "\n" in str(error):
            raise AssertionError("expected an error of one line") from error
        return "refused"
    for name in arrays:
        read = arrays[name]
        assert read.shape == arrays.entries[name].shape
        read.copy()
    return "opened"


def main(folder, seed, count):
    """Print what became of the mutants of each checkpoint, and the longest time one took."""
    limit_memory()
    rng = np.random.default_rng(seed)
    files = [path for path in sorted(Path(folder).glob("*/*")) if path.is_file()]
    wholes = {path: path.read_bytes() for path in files}
    became, longest = Counter(), 0.0
    for number in range(count):
        path = files[number % len(files)]
        mutant = damaged(wholes[path], rng)
        path.write_bytes(mutant)
        began = time.process_time()
        try:
            end = outcome(path.parent)
        except BaseException:
            shutil.copytree(path.parent, Path(folder, "failed"), dirs_exist_ok=True)
            print(f"mutant {number} of {path}", file=sys.stderr)
            raise
        longest = max(longest, time.process_time() - began)
        became[f"{path.relative_to(folder).as_posix()} {end}"] += 1
        path.write_bytes(wholes[path])
    print(json.dumps({"became": became, "longest": longest}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
