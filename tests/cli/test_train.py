"""numtx train: what it shows and what it leaves."""

import importlib.util
import json
import math
import re
import shlex
import sys

import numpy as np
import pytest

from numtx.training import load_run

FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json", "log.jsonl"}


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def shown(out: str, name: str) -> float:
    return float(re.search(rf"^  {name} +([\d.]+)", out, re.MULTILINE)[1])


def test_leaves_a_run(numtx, tiny, tmp_path):
    ran = numtx("train", "--out", "run", *tiny)
    assert (ran.code, ran.err) == (0, "")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= FILES
    assert "checkpoint-8" in names
    assert [row["step"] for row in log_of(tmp_path / "run")] == [4, 8]
    assert {"step", "loss", "eval_loss", "seconds"} <= log_of(tmp_path / "run")[0].keys()
    assert json.loads((tmp_path / "run/config.json").read_text())["model_type"] == "gpt2"


def test_shows_the_run_as_plain_lines(numtx, tiny, tmp_path):
    out = numtx("train", "--out", "run", *tiny).out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)
    rows = [line.split() for line in out.splitlines() if re.match(r" +\d+  +\d\.", line)]
    log = log_of(tmp_path / "run")
    assert [row[:3] for row in rows] == [[str(r["step"]), f"{r['loss']:.4f}", f"{r['eval_loss']:.4f}"] for r in log]
    assert "a sample:" in out
    assert "numtx generate run --prompt" in out
    assert "│" in out  # the curve


def test_the_sample_is_what_generate_writes_from_the_run(numtx, tiny):
    out = numtx("train", "--out", "run", *tiny).out
    sample = out[out.index("a sample:") : out.index("kept in")].splitlines()[1:-1]
    again = numtx("generate", "run", "--seed", 0, "--tokens", 300).out.strip("\n").split("\n")
    assert [line.strip() for line in sample] == [line.strip() for line in again]


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("On the roof. The end. ", ["--prompt", "The "]),
        ("ΟΥΚ ΟΙΔΑ\n", ["--prompt", "ΟΙΔΑ", "ΟΥΚ", "ΙΔΑ", "ΔΑ"]),
        ("*-+'!?" * 9, []),
    ],
)
def test_the_command_it_ends_with_works(numtx, tmp_path, text, prompt, tokenizer):
    (tmp_path / "text.txt").write_text(text * 40, encoding="utf-8")
    shape = [*shlex.split("--layers 1 --heads 1 --width 8 --context 8 --batch 4 --steps 2 --tokenizer"), tokenizer]
    out = numtx("train", "--data", "text.txt", "--out", "run", *shape).out
    command = shlex.split(re.search("^to write +(.*)$", out, re.MULTILINE)[1])
    assert command[:3] == ["numtx", "generate", "run"]
    assert command[3:4] == prompt[:1]
    assert set(command[4:]) <= set(prompt[1:])
    assert numtx(*command[1:], "--tokens", 3).code == 0


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_three_units_of_one_loss(numtx, tmp_path, tokenizer):
    text = "Größe, Übermaß und Äpfel: 10 € das Kilo.\n" * 40
    (tmp_path / "deutsch.txt").write_text(text, encoding="utf-8")
    shape = shlex.split("--layers 1 --heads 1 --width 8 --context 16 --batch 4 --steps 4")
    ran = numtx("train", "--data", "deutsch.txt", "--out", "run", "--tokenizer", tokenizer, *shape)
    run = load_run(tmp_path / "run")
    held_out = text[round(len(text) * 0.9) :]
    ids = run.tokenizer.encode(held_out)
    nats = 0.0
    for start in range(0, ids.size - 1, 16):  # windows of one context, one after the other
        piece = ids[start : start + 17]
        logits = run.model(piece[None, :-1]).logits[0].astype(np.float64)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        nats -= logits[np.arange(piece.size - 1), piece[1:]].sum()
    predicted = ids.size - 1
    data = held_out.encode()
    data = data[1:] if tokenizer == "byte" else data[len(held_out[0].encode()) :]
    assert shown(ran.out, "loss") == pytest.approx(nats / predicted, abs=1e-4)
    assert shown(ran.out, "bits per byte") == pytest.approx(nats / math.log(2) / len(data), abs=1e-4)
    assert shown(ran.out, "perplexity") == pytest.approx(math.exp(nats / predicted), rel=1e-3)


