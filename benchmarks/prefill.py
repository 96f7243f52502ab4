"""Reading a prompt: GPT-2 of 124M parameters over 512 tokens, numtx beside Transformers, in turn in one process.

python benchmarks/prefill.py [--runs 3] [--json FILE]
"""

import argparse
import time

import numpy as np
from decode import AGAINST, THREADS, model, opponent
from measure import Row, median, print_table, write_json

import numtx

TOKENS = 512


def seconds(write, ids):
    """Return the time of the first token after a prompt, which is that of the prompt."""
    began = time.perf_counter()
    write(ids, 1)
    return time.perf_counter() - began


def run(runs=3, turns=3):
    """Return the row."""
    numtx.set_num_threads(THREADS)
    ours = model()
    theirs = opponent(ours)
    ids = np.random.default_rng(0).integers(ours.config.vocab_size, size=(1, TOKENS))

    def write(ids, new):
        return ours.generate(ids, max_new_tokens=new)

    seconds(write, ids), seconds(theirs, ids)
    runs = [[(seconds(write, ids), seconds(theirs, ids)) for _ in range(turns)] for _ in range(runs)]
    ratios = [median([a / b for a, b in pairs]) for pairs in runs]
    a, b = (median(times) * 1e3 for times in zip(*(pair for pairs in runs for pair in pairs), strict=True))
    return [Row(f"{TOKENS} tokens", "time", AGAINST, median(ratios), a, b, "ms", spread=(min(ratios), max(ratios)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="write the rows to this file")
    arguments = parser.parse_args()
    rows = run(arguments.runs)
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
