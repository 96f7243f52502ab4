"""Whatever a user can cause ends in one line on standard error, never in a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FAILED, MISUSED, STOPPED = 1, 2, 130


class UsageError(ValueError):
    """The command was asked wrongly; its exit code is 2."""


@contextmanager
def asked(cause: type[ValueError] = ValueError) -> Iterator[None]:
    """Say of a ValueError inside the block, or of one kind of them, that what was asked caused it."""
    try:
        yield
    except cause as error:
        raise UsageError(str(error)) from error


def complain(message: str) -> None:
    """Write one line to standard error."""
    print("error:", " ".join(message.split()), file=sys.stderr, flush=True)


def let_go_of_stdout() -> None:
    """Write out what is left for standard output, or forget it, where Python would complain at its exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def described(error: BaseException) -> str:
    """Return an error as a message: the system's own errors with the file they are about."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: '{error.filename}'" if error.filename is not None else error.strerror
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    return str(error) or type(error).__name__
