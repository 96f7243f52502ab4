"""What one check found, and how many findings become a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The outcome of one check on one case.

    Attributes
    ----------
    check : str
        Which property, such as ``"gradient"`` or ``"inputs unchanged"``.
    subject : str
        What it is about: the name of an input or parameter, ``"y"``, or ``"-"``.
    error : float
        How far off, relative where that makes sense; 0 for a yes-or-no property that holds, NaN or inf where it fails.
    ok : bool
        Whether the property holds. Always written as ``error <= tolerance``, which NaN fails.
    note : str
        What was seen, for the reader of a failure.
    """

    check: str
    subject: str
    error: float
    ok: bool
    note: str = ""


def holds(check: str, subject: str, truth: bool, note: str = "") -> Finding:
    """A yes-or-no property: error 0 where it holds, infinite where it does not."""
    return Finding(check, subject, 0.0 if truth else float("inf"), bool(truth), "" if truth else note)


def within(check: str, subject: str, error: float, tolerance: float, note: str = "") -> Finding:
    """A property with a number: it holds when ``error <= tolerance`` (NaN does not)."""
    ok = bool(error <= tolerance)
    return Finding(check, subject, float(error), ok, "" if ok else note)


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Those findings that do not hold."""
    return [f for f in findings if not f.ok]
