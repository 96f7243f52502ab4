"""The table that says how a checkpoint of another library names and lays out each parameter."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LISTED = 8  # names in an error, so that it stays one line


class Transform(NamedTuple):
    """How an array is laid out differently in the checkpoint: two functions, each the other's inverse."""

    from_checkpoint: Callable[[np.ndarray], np.ndarray]
    to_checkpoint: Callable[[np.ndarray], np.ndarray]


TRANSPOSED = Transform(np.transpose, np.transpose)
"""A weight that the checkpoint holds as (out, in); both ways give views."""


class NameTable:
    """Pairs of patterns, one for each kind of parameter; ``{i}`` in both stands for the same number.

    Parameters
    ----------
    rows : iterable of (numtx pattern, checkpoint pattern) or (numtx pattern, checkpoint pattern, Transform)
    optional_prefix : str
        A prefix of checkpoint patterns that some files lack (files of the bare model, without head). It is written,
        and reading does without it.
    ignored : iterable of str
        Checkpoint patterns of entries that hold no parameter, such as a causal mask or a copy of a tied weight.

    Raises
    ------
    ValueError
        If two rows name the same thing, or the placeholders of a row's two patterns differ.

    Examples
    --------
    >>> table = NameTable([("blocks.{i}.up.weight", "h.{i}.mlp.weight", TRANSPOSED)])
    >>> arrays = table.from_checkpoint({"h.0.mlp.weight": np.ones((3, 2))}, expected={"blocks.0.up.weight": (2, 3)})
    >>> {name: array.shape for name, array in arrays.items()}
    {'blocks.0.up.weight': (2, 3)}
    >>> {name: array.shape for name, array in table.to_checkpoint(arrays).items()}
    {'h.0.mlp.weight': (3, 2)}
    """

    def __init__(
        self, rows: Iterable[tuple[Any, ...]], *, optional_prefix: str = "", ignored: Iterable[str] = ()
    ) -> None:
        self.rows = [_row(*row) for row in rows]
        self.optional_prefix = optional_prefix
        self.ignored = [_compiled(pattern) for pattern in ignored]
        for side in ("numtx", "checkpoint"):
            patterns = [getattr(row, side) for row in self.rows]
            twice = sorted({pattern for pattern in patterns if patterns.count(pattern) > 1})
            if twice:
                raise ValueError(f"NameTable: expected each {side} pattern once, got {', '.join(twice)} again")

    def to_checkpoint(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the arrays under the checkpoint's names and in its layout.

        Raises
        ------
        ValueError
            If the table has no row for a name.
        """
        translated = {}
        unknown = []
        for name, array in arrays.items():
            found = self._find(name, "numtx")
            if found is None:
                unknown.append(name)
            else:
                row, numbers = found
                translated[row.checkpoint.format(**numbers)] = row.transform.to_checkpoint(array)
        if unknown:
            raise ValueError(f"NameTable: expected names that it has a row for, got {_listed(unknown)}")
        return translated

    def from_checkpoint(
        self, arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any], *, where: str = "the checkpoint"
    ) -> dict[str, np.ndarray]:
        """Return a checkpoint's arrays under numtx's names and in its layout, in the order of `expected`.

        Parameters
        ----------
        arrays : mapping of checkpoint name to array
        expected : mapping of numtx name to array or shape
            What must be there, no more and no less; a model's ``state_dict()``.
        where : str
            What the error calls the checkpoint.

        Raises
        ------
        ValueError
            In one line, with the names: what is missing, what is unexpected, what has another shape, what is there
            twice (with and without the optional prefix).
        """
        shapes = {name: tuple(getattr(value, "shape", value)) for name, value in expected.items()}
        found: dict[str, np.ndarray] = {}
        unexpected, doubled, misshaped = [], [], []
        for name, array in arrays.items():
            target = self._numtx_name(name)
            if target is None and self._is_ignored(name):
                continue
            if target is None or target[0] not in shapes:
                unexpected.append(name)
            elif target[0] in found:
                doubled.append(name)
            else:
                numtx_name, transform = target
                found[numtx_name] = transform.from_checkpoint(array)
                if found[numtx_name].shape != shapes[numtx_name]:
                    misshaped.append(f"{name} {found[numtx_name].shape} for {shapes[numtx_name]}")
        missing = [self._checkpoint_name(name) for name in shapes if name not in found]
        problems = {"missing": missing, "unexpected": unexpected, "there twice": doubled, "of another shape": misshaped}
        said = "; ".join(f"{problem}: {_listed(names)}" for problem, names in problems.items() if names)
        if said:
            raise ValueError(f"NameTable: expected the {len(shapes)} arrays of the model in {where}, got {said}")
        return {name: found[name] for name in shapes}

    def _find(self, name: str, side: str) -> "tuple[_Row, dict[str, str]] | None":
        for row in self.rows:
            match = getattr(row, f"{side}_regex").fullmatch(name)
            if match:
                return row, match.groupdict()
        return None

    def _numtx_name(self, name: str) -> tuple[str, Transform] | None:
        found = self._find(name, "checkpoint")
        if found is None and self.optional_prefix:
            found = self._find(self.optional_prefix + name, "checkpoint")
        if found is None:
            return None
        row, numbers = found
        return row.numtx.format(**numbers), row.transform

    def _checkpoint_name(self, name: str) -> str:
        found = self._find(name, "numtx")
        if found is None:
            return f"{name} (of which the table has no row)"
        return found[0].checkpoint.format(**found[1])

    def _is_ignored(self, name: str) -> bool:
        names = (name, self.optional_prefix + name)
        return any(regex.fullmatch(candidate) for regex in self.ignored for candidate in names)


class _Row(NamedTuple):
    numtx: str
    checkpoint: str
    transform: Transform
    numtx_regex: re.Pattern[str]
    checkpoint_regex: re.Pattern[str]


_AS_IT_IS = Transform(lambda array: array, lambda array: array)


def _row(numtx: str, checkpoint: str, transform: Transform = _AS_IT_IS) -> _Row:
    here, there = sorted(_PLACEHOLDER.findall(numtx)), sorted(_PLACEHOLDER.findall(checkpoint))
    if here != there:
        raise ValueError(f"NameTable: expected the same placeholders in both patterns, got {numtx} and {checkpoint}")
    return _Row(numtx, checkpoint, transform, _compiled(numtx), _compiled(checkpoint))


def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = _PLACEHOLDER.split(pattern)  # text, name, text, name, ..., text
    return re.compile("".join(rf"(?P<{piece}>\d+)" if k % 2 else re.escape(piece) for k, piece in enumerate(pieces)))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
