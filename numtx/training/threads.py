"""Worker threads, each with one BLAS thread of its own."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from numtx.functional.threads import get_num_threads, one_blas_thread

WORTH = 1 << 20  # elements of a vector pass below which a thread costs more than it saves

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_threads() -> int:
    """Return how many threads this process may use, as `numtx.get_num_threads` does."""
    return get_num_threads()


class Workers:
    """A pool of threads for NumPy work, a context manager.

    Inside the `with`, BLAS runs on one thread everywhere in the process: the parallelism is above it, and a
    multi-threaded BLAS below was seen to run small batched products 90 times slower. What was set before is restored at
    the end. Workers(1) starts no thread: the caller does the work, and the `with` only sets BLAS.

    In a training the threads share evaluations. The shards of a batch and the update are theirs only where
    `ShardedGradients` cannot fork processes, as it does on Linux.

    Parameters
    ----------
    threads : int

    Examples
    --------
    >>> with Workers(2) as workers:
    ...     workers.map(lambda x: x * x, [1, 2, 3])
    [1, 4, 9]
    """

    def __init__(self, threads: int):
        if threads < 1:
            raise ValueError(f"Workers: expected at least one thread, got {threads}")
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._held = ExitStack()

    def __enter__(self) -> Workers:
        self._held.enter_context(one_blas_thread())
        if self.threads > 1:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="numtx")
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._held.close()

    def worth(self, size: int) -> int:
        """Return how many threads are worth having for vector passes over arrays of `size` elements together."""
        return max(1, min(self.threads, size // WORTH))

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return [function(item) for item in items], worked on by the threads; the first error is raised."""
        items = list(items)
        if self.threads == 1 or len(items) == 1:
            return [function(item) for item in items]
        if self._pool is None:
            raise ValueError("Workers: expected to be entered (with Workers(2) as workers: ...) before the first map")
        # Each item gets the caller's context variables, np.errstate among them; a context is for one thread at a time.
        contexts = [contextvars.copy_context() for _ in items]
        return list(self._pool.map(lambda context, item: context.run(function, item), contexts, items))
