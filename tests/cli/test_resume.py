"""Stopping a run and going on: the same bits, and nothing else than was begun."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from numtx.checkpoints import load_arrays

LONG = shlex.split(
    "--layers 1 --heads 2 --width 16 --context 16 --batch 4 --steps 300 --eval-every 30 --dropout 0.1 --lr 0.01 "
    "--threads 2"
)

# `numtx`, which does not go on after the 40th step before a line comes in: no run ends before it is stopped, however
# long whoever stops it is kept waiting for a processor.
WAITS = """
import sys
from numtx.cli import main
from numtx.training import TrainingLoop

step_of = TrainingLoop._train_step

def one(loop, sharded):
    step_of(loop, sharded)
    if loop.step == 40:
        sys.stdin.readline()

TrainingLoop._train_step = one
sys.exit(main(sys.argv[1:]))
"""

SIGNALS = [one for name in ("SIGINT", "SIGTERM", "SIGHUP") if (one := getattr(signal, name, None))]


@pytest.fixture(autouse=True)
def signals_are_heard():
    """Also where the tests run under nohup: what ignores a signal hands that on to the processes it starts."""
    before = [(one, signal.signal(one, signal.SIG_DFL)) for one in SIGNALS if signal.getsignal(one) is signal.SIG_IGN]
    yield
    for one, handler in before:
        signal.signal(one, handler)


def same_run(one, other):
    """Assert that two runs hold the same bits wherever time plays no part."""
    names = ["model.safetensors", "config.json", "tokenizer.json"]
    for checkpoint in sorted(path.name for path in one.glob("checkpoint-*")):
        names += [f"{checkpoint}/model.safetensors", f"{checkpoint}/optimizer.safetensors"]
        states = [json.loads((run / checkpoint / "trainer_state.json").read_text()) for run in (one, other)]
        for state in states:
            del state["seconds"], state["since"]["seconds"]
        assert states[0] == states[1]
    assert len(names) > 3
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    logs = []
    for run in (one, other):
        rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in rows])
    assert logs[0] == logs[1]


def newest(run) -> int:
    return max((int(path.name.split("-")[1]) for path in run.glob("checkpoint-*")), default=0)


def first_shown(start, text_file, cwd):
    """Begin a run and return its process once its first evaluation is shown: it waits for a line after step 40."""
    program = ("-c", WAITS)
    ran = start("train", "--data", text_file, "--out", "run", *LONG, cwd=cwd, program=program, stdin=subprocess.PIPE)
    for line in ran.stdout:
        if line.split()[:1] == ["30"]:
            break
    return ran


def stopped(start, text_file, cwd, number) -> None:
    """Begin a run, and send it a signal once its first evaluation is shown."""
    ran = first_shown(start, text_file, cwd)
    ran.send_signal(number)
    out, err = ran.communicate("\n", timeout=60)
    assert (ran.returncode, err) == (130, "")
    assert "numtx train --resume run" in out
    assert 30 <= newest(cwd / "run") <= 40
    assert f"stopped after step {newest(cwd / 'run')} of 300" in out


@pytest.mark.skipif(sys.platform == "win32", reason="signals to one process are sent otherwise there")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(start, numtx, text_file, tmp_path, number):
    stopped(start, text_file, tmp_path, number)
    assert numtx("generate", "run", "--tokens", 5).code == 0  # what is left can be used
    ran = numtx("train", "--resume", "run", "--threads", 1)
    assert (ran.code, ran.err) == (0, "")
    assert "on from step" in ran.out
    assert numtx("train", "--data", text_file, "--out", "whole", *LONG).code == 0
    same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_can_be_stopped_twice(start, numtx, text_file, tmp_path, monkeypatch):
    """At steps that are no steps of saving, the second time before the first evaluation after it."""
    from numtx.training import TrainingLoop

    step_of = TrainingLoop._train_step

    def stop_at(*steps):
        def one(loop, sharded):
            step_of(loop, sharded)
            if loop.step in steps:
                signal.raise_signal(signal.SIGINT)

        return one

    monkeypatch.setattr(TrainingLoop, "_train_step", stop_at(17, 23))
    run = ["train", "--data", text_file, "--out", "run", *LONG, "--steps", 60]
    for begin, step in ((run, 17), (["train", "--resume", "run"], 23)):
        ran = numtx(*begin)
        assert ran.code == 130
        assert f"stopped after step {step} of 60" in ran.out
        assert newest(tmp_path / "run") == step
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert numtx("train", "--resume", "run").code == 0
    assert numtx("train", "--data", text_file, "--out", "whole", *LONG, "--steps", 60).code == 0
    shutil.rmtree(tmp_path / "run/checkpoint-23", ignore_errors=True)  # the whole run was never saved there
    shutil.rmtree(tmp_path / "whole/checkpoint-30", ignore_errors=True)
    shutil.rmtree(tmp_path / "run/checkpoint-30", ignore_errors=True)
    same_run(tmp_path / "run", tmp_path / "whole")


def test_the_second_signal_stops_at_once(numtx, tiny, tmp_path, monkeypatch):
    from numtx.training import TrainingLoop

    def never_ends(loop, sharded):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal was not heard")

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(TrainingLoop, "_train_step", never_ends)
    ran = numtx("train", "--out", "run", *tiny)
    assert ran.code == 130
    assert "numtx train --resume run" in ran.out
    assert newest(tmp_path / "run") == 0
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def begun(finished, tmp_path):
    """A run that stands at step 4 of 8."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoint-8")
    return run