def test_held_out_text_is_the_last_tenth_and_the_vocabulary_that_of_the_whole(numtx, tmp_path):
    (tmp_path / "t.txt").write_text("ab" * 90 + "cd" * 10)
    ran = numtx("train", "--data", "t.txt", "--out", "run", *shlex.split("--context 4 --width 4 --heads 1 --steps 2"))
    assert ran.code == 0
    run = load_run(tmp_path / "run")
    assert run.tokenizer.characters == "abcd"
    assert run.settings["tokens"]["validation"].startswith("20 tokens")


def test_options_reach_the_run(numtx, text_file, tmp_path):
    options = (
        "--layers 2 --heads 3 --width 12 --context 10 --batch 5 --steps 3 --lr 0.01 --dropout 0.25 --seed 7 "
        "--shards 3 --threads 1 --dtype float64 --tokenizer byte --eval-every 2"
    )
    assert numtx("train", "--data", text_file, "--out", "run", *options.split()).code == 0
    run = load_run(tmp_path / "run")
    model, asked = run.model.config, run.config
    assert (model.n_layer, model.n_head, model.n_embd, model.n_positions, model.vocab_size) == (2, 3, 12, 10, 256)
    assert (model.resid_pdrop, model.embd_pdrop, model.attn_pdrop) == (0.25, 0.25, 0.25)
    assert (asked.context, asked.batch, asked.steps, asked.lr, asked.seed) == (10, 5, 3, 0.01, 7)
    assert (asked.shards, asked.threads, asked.eval_every, asked.min_lr) == (3, 1, 2, 0.001)
    assert run.model.dtype == np.float64
    assert [row["step"] for row in run.log] == [2, 3]


def test_the_seed_decides_and_threads_do_not(numtx, tiny, tmp_path):
    for name, extra in (("a", []), ("b", ["--threads", 2]), ("c", ["--seed", 1])):
        assert numtx("train", "--out", name, *tiny, *extra).code == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_runs_are_numbered(numtx, tiny, tmp_path):
    for _ in range(2):
        assert numtx("train", *tiny).code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["1", "2"]
    assert (tmp_path / "runs/2/model.safetensors").is_file()


def test_a_failure_leaves_no_folder(numtx, tiny, tmp_path):
    numtx("train", *tiny, "--context", 100_000).refused(1)
    assert not (tmp_path / "runs").exists()


def test_one_row_needs_one_shard(numtx, tiny, tmp_path):
    assert numtx("train", "--out", "run", *tiny, "--batch", 1).code == 0
    assert load_run(tmp_path / "run").config.shards == 1


def test_text_from_standard_input_is_kept(numtx, tiny, text_file, tmp_path):
    ran = numtx("train", "--out", "run", *tiny[2:], "--data", "-", stdin=text_file.read_bytes())
    assert ran.code == 0
    assert "standard input" in ran.out
    assert (tmp_path / "run/text.txt").read_bytes() == text_file.read_bytes()
    numtx("train", "--out", "file", *tiny)
    assert not (tmp_path / "file/text.txt").exists()
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tmp_path / "file/model.safetensors").read_bytes()


def test_text_from_a_folder(numtx, tiny, text_file, tmp_path):
    (tmp_path / "texts/deep").mkdir(parents=True)
    text = text_file.read_text()
    (tmp_path / "texts/a.txt").write_text(text[:2000])
    (tmp_path / "texts/deep/b.md").write_text(text[2001:])
    assert text[2000] != "\n"
    assert numtx("train", "--out", "run", *tiny[2:], "--data", "texts").code == 0
    assert load_run(tmp_path / "run").settings["tokens"]["train"].split()[0] == str(round(len(text) * 0.9))


def test_without_data_it_is_pythons_own_text(numtx, tiny, tmp_path):
    ran = numtx("train", "--out", "run", *tiny[2:], "--steps", 1, "--width", 4)
    assert ran.code == 0
    assert "Python's help topics" in ran.out
    assert load_run(tmp_path / "run").settings["data"]["source"] == "python topics"


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_draws_the_loss(numtx, tiny, tmp_path):
    ran = numtx("train", "--out", "run", *tiny)
    assert "loss.png" in ran.out
    assert (tmp_path / "run/loss.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_brings_it(numtx, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = numtx("train", "--out", "run", *tiny)
    assert (ran.code, ran.err) == (0, "")
    assert "pip install 'numtx[plots]'" in ran.out
    assert not (tmp_path / "run/loss.png").exists()


def test_a_console_without_unicode(start, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ran = start("train", "--out", "run", *tiny, cwd=tmp_path)
    out, err = ran.communicate()
    assert (ran.returncode, err) == (0, "")
    assert "+----" in out
    assert out.isascii()
