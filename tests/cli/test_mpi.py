"""numtx train under mpiexec: one voice, one error, and a way on."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mpi_jobs import COMMAND, ended, needs_mpi, start
from mpi_jobs import run as run_job

STEPS = 60
RUN = shlex.split(
    f"--layers 1 --heads 2 --width 16 --context 16 --batch 6 --steps {STEPS} --eval-every 5 --dropout 0.1 --lr 0.01 "
    "--shards 4"
)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def train(*words):
    return [*COMMAND, "train", *words]


def children(parent):
    """Processes that a process started, by their own numbers, alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, its_parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(its_parent) == parent and state != "Z":
            found.append(int(folder.name))
    return sorted(found)


def ranks_of(job):
    (proxy,) = children(job.pid)
    return children(proxy)


def wait_for(found, seconds=60):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def begun(tmp_path, *words, ranks=3):
    """Start a run, and return it when it has saved something besides its beginning."""
    job = start((ranks, train(*RUN, "--out", "run", *words)), cwd=tmp_path)
    wait_for(lambda: (tmp_path / "run" / "checkpoint-5").exists() or job.poll() is not None)
    assert job.poll() is None, job.communicate()
    return job


def same_end(one, other):
    last = f"checkpoint-{STEPS}"
    for name in ("model.safetensors", f"{last}/model.safetensors", f"{last}/optimizer.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    done = subprocess.run([sys.executable, *train(*RUN, "--out", "run")], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


@needs_mpi
def test_many_ranks_say_and_save_what_one_process_does(single, tmp_path):
    done = run_job(4, train(*RUN, "--out", "run"), cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    same_end(single[0], tmp_path / "run")
    assert "4 ranks, threads: 1 each" in done.out
    timeless = [re.sub(r"threads.*|\d+ ranks.*| +[\d,]+ +\d+:\d+$", "", line) for line in done.out.splitlines()]
    assert timeless == [re.sub(r"threads.*| +[\d,]+ +\d+:\d+$", "", line) for line in single[1].splitlines()]


@needs_mpi
@LINUX
def test_a_killed_rank_ends_the_others_and_the_last_save_goes_on_with_fewer(single, tmp_path):
    job = begun(tmp_path)
    os.kill(ranks_of(job)[2], signal.SIGKILL)
    began = time.monotonic()
    done = ended(job)
    assert time.monotonic() - began < 10
    assert done.code != 0
    (line,) = (line for line in done.err.splitlines() if line.startswith("error: "))
    assert "got one killed" in line
    assert re.search(r"the last save is 'run/checkpoint-\d+'; to go on: mpiexec -n 3 numtx train --resume run$", line)
    again = run_job(2, train("--resume", "run"), cwd=tmp_path)
    assert (again.code, again.err) == (0, "")
    same_end(single[0], tmp_path / "run")


@needs_mpi
@LINUX
def test_a_killed_mpiexec_leaves_no_rank_behind(tmp_path):
    job = begun(tmp_path)
    (proxy,) = children(job.pid)
    ranks = children(proxy)
    job.kill()
    wait_for(lambda: not any(Path(f"/proc/{one}").exists() for one in (*ranks, proxy)), seconds=10)
    job.communicate()


@needs_mpi
@LINUX
def test_a_killed_worker_of_a_rank_is_said(tmp_path):
    job = begun(tmp_path, "--threads", "2", ranks=2)
    os.kill(children(ranks_of(job)[1])[-1], signal.SIGKILL)
    done = ended(job)
    assert done.code == 1
    assert done.err.startswith("error: rank 1: train: Crew: expected a worker process to go on")
    assert done.err.endswith("to go on from the last save: mpiexec -n 2 numtx train --resume run\n")
    assert done.err.count("\n") == 1


@needs_mpi
@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_job_saves_and_goes_on_alone(number, single, tmp_path):
    job = begun(tmp_path)
    job.send_signal(number)
    done = ended(job)
    assert done.code == 130
    assert f"of {STEPS}; all of it is saved\nto go on: mpiexec -n 3 numtx train --resume run\n" in done.out
    again = subprocess.run([sys.executable, *train("--resume", "run")], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    same_end(single[0], tmp_path / "run")


@needs_mpi
def test_each_rank_gets_a_shard_where_none_were_asked_for(tmp_path):
    words = [word for word in RUN if word not in ("--shards", "4")]
    done = run_job(3, train(*words, "--steps", "2"), cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    settings = json.loads((tmp_path / "runs/1/training.json").read_text())
    assert settings["training"]["shards"] == 3
    assert not (tmp_path / "runs/2").exists()


@needs_mpi
def test_standard_input_is_read_once_for_all(tmp_path):
    job = start((2, train(*RUN, "--steps", "2", "--data", "-", "--out", "run")), cwd=tmp_path, stdin=subprocess.PIPE)
    done = ended(job, given="one rank reads this, the others are told. " * 40)
    assert (done.code, done.err) == (0, "")
    assert "standard input, 1,680 characters" in done.out
    assert (tmp_path / "run/text.txt").read_text().startswith("one rank reads this")


OTHERS = {
    "settings": (["--lr", "0.1"], ["--lr", "0.2"], 1, "train: expected the same on every rank, got --lr 0.1 on ranks"),
    "text": (["--data", "a"], ["--data", "b"], 1, "TrainingLoop: expected the same on every rank, got training text"),
    "file": ([], ["--data", "c"], 1, "rank 2: read_corpus: expected a file"),
    "misuse": (["--steps", "0"], ["--steps", "0"], 2, "--steps: expected at least 1, got 0"),
}


@needs_mpi
@pytest.mark.parametrize("case", OTHERS)
def test_what_ranks_cannot_do_is_said_once_and_nothing_is_made(case, tmp_path):
    (tmp_path / "a").write_text("the cat sat on the mat. " * 50)
    (tmp_path / "b").write_text("the rat sat on the mat. " * 50)
    most, last, code, words = OTHERS[case]
    done = ended(start((2, train(*RUN, *most)), (1, train(*RUN, *last)), cwd=tmp_path))
    assert done.code == code
    assert done.err.startswith(f"error: {words}")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_extra_that_is_missing_is_said_by_one_rank(rank, numtx, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv("PMI_RANK", rank)
    monkeypatch.setenv("PMI_SIZE", "2")
    done = numtx("train")
    if rank == "0":
        done.refused(1, "pip install 'numtx[mpi]' brings both")
    else:
        assert (done.code, done.out, done.err) == (1, "", "")
