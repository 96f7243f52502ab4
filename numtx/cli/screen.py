"""What the user sees: styled on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text


class Screen:
    """Standard output.

    Attributes
    ----------
    live : bool
        Whether it is a terminal on which a bar can move. Where it is not (a pipe, a file, CI), only plain lines are
        written, without control codes.
    console : rich.console.Console
    """

    def __init__(self) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False)
        self.live = sys.stdout.isatty() and self.console.is_interactive

    def say(self, line: str = "", style: str | None = None) -> None:
        """Write a line."""
        if self.live:
            self.console.print(Text(line), style=style, soft_wrap=True)
        else:
            print(line, flush=True)

    def facts(self, rows: Sequence[tuple[str, str]]) -> None:
        """Write names and values in two aligned columns."""
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            if self.live:
                line = Text(f"{name:<{width}}  ", style="dim").append(value, style="not dim")
                self.console.print(line, soft_wrap=True)
            else:
                print(f"{name:<{width}}  {value}", flush=True)

    def write(self, text: str) -> None:
        """Write text that a model made, at once and as it is; on a terminal without what would steer it."""
        sys.stdout.write(printable(text) if self.live else text)
        sys.stdout.flush()

    @property
    def unicode(self) -> bool:
        """Whether lines and dots beyond ASCII can be written."""
        return self.has("•·│└─")

    def has(self, text: str) -> bool:
        """Whether all characters of a text can be written."""
        try:
            text.encode(sys.stdout.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return False
        return True


def printable(text: str) -> str:
    """Return text with a replacement for each control character but tabs and line ends.

    Examples
    --------
    >>> printable("a\\x1b[2J\\n")
    'a�[2J\\n'
    """
    return "".join("�" if unicodedata.category(c) == "Cc" and c not in "\t\n" else c for c in text)


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds, with hours where there are any.

    Examples
    --------
    >>> clock(83.4), clock(3700)
    ('1:23', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
