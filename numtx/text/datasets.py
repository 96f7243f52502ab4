"""Rows with named columns: what models are fine-tuned on, with the names that the package `datasets` has."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from numtx.functional.door import count
from numtx.text import data_files
from numtx.text.data_files import Columns, columns_of_rows, is_name, read_data
from numtx.text.labels import encode_labels
from numtx.text.splits import split_rows


class Dataset(Sequence[dict[str, Any]]):
    """A table in memory. A number gives a row, a name a column, a slice or list of numbers some rows as columns.

    Nothing changes a dataset: every method returns another, which shares the values.

    Parameters
    ----------
    columns : dict of lists
        All of one length.
    class_names : dict, optional
        The names of the classes of columns that `class_encode_column` numbered.

    Attributes
    ----------
    column_names : list of str
    num_rows : int
    class_names : dict of lists

    Examples
    --------
    >>> dataset = Dataset({"text": ["good", "bad", "fine"], "label": [1, 0, 1]})
    >>> dataset[0], dataset["label"], dataset[1:]
    ({'text': 'good', 'label': 1}, [1, 0, 1], {'text': ['bad', 'fine'], 'label': [0, 1]})
    """

    def __init__(
        self, columns: Mapping[str, Sequence[Any]], class_names: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        if not isinstance(columns, Mapping):
            raise ValueError(f"Dataset: expected columns, a dict of lists, got {type(columns).__name__}")
        self._columns: Columns = {}
        for name, values in columns.items():
            if not is_name(name):
                raise ValueError(f"Dataset: expected names of columns that are a line of text, got {name!r}")
            if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__len__"):
                raise ValueError(f"Dataset: expected a list as column {name}, got {type(values).__name__}")
            self._columns[name] = list(values)
        lengths = {name: len(values) for name, values in self._columns.items()}
        if len(set(lengths.values())) > 1:
            got = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"Dataset: expected columns of one length, got {got}")
        self.num_rows = next(iter(lengths.values()), 0)
        self.class_names = {name: list(names) for name, names in (class_names or {}).items() if name in self._columns}

    # --- where rows come from

    @classmethod
    def from_list(cls, rows: Iterable[Mapping[str, Any]]) -> "Dataset":
        """Return a dataset of dicts that all have the same keys."""
        return cls(columns_of_rows("Dataset", rows))

    @classmethod
    def from_dict(cls, columns: Mapping[str, Sequence[Any]]) -> "Dataset":
        """Return a dataset of columns."""
        return cls(columns)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], **settings: Any) -> "Dataset":
        """Return the rows of a CSV file; see `read_csv`."""
        return cls(data_files.read_csv(path, **settings))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str], **settings: Any) -> "Dataset":
        """Return the objects of a file of JSON lines, or of a list in JSON; see `read_json_rows`."""
        return cls(data_files.read_json_rows(path, **settings))

    @classmethod
    def from_text(cls, path: str | os.PathLike[str], **settings: Any) -> "Dataset":
        """Return the lines of a text file as column ``text``; see `read_text_rows`."""
        return cls(data_files.read_text_rows(path, **settings))

    # --- rows and columns

    @property
    def column_names(self) -> list[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            self.require("Dataset", key, empty=True)
            return list(self._columns[key])
        if isinstance(key, (int, np.integer)):
            if not -self.num_rows <= key < self.num_rows:
                raise IndexError(f"Dataset: expected a row below {self.num_rows}, got {key}")
            return {name: values[key] for name, values in self._columns.items()}
        if isinstance(key, slice):
            return {name: values[key] for name, values in self._columns.items()}
        return dict(self.select(key)._columns)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in range(self.num_rows):
            yield self[row]

    def __repr__(self) -> str:
        return f"Dataset(column_names={self.column_names}, num_rows={self.num_rows})"

    def require(self, owner: str, *columns: str, empty: bool = False) -> "Dataset":
        """Return the dataset itself if it has these columns and, unless `empty` may be, a row.

        Raises
        ------
        ValueError
            In the name of `owner`: the column that is missing, with those that are there; or that there is no row.
        """
        for name in columns:
            if name not in self._columns:
                there = ", ".join(self._columns) or "none"
                raise ValueError(f"{owner}: expected a column {name}, got a dataset with the columns {there}")
        if not self.num_rows and not empty:
            raise ValueError(f"{owner}: expected a dataset with rows, got an empty one")
        return self

    def unique(self, column: str) -> list[Any]:
        """Return the different values of a column, in the order in which they appear."""
        return list(dict.fromkeys(self[column]))

    # --- other columns

    def select_columns(self, column_names: str | Sequence[str]) -> "Dataset":
        """Return the dataset with these columns alone."""
        names = _listed(column_names)
        self.require("Dataset", *names, empty=True)
        return self._with({name: self._columns[name] for name in names})

    def remove_columns(self, column_names: str | Sequence[str]) -> "Dataset":
        """Return the dataset without these columns."""
        names = _listed(column_names)
        self.require("Dataset", *names, empty=True)
        return self._with({name: values for name, values in self._columns.items() if name not in names})

    def rename_column(self, original_column_name: str, new_column_name: str) -> "Dataset":
        """Return the dataset with another name for a column."""
        self.require("Dataset", original_column_name, empty=True)
        if new_column_name in self._columns:
            raise ValueError(
                f"Dataset: expected a new name for {original_column_name}, got {new_column_name}, a column"
            )
        renamed = {original_column_name: new_column_name}
        classes = {renamed.get(name, name): names for name, names in self.class_names.items()}
        return Dataset({renamed.get(name, name): values for name, values in self._columns.items()}, classes)

    def add_column(self, name: str, column: Sequence[Any]) -> "Dataset":
        """Return the dataset with one column more."""
        if name in self._columns:
            raise ValueError(f"Dataset: expected the name of a new column, got {name}, which is there")
        return self._with({**self._columns, name: column})

    def class_encode_column(self, column: str, names: Sequence[str] | None = None) -> "Dataset":
        """Return the dataset with classes as numbers; `class_names` says what they are called. See `encode_labels`."""
        self.require("Dataset", column)
        ids, names = encode_labels(self._columns[column], names, column=column)
        return Dataset({**self._columns, column: ids}, {**self.class_names, column: names})

    def map(
        self,
        function: Callable[[dict[str, Any]], Mapping[str, Any] | None],
        batched: bool = False,
        batch_size: int = 1000,
        remove_columns: str | Sequence[str] | None = None,
    ) -> "Dataset":
        """Return the dataset with the columns that a function makes of each row.

        Parameters
        ----------
        function : callable
            Takes a row and returns a dict: columns of those names are replaced, others added. With ``batched=True`` it
            takes and returns some rows as columns, and may return more or fewer than it took; then the columns it does
            not make have to go.
        batched : bool
        batch_size : int
        remove_columns : list of str, optional
            Columns that go; the function still sees them.

        Examples
        --------
        >>> dataset = Dataset({"text": ["a", "bcd"]}).map(lambda row: {"length": len(row["text"])})
        >>> dataset["length"]
        [1, 3]
        """
        count("Dataset.map", 1, batch_size=batch_size)
        gone = _listed(remove_columns or [])
        self.require("Dataset.map", *gone, empty=True)
        if not self.num_rows:
            return self.remove_columns(gone)
        kept = {name: values for name, values in self._columns.items() if name not in gone}
        if batched:
            made = self._mapped_batches(function, batch_size)
        else:
            made = columns_of_rows("Dataset.map", (_made(function(row), row) for row in self))
        lengths = {name: len(values) for name, values in {**kept, **made}.items()}
        if len(set(lengths.values())) > 1:
            old = ", ".join(name for name in kept if name not in made)
            rows = len(next(iter(made.values()), []))
            raise ValueError(
                f"Dataset.map: expected {self.num_rows} rows, got {rows}: remove_columns takes out {old}"
                if len({len(values) for values in made.values()}) == 1
                else f"Dataset.map: expected columns of one length, got {lengths}"
            )
        return self._with({**kept, **made})

    def _mapped_batches(self, function: Callable[[dict[str, Any]], Mapping[str, Any] | None], size: int) -> Columns:
        made: Columns = {}
        for start in range(0, self.num_rows, size):
            batch = self[start : start + size]
            for number, (name, values) in enumerate((given := _made(function(batch), batch)).items()):
                if start and not number and given.keys() != made.keys():
                    raise ValueError(f"Dataset.map: expected the columns {', '.join(made)}, got {', '.join(given)}")
                if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
                    raise ValueError(f"Dataset.map: expected a list as column {name}, got {type(values).__name__}")
                made.setdefault(name, []).extend(values)
        return made

    # --- other rows

    def select(self, indices: Iterable[int]) -> "Dataset":
        """Return the rows of these numbers, in their order."""
        rows = np.asarray(list(indices) if not isinstance(indices, np.ndarray) else indices)
        if rows.size and (rows.ndim != 1 or rows.dtype.kind not in "iu"):
            raise ValueError(f"Dataset.select: expected a list of row numbers, got {rows.dtype} {rows.shape}")
        bad = rows[(rows < -self.num_rows) | (rows >= self.num_rows)] if rows.size else rows
        if bad.size:
            raise ValueError(f"Dataset.select: expected rows below {self.num_rows}, got {bad[0]}")
        chosen = rows.astype(np.int64).tolist()
        return self._with({name: [values[row] for row in chosen] for name, values in self._columns.items()})

    def filter(self, function: Callable[[dict[str, Any]], bool]) -> "Dataset":
        """Return the rows that a function says yes to."""
        return self.select([number for number, row in enumerate(self) if function(row)])

    def shuffle(self, seed: int = 0) -> "Dataset":
        """Return the rows in an order drawn from `seed`, the same as that of the package `datasets`."""
        count("Dataset.shuffle", 0, seed=seed)
        return self.select(np.random.default_rng(seed).permutation(self.num_rows))

    def train_test_split(
        self,
        test_size: float | int | None = None,
        train_size: float | int | None = None,
        shuffle: bool = True,
        stratify_by_column: str | None = None,
        seed: int = 0,
    ) -> "dict[str, Dataset]":
        """Return ``{"train": ..., "test": ...}``: the rows that the package `datasets` draws from this seed too.

        Parameters
        ----------
        test_size, train_size : float or int, optional
            A share of the rows, or a number of them. One follows from the other; without either a quarter is for tests.
        shuffle : bool
            False: the test rows are those behind the training rows.
        stratify_by_column : str, optional
            The classes of this column are in both parts as in the whole, as nearly as numbers allow.
        seed : int

        Raises
        ------
        ValueError
            If a part would be empty, or the two are more than there is.

        Examples
        --------
        >>> parts = Dataset({"text": list("abcdefgh")}).train_test_split(test_size=0.25, seed=1)
        >>> {name: part["text"] for name, part in parts.items()}
        {'train': ['b', 'e', 'c', 'g', 'd', 'h'], 'test': ['f', 'a']}
        """
        classes = None if stratify_by_column is None else self[stratify_by_column]
        train, test = split_rows(self.num_rows, test_size, train_size, shuffle=shuffle, seed=seed, classes=classes)
        return {"train": self.select(train), "test": self.select(test)}

    def _with(self, columns: Mapping[str, Sequence[Any]]) -> "Dataset":
        return Dataset(columns, self.class_names)


def as_dataset(source: Any, owner: str = "as_dataset", **settings: Any) -> Dataset:
    """Return whatever holds rows as a dataset.

    Parameters
    ----------
    source : Dataset, list of dicts, dict of lists, path, or anything with ``len`` and numbered rows
        A ``datasets.Dataset`` among the last, which is read into memory. Files are told by their names' ends.
    owner : str
        Who asks, for messages.
    **settings
        Of the file's reader.

    Raises
    ------
    ValueError
        If it holds no rows, or rows that are no dicts; or is several splits, of which one has to be chosen.

    Examples
    --------
    >>> as_dataset([{"text": "a"}, {"text": "b"}])
    Dataset(column_names=['text'], num_rows=2)
    """
    if isinstance(source, (str, os.PathLike)):
        return Dataset(read_data(source, **settings))
    if settings:
        raise ValueError(
            f"{owner}: expected a file for the setting {next(iter(settings))}, got {type(source).__name__}"
        )
    if isinstance(source, Dataset):
        return source
    if isinstance(source, Mapping):
        if any(isinstance(part, Dataset) or hasattr(part, "column_names") for part in source.values()):
            raise ValueError(
                f"{owner}: expected one dataset, got the splits {', '.join(source)}: choose one by its name"
            )
        return Dataset(source)
    names = getattr(source, "column_names", None)
    if isinstance(names, list) and hasattr(source, "__getitem__"):
        asked = getattr(source, "format", None)  # with_format(columns=...) hides the others
        shown = asked.get("columns") if isinstance(asked, Mapping) else None
        return Dataset({name: list(source[name]) for name in names if shown is None or name in shown})
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        raise ValueError(
            f"{owner}: expected rows (a list of dicts, a dict of lists, a file), got {type(source).__name__}"
        )
    return Dataset(columns_of_rows(owner, (source[row] for row in range(len(source)))))


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _made(result: Mapping[str, Any] | None, row: dict[str, Any]) -> Mapping[str, Any]:
    """What a function made of rows; one that returns nothing may have changed the dict it was given."""
    if result is None:
        return row
    if not isinstance(result, Mapping):
        raise ValueError(f"Dataset.map: expected a function that returns a dict, got {type(result).__name__}")
    return result
