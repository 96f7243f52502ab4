"""A bar for those who wait: on a terminal alone, and only once they have waited."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 2.0  # seconds, after which one wants to know how long it will take


@contextmanager
def progress_of(total: int, task: str, wanted: bool | None) -> Iterator[Callable[[float], None] | None]:
    """Give what is told how many inputs are done, 2.5 of them say, and shows it as a bar on standard error.

    Parameters
    ----------
    total : int
        How many there will be.
    task : str
        What the bar says.
    wanted : bool or None
        None: on a terminal, when it takes long. True: at once, wherever. False: never.
    """
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield None
        return
    started = time.monotonic()
    bar: Any = None

    def tell(done: float) -> None:
        nonlocal bar
        if bar is None and (wanted or (time.monotonic() - started > PATIENCE and done < total)):
            bar = _bar()
            bar.start()
            bar.add_task(task, total=total)
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield tell
    finally:
        if bar is not None:
            bar.stop()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
