"""numtx train --config FILE.toml."""

import pytest

from numtx.training import load_run


@pytest.fixture
def config(tmp_path):
    def write(content: str):
        path = tmp_path / "run.toml"
        path.write_text(content, encoding="utf-8")
        return path

    return write


def test_every_option_can_stand_in_the_file(numtx, config, text_file, tmp_path):
    path = config(
        f"data = '{text_file}'\nout = 'here'\nlayers = 1\nheads = 2\nwidth = 8\ncontext = 8\nbatch = 4\nsteps = 3\n"
        "lr = 0.01\ndropout = 0.5\nseed = 3\nshards = 4\nthreads = 1\ndtype = 'float64'\ntokenizer = 'byte'\n"
        "eval-every = 2\n"
    )
    assert numtx("train", "--config", path).code == 0
    run = load_run(tmp_path / "here")
    assert (run.config.steps, run.config.lr, run.config.seed, run.config.shards, run.config.eval_every) == (
        3,
        0.01,
        3,
        4,
        2,
    )
    assert (run.model.config.n_head, run.model.config.n_embd, run.model.config.vocab_size) == (2, 8, 256)
    assert (run.model.config.resid_pdrop, str(run.model.dtype)) == (0.5, "float64")


def test_the_command_line_wins_even_with_a_default(numtx, config, tiny, tmp_path):
    path = config("seed = 3\nsteps = 5\nlr = 1\nlayers = 2\neval_every = 1\n")
    layers = tiny.index("--layers")
    tiny[layers : layers + 2] = []
    assert numtx("train", "--config", path, "--out", "run", *tiny, "--seed", 0).code == 0
    run = load_run(tmp_path / "run")
    assert (run.config.seed, run.config.steps, run.config.eval_every) == (0, 8, 4)  # the command line's
    assert (run.config.lr, run.model.config.n_layer) == (1.0, 2)  # the file's


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("layer = 3", ["'layer'", "is it layers?"]),
        ("[model]\nlayers = 3", ["'model'"]),
        ("layers = '3'", ["a whole number", "layers", "'3'"]),
        ("layers = 3.0", ["a whole number", "layers", "3.0"]),
        ("layers = true", ["a whole number", "layers", "True"]),
        ("lr = 'fast'", ["a number", "lr"]),
        ("lr = true", ["a number", "lr"]),
        ("data = 3", ["a text", "data"]),
        ("dtype = 'float16'", ["float32", "float64", "float16"]),
        ("tokenizer = 3", ["char", "byte"]),
        ("resume = 'run'", ["'resume'"]),
        ("layers = 0", ["--layers", "at least 1"]),
        ("lr = nan", ["--lr", "nan"]),
        ("layers 3", ["TOML", "line 1"]),
    ],
)
def test_a_wrong_file_is_one_line(numtx, config, tmp_path, content, words):
    numtx("train", "--config", config(content)).refused(2, *words)
    assert not (tmp_path / "runs").exists()


def test_a_file_that_cannot_be_read(numtx, tmp_path):
    numtx("train", "--config", "none.toml").refused(2, "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    numtx("train", "--config", "bytes.toml").refused(2, "bytes.toml")
    numtx("train", "--config", tmp_path).refused(2, "--config")
