"""The table that says how a checkpoint of another library names and lays out each parameter."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LISTED, _NAME = 2000, 200  # characters of the names that an error lists, and of one
_BLOCK = 1 << 20  # numbers that are compared at a time
_OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}  # what norms were called in the first checkpoints of BERT


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
    bare : bool
        Write without the optional prefix, as the bare model does.
    ignored : iterable of str
        Checkpoint patterns of entries that hold no parameter of this model, such as a causal mask or another model's
        head; ``*`` stands for anything.
    copies : mapping of a checkpoint name to others
        Names under which files hold the same weight again. They are read only where the first is missing; whether they
        are the same, `differing` says.
    spares : mapping of a checkpoint name to others
        Names that are read where the first is missing, and mean something else where it is there: another model's head.
    before : mapping of a checkpoint name to another
        What is read instead where a file holds both.

    Notes
    -----
    Where a name has no row, ``gamma`` and ``beta`` at its end are read as ``weight`` and ``bias``.

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
        self,
        rows: Iterable[tuple[Any, ...]],
        *,
        optional_prefix: str = "",
        bare: bool = False,
        ignored: Iterable[str] = (),
        copies: Mapping[str, Iterable[str]] | None = None,
        spares: Mapping[str, Iterable[str]] | None = None,
        before: Mapping[str, str] | None = None,
    ) -> None:
        self.rows = [_row(*row) for row in rows]
        self.optional_prefix = optional_prefix
        self.bare = bare
        self.ignored = [_compiled(pattern) for pattern in ignored]
        self.copies = {other: first for first, others in (copies or {}).items() for other in others}
        self.before = {other: first for first, other in (before or {}).items()}
        self.stand_ins = self.copies | self.before
        self.stand_ins |= {other: first for first, others in (spares or {}).items() for other in others}
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
                written = row.checkpoint.format(**numbers)
                written = written.removeprefix(self.optional_prefix) if self.bare else written
                translated[written] = row.transform.to_checkpoint(array)
        if unknown:
            raise ValueError(f"NameTable: expected names that it has a row for, got {listed(unknown)}")
        return translated

    def from_checkpoint(
        self,
        arrays: Mapping[str, np.ndarray],
        expected: Mapping[str, Any],
        *,
        where: str = "the checkpoint",
        may_lack: Iterable[str] = (),
        owner: str = "NameTable",
    ) -> dict[str, np.ndarray]:
        """Return a checkpoint's arrays under numtx's names and in its layout, in the order of `expected`.

        Parameters
        ----------
        arrays : mapping of checkpoint name to array
        expected : mapping of numtx name to array or shape
            What must be there, no more and no less; a model's ``state_dict()``.
        where : str
            What the error calls the checkpoint.
        may_lack : iterable of str
            Beginnings of numtx names; all of one beginning may be missing together, as a new head on a pretrained body
            is. The result is without them then.
        owner : str
            Whom the error is of: the model's class.

        Raises
        ------
        ValueError
            In one line, with all names up to some 2,000 characters: what is missing, what is unexpected, what has
            another shape or holds no floating-point numbers, what is there twice (with and without the prefix).
        """
        shapes = {name: tuple(getattr(value, "shape", value)) for name, value in expected.items()}
        found: dict[str, np.ndarray] = {}
        unexpected, doubled, misshaped, whole = [], [], [], []
        for name, source in self._sources(arrays).items():
            target = self._numtx_name(name)
            if target is None or target[0] not in shapes:
                if not self._is_ignored(source):
                    unexpected.append(source)
            elif target[0] in found:
                doubled.append(source)
            else:
                numtx_name, transform = target
                array = found[numtx_name] = transform.from_checkpoint(arrays[source])
                if array.shape != shapes[numtx_name]:
                    misshaped.append(f"{source} {array.shape} for {shapes[numtx_name]}")
                if array.dtype.kind != "f":
                    whole.append(f"{source} {array.dtype}")
        problems = {
            "missing": [self.checkpoint_name(name) for name in _lacking(shapes, found, tuple(may_lack))],
            "unexpected": unexpected,
            "there twice": doubled,
            "of another shape": misshaped,
            "not of floating-point numbers": whole,
        }
        said = "; ".join(f"{problem}: {listed(names)}" for problem, names in problems.items() if names)
        if said:
            raise ValueError(f"{owner}: expected the {len(shapes)} arrays of the model in {where}, got {said}")
        return {name: found[name] for name in shapes if name in found}

    def differing(self, arrays: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
        """Return the (first name, copy) of a checkpoint that are both there and hold different numbers.

        Compared are numbers in memory, some at a time; two names of one memory are the same without a look.

        Examples
        --------
        >>> table = NameTable([("embedding", "wte")], copies={"wte": ["lm_head"]})
        >>> table.differing({"wte": np.zeros(2), "lm_head": np.zeros(2)})
        []
        >>> table.differing({"wte": np.zeros(2), "lm_head": np.ones(2)})
        [('wte', 'lm_head')]
        """
        there = self._all_readings(arrays)
        apart = []
        for names in self._groups():
            first, *others = [there[name] for name in names if name in there] or [""]
            apart += [(first, other) for other in others if not _same(arrays[first], arrays[other])]
        return apart

    def unwritten(self, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Return the names of a weight under which a checkpoint does not hold it, and the one under which it does."""
        there = self._all_readings(arrays)
        return {
            name: there[held[0]]
            for names in self._groups()
            if (held := [one for one in names if one in there])
            for name in names
            if name not in there
        }

    def _groups(self) -> list[tuple[str, ...]]:
        """The names under which one weight is written again and again."""
        return [
            (first, *(other for other in self.copies if self.copies[other] == first))
            for first in dict.fromkeys(self.copies.values())
        ]

    def _all_readings(self, arrays: Iterable[str]) -> dict[str, str]:
        """Names with the prefix and without, and the name in the checkpoint."""
        return {self.optional_prefix + name: name for name in arrays} | {name: name for name in arrays}

    def checkpoint_name(self, name: str) -> str:
        """Return the name in a checkpoint of a numtx name."""
        found = self._find(name, "numtx")
        if found is None:
            return f"{name} (of which the table has no row)"
        name = found[0].checkpoint.format(**found[1])
        return name.removeprefix(self.optional_prefix) if self.bare else name

    def _sources(self, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Return {name that the rows are asked for: name in the checkpoint}, stand-ins only where they are needed."""
        sources = {name: name for name in arrays if self._first(name) is None}
        known = {self.optional_prefix + name: name for name in sources} | {name: name for name in sources}
        for name in arrays:
            first = self._first(name)
            if first is None:
                continue
            if first not in known:
                known[first] = first
                sources[first] = name
            elif name in self.before or self.optional_prefix + name in self.before:
                sources[known[first]] = name
        return sources

    def _first(self, name: str) -> str | None:
        """The name for which this name stands in, if it does."""
        return self.stand_ins.get(name) or self.stand_ins.get(self.optional_prefix + name)

    def _find(self, name: str, side: str) -> "tuple[_Row, dict[str, str]] | None":
        for row in self.rows:
            match = getattr(row, f"{side}_regex").fullmatch(name)
            if match:
                return row, match.groupdict()
        return None

    def _numtx_name(self, name: str) -> tuple[str, Transform] | None:
        for candidate in self._readings(name):
            if found := self._find(candidate, "checkpoint"):
                row, numbers = found
                return row.numtx.format(**numbers), row.transform
        return None

    def _readings(self, name: str) -> list[str]:
        """The names that a name in a checkpoint may stand for, the likeliest first."""
        readings = [name, self.optional_prefix + name]
        for old, new in _OLD_ENDINGS.items():
            if name.endswith(old):
                readings += [reading.removesuffix(old) + new for reading in readings]
        return readings

    def _is_ignored(self, name: str) -> bool:
        names = (name, self.optional_prefix + name)
        return any(regex.fullmatch(candidate) for regex in self.ignored for candidate in names)


def listed(names: Iterable[str]) -> str:
    """Return names for an error of one line: all of them up to some 2,000 characters, then how many more there are.

    Examples
    --------
    >>> listed(["a", "b"])
    'a, b'
    >>> listed(f"layer.{i}.weight" for i in range(10**6))[-40:]
    'eight, layer.117.weight and 999,882 more'
    """
    said: list[str] = []
    length = more = 0
    for name in names:
        if more or length > _LISTED:
            more += 1
            continue
        # Names of a file that somebody else wrote may hold line ends.
        shown = name if name.isprintable() else repr(name)
        said.append(shown if len(shown) <= _NAME else f"{shown[:_NAME]}...")
        length += len(said[-1]) + 2
    return ", ".join(said) + (f" and {more:,} more" if more else "")


def _lacking(expected: Iterable[str], found: Mapping[str, Any], may_lack: tuple[str, ...]) -> list[str]:
    """Return what is missing, but for the groups that are missing as a whole and may be."""
    begun = {start for start in may_lack if any(name.startswith(start) for name in found)}
    excused = tuple(start for start in may_lack if start not in begun)
    return [name for name in expected if name not in found and not name.startswith(excused)]


def _same(first: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays hold the same numbers."""
    if first.shape != other.shape:
        return False
    one, two = first.__array_interface__, other.__array_interface__
    if all(one[part] == two[part] for part in ("data", "strides", "typestr")):
        return True
    rows = max(1, _BLOCK // max(1, first[:1].size)) if first.ndim else 1
    return (
        all(
            np.array_equal(first[start : start + rows], other[start : start + rows])
            for start in range(0, len(first), rows)
        )
        if first.ndim
        else bool(first == other)
    )


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
    text = (rf"(?P<{piece}>\d+)" if k % 2 else re.escape(piece).replace(r"\*", ".*") for k, piece in enumerate(pieces))
    return re.compile("".join(text))