def test_from_an_older_checkpoint_too(numtx, begun, finished):
    assert newest(begun) == 4
    assert numtx("train", "--resume", begun).code == 0
    same_run(begun, finished)


def test_a_damaged_checkpoint_is_passed_over(numtx, begun, finished):
    shutil.copytree(finished / "checkpoint-8", begun / "checkpoint-8")
    (begun / "checkpoint-8/optimizer.safetensors").write_bytes(b"half")
    ran = numtx("train", "--resume", begun)
    assert ran.code == 0
    first = ran.out.splitlines()[0]
    assert first.startswith("warning: RunFolder: passed over checkpoint-8 (")
    assert "4 bytes of optimizer.safetensors" in first
    assert first.endswith("checkpoint-4'")
    same_run(begun, finished)


def test_a_finished_run_says_so(numtx, finished):
    before = (finished / "model.safetensors").stat().st_mtime_ns
    ran = numtx("train", "--resume", finished)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("\n") == 1
    assert "is finished: all 8 steps" in ran.out
    assert (finished / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals hang up there")
class TestHangup:
    def test_any_number_of_them_is_no_insistence(self, numtx, tiny, tmp_path, monkeypatch):
        from numtx.training import TrainingLoop

        step_of = TrainingLoop._train_step

        def hung_up(loop, sharded):
            step_of(loop, sharded)
            for _ in range(3):
                signal.raise_signal(signal.SIGHUP)

        monkeypatch.setattr(TrainingLoop, "_train_step", hung_up)
        assert numtx("train", "--out", "run", *tiny).code == 130
        assert newest(tmp_path / "run") == 1

    def test_where_it_is_ignored_it_stays_so(self, numtx, tiny, tmp_path, monkeypatch):
        from numtx.training import TrainingLoop

        step_of = TrainingLoop._train_step

        def hung_up(loop, sharded):
            signal.raise_signal(signal.SIGHUP)
            step_of(loop, sharded)

        monkeypatch.setattr(TrainingLoop, "_train_step", hung_up)
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            assert numtx("train", "--out", "run", *tiny).code == 0
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_a_closed_terminal_saves(self, start, text_file, tmp_path, monkeypatch):
        """What is written after that, such as the line of an evaluation, must not come between."""
        import pty

        monkeypatch.setenv("TERM", "xterm-256color")
        ours, theirs = pty.openpty()
        options = ["--data", text_file, "--out", "run", *LONG, "--steps", 100_000, "--eval-every", 1]
        script = "import os, sys, fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from numtx.cli import main; "
        script += "sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", script, "train", *map(str, options)]
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        ran = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **streams)
        try:
            os.close(theirs)
            while not newest(tmp_path / "run"):
                os.read(ours, 65536)
            os.close(ours)
            assert ran.wait(timeout=60) == 130
        finally:
            ran.kill()
            ran.wait()
        log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
        assert newest(tmp_path / "run") == log[-1]["step"] >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="shards are computed in threads there")
