"""Text classification of many texts beside Transformers' pipeline: a BERT of 6 layers and width 384.

    python benchmarks/pipelines.py
    python benchmarks/pipelines.py --runs 5 --json rows.json

Same weights, tokenizer, texts and batch size, in turn in one process. Transformers takes the texts as they come and
pads each batch to its longest; numtx sorts them by length first. Needs `pip install torch transformers tokenizers`.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import Row, median, print_table, write_json

import numtx
from numtx.checkpoints import write_json as write_config
from numtx.models import BertConfig, BertForSequenceClassification

THREADS = 2
LIMIT = 1 / 1.2  # the ratio of times that is promised
LAYERS, HEADS, WIDTH, HIDDEN, VOCABULARY = 6, 12, 384, 1536, 30522
TEXTS, BATCH = 256, 16
GAP = 1e-4  # between the scores of two right implementations in float32
NAME, AGAINST = "classify", "Transformers' pipeline"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def texts():
    """Return texts of 3 to 250 words, most of them short, as messages and reviews are."""
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.lognormal(3.2, 0.9, TEXTS), 3, 250).astype(int)
    words = ["".join(rng.choice(list(LETTERS), size=rng.integers(1, 4))) for _ in range(500)]
    return [" ".join(rng.choice(words, size=length)) for length in lengths]


def make_folder(folder):
    """Write a drawn model with a tokenizer of letters, whole or in pieces."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        id2label={0: "negative", 1: "neutral", 2: "positive"},
    )
    model = BertForSequenceClassification(config, rng=np.random.default_rng(0))
    model.draw(np.random.default_rng(0), std=0.05)
    model.save_pretrained(folder)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    write_config(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 512})


def contestants(folder):
    """Return both pipelines; theirs is imported behind ours."""
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    transformers.logging.set_verbosity_error()
    settings = {"batch_size": BATCH, "truncation": True}
    return {
        NAME: numtx.pipeline("text-classification", folder, **settings),
        AGAINST: transformers.pipeline("text-classification", str(folder), **settings),
    }


def run(runs=3):
    """Return the row."""
    numtx.set_num_threads(THREADS)
    asked = texts()
    with tempfile.TemporaryDirectory() as scratch:
        make_folder(Path(scratch))
        classify = contestants(Path(scratch))
    answers = {name: each(asked) for name, each in classify.items()}
    gap = max(abs(a["score"] - b["score"]) for a, b in zip(answers[NAME], answers[AGAINST], strict=True))
    print(f"{NAME}: the scores of {TEXTS} texts stay within {gap:.1e} of each other", flush=True)
    if not gap <= GAP:
        raise SystemExit(f"{NAME}: expected scores within {GAP} of each other, got {gap}: not the same model")
    times = {name: [] for name in classify}
    for _ in range(runs):
        for name, each in classify.items():
            began = time.perf_counter()
            each(asked)
            times[name].append(time.perf_counter() - began)
    ratios = [ours / theirs for ours, theirs in zip(times[NAME], times[AGAINST], strict=True)]
    milliseconds = [median(times[name]) * 1e3 for name in (NAME, AGAINST)]
    return [Row(NAME, "time", AGAINST, median(ratios), *milliseconds, "ms", LIMIT, (min(ratios), max(ratios)))]


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
