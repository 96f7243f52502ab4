"""Errors of the `tokenizers` package, which raises bare exceptions and panics, as a ValueError of one line."""

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def guarded(expected: str, work: Callable[[], Result]) -> Result:
    """Return what `work` returns; if the package refuses it, raise a ValueError that says what was `expected`.

    Examples
    --------
    >>> guarded("AutoTokenizer: expected a vocabulary", lambda: {}["a"])
    Traceback (most recent call last):
    ValueError: AutoTokenizer: expected a vocabulary, got: 'a'
    """
    try:
        return work()
    except BaseException as error:
        # A panic is no Exception, so that Rust's own mistakes end the program; here it is a file or an option.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{expected}, got: {' '.join(str(error).split())}") from None
