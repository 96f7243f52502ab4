"""Processes that work beside this one, where the system can fork.

Threads wait for each other between NumPy calls: only one at a time holds the interpreter, and handing it over takes
longer than many a call. Forked processes share the flat buffers, which lie in memory that a fork does not copy, and
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
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn

CAN_FORK = sys.platform == "linux"  # elsewhere a fork is missing, or breaks the system's own BLAS
# What ends the process that asks: it saves first, and then ends these.
ENDS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


Functions = Mapping[str, Callable[[int, Any], Any]]


class Crew:
    """This process and `count` more, which share out tasks.

    Parameters
    ----------
    count : int
        Processes besides this one.
    functions : dict of name -> callable
        What can be asked for: `function(number, task)`, where number is 0 in this process and 1, 2 ... in the others.
        Their objects are those of the moment of the fork, but for the flat buffers: what one writes there all see. Task
        and result travel as pickles, so large arrays belong into such buffers.

    Raises
    ------
    ChildProcessError
        From `map`, when a process has ended by itself: killed, most often for want of memory.

    Notes
    -----
    Fork before threads start. The processes end with `close`, or when this one dies; the signals of a keyboard or a
    shutdown they leave to this one.
    """

    def __init__(self, count: int, functions: Functions):
        self._functions = functions
        self._pipes: list[Connection] = []
        self._pids: list[int] = []
        try:
            for number in range(1, count + 1):
                self._fork(number)
        except OSError:  # no more processes, or no memory for one
            self.close()
            raise

    def _fork(self, number: int) -> None:
        ours, theirs = Pipe()
        # Held back until the child ignores them: its interrupt handlers are this process's, and not for it to run.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        try:
            with warnings.catch_warnings():
                # Newer Pythons warn of a fork beside threads. BLAS has idle ones, which it forgets at a fork.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                _work(number, theirs, [ours, *self._pipes], self._functions)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._pipes.append(ours)
        self._pids.append(pid)

    def __len__(self) -> int:
        return 1 + len(self._pids)

    def map(self, name: str, tasks: Sequence[Any]) -> list[Any]:
        """Return [functions[name](number, task)] for at most as many tasks as processes, each by another.

        What a process raised is raised here, after all have answered, with the place where it was raised as a note.
        """
        others = self._pipes[: len(tasks) - 1]
        for pipe, task in zip(others, tasks[1:], strict=True):
            try:
                pipe.send((name, task))
            except ConnectionError:
                raise _ended() from None
        try:
            own = self._functions[name](0, tasks[0])
        finally:  # whatever happens here, no answer may be left for the next call
            results = self._results(others)
        return [own, *results]

    def _results(self, pipes: Sequence[Connection]) -> list[Any]:
        results, error = [], None
        for pipe in pipes:
            try:
                result, raised = pipe.recv()
            except (EOFError, ConnectionError):
                raise _ended() from None
            error = error or raised
            results.append(result)
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


def _work(number: int, pipe: Connection, others: list[Connection], functions: Functions) -> NoReturn:
    """Answer tasks until one is None or the pipe ends; never return to the code that forked."""
    try:
        for end in ENDS:
            signal.signal(end, signal.SIG_IGN)
        for other in others:  # held open here, they would not end with the process that asks
            other.close()
        while (asked := pipe.recv()) is not None:
            name, task = asked
            answer: tuple[Any, Exception | None]
            try:
                answer = (functions[name](number, task), None)
            except Exception as raised:
                raised.add_note("".join(traceback.format_exception(raised)))
                answer = (None, sendable(raised))
            pipe.send(answer)
    except (EOFError, OSError):
        pass  # the process that asks has died
    finally:
        os._exit(0)  # nothing of what this process inherited is to be flushed or cleaned up twice


def sendable(raised: Exception) -> Exception:
    """Return an exception that arrives whole in another process: this one, or if it cannot be pickled its text."""
    try:
        pickle.loads(pickle.dumps(raised))
    except Exception:
        return RuntimeError(f"{type(raised).__name__}: {raised}")
    return raised
