"""Findings as a table: what, which gradient, worst relative error, cases, verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from numtx.testing.findings import Finding

HEADER = ("what", "gradient", "worst relative error", "cases", "verdict")
# Checks whose error is a relative error of the gradient (or, for "definition", of the result) named in the row.
NUMBERS = ("definition", "gradient", "Jacobian")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    what : str
        The op, component or model.
    gradient : str
        The input or parameter whose gradient it is; ``"y"`` for the result itself.
    error : float
        Worst relative error, over all cases, against the central differences (for ``"y"``: against the definition).
    cases : int
        How many cases were compared.
    verdict : str
        ``"ok"``, or the names of the checks that failed.
    note : str
        What was seen at the first failure.
    """

    what: str
    gradient: str
    error: float
    cases: int
    verdict: str
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything about this gradient holds."""
        return self.verdict == "ok"

    def cells(self) -> tuple[str, str, str, str, str]:
        """The five columns as text."""
        return self.what, self.gradient, f"{self.error:.1e}", str(self.cases), self.verdict


@dataclass(frozen=True)
class Report:
    """What was checked and how it came out; true when everything passed, and a table when printed.

    Attributes
    ----------
    rows : tuple of Row
        One for each result and gradient.
    hint : str
        Where what failed is a known mistake: its name and where to look.
    """

    rows: tuple[Row, ...]
    hint: str = field(default="")

    def __bool__(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        lines = table([HEADER, *(row.cells() for row in self.rows)])
        lines += [f"{row.what}, {row.gradient}: {row.note}" for row in self.rows if row.note]
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)

    __repr__ = __str__


def table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with aligned columns; the first is the heading."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [text[0], "  ".join("-" * width for width in widths), *text[1:]]


def tabulate(what: str, cases: Iterable[Iterable[Finding]]) -> list[Row]:
    """Rows from the findings of several cases: one for each subject, in the order they are met; ``"y"`` first."""
    found: dict[str, list[Finding]] = {}
    seen: dict[str, set[int]] = {}
    for k, findings in enumerate(cases):
        for finding in findings:
            found.setdefault(finding.subject, []).append(finding)
            if finding.check in NUMBERS:
                seen.setdefault(finding.subject, set()).add(k)
    rows = []
    for subject in sorted(found, key=lambda name: name != "y"):
        findings_here = found[subject]
        if subject not in seen and all(f.ok for f in findings_here):
            continue  # an input without gradient of which only "unchanged" was asked
        failed = [f for f in findings_here if not f.ok]
        numbers = [f.error for f in findings_here if f.check in NUMBERS]
        worst = max(numbers, key=lambda e: (e != e, e), default=0.0)
        verdict = "FAILED: " + ", ".join(dict.fromkeys(f.check for f in failed)) if failed else "ok"
        note = failed[0].note if failed else ""
        rows.append(Row(what, subject, worst, len(seen.get(subject, ())), verdict, note))
    return rows
