"""Killing a run at some moment, without a word, and looking at what it left."""

import os
import signal
import sys
import time
from pathlib import Path

from numtx.checkpoints import verify_manifest


def saved(run: Path) -> int:
    """The step of the newest checkpoint; -1 where there is none."""
    return max((int(path.name.split("-")[1]) for path in run.glob("checkpoint-*")), default=-1)


def of_session(leader: int) -> list[int]:
    """Processes, alive, of the session that a process began."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(session) == leader and state != "Z":
            found.append(int(folder.name))
    return found


def killed(ran, run: Path, after: float, last: int) -> int:
    """Kill a run that has begun, after some seconds, and return the newest step it had saved, whole.

    -1 where it had come to its end.
    """
    time.sleep(after)
    workers = len(of_session(ran.pid)) - 1
    ran.kill()
    if ran.wait(timeout=30) != -signal.SIGKILL or saved(run) == last:
        return -1
    if sys.platform == "linux":
        assert workers == 1, "shards were not computed by two processes"
        until = time.monotonic() + 10
        while (left := of_session(ran.pid)) and time.monotonic() < until:
            time.sleep(0.01)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, "a process of the run outlived it"
    for checkpoint in run.glob("checkpoint-*"):
        verify_manifest(checkpoint)
    return saved(run)
