"""Whatever a user can do wrong is one clear line and an exit code, and harms no run."""

import json
import shutil
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--heads", 3], ["heads", "width 8", "got 3"]),
        (["--layers", 0], ["--layers", "got 0"]),
        (["--batch", -1], ["--batch", "got -1"]),
        (["--dropout", 1], ["got 1"]),
        (["--lr", "nan"], ["--lr", "nan"]),
        (["--lr", -1], ["--lr"]),
        (["--shards", 5], ["5 shards", "4 rows"]),
        (["--seed", -1], ["--seed"]),
    ],
)
def test_settings_that_cannot_be(numtx, tiny, tmp_path, options, words):
    numtx("train", *tiny, *options).refused(2, *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["expected text"]),
        (b"\n\n\n", ["expected text"]),
        (b"too short", ["context + 1 = 9", "got 8 and 1"]),
        (b"x", ["enough text"]),
        (b"good \xff bad", ["UTF-8", "0xff", "offset 5"]),
        ("breve".encode("utf-16"), ["UTF-8"]),
    ],
)
@pytest.mark.parametrize("source", ["text.txt", "-"])
def test_text_that_cannot_be_learned_from(numtx, tiny, tmp_path, source, data, words):
    (tmp_path / "text.txt").write_bytes(data)
    numtx("train", *tiny[2:], "--data", source, stdin=data).refused(1, *words)
    assert not (tmp_path / "runs").exists()


def test_a_tenth_of_one_token_judges_nothing(numtx, tiny, tmp_path):
    (tmp_path / "text.txt").write_text("0123456789")
    numtx("train", *tiny[2:], "--data", "text.txt", "--context", 2).refused(1, "2 held out, got 9 and 1")


def test_text_that_is_not_there(numtx, tiny, tmp_path):
    numtx("train", *tiny[2:], "--data", "none.txt").refused(1, "none.txt")
    (tmp_path / "empty").mkdir()
    numtx("train", *tiny[2:], "--data", "empty").refused(1, "empty")


def test_a_folder_with_a_run_is_refused(numtx, tiny, finished, tmp_path):
    before = (finished / "training.json").read_bytes()
    numtx("train", *tiny, "--out", finished).refused(2, "--resume", "another --out")
    assert (finished / "training.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("precious")
    numtx("train", *tiny, "--out", "mine").refused(2, "other files")
    numtx("train", *tiny, "--out", "mine/file").refused(2, "file")
    assert (tmp_path / "mine/file").read_text() == "precious"
    numtx("train", *tiny, "--out", "mine/file/deep").refused(1, "mine/file/deep")


@pytest.fixture
def broken(finished, tmp_path):
    def make(damage: str):
        run = tmp_path / "run"
        shutil.copytree(finished, run)
        if damage == "version":
            settings = json.loads((run / "training.json").read_text())
            (run / "training.json").write_text(json.dumps(settings | {"format_version": 99}))
        elif damage == "dtype":
            settings = json.loads((run / "training.json").read_text())
            (run / "training.json").write_text(json.dumps(settings | {"dtype": "blah"}))
        elif damage.startswith("half "):
            path = run / damage.removeprefix("half ")
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            (run / damage).unlink()
        return run

    return make


@pytest.mark.parametrize("command", [["generate"], ["eval"], ["train", "--resume"]])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("version", ["format 1", "format 99"]),
        ("dtype", ["training.json", "float32 or float64", "'blah'"]),
        ("training.json", ["training.json"]),
        ("model.safetensors", ["model.safetensors"]),
        ("config.json", ["config.json"]),
        ("tokenizer.json", ["tokenizer"]),
        ("half training.json", ["training.json"]),
        ("half config.json", ["config.json"]),
        ("half tokenizer.json", ["tokenizer.json"]),
    ],
)
def test_a_run_that_is_not_whole(numtx, broken, command, damage, words):
    numtx(*command, broken(damage)).refused(1, *words)


@pytest.mark.parametrize("command", [["generate"], ["eval"]])
def test_half_written_weights(numtx, broken, command):
    numtx(*command, broken("half model.safetensors")).refused(1, "model.safetensors")


@pytest.mark.parametrize("command", [["generate"], ["eval"], ["train", "--resume"]])
def test_a_run_that_is_not_there(numtx, tmp_path, command):
    numtx(*command, "nowhere").refused(1, "nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    numtx(*command, "empty").refused(1, "empty")
    (tmp_path / "file").touch()
    numtx(*command, "file").refused(1, "'file', which is a file")


def test_nan_stops_the_training_and_the_last_save_stays(numtx, tiny, tmp_path):
    ran = numtx("train", "--out", "run", *tiny, "--steps", 400, "--lr", 1e30)
    ran.refused(1, "expected finite numbers", "first not finite is", "the last save is")
    last = ran.err.split("the last save is '")[1].split("'")[0]
    assert last.startswith("run")
    assert (tmp_path / last / "optimizer.safetensors").is_file()
    assert numtx("generate", "run", "--tokens", 3).code == 0


def limited(blocks: int, *arguments, cwd):
    """Run `numtx` where no file may grow beyond this many blocks of 512 bytes: to a program, a full disk."""
    shell = f'ulimit -f {blocks}; exec "$0" -m numtx "$@"'
    command = ["sh", "-c", shell, sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
class TestFullDisk:
    """Saving fails in one line, and what was saved before stays."""

    def test_at_the_first_save(self, tiny, tmp_path):
        ran = limited(4, "train", *tiny, cwd=tmp_path)
        assert ran.returncode == 1
        assert ran.stderr.startswith("error: RunFolder: expected to save")
        assert ran.stderr.count("\n") == 1
        assert not (tmp_path / "runs").exists()

    def test_later(self, numtx, finished, tmp_path):
        shutil.copytree(finished, tmp_path / "run")
        shutil.rmtree(tmp_path / "run/checkpoint-8")
        ran = limited(4, "train", "--resume", "run", cwd=tmp_path)
        assert ran.returncode == 1
        assert "intact" in ran.stderr
        assert ran.stderr.count("\n") == 1
        assert not list((tmp_path / "run").glob(".*"))
        assert numtx("train", "--resume", "run").code == 0
        assert (tmp_path / "run/model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
