"""numtx generate."""

import shlex
import shutil

import numpy as np
import pytest
from tokenizer_questions import FOLDERS

from numtx.models import GPT2Config, GPT2LMHeadModel
from numtx.training import load_run


def test_writes_the_prompt_and_then_what_the_model_chooses(numtx, finished):
    run = load_run(finished)
    ids = run.tokenizer.encode("60 bottles")
    written = np.concatenate([ids, *run.model.stream(ids[None], max_new_tokens=12)])
    expected = run.tokenizer.decode(written)
    ran = numtx("generate", finished, "--prompt", "60 bottles", "--tokens", 12, "--greedy")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.rstrip("\n") == expected.rstrip("\n")
    assert expected.startswith("60 bottles")


def test_settings_reach_the_sampler(numtx, finished):
    run = load_run(finished)
    ids = run.tokenizer.encode("a")[None]
    settings = {"temperature": 1.5, "top_k": 9, "top_p": 0.9, "seed": 4}
    written = run.model.stream(ids, max_new_tokens=40, do_sample=True, **settings)
    expected = np.concatenate([ids[0], *written])
    options = shlex.split("--temperature 1.5 --top-k 9 --top-p 0.9 --seed 4 --tokens 40")
    out = numtx("generate", finished, "--prompt", "a", *options).out
    assert out.rstrip("\n") == run.tokenizer.decode(expected).rstrip("\n")


def test_the_seed_decides(numtx, finished):
    outs = [numtx("generate", finished, "--prompt", "a", "--tokens", 40, "--seed", seed).out for seed in (1, 1, 2)]
    assert outs[0] == outs[1] != outs[2]
    free = [numtx("generate", finished, "--prompt", "a", "--tokens", 40).out for _ in range(2)]
    assert free[0] != free[1]


def test_greedy_and_temperature_zero_and_the_likeliest_alone_agree(numtx, finished):
    outs = [
        numtx("generate", finished, "--prompt", "on the", "--tokens", 20, *options).out
        for options in (["--greedy"], ["--temperature", 0], ["--top-k", 1])
    ]
    assert outs[0] == outs[1] == outs[2]


def test_a_long_prompt_slides(numtx, finished):
    """Context 8: only the last eight characters count."""
    short = numtx("generate", finished, "--prompt", "the wall", "--tokens", 30, "--greedy").out
    long = numtx("generate", finished, "--prompt", "60 bottles of beer on the wall", "--tokens", 30, "--greedy").out
    assert long.removeprefix("60 bottles of beer on ") == short


def test_prompt_from_standard_input(numtx, finished):
    typed = numtx("generate", finished, "--prompt", "a\nb", "--tokens", 5, "--greedy").out
    assert numtx("generate", finished, "--prompt", "-", "--tokens", 5, "--greedy", stdin=b"a\nb\n").out == typed
    numtx("generate", finished, "--prompt", "-", stdin=b"\xff").refused(1, "UTF-8")


def test_without_a_prompt_it_begins_on_a_new_line(numtx, finished):
    assert numtx("generate", finished, "--tokens", 5).out.startswith("\n")


def test_without_a_prompt_and_without_lines_it_begins_somewhere(numtx, tiny, tmp_path):
    (tmp_path / "t.txt").write_text("xyz" * 100)
    assert numtx("train", *tiny[2:], "--data", "t.txt", "--out", "run").code == 0
    assert numtx("generate", "run", "--tokens", 5).out.startswith("x")


def test_characters_of_several_bytes_come_whole(numtx, tiny, tmp_path, monkeypatch):
    (tmp_path / "t.txt").write_text("€ä" * 300, encoding="utf-8")
    assert numtx("train", *tiny[2:], "--data", "t.txt", "--out", "run", "--tokenizer", "byte").code == 0
    given = iter("€ä€ä€".encode()[:12])  # and at the end half of a third €
    monkeypatch.setattr("numtx.generation.Sampler.__call__", lambda self, logits, rng: np.array([next(given)]))
    pieces = []
    monkeypatch.setattr("numtx.cli.screen.Screen.write", lambda self, text: pieces.append(text))
    assert numtx("generate", "run", "--prompt", "ä", "--tokens", 12).code == 0
    assert "".join(pieces) == "ä€ä€ä�\n"
    assert all(piece and "�" not in piece for piece in pieces[:-2])
    assert len(pieces) > 3  # streamed


def test_ctrl_c_ends_the_line(numtx, finished, monkeypatch):
    def interrupted(sampler, logits, rng):
        counted.append(1)
        if len(counted) > 5:
            raise KeyboardInterrupt
        return np.array([3])

    counted = []
    monkeypatch.setattr("numtx.generation.Sampler.__call__", interrupted)
    ran = numtx("generate", finished, "--prompt", "beer")
    assert (ran.code, ran.err) == (130, "")
    assert ran.out == "beer" + load_run(finished).tokenizer.decode([3] * 5) + "\n"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--prompt", "nothé"], 1, ["'é'", "position 4"]),
        (["--prompt", ""], 1, ["at least one character"]),
        (["--tokens", 0], 2, ["--tokens"]),
        (["--top-k", 0], 2, ["--top-k"]),
        (["--top-p", 0], 2, ["top_p"]),
        (["--top-p", 1.5], 2, ["top_p"]),
        (["--temperature", -1], 2, ["temperature"]),
        (["--seed", -1], 2, ["--seed"]),
    ],
)
def test_bad_input(numtx, finished, options, code, words):
    ran = numtx("generate", finished, *options)
    ran.refused(code, *words)
    assert ran.out == ""


def test_control_codes_reach_pipes_alone(monkeypatch, capsys):
    from numtx.cli.screen import Screen

    screen = Screen()
    for live, expected in ((False, "a\x1b[2J\n"), (True, "a�[2J\n")):
        screen.live = live
        screen.write("a\x1b[2J\n")
        assert capsys.readouterr().out == expected


def test_a_tokenizer_of_another_model_is_refused(numtx, tmp_path):
    pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
    config = GPT2Config(vocab_size=11, n_positions=9, n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(config, rng=0).save_pretrained(tmp_path)
    for file in (FOLDERS / "gpt2").iterdir():
        if file.name != "config.json":
            shutil.copy(file, tmp_path)
    numtx("generate", tmp_path, "--prompt", "a").refused(1, "ids below vocab_size = 11 of GPT2LMHeadModel, got id ")
