"""Processes that compute shards beside this one, where the system can fork.

Threads wait for each other between NumPy calls: only one at a time holds the interpreter, and handing it over takes
longer than many a call. Forked processes share the parameters, which lie in memory that a fork does not copy, and
nothing else.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn

from numtx import nn
from numtx.training.flat import FlatGradients, FlatParameters

CAN_FORK = sys.platform == "linux"  # elsewhere a fork is missing, or breaks the system's own BLAS
# What ends the process that asks: it saves first, and then ends these.
ENDS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


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

    Raises
    ------
    ChildProcessError
        From `start` and `results`, when a process has ended by itself: killed, most often for want of memory.

    Notes
    -----
    Fork before threads start. The processes end with `close`, or when this one dies; the signals of a keyboard or a
    shutdown they leave to this one.
    """

    def __init__(self, count: int, flat: FlatParameters, compute: Callable[[Any], tuple[Any, dict]]):
        self._gradients = [flat.gradients() for _ in range(count)]
        self._trees = [nn.unflatten(gradients.views) for gradients in self._gradients]
        self._pipes: list[Connection] = []
        self._pids: list[int] = []
        try:
            for gradients in self._gradients:
                self._fork(gradients, compute)
        except OSError:  # no more processes, or no memory for one
            self.close()
            raise

    def _fork(self, gradients: FlatGradients, compute: Callable[[Any], tuple[Any, dict]]) -> None:
        ours, theirs = Pipe()
        # Held back until the child ignores them: its interrupt handlers are this process's, and not for it to run.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        try:
            with warnings.catch_warnings():
                # Newer Pythons warn of a fork beside threads. BLAS has idle ones, which it forgets at a fork.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                _work(theirs, [ours, *self._pipes], gradients, compute)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._pipes.append(ours)
        self._pids.append(pid)

    def __len__(self) -> int:
        return len(self._pids)

    def start(self, tasks: Sequence[Any]) -> None:
        """Give the first processes a task each; there are no more tasks than processes."""
        for pipe, task in zip(self._pipes[: len(tasks)], tasks, strict=True):
            try:
                pipe.send(task)
            except ConnectionError:
                raise _ended() from None

    def results(self, count: int) -> list[tuple[float, dict]]:
        """Return (loss, tree of gradients) of the `count` tasks given last; the trees hold until the next start.

        What a process raised is raised here, after all have answered, with the place where it was raised as a note.
        """
        results, error = [], None
        for pipe, tree in zip(self._pipes[:count], self._trees[:count], strict=True):
            try:
                loss, raised = pipe.recv()
            except (EOFError, ConnectionError):
                raise _ended() from None
            error = error or raised
            results.append((loss, tree))
        if error is not None:
            raise error
        return results

    def close(self) -> None:
        """End the processes and wait until they have ended."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # it has ended already
                pipe.send(None)
            pipe.close()
        for pid in self._pids:
            os.waitpid(pid, 0)
        self._pipes, self._pids = [], []


def _ended() -> ChildProcessError:
    return ChildProcessError("Crew: expected a worker process to go on, got its end (killed, or out of memory)")


def _work(
    pipe: Connection, others: list[Connection], gradients: FlatGradients, compute: Callable[[Any], tuple[Any, dict]]
) -> NoReturn:
    """Answer tasks until one is None or the pipe ends; never return to the code that forked."""
    try:
        for number in ENDS:
            signal.signal(number, signal.SIG_IGN)
        for other in others:  # held open here, they would not end with the process that asks
            other.close()
        while (task := pipe.recv()) is not None:
            answer: tuple[float, Exception | None]
            try:
                loss, grads = compute(task)
                gradients.assign(grads)
                answer = (float(loss), None)
            except Exception as raised:
                answer = (0.0, _sendable(raised))
            pipe.send(answer)
    except (EOFError, OSError):
        pass  # the process that asks has died
    finally:
        os._exit(0)  # nothing of what this process inherited is to be flushed or cleaned up twice


def _sendable(raised: Exception) -> Exception:
    """Return an exception that arrives whole, with the place where it was raised as a note."""
    try:
        raised.add_note("".join(traceback.format_exception(raised)))
        pickle.loads(pickle.dumps(raised))
    except Exception:
        return RuntimeError(f"{type(raised).__name__}: {raised}")
    return raised