def test_a_killed_worker_is_one_line_that_says_how_to_go_on(start, numtx, text_file, tmp_path):
    ran = first_shown(start, text_file, tmp_path)
    children = [int(pid) for pid in Path(f"/proc/{ran.pid}/task/{ran.pid}/children").read_text().split()]
    assert len(children) == 1
    os.kill(children[0], signal.SIGKILL)
    _, err = ran.communicate("\n", timeout=60)
    assert ran.returncode == 1
    last = newest(tmp_path / "run")
    assert re.fullmatch(
        rf"error: train: [^\n]*worker process[^\n]*killed[^\n]*; the last save is 'run/checkpoint-{last}'; "
        r"to go on: numtx train --resume run\n",
        err,
    )
    assert numtx("train", "--resume", "run").code == 0
    assert numtx("train", "--data", text_file, "--out", "whole", *LONG).code == 0
    same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "given", "began"),
    [
        ("layers", 2, 1),
        ("heads", 1, 2),
        ("width", 16, 8),
        ("context", 4, 8),
        ("batch", 8, 4),
        ("steps", 100, 8),
        ("lr", 0.5, 0.003),
        ("dropout", 0.5, 0.0),
        ("seed", 5, 0),
        ("shards", 4, 2),
        ("eval-every", 2, 4),
        ("dtype", "float64", "float32"),
        ("tokenizer", "byte", "char"),
    ],
)
def test_options_that_would_change_the_run_are_refused(numtx, begun, tmp_path, name, given, began):
    numtx("train", "--resume", begun, f"--{name}", given).refused(
        2, f"--{name} {given}", f"began with {began}", "--threads"
    )
    value = f'"{given}"' if isinstance(given, str) else given
    (tmp_path / "c.toml").write_text(f"{name} = {value}\n")
    numtx("train", "--resume", begun, "--config", "c.toml").refused(2, f"--{name} {given}", f"began with {began}")
    assert newest(begun) == 4


def test_the_same_options_are_not_refused(numtx, begun, finished, tiny):
    assert numtx("train", "--resume", begun, "--out", begun, *tiny, "--seed", 0, "--dtype", "float32").code == 0
    same_run(begun, finished)


def test_another_folder_is_refused(numtx, begun):
    numtx("train", "--resume", begun, "--out", "elsewhere").refused(2, "--out", "elsewhere")


def test_the_text_may_move_but_not_change(numtx, begun, finished, text_file, tmp_path):
    text = text_file.read_text()
    for changed in (text.replace("60", "61", 1), text + "é", text[:-1] + "!", "short"):
        (tmp_path / "other.txt").write_text(changed, encoding="utf-8")
        numtx("train", "--resume", begun, "--data", "other.txt").refused(1, "text of the run")
    (tmp_path / "moved.txt").write_text(text, newline="")
    assert numtx("train", "--resume", begun, "--data", "moved.txt").code == 0
    same_run(begun, finished)


def test_text_that_is_gone(numtx, begun):
    settings = json.loads((begun / "training.json").read_text())
    settings["data"]["source"] = str(begun / "gone.txt")
    (begun / "training.json").write_text(json.dumps(settings))
    numtx("train", "--resume", begun).refused(1, "gone.txt")


def test_text_from_standard_input_is_read_again_from_the_run(numtx, tiny, text_file, tmp_path):
    assert numtx("train", "--out", "run", *tiny[2:], "--data", "-", stdin=text_file.read_bytes()).code == 0
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    shutil.rmtree(tmp_path / "run/checkpoint-8")
    assert numtx("train", "--resume", "run").code == 0
    same_run(tmp_path / "run", tmp_path / "whole")


def test_moments_matter(begun):
    """What the tests above compare is not trivial."""
    moments = load_arrays(begun / "checkpoint-4/optimizer.safetensors")
    assert any(np.abs(array).max() > 0 for array in moments.values() if array.size > 1)
