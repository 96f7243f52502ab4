"""Threads for work that falls into independent parts: rows of a batch, heads.

Each thread has BLAS run on one thread of its own. A multi-threaded BLAS below many small products was seen to be 90
times slower, and two layers of threads fight for the same cores.
"""

from __future__ import annotations

import contextvars
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import threadpoolctl

from numtx.functional.door import count

Item = TypeVar("Item")
Result = TypeVar("Result")


class _State:
    """What the whole process shares; a forked one begins without threads of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.chosen: int | None = None  # by set_num_threads
        self.holders = 0  # who wants BLAS on one thread
        self.before: list[tuple[Any, int]] = []  # what each BLAS had before them
        self.helpers: list[SimpleQueue] = []  # where each thread gets its work
        self.libraries: list[Any] = []
        self.modules = 0  # that were loaded when the libraries were looked for

    def forked(self) -> None:
        """Forget the threads, and a lock that one of them may hold: a fork takes neither along."""
        self.lock, self.helpers = threading.Lock(), []

    def blas(self) -> list[Any]:
        """Return every BLAS of the process (NumPy has one, SciPy another)."""
        if self.modules != len(sys.modules):  # looking takes a millisecond: when an import may have loaded one
            self.modules = len(sys.modules)
            self.libraries = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
        return self.libraries

    def limit(self, threads: int) -> None:
        """Set every BLAS to so many threads."""
        for library in self.blas():
            library.set_num_threads(threads)


_state = _State()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_state.forked)


def set_num_threads(threads: int) -> None:
    """Set how many threads numtx works with in this process, BLAS's own included.

    Examples
    --------
    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    count("set_num_threads", 1, threads=threads)
    with _state.lock:
        _state.chosen = int(threads)
        if _state.holders:  # for when the last of them lets go
            _state.before = [(library, _state.chosen) for library, _ in _state.before]
        else:
            _state.limit(_state.chosen)


def get_num_threads() -> int:
    """Return how many threads numtx works with: what was set, else OMP_NUM_THREADS, else the processors it may use.

    Those are what the affinity of the process and the processor quota of its control group leave.
    """
    if _state.chosen is not None:
        return _state.chosen
    return _asked_by_environment() or available_processors()


def available_processors() -> int:
    """Return how many processors this process may use: by its affinity, and by the quota of its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(processors, _quota())))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS at one thread in the whole process; what was before the first holder returns after the last.

    Meanwhile `parallel` starts no threads: whoever holds BLAS has shared the cores out already.
    """
    _hold()
    try:
        yield
    finally:
        _let_go()


def parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return [function(item) for item in items], worked on by as many threads as `get_num_threads` says.

    The caller is one of them. Inside another `parallel` and wherever BLAS is held at one thread (a training's workers,
    the processes of its shards) the caller does all. Split the work the same way whatever the number of threads, and
    the result has the same bits on any number. NumPy lets go of the interpreter inside its loops alone: an item is
    worth a thread where its calls take tens of microseconds.

    Parameters
    ----------
    function : callable of one item
    items : iterable

    Raises
    ------
    Exception
        The first that an item raised, when no other is being worked on.

    Examples
    --------
    >>> parallel(lambda x: x * x, [1, 2, 3])
    [1, 4, 9]
    """
    items = list(items)
    threads = min(get_num_threads(), len(items))
    if threads < 2 or not _hold(first=True):
        return [function(item) for item in items]
    try:
        return _shared_out(function, items, threads)
    finally:
        _let_go()


def _shared_out(function: Callable[[Item], Result], items: list[Item], threads: int) -> list[Result]:
    waiting = deque(enumerate(items))
    failed: list[BaseException] = []
    ended: SimpleQueue[tuple[int, Any]] = SimpleQueue()

    def work() -> None:
        """Take item after item until none waits."""
        while (numbered := _next(waiting)) is not None:
            number, item = numbered
            result = None
            try:
                if not failed:  # what failed once is not worth going on with
                    result = function(item)
            except BaseException as raised:
                failed.append(raised)
            ended.put((number, result))

    while len(_state.helpers) < threads - 1:
        _state.helpers.append(_helper())
    for helper in _state.helpers[: threads - 1]:
        # Each gets the caller's context variables, np.errstate among them; a context is for one thread at a time.
        helper.put((contextvars.copy_context(), work))
    work()
    # Wait for items, not for threads: one that wakes up late finds nothing to do, and is not waited for.
    results = dict(ended.get() for _ in items)
    if failed:
        raise failed[0]
    return [results[number] for number in range(len(items))]


def _next(waiting: deque) -> Any:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _helper() -> SimpleQueue:
    """Start a thread that works off a queue, and return the queue."""
    queue: SimpleQueue = SimpleQueue()

    def work() -> None:
        """Do task after task for as long as the process lives."""
        while True:
            context, task = queue.get()
            context.run(task)
            del context, task  # nothing of it lives on while the thread waits

    threading.Thread(target=work, name="numtx", daemon=True).start()
    return queue


def _hold(*, first: bool = False) -> bool:
    """Hold BLAS at one thread; with `first` only where nobody holds it yet. Return whether it was done."""
    with _state.lock:
        if first and _state.holders:
            return False
        if not _state.holders:
            _state.before = [(library, library.get_num_threads()) for library in _state.blas()]
            _state.limit(1)
        _state.holders += 1
    return True


def _let_go() -> None:
    with _state.lock:
        _state.holders -= 1
        if not _state.holders:
            for library, threads in _state.before:
                library.set_num_threads(threads)


def _asked_by_environment() -> int | None:
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2" is for nested regions
    if not asked:
        return None
    if not (asked.isascii() and asked.isdigit()) or int(asked) < 1:
        raise ValueError(
            f"get_num_threads: expected OMP_NUM_THREADS as a whole number of at least 1, "
            f"got {os.environ['OMP_NUM_THREADS']!r}"
        )
    return int(asked)


@lru_cache  # read once: a parallel asks each time
def _quota(root: Path = Path("/")) -> float:
    """Return how many processors' time the control group of this process and those above it leave, maybe infinite."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    least = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one tree and no controllers here; version 1 a tree for each, "cpu,cpuacct" most often.
        for tree in [""] if not controllers else [controllers, "cpu"]:
            group = root / "sys/fs/cgroup" / tree
            for folder in [group, *(group.joinpath(*parts) for parts in _prefixes(path))]:
                least = min(least, _quota_of(folder))
    return least


def _prefixes(path: str) -> Iterator[list[str]]:
    names = [name for name in path.split("/") if name not in ("", "..")]
    return (names[:length] for length in range(1, len(names) + 1))


def _quota_of(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or "max"
        return math.inf
