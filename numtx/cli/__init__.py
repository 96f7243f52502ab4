"""The command `numtx`: one file a command, put together in `app`."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `numtx` with these arguments (default: those of the process) and return its exit code.

    0: done. 1: it failed, with one line on standard error. 2: it was asked wrongly. 130: it was stopped.
    """
    from numtx.cli.app import run

    return run(arguments)


__all__ = ["main"]
