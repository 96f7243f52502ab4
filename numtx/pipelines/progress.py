"""A bar for those who wait: on a terminal alone, and only once they have waited."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

PATIENCE = 2.0  # seconds, after which one wants to know how long it will take


def shown(answers: Iterable[Any], total: int, task: str, wanted: bool | None) -> Iterator[Any]:
    """Yield the answers, with a bar on standard error while they come.

    Parameters
    ----------
    answers : iterable
    total : int
        How many there will be.
    task : str
        What the bar says.
    wanted : bool or None
        None: on a terminal, when it takes long. True: at once, wherever. False: never.
    """
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield from answers
        return
    started = time.monotonic()
    bar: Any = None
    try:
        for done, answer in enumerate(answers, 1):
            if bar is None and (wanted or (time.monotonic() - started > PATIENCE and done < total)):
                bar = _bar()
                bar.start()
                number = bar.add_task(task, total=total)
            if bar is not None:
                bar.update(number, completed=done)
            yield answer
    finally:
        if bar is not None:
            bar.stop()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
