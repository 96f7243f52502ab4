"""A line on standard error even if the process is killed: another process, which waits for that, writes it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from numtx.training.crew import CAN_FORK


@contextmanager
def last_words(words: Callable[[], str]) -> Iterator[None]:
    """Write words() if this process ends inside the block without leaving it; where it cannot fork, do nothing.

    When one rank is killed, mpiexec kills the others: none of them can say anything.
    """
    if not CAN_FORK:
        yield
        return
    heard, left = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: BLAS has idle ones
        pid = os.fork()
    if pid == 0:
        os.close(left)
        _wait_for_the_end(heard, words)
    os.close(heard)
    try:
        yield
    finally:
        with suppress(OSError):  # it has been killed itself
            os.write(left, b".")
        os.close(left)
        os.waitpid(pid, 0)


def _wait_for_the_end(heard: int, words: Callable[[], str]) -> NoReturn:
    try:
        os.setsid()  # whoever kills the session of the process that is watched leaves this one alone
        if not os.read(heard, 1):
            os.write(sys.stderr.fileno(), f"error: {words()}\n".encode())
    finally:
        os._exit(0)
