"""numtx eval."""

import json
import re

import pytest


def shown(out: str, name: str) -> str:
    return re.search(rf"^{name} +(.*)", out, re.MULTILINE)[1]


def test_on_the_held_out_text_it_repeats_the_log(numtx, finished):
    ran = numtx("eval", finished)
    assert (ran.code, ran.err) == (0, "")
    rows = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    best = min(row["eval_loss"] for row in rows)
    assert shown(ran.out, "loss") == f"{best:.4f} nats per token"


def test_on_other_text(numtx, finished, text_file, tmp_path):
    text = text_file.read_text()
    (tmp_path / "tail.txt").write_text(text[round(len(text) * 0.9) :], newline="")
    own, other = numtx("eval", finished).out, numtx("eval", finished, "--data", "tail.txt").out
    assert own.splitlines()[2:] == other.splitlines()[2:]
    piped = numtx("eval", finished, "--data", "-", stdin=(tmp_path / "tail.txt").read_bytes()).out
    assert piped.splitlines()[2:] == other.splitlines()[2:]
    assert "standard input" in piped
    whole = numtx("eval", finished, "--data", text_file, "--threads", 2).out
    assert shown(whole, "predicted") == f"{len(text) - 1:,} tokens, {len(text) - 1:,} bytes"
    assert shown(whole, "loss") != shown(own, "loss")


def test_a_text_shorter_than_a_context_is_enough(numtx, finished, tmp_path):
    (tmp_path / "t.txt").write_text("on")
    assert shown(numtx("eval", finished, "--data", "t.txt").out, "predicted") == "1 tokens, 1 bytes"


@pytest.mark.parametrize(
    ("data", "words"),
    [("nothé", ["'é'", "position 4"]), ("", ["expected text"]), ("o", ["at least 2 tokens"])],
)
def test_bad_input(numtx, finished, tmp_path, data, words):
    (tmp_path / "t.txt").write_text(data, encoding="utf-8")
    numtx("eval", finished, "--data", "t.txt").refused(1, *words)
    numtx("eval", finished, "--data", "none.txt").refused(1, "none.txt")


def test_a_text_that_is_gone(numtx, finished, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    settings = json.loads((run / "training.json").read_text())
    del settings["data"]
    (run / "training.json").write_text(json.dumps(settings))
    numtx("eval", run).refused(1, "--data")
