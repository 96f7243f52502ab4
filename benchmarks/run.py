"""All benchmarks, one table: python benchmarks/run.py

Each runs in a process of its own, beside what it is measured against, and the machine's own limits are measured in the
same run. The table goes to the screen and to benchmarks/RESULTS.md, with date, machine and versions.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Row, gemm_rate, matvec_rate, write_json

from numtx.functional.threads import one_blas_thread

HERE = Path(__file__).parent
NAMES = (
    "train_step",
    "finetune",
    "attention",
    "optimizer",
    "encoder",
    "prefill",
    "decode",
    "beams",
    "pipelines",
    "open_checkpoint",
)
PACKAGES = ("numpy", "scipy", "torch", "transformers")
RESULTS = HERE / "RESULTS.md"


def rows_of(name, runs):
    """Run one benchmark, its own words on the screen, and return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        command = [sys.executable, str(HERE / f"{name}.py"), "--runs", str(runs), "--json", str(path)]
        print(f"\n=== {name}", flush=True)
        subprocess.run(command, check=True)
        return [(name, Row(**entry)) for entry in json.loads(path.read_text(encoding="utf-8"))]


def machine():
    """Say what this machine is, and what it can do at most."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    with one_blas_thread():
        gemm, matvec = gemm_rate(threads), matvec_rate(threads)
    return [
        f"- {datetime.date.today().isoformat()}, {threads} cores ({processor()}), {platform.system()}",
        f"- Python {platform.python_version()}, numtx {importlib.metadata.version('numtx')}, {versions}",
        f"- {gemm:.0f} GFLOP/s in float32 products, {matvec:.1f} GB/s in products with a "
        "vector, both of NumPy on all cores",
    ]


def processor():
    """Return the name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(named_rows):
    """Return the lines of a Markdown table."""
    lines = [
        "| benchmark | work | quantity | ours | theirs | ratio (spread) | promised | against |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, row in named_rows:
        spread = f" ({row.spread[0]:.2f}-{row.spread[1]:.2f})" if row.spread else ""
        promised = "" if row.limit is None else f"{row.limit:.2f}"
        cells = (name, row.work, row.quantity, f"{row.ours:,.1f} {row.unit}", f"{row.theirs:,.1f} {row.unit}")
        lines.append(f"| {' | '.join(cells)} | {row.ratio:.2f}{spread} | {promised} | {row.against} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=NAMES, action="append", help="this one alone; may be said several times")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="write the rows to this file")
    arguments = parser.parse_args()
    head = machine()
    print("\n".join(head), flush=True)
    named_rows = [pair for name in arguments.only or NAMES for pair in rows_of(name, arguments.runs)]
    lines = table(named_rows)
    print("", *head, "", *lines, sep="\n")
    if arguments.json:
        write_json(arguments.json, [row for _, row in named_rows])
    if not arguments.only:
        title = "# numtx beside PyTorch and Transformers"
        note = "A ratio is ours over theirs, the median of paired runs; under 1 is better. `python benchmarks/run.py`"
        RESULTS.write_text("\n".join([title, "", note, "", *head, "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
