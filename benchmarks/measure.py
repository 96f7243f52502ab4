"""What the benchmarks share: medians, the machine's own limits, peak memory of a process of its own."""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np


@dataclass
class Row:
    """One figure: ours beside theirs. `ratio` is ours over theirs in time or memory: below 1 is better."""

    work: str
    quantity: str  # "time", "memory" or "share of a limit"
    against: str
    ratio: float
    ours: float
    theirs: float
    unit: str
    limit: float | None = None  # the ratio that is promised, where one is
    spread: tuple[float, float] | None = None  # least and greatest ratio over the runs


def write_json(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        json.dump([asdict(row) for row in rows], file, indent=2)
        file.write("\n")


def print_table(rows):
    print(f"{'work':<12}{'quantity':<18}{'ours':>12}{'theirs':>12} {'unit':<9}{'ratio':>7}  {'spread':<14}against")
    for row in rows:
        spread = f"{row.spread[0]:.3f}-{row.spread[1]:.3f}" if row.spread else ""
        print(
            f"{row.work:<12}{row.quantity:<18}{row.ours:>12,.1f}{row.theirs:>12,.1f} {row.unit:<9}{row.ratio:>7.3f}"
            f"  {spread:<14}{row.against}"
        )


def median(values):
    return statistics.median(values)


def gemm_rate(threads, size=1536, seconds=1.0):
    """Return the float32 GFLOP/s of square products on `threads` threads with one BLAS thread each: the best seen.

    The caller has set BLAS to one thread.
    """
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))

    def multiply(out):
        np.matmul(a, b, out=out)

    outs = [np.empty_like(a) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(multiply, outs))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            list(pool.map(multiply, outs))
            best = max(best, threads * 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def matvec_rate(threads, rows=4096, columns=8192, seconds=1.0):
    """Return the GB/s at which `threads` threads read float32 matrices (in, out) in products with a vector: the median.

    The matrices are larger than any core's cache. The caller has set BLAS to one thread.
    """
    x = np.ones(rows, np.float32)
    matrices = [np.ones((rows, columns), np.float32) for _ in range(threads)]

    def multiply(matrix):
        return x @ matrix

    rates = []
    with ThreadPoolExecutor(threads) as pool:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            list(pool.map(multiply, matrices))
            rates.append(threads * matrices[0].nbytes / (time.perf_counter() - began) / 1e9)
    return median(rates)


def reset_peak():
    """Forget the peak so far, where the system can (Linux), and return the megabytes held now."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass
    return peak_megabytes()


def peak_megabytes():
    """Return the most memory this process has held, in MB, since `reset_peak` where that works."""
    try:
        with open("/proc/self/status") as file:
            return next(float(line.split()[1]) for line in file if line.startswith("VmHWM:")) * 1024 / 1e6
    except OSError:
        scale = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def peak_of_children(held):
    """Return by how much the largest ended child process went over `held`, what it held when it was forked, in MB."""
    return max(0.0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6 - held)


def peak_of(script, *arguments):
    """Run a script in a process of its own, and return the number on the last line it prints."""
    done = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def command(doc, run, memory_of, sides=("ours", "theirs")):
    """Run a benchmark as its command line asks: `run(runs)` gives rows, `memory_of(which)` the peak of one side."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--memory", choices=sides, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(memory_of(arguments.memory))
        return
    rows = run(arguments.runs)
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)
