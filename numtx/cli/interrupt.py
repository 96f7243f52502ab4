"""Ctrl-C, SIGTERM and SIGHUP: first ask the training to stop and save, then insist."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

HANGUP = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has no such signal


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on the first signal, and raise KeyboardInterrupt on the second.

    A closed terminal does not insist, however often the system says so: shell and kernel each do. Where SIGHUP is
    ignored (nohup) it stays so.
    """
    if threading.current_thread() is not threading.main_thread():  # Python takes signals in the main thread alone
        yield
        return
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
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
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _let_go_of_terminal() -> None:
    """Write to nowhere what would go to a terminal that is gone: the error would come before the save."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # no file below, or closed
            number = stream.fileno()
            try:
                os.write(number, b"")
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
