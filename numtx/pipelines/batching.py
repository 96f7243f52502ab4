"""Rows of unequal length in batches that waste little on padding, and answers in the order of the questions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any


def windows(inputs: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Take `size` inputs at a time, and no more of them than that before they are asked for.

    Examples
    --------
    >>> list(windows(iter("abcde"), 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    source = iter(inputs)
    while window := list(islice(source, size)):
        yield window


def batches_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the numbers of rows in batches of `size`, the longest first: what fails for want of memory fails at once.

    Examples
    --------
    >>> batches_by_length([3, 9, 3, 5], 2)
    [[1, 3], [0, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[start : start + size] for start in range(0, len(order), size)]


def in_batches(
    rows: Sequence[Any],
    lengths: Sequence[int],
    compute: Callable[[list[Any]], Sequence[Any]],
    size: int,
    tell: Callable[[float], None] | None = None,
) -> list[Any]:
    """Return what `compute` gives for each row, in the order of the rows, computed in batches of like length.

    After each batch `tell` is told which share of the rows is done.

    Examples
    --------
    >>> in_batches(["bb", "a", "ccc"], [2, 1, 3], lambda batch: [one.upper() for one in batch], 2)
    ['BB', 'A', 'CCC']
    """
    results: list[Any] = [None] * len(rows)
    done = 0
    for batch in batches_by_length(lengths, size):
        for row, result in zip(batch, compute([rows[row] for row in batch]), strict=True):
            results[row] = result
        done += len(batch)
        if tell is not None:
            tell(done / len(rows))
    return results
