"""Which rows train and which test, drawn from a seed."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from numtx.functional.door import count


def split_rows(
    rows: int,
    test_size: float | int | None = None,
    train_size: float | int | None = None,
    *,
    shuffle: bool = True,
    seed: int = 0,
    classes: Sequence[Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the rows for training and for testing, as the package `datasets` draws them.

    Parameters
    ----------
    rows : int
    test_size, train_size : float or int, optional
        A share, between 0 and 1, or a number. A share for testing is rounded up, one for training down.
    shuffle : bool
    seed : int
    classes : sequence, optional
        The class of each row; both parts have them in the proportions of the whole.

    Raises
    ------
    ValueError
        If a part would be empty, the parts are more than the whole, or a class has too few rows to be in both.

    Examples
    --------
    >>> train, test = split_rows(8, 0.25, shuffle=False)
    >>> train.tolist(), test.tolist()
    ([0, 1, 2, 3, 4, 5], [6, 7])
    """
    count("train_test_split", 0, seed=seed)
    for_train, for_test = _sizes(rows, test_size, train_size)
    if not shuffle:
        if classes is not None:
            raise ValueError("train_test_split: expected shuffle=True to stratify, got False")
        return np.arange(for_train), np.arange(for_train, for_train + for_test)
    rng = np.random.default_rng(seed)
    if classes is not None:
        return _stratified(classes, for_train, for_test, rng)
    order = rng.permutation(rows)
    return order[for_test : for_test + for_train], order[:for_test]


def _sizes(rows: int, test_size: float | int | None, train_size: float | int | None) -> tuple[int, int]:
    if test_size is None and train_size is None:
        test_size = 0.25
    for_test = _size("test_size", test_size, rows, math.ceil)
    for_train = _size("train_size", train_size, rows, math.floor)
    if for_train is None:
        for_train = rows - (for_test or 0)
    if for_test is None:
        for_test = rows - for_train
    if for_train + for_test > rows:
        raise ValueError(f"train_test_split: expected parts of {rows} rows, got {for_train} and {for_test}")
    if for_train < 1 or for_test < 1:
        raise ValueError(
            f"train_test_split: expected rows in both parts, got {for_train} for training and {for_test} for testing "
            f"of {rows}"
        )
    return for_train, for_test


def _size(name: str, size: float | int | None, rows: int, rounded: Any) -> int | None:
    if size is None:
        return None
    if isinstance(size, (int, np.integer)) and not isinstance(size, bool) and 0 < size < max(rows, 1):
        return int(size)
    if isinstance(size, (float, np.floating)) and 0 < size < 1:
        return rounded(float(size) * rows)
    raise ValueError(f"train_test_split: expected {name} in (0, 1), or a number of less than {rows} rows, got {size!r}")


def _stratified(
    classes: Sequence[Any], for_train: int, for_test: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    names, numbers, sizes = np.unique(np.asarray(classes), return_inverse=True, return_counts=True)
    if sizes.min() < 2:
        raise ValueError(f"train_test_split: expected at least 2 rows of each class, got 1 of {names[sizes.argmin()]}")
    if min(for_train, for_test) < len(names):
        raise ValueError(
            f"train_test_split: expected at least {len(names)} rows a part, one a class, got {min(for_train, for_test)}"
        )
    train_counts = _shared_out(sizes, for_train, rng)
    test_counts = _shared_out(sizes - train_counts, for_test, rng)
    of_class = np.split(np.argsort(numbers, kind="stable"), np.cumsum(sizes)[:-1])
    train, test = list[int](), list[int]()
    for rows, a, b in zip(of_class, train_counts, test_counts, strict=True):
        drawn = rows[rng.permutation(len(rows))]
        train.extend(drawn[:a])
        test.extend(drawn[a : a + b])
    return rng.permutation(train), rng.permutation(test)


def _shared_out(sizes: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Share `total` out in proportion to `sizes`: rounded down, the rest by largest remainder, equal ones by lot."""
    exact = total * sizes / sizes.sum()
    shares = np.floor(exact)
    remainders, left = exact - shares, int(total - shares.sum())
    for remainder in np.unique(remainders)[::-1]:
        if not left:
            break
        places = np.flatnonzero(remainders == remainder)
        drawn = rng.choice(places, size=min(len(places), left), replace=False)
        shares[drawn] += 1
        left -= len(drawn)
    return shares.astype(np.int64)
