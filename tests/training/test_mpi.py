"""Ranks: the bits of one process, and an end for all where one fails."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trainer_program
from mpi_jobs import needs_mpi, run

from numtx.training import TrainingConfig, mpi
from numtx.training.agreement import differences
from numtx.training.mpi import Alone, found_ranks, launched

TRAINER = Path(trainer_program.__file__)
PROGRAM = Path(__file__).with_name("mpi_program.py")
LAST = "checkpoint-8"


def job(ranks, case, folder, threads=1):
    return run(ranks, [PROGRAM, case, folder, threads], cwd=folder.parent)


def alone(case, folder, threads=1):
    done = subprocess.run([sys.executable, PROGRAM, case, folder, str(threads)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def same_end(one, other):
    """Assert the same bits of weights and moments, and the same log but for the times."""
    for name in ("model.safetensors", f"{LAST}/model.safetensors", f"{LAST}/optimizer.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (one, other)]
    for row in (row for log in logs for row in log):
        del row["seconds"], row["tokens_per_second"]
    assert logs[0] == logs[1]
    assert len(logs[0]) > 1


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The run of a process alone: three unequal shards, two micro-batches, dropout."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    alone("train", folder)
    return folder


@needs_mpi
@pytest.mark.parametrize(("ranks", "threads"), [(1, 1), (2, 1), (4, 1), (2, 2), (3, 4)])
def test_any_number_of_ranks_gives_the_bits_of_one_process(ranks, threads, single, tmp_path):
    # 6 pieces a step: in several waves, by uneven shares, or in one; 3 ranks of 4 threads also leave some idle
    done = job(ranks, "train", tmp_path / "run", threads)
    assert (done.code, done.err) == (0, "")
    same_end(single, tmp_path / "run")
    results = re.findall(rf"rank \d of {ranks}: 8, (\d\.\d+)", done.out)  # mpiexec may join lines
    assert len(results) == ranks
    assert len(set(results)) == 1  # all know how it came out


@needs_mpi
def test_a_trainer_on_ranks_is_stopped_by_a_signal_to_one_and_has_the_bits_of_one_process(tmp_path):
    subprocess.run([sys.executable, TRAINER, tmp_path / "alone", "10"], check=True, stdout=subprocess.DEVNULL)
    done = run(3, [TRAINER, tmp_path / "run", "10", "5"], cwd=tmp_path)
    assert done.code != 0
    assert "trained" not in done.out
    assert (tmp_path / "run/checkpoint-5").is_dir()
    done = run(2, [TRAINER, tmp_path / "run", "10"], cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("trained") == 2
    for name in ("model", "optimizer"):
        ends = [(tmp_path / run / f"checkpoint-10/{name}.safetensors").read_bytes() for run in ("alone", "run")]
        assert ends[0] == ends[1]


@needs_mpi
def test_losses_are_summed_in_the_order_of_shards_and_batches(tmp_path):
    alone("float64", tmp_path / "alone")  # in float32 their sums would be exact, whatever the order
    assert job(3, "float64", tmp_path / "run").code == 0
    same_end(tmp_path / "alone", tmp_path / "run")


@needs_mpi
def test_a_stop_asked_for_on_any_rank_stops_all_after_the_same_step(tmp_path):
    done = job(3, "stop", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    assert len(re.findall(r"rank \d of 3: 2,", done.out)) == 3
    assert (tmp_path / "run" / "checkpoint-2").exists()


@needs_mpi
def test_all_ranks_can_catch_what_one_raised(tmp_path):
    done = job(3, "caught", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    said = "the data of this rank ends here"
    for rank, raised in enumerate(("RankError: rank 1: ", "ValueError: ", "RankError: rank 1: ")):
        assert f"rank {rank} caught {raised}{said};" in done.out


@needs_mpi
def test_a_run_goes_on_with_another_number_of_ranks(single, tmp_path):
    folder = tmp_path / "run"
    assert job(2, "train", folder).code == 0
    shutil.rmtree(folder / LAST)  # as if it had been killed before
    done = job(3, "resume", folder)
    assert (done.code, done.err) == (0, "")
    same_end(single, folder)


FAILURES = {
    "raise": ("rank 1: the data of this rank ends here", "ValueError: the data of this rank ends here"),
    "callback": ("rank 0: a callback failed", "LookupError: a callback failed"),
    "save": ("rank 0: the disk is full", "ValueError: the disk is full"),
    "nonfinite": (
        "rank 0: TrainingLoop: expected finite numbers",
        "NonFiniteError: TrainingLoop: expected finite numbers",
    ),
    "uncaught": ("error: rank 1: before the training", "LookupError: before the training"),
    "interrupt": ("error: rank 1: KeyboardInterrupt",),
}


@needs_mpi
@pytest.mark.parametrize("case", FAILURES)
def test_what_one_rank_raises_ends_all(case, tmp_path):
    done = job(3, case, tmp_path / "run")
    assert done.code != 0
    for words in FAILURES[case]:
        assert words in done.err
    assert "rank 0 of 3" not in done.out


@needs_mpi
def test_a_rank_that_ends_without_a_word_ends_all(tmp_path):
    done = job(3, "exit", tmp_path / "run")
    assert done.code != 0
    assert "rank 0 of 3" not in done.out


@needs_mpi
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("weights", "got weights "),
        ("data", "got training text 900 tokens, sha256 "),
        ("drift", "got weights after step 4 "),
    ],
)
def test_ranks_that_disagree_are_named(case, words, tmp_path):
    done = job(2, case, tmp_path / "run")
    assert done.code == 1
    assert "TrainingLoop: expected the same on every rank" in done.err
    assert words in done.err
    assert "on rank 0 and" in done.err
    assert (tmp_path / "run").exists() == (case == "drift")


def test_differences_name_each_fact_and_its_ranks():
    assert differences([{"a": 1}, {"a": 1}]) == ""
    assert (
        differences([{"a": 1, "b": 2}, {"a": 3}]) == "a 1 on rank 0 and 3 on rank 1; b 2 on rank 0 and none on rank 1"
    )


@pytest.mark.parametrize("threads", [[1, 1, 1], [2, 1, 4], [1, 5, 1], [3, 3, 3]])
def test_parts_are_neighbours_that_cover_the_tasks(threads):
    for count in range(1, sum(threads) + 1):
        parts = []
        for rank in range(3):
            one = Alone()
            one.rank, one.size = rank, 3
            parts.append(range(count)[one.part(count, threads)])
        assert [task for part in parts for task in part] == list(range(count))
        assert all(len(part) <= most for part, most in zip(parts, threads, strict=True))
        assert len(parts[0]) > 0
        room = [len(part) for part, most in zip(parts, threads, strict=True) if len(part) < most]
        assert not room or max(map(len, parts)) - min(room) <= 1  # who could take more has no less than others


def test_more_tasks_than_threads_are_refused():
    with pytest.raises(ValueError, match="at most a task for each of 3 threads, got 4"):
        Alone().part(4, [3])


def test_alone_adds_in_order():
    parts = [np.full(3, value, np.float32) for value in (1e8, 1.0, -1e8)]
    total = np.full(3, 7, np.float32)
    Alone().add_in_order(parts, total, fresh=True)
    assert total.tolist() == [0, 0, 0]  # (1e8 + 1) - 1e8 in float32
    Alone().add_in_order(parts[1:2], total, fresh=False)
    assert total.tolist() == [1, 1, 1]


@pytest.fixture
def environment(monkeypatch):
    """Set what an mpiexec would, and nothing else of it."""
    for name in (*mpi.RANKS, *mpi.SIZES):
        monkeypatch.delenv(name, raising=False)
    mpi.world.cache_clear()

    def put(**names):
        for name, value in names.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({}, None),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1"}, (1, 2)),
        ({"PMIX_RANK": "3", "SLURM_STEP_NUM_TASKS": "8"}, (3, 8)),
        ({"SLURM_STEP_NUM_TASKS": "8"}, None),
    ],
)
def test_the_environment_says_whether_mpiexec_started_this(names, expected, environment):
    environment(**names)
    assert launched() == expected


def test_without_mpiexec_mpi4py_is_not_imported(environment, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert type(found_ranks()) is Alone
    program = "import sys, numtx.training, numtx.cli.app; sys.exit('mpi4py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_extra_that_is_missing_is_named(environment, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    environment(PMI_RANK="0", PMI_SIZE="2")
    with pytest.raises(ImportError, match=r"pip install 'numtx\[mpi\]' brings both"):
        found_ranks()


@needs_mpi
def test_the_mpiexec_of_another_mpi_is_refused(tmp_path):
    program = "import os; os.environ.update(OMPI_COMM_WORLD_RANK='0', OMPI_COMM_WORLD_SIZE='3')\n"
    program += "from numtx.training.mpi import found_ranks; found_ranks()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "mpi: expected the 3 ranks that mpiexec started, got 1" in done.stderr


def test_threads_of_ranks_on_one_machine_share_it(monkeypatch):
    monkeypatch.setattr(mpi, "available_threads", lambda: 6)  # by OMP_NUM_THREADS, for instance
    monkeypatch.setattr(mpi, "available_processors", lambda: 8)

    class Comm:
        Get_rank, Get_size = staticmethod(lambda: 0), staticmethod(lambda: 4)

    ranks = mpi.Ranks(Comm(), sharing=4)
    assert ranks.threads(TrainingConfig(batch=16, shards=16)) == 2
    assert mpi.Ranks(Comm(), sharing=1).threads(TrainingConfig(batch=64, shards=64)) == 6
    assert ranks.threads(TrainingConfig(batch=16, shards=4)) == 1
    assert ranks.threads(TrainingConfig(batch=16, shards=16, threads=5)) == 5
