"""Which rows stand in which batch: drawn from seed and epoch alone, shuffled freely or with rows of like length."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from numtx.functional.door import count

# The third word of the key that draws an epoch's order, beside those of batches and dropout ([seed, step, shard]).
ORDER = 0x0DE2
# And of the key that draws what a collator masks.
MASKS = 0x3A5C


class Permuter(Protocol):
    """Draws an order of n rows; a NumPy generator is one."""

    def permutation(self, n: int, /) -> Any: ...


def length_grouped_indices(
    lengths: Sequence[int], batch_size: int, mega_batch_mult: int | None = None, *, rng: Permuter
) -> list[int]:
    """Return an order in which each `batch_size` rows are of similar length, the longest row among the first.

    Rows are shuffled, cut into stretches of ``mega_batch_mult · batch_size``, and sorted within each, the longest
    first. What does not fit into memory so fails at once. Given the same shuffle, Transformers'
    ``get_length_grouped_indices`` returns the same.

    Parameters
    ----------
    lengths : sequence of int
    batch_size : int
    mega_batch_mult : int, optional
        Default: 50, or fewer so that there are four stretches.
    rng : np.random.Generator

    Examples
    --------
    >>> lengths = [3, 9, 4, 1, 5, 9, 2, 6]
    >>> [lengths[i] for i in length_grouped_indices(lengths, 2, 2, rng=np.random.default_rng(0))]
    [9, 4, 2, 1, 5, 9, 6, 3]
    """
    count("length_grouped_indices", 1, batch_size=batch_size)
    if not len(lengths):
        raise ValueError("length_grouped_indices: expected the lengths of rows, got none")
    if mega_batch_mult is None:
        mega_batch_mult = min(len(lengths) // (batch_size * 4), 50) or 1
    count("length_grouped_indices", 1, mega_batch_mult=mega_batch_mult)
    order, stretch = [int(i) for i in rng.permutation(len(lengths))], mega_batch_mult * batch_size
    stretches = [
        sorted(order[start : start + stretch], key=lambda row: lengths[row], reverse=True)
        for start in range(0, len(order), stretch)
    ]
    longest = max(range(len(stretches)), key=lambda number: lengths[stretches[number][0]])
    stretches[0][0], stretches[longest][0] = stretches[longest][0], stretches[0][0]
    return [row for one in stretches for row in one]


class BatchOrder:
    """The rows of every batch, epoch after epoch; batch number `step` is a pure function of seed and step.

    Nothing that matters is remembered, so a run that is resumed at any step sees the batches that it would have seen.

    Parameters
    ----------
    rows : int
        N.
    batch_size : int
    seed : int
    lengths : sequence of int, optional
        Of the rows: batches are then of rows of similar length (`length_grouped_indices`).
    shuffle : bool
        False: the rows as they stand, as for evaluation.
    drop_last : bool
        Whether an epoch leaves out the last batch where it is smaller.

    Examples
    --------
    >>> order = BatchOrder(5, batch_size=2, seed=0)
    >>> len(order), [order.at(step).tolist() for step in range(4)]
    (3, [[3, 4], [1, 2], [0], [2, 0]])
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int = 0,
        *,
        lengths: Sequence[int] | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        count("BatchOrder", 1, rows=rows, batch_size=batch_size)
        count("BatchOrder", 0, seed=seed)
        if lengths is not None and len(lengths) != rows:
            raise ValueError(f"BatchOrder: expected a length for each of {rows} rows, got {len(lengths)}")
        if lengths is not None and not shuffle:
            raise ValueError("BatchOrder: expected shuffle=True with lengths, got False")
        if drop_last and rows < batch_size:
            raise ValueError(f"BatchOrder: expected at least {batch_size} rows with drop_last, got {rows}")
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = None if lengths is None else list(lengths)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self._drawn: tuple[int, np.ndarray] | None = None  # the last epoch that was asked for

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.rows // self.batch_size if self.drop_last else -(-self.rows // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch, (N,), in the order of its batches."""
        count("BatchOrder", 0, epoch=epoch)
        drawn = self._drawn
        if drawn is None or drawn[0] != epoch:
            drawn = self._drawn = (epoch, self._draw(epoch))
        return drawn[1]

    def epoch(self, number: int) -> Iterator[np.ndarray]:
        """Yield the rows of each batch of an epoch."""
        for batch in range(len(self)):
            yield self.at(number * len(self) + batch)

    def at(self, step: int) -> np.ndarray:
        """Return the rows of batch number `step`, counted over all epochs."""
        count("BatchOrder", 0, step=step)
        epoch, batch = divmod(step, len(self))
        return self.order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _draw(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.rows)
        rng = np.random.default_rng([self.seed, epoch, ORDER])
        if self.lengths is None:
            return rng.permutation(self.rows)
        return np.array(length_grouped_indices(self.lengths, self.batch_size, rng=rng))


def collator_rng(seed: int, step: int) -> np.random.Generator:
    """Return what a collator draws batch number `step` from, where it draws: a pure function of seed and step.

    Examples
    --------
    >>> a, b = collator_rng(0, 7), collator_rng(0, 7)
    >>> bool(a.random() == b.random())
    True
    """
    return np.random.default_rng([seed, step, MASKS])


def row_lengths(rows: Any, column: str = "input_ids", *, owner: str = "row_lengths") -> list[int]:
    """Return how long each row's `column` is.

    Examples
    --------
    >>> row_lengths([{"input_ids": [1, 2, 3]}, {"input_ids": [4]}])
    [3, 1]
    """
    lengths = []
    for number in range(len(rows)):
        row = rows[number]
        if column not in row:
            raise ValueError(f"{owner}: expected a column {column}, got a dataset with the columns {', '.join(row)}")
        lengths.append(len(row[column]))
    return lengths
