"""Processes that compute shards beside this one, where the system can fork.

Threads wait for each other between NumPy calls: only one at a time holds the interpreter, and handing it over takes
longer than many a call. Forked processes share the parameters, which lie in memory that a fork does not copy, and
nothing else.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from numtx import nn
from numtx.training.flat import FlatGradients, FlatParameters

CAN_FORK = sys.platform == "linux"  # elsewhere a fork is missing, or breaks the system's own BLAS


class Crew:
    """Processes that each compute a loss and gradients when asked, into buffers that this process reads.

    Parameters
    ----------
    count : int
    flat : FlatParameters
        Of the model that `compute` works with; what is written to its buffer is seen by all.
    compute : callable
        `compute(task)` gives (loss, tree of gradients). It is called in the forked process, whose other objects are
        those of the moment of the fork.

    Notes
    -----
    Fork before threads start. A process that waits ends when this one closes or dies, as its pipe then ends; signals
    from the keyboard it leaves to this one.
    """

    def __init__(self, count: int, flat: FlatParameters, compute: Callable[[Any], tuple[Any, dict]]):
        self._gradients = [flat.gradients() for _ in range(count)]
        self._trees = [nn.unflatten(gradients.views) for gradients in self._gradients]
        self._pipes: list[Connection] = []
        self._pids: list[int] = []
        for gradients in self._gradients:
            ours, theirs = Pipe()
            with warnings.catch_warnings():
                # Newer Pythons warn of a fork beside threads. BLAS has idle ones, which it forgets at a fork.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                ours.close()
                _work(theirs, gradients, compute)
            theirs.close()
            self._pipes.append(ours)
            self._pids.append(pid)

    def __len__(self) -> int:
        return len(self._pids)

    def start(self, tasks: Sequence[Any]) -> None:
        """Give each of the first processes a task."""
        for pipe, task in zip(self._pipes, tasks, strict=False):
            pipe.send(task)

    def results(self, count: int) -> list[tuple[float, dict]]:
        """Return (loss, tree of gradients) of the tasks given last; the trees hold until the next start.

        Raises
        ------
        Exception
            What a process raised; a RuntimeError if one ended.
        """
        results, error = [], None
        for pipe, tree in zip(self._pipes[:count], self._trees, strict=False):
            try:
                loss, raised = pipe.recv()
            except (EOFError, ConnectionError):
                raise RuntimeError("Crew: expected a worker process to answer, got its end (killed, perhaps)") from None
            error = error or raised
            results.append((loss, tree))
        if error is not None:
            raise error
        return results

    def close(self) -> None:
        """End the processes and wait until they have ended."""
        for pipe in self._pipes:
            pipe.close()
        for pid in self._pids:
            os.waitpid(pid, 0)
        self._pipes, self._pids = [], []


def _work(pipe: Connection, gradients: FlatGradients, compute: Callable[[Any], tuple[Any, dict]]) -> None:
    """Answer tasks until the pipe ends; never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            task = pipe.recv()
            try:
                loss, grads = compute(task)
                gradients.assign(grads)
                pipe.send((float(loss), None))
            except Exception as raised:
                pipe.send((np.nan, raised))
    except (EOFError, OSError):
        pass  # the process that asked has closed the pipe, or died
    finally:
        os._exit(0)  # nothing of what this process inherited is to be flushed or cleaned up twice
