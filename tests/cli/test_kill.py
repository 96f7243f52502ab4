"""A run that is killed in mid-step, without a word, goes on to the same bits, and leaves nothing behind.

NUMTX_KILLS says how many kills there are (2).
"""

import json
import os
import random
import shlex
import sys
import time
from pathlib import Path

import pytest
from killing import killed, saved

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")

KILLS = int(os.environ.get("NUMTX_KILLS", "2"))
STEPS = 60
RUN = shlex.split(
    f"--layers 1 --heads 2 --width 16 --context 16 --batch 4 --steps {STEPS} --eval-every 5 --dropout 0.1 --lr 0.01 "
    "--threads 2"
)


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def same_end(one: Path, other: Path) -> None:
    """Assert that weights, best weights, moments and the log are the same bits."""
    last = f"checkpoint-{STEPS}"
    for name in ("model.safetensors", f"{last}/model.safetensors", f"{last}/optimizer.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    timed = ("seconds", "tokens_per_second")
    logs = [[{k: v for k, v in row.items() if k not in timed} for row in log_of(run)] for run in (one, other)]
    assert len(logs[0]) == STEPS // 5
    assert logs[0] == logs[1]


def killed_run(ran, run: Path, after: float) -> int:
    """Wait until a run trains and `after` seconds more, kill it, and return the newest step it had saved."""
    for line in ran.stdout:
        if line.split()[:2] == ["step", "training"]:
            break
    while ran.poll() is None and saved(run) < 0:
        time.sleep(0.001)
    return killed(ran, run, after, STEPS)


def test_a_killed_run_goes_on_to_the_same_bits(start, numtx, text_file, tmp_path):
    assert numtx("train", "--data", text_file, "--out", "whole", *RUN).code == 0
    seconds = log_of(tmp_path / "whole")[-1]["seconds"]
    moments, kills, runs = random.Random(KILLS), [], 0
    while len(kills) < KILLS:
        runs += 1
        assert runs <= 2 * KILLS, "too many runs ended before they were killed"
        run, command = tmp_path / f"run{runs}", ["train", "--data", text_file, "--out", f"run{runs}", *RUN]
        while saved(run) < STEPS:
            ran = start(*command, cwd=tmp_path, start_new_session=True)
            command = ["train", "--resume", run.name]
            if len(kills) < KILLS:
                left = 1 - max(0, saved(run)) / STEPS
                step = killed_run(ran, run, after=moments.uniform(0, 0.8) * left * seconds)
                kills += [step] if step >= 0 else []
            else:
                _, err = ran.communicate(timeout=60)
                assert (ran.returncode, err) == (0, "")
                assert [path.name for path in run.rglob(".*")] == [], "half-written files of those that were killed"
        same_end(tmp_path / "whole", run)
    assert len(kills) == KILLS
