"""Attention forward and backward beside PyTorch's, over the length: same numbers, in turn in one process.

    python benchmarks/attention.py                  # T from 512 to 4096, three runs each, and memory up to 16,384
    python benchmarks/attention.py --only 4096 --json rows.json
    python benchmarks/attention.py --forms          # the textbook form beside the tiled one: where does it cross?

Causal, 8 heads of 64, batch 1, float32, two threads. Needs `pip install torch`.
"""

import argparse
import time

import numpy as np
from measure import Row, median, peak_megabytes, peak_of, print_table, reset_peak, write_json

import numtx
from numtx import functional as F

THREADS, HEADS, WIDTH = 2, 8, 64
LIMIT = 0.85  # the ratio of times that is promised, at T = LIMITED
LIMITED = 4096
LENGTHS = (512, 1024, 2048, 4096)
LONG = (4096, 8192, 16_384)  # where memory is measured
GAP = 1e-4  # between two right results in float32


def drawn(length):
    """Query, key, value and an incoming gradient, (1, H, T, D): heads of a token side by side, as projections give."""
    numbers = np.random.default_rng(0)
    shape = (1, length, HEADS, WIDTH)
    return [numbers.standard_normal(shape, dtype=np.float32).swapaxes(1, 2) for _ in range(4)]


def form(name):
    forward, backward = getattr(F, name), getattr(F, name + "_backward")

    def run(query, key, value, dy):
        y, cache = forward(query, key, value, causal=True)
        return y, *backward(dy, cache)[:3]

    return run


def opponent():
    import torch

    torch.set_num_threads(THREADS)

    def run(query, key, value, dy):
        y = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return y, *torch.autograd.grad(y, (query, key, value), dy)

    def tensors(arrays):
        return [torch.from_numpy(np.ascontiguousarray(a)).requires_grad_(n < 3) for n, a in enumerate(arrays)]

    return run, tensors


def seconds(function, *arguments):
    time.sleep(0.02)  # right after its work, the other's threads still spin on the cores
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def in_turn(ours, theirs, repeats):
    """Return the times of both, after one warm-up of each."""
    pairs = [(seconds(*ours), seconds(*theirs)) for _ in range(repeats + 1)]
    return [list(times) for times in zip(*pairs[1:], strict=True)]


def time_row(length, runs):
    arrays, tiled, (eager, tensors) = drawn(length), form("tiled_attention"), opponent()
    tensors = tensors(arrays)
    results = zip(tiled(*arrays), eager(*tensors), strict=True)
    gap = max(float(np.abs(a - b.detach().numpy()).max()) for a, b in results)
    if not gap <= GAP:
        raise SystemExit(f"attention: expected results within {GAP} of each other, got {gap}")
    ratios, mine, others = [], [], []
    for _ in range(runs):
        ours, theirs = in_turn((tiled, *arrays), (eager, *tensors), max(5, 8192 // length))
        ratios.append(median([a / b for a, b in zip(ours, theirs, strict=True)]))
        mine += ours
        others += theirs
    return Row(
        f"T {length}",
        "time",
        "PyTorch scaled_dot_product_attention",
        median(ratios),
        median(mine) * 1e3,
        median(others) * 1e3,
        "ms",
        LIMIT if length == LIMITED else None,
        (min(ratios), max(ratios)),
    )


def memory_row(length):
    memory = [peak_of(__file__, "--memory", which, "--only", str(length)) for which in ("ours", "theirs")]
    return Row(f"T {length}", "memory", "PyTorch scaled_dot_product_attention", memory[0] / memory[1], *memory, "MB")


def memory_of(which, length):
    """Return how much one forward and backward raise the peak memory of this process, in MB."""
    arrays = drawn(length)
    small = [array[:, :, :64] for array in arrays]
    if which == "ours":
        run = form("tiled_attention")
    else:
        run, tensors = opponent()
        small, arrays = tensors(small), tensors(arrays)
    run(*small)  # what the libraries load at their first call
    before = reset_peak()
    run(*arrays)
    return peak_megabytes() - before


def compare_forms(runs):
    """The textbook form beside the tiled one, on one thread, as in a training's process, and on two."""
    rows = []
    for threads in (1, THREADS):
        numtx.set_num_threads(threads)
        for length in (256, 512, 768, 1024, 1536, 2048):
            arrays = drawn(length)
            tiled, textbook = form("tiled_attention"), form("scaled_dot_product_attention")
            ours, theirs = in_turn((tiled, *arrays), (textbook, *arrays), runs * max(2, 2048 // length))
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            against = f"textbook form, {threads} thread{'s' if threads > 1 else ''}"
            milliseconds = median(ours) * 1e3, median(theirs) * 1e3
            rows.append(Row(f"T {length}", "time", against, median(ratios), *milliseconds, "ms"))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=int, help="one length instead of all")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--forms", action="store_true", help="compare the two forms of numtx")
    parser.add_argument("--memory", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    numtx.set_num_threads(THREADS)
    if arguments.memory:
        print(memory_of(arguments.memory, arguments.only))
        return
    if arguments.forms:
        print_table(compare_forms(arguments.runs))
        return
    lengths = [arguments.only] if arguments.only else LENGTHS
    rows = [time_row(length, arguments.runs) for length in lengths]
    rows += [memory_row(length) for length in (lengths if arguments.only else LONG)]
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
