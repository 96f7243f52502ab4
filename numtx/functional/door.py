"""What is asked of every array at the door of a pair."""

import difflib
from collections.abc import Iterable

import numpy as np

WORKING = (np.float32, np.float64)  # float16 exists on disk alone: a sum of it overflows at 65,504


def floating(op: str, **arrays: np.ndarray | None) -> np.dtype:
    """Require arrays of one working dtype, and return it; None stands for an argument not given."""
    first = ""
    dtype = None
    for name, array in arrays.items():
        if array is None:
            continue
        if not isinstance(array, np.ndarray | np.generic):
            raise ValueError(f"{op}: expected {name} to be a NumPy array, got {type(array).__name__}")
        if array.dtype not in WORKING:
            raise ValueError(f"{op}: expected {name} of dtype float32 or float64, got {array.dtype}")
        if dtype is None:
            first, dtype = name, array.dtype
        elif array.dtype != dtype:
            raise ValueError(f"{op}: expected one dtype, got {first} {dtype} and {name} {array.dtype}")
    assert dtype is not None
    return dtype


def count(op: str, least: int, **numbers: int) -> None:
    """Require whole numbers of at least `least`."""
    for name, number in numbers.items():
        if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < least:
            raise ValueError(f"{op}: expected {name} as a whole number of at least {least}, got {number!r}")


def rate(op: str, name: str, p: float) -> None:
    """Require a share of at least 0 and less than 1."""
    if not isinstance(p, int | float | np.number) or not 0 <= p < 1:
        raise ValueError(f"{op}: expected {name} in [0, 1), got {p!r}")


def positive(op: str, **numbers: float) -> None:
    """Require finite numbers of at least 0."""
    for name, number in numbers.items():
        if not isinstance(number, int | float | np.number) or not 0 <= number < np.inf:
            raise ValueError(f"{op}: expected {name} as a finite number of at least 0, got {number!r}")


def sequence(op: str, width: int, **arrays: np.ndarray) -> None:
    """Require floating arrays (B, T, width) of one dtype and one batch size."""
    floating(op, **arrays)
    shapes = [array.shape for array in arrays.values()]
    if any(len(shape) != 3 or shape[2] != width or shape[0] != shapes[0][0] for shape in shapes):
        got = " and ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{op}: expected {' and '.join(arrays)} (B, T, {width}), got {got}")


def mask(op: str, name: str, array: np.ndarray | None, scores: tuple[int, ...]) -> None:
    """Require a boolean mask of four axes that broadcast to `scores`, the shape (B, H, Tq, Tk); or None."""
    if array is None:
        return
    dtype, shape = getattr(array, "dtype", type(array).__name__), np.shape(array)
    if dtype != np.bool_ or not _broadcasts(shape, scores):
        raise ValueError(
            f"{op}: expected a boolean {name}, True = may attend, of four axes that broadcast to {scores}, "
            f"got {shape if dtype == np.bool_ else f'{dtype} {shape}'}"
        )


def bias(op: str, array: np.ndarray | None, scores: tuple[int, ...]) -> None:
    """Require a bias for scores (B, H, Tq, Tk): four axes that broadcast, or (H, Tq + Tk - 1) numbers; or None."""
    if array is None:
        return
    _, heads, tq, tk = scores
    if np.shape(array) != (heads, tq + tk - 1) and not _broadcasts(np.shape(array), scores):
        raise ValueError(
            f"{op}: expected a bias for {heads} heads, of four axes that broadcast to {scores}, "
            f"or by distance (H, Tq + Tk - 1) = {(heads, tq + tk - 1)}, got {np.shape(array)}"
        )


def _broadcasts(shape: tuple[int, ...], scores: tuple[int, ...]) -> bool:
    return len(shape) == 4 and all(s in (1, whole) for s, whole in zip(shape, scores, strict=True))


def integers(op: str, name: str, ids: np.ndarray, limit: int) -> np.ndarray:
    """Require integer ids in [0, limit), and return them as an array."""
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise ValueError(f"{op}: expected integer {name}, got {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= limit):
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{op}: expected {name} in [0, {limit}), got {bad}")
    return ids


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name, which tells the nearest that there is; "" if none is near.

    Examples
    --------
    >>> nearest("num_beam", ["num_beams", "top_k"]), nearest("x", ["top_k"])
    ("; the nearest is 'num_beams'", '')
    """
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; the nearest is {near[0]!r}" if near else ""
