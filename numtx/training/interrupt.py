"""Ctrl-C, SIGTERM and SIGHUP: first ask the training to stop and save, then insist."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from numtx.training.mpi import Alone

HANGUP = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has no such signal


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Call `stop` on the first signal, and raise KeyboardInterrupt on the second; give the list of those that came.

    A closed terminal does not insist, however often the system says so: shell and kernel each do. Where SIGHUP is
    ignored (nohup) it stays so. The handlers from before are back when the block ends. Outside of the main thread, the
    only one that Python tells of signals, nothing is done.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        came.append(number)
        if number == HANGUP:
            _let_go_of_terminal()
        elif asked:
            raise KeyboardInterrupt
        else:
            asked = True
        stop()

    signals = [signal.SIGINT, signal.SIGTERM]
    if HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN:
        signals.append(HANGUP)
    before = {one: signal.signal(one, handle) for one in signals}
    try:
        yield came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def leaving(stop: Callable[[], None], ranks: Alone | None = None) -> Iterator[None]:
    """Like `stopping`, for use in a program of others: when the block has ended in order, pass the signal on.

    So Ctrl-C raises KeyboardInterrupt as ever, only after the save. SIGTERM and SIGHUP reach the program's own handlers
    where it has some; else they raise SystemExit with 128 + their number, as a shell has it, so that what is open is
    closed. What came to one of several ranks is passed on in all.
    """
    with stopping(stop) as came:
        yield
    told = [number for some in (ranks or Alone()).gather("signals", came) for number in some]
    if not told:
        return
    first = told[0]
    if signal.getsignal(first) not in (signal.SIG_DFL, signal.SIG_IGN):
        signal.raise_signal(first)
    elif first == signal.SIGINT:  # ignored: begun in the background of a shell
        raise KeyboardInterrupt
    else:
        raise SystemExit(128 + first)


def _let_go_of_terminal() -> None:
    """Write to nowhere what would go to a terminal that is gone: the error would come before the save."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # no file below, or closed
            number = stream.fileno()
            try:
                os.write(number, b"")
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
