"""Loss and gradients of a batch from its shards, by any number of threads, with the same bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from numtx.functional.blocks import BLOCK
from numtx.training.clip import gradient_norm, scale_gradients, squares_of_blocks
from numtx.training.crew import CAN_FORK, Crew
from numtx.training.flat import FlatGradients, FlatParameters, pieces
from numtx.training.mpi import Alone
from numtx.training.optimizers import Optimizer, Update
from numtx.training.threads import Workers


class Piece(NamedTuple):
    """What one worker computes alone: some rows of a batch, and the key of its random numbers."""

    batch: dict[str, Any]
    key: tuple[int, ...]


def split_rows(batch: dict[str, Any], shards: int) -> list[dict[str, Any]]:
    """Split a batch by rows into `shards` parts that differ by a row at most; fewer where there are fewer rows.

    Examples
    --------
    >>> [part["input_ids"].shape for part in split_rows({"input_ids": np.zeros((5, 8), int)}, 2)]
    [(3, 8), (2, 8)]
    """
    arrays = {name: np.asarray(array) for name, array in batch.items() if array is not None}
    shared = {name for name, array in arrays.items() if name == "position_ids" and array.ndim == 1}  # the same for all
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items() if name not in shared}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"ShardedGradients: expected arrays of the same number of rows, at least one, got {counts}")
    rows = next(iter(counts.values()))
    shards = min(shards, rows)
    length, longer = divmod(rows, shards)  # the first `longer` parts have one row more
    starts = [k * length + min(k, longer) for k in range(shards + 1)]
    return [
        {name: array if name in shared else array[a:b] for name, array in arrays.items()} for a, b in pairwise(starts)
    ]


class ShardedGradients:
    """Loss and flat gradients of a batch, from shards of its rows; then their norm, and the update.

    Entered as a context manager, it forks processes for the shards where the system can (Linux), as many as the workers
    have threads; elsewhere, and if it is not entered, the threads compute. The bits are the same. Each process then
    sums and updates a slice of the flat buffers. What changes on the model or the optimizer after the fork, other than
    the numbers in those buffers, only this process sees.

    The number of shards belongs to the computation, the number of threads to the machine: shard k of step s draws its
    random numbers from `default_rng([seed, s, k])`, and gradients are summed in the order of k, so the same seed and
    shards give the same bits on any number of threads. Losses are divided by the real labels of the whole batch before
    they are summed, so unequal padding weighs nothing wrongly.

    Parameters
    ----------
    model : module with `loss_and_grads` and `count_labels`, FlatParameters of one, or the optimizer of one, which
        `update` needs
    shards : int
    seed : int
    workers : Workers, optional
        Entered already; default: the caller's thread alone.
    recompute : bool
        Keep only the inputs of each layer and recompute the rest in backward.
    ranks : Alone or Ranks, optional
        Processes of an MPI job that share the shards; each gives the same batches, and has the whole loss and sums in
        the end, of the same bits as one process alone. Default: this process alone.
    loss_settings : dict, optional
        Keywords for every call of the model's `loss_and_grads`.

    Attributes
    ----------
    gradients : FlatGradients
        The sums; overwritten by the next call.

    Notes
    -----
    NumPy's warnings of overflow and invalid values are off inside: look at the loss and at the gradients' norm.
    """

    def __init__(
        self,
        model: Any,
        shards: int = 2,
        *,
        seed: int = 0,
        workers: Workers | None = None,
        recompute: bool = False,
        ranks: Alone | None = None,
        loss_settings: Mapping[str, Any] | None = None,
    ):
        if shards < 1:
            raise ValueError(f"ShardedGradients: expected at least one shard, got {shards}")
        self.optimizer = model if isinstance(model, Optimizer) else None
        model = self.optimizer.flat if self.optimizer else model
        flat = model if isinstance(model, FlatParameters) else FlatParameters(model)
        self.model = flat.model
        self.shards = shards
        self.seed = seed
        self.workers = workers or Workers(1)
        self.ranks = ranks or Alone()
        self.keep = "inputs" if recompute else "all"
        self.loss_settings = dict(loss_settings or {})
        self.gradients: FlatGradients = flat.gradients()
        self._crew: Crew | None = None
        self._computed: list[FlatGradients] = []
        self._threads: list[int] = []  # of each rank
        self._squares: list[float] = []  # of the blocks of the gradients, from which the norm follows

    def __call__(self, batches: dict[str, Any] | Sequence[dict[str, Any]], step: int) -> tuple[float, FlatGradients]:
        """Return the loss, a mean over all real labels in nats, and its gradients.

        Parameters
        ----------
        batches : dict of arrays, or a list of them
            What the model's `loss_and_grads` takes, rows first. A list is accumulated as one large batch; shard k of
            its batch i has the number i · shards + k.
        step : int
            The step whose random numbers are drawn.

        Raises
        ------
        ValueError
            If a batch has no rows, arrays of different numbers of rows, or no labels.
        """
        parts = self.pieces(batches, step)
        num_items = self.num_items(parts)
        if self.ranks.size > 1:
            return self._among_ranks([(piece, num_items) for piece in parts]), self.gradients
        loss = 0.0
        # No more gradients are held at once than are computed.
        wave = self.workers.threads if self._crew is None else len(self._crew)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for start in range(0, len(parts), wave):
                tasks = [(piece, num_items) for piece in parts[start : start + wave]]
                if self._crew is None:
                    results = self.workers.map(lambda task: self.compute(*task), tasks)
                    loss = sum((float(part) for part, _ in results), loss)
                    trees = [grads for _, grads in results]
                    self.gradients.sum_trees(trees, fresh=start == 0, workers=self.workers)
                else:
                    loss = sum(self._crew.map("compute", tasks), loss)
                    summed = self._crew.map("sum", [(*cut, len(tasks), start == 0) for cut in self._cuts()])
                    self._squares = [square for part in summed for square in part]
        return loss, self.gradients

    def _among_ranks(self, tasks: list[tuple[Piece, int]]) -> float:
        """Put the sums over all ranks' shards into `gradients`, on every rank, and return the loss."""
        if not self._threads:
            self._threads = self.ranks.gather("threads", min(self.workers.threads, self.shards))
        if not self._computed:
            self._computed = self._buffers()
        loss, wave = 0.0, sum(self._threads)
        for start in range(0, len(tasks), wave):
            now = tasks[start : start + wave]
            own = now[self.ranks.part(len(now), self._threads)]
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                if self._crew is None:
                    losses = self.workers.map(lambda task: self._compute(*task), enumerate(own))
                else:
                    losses = self._crew.map("compute", own) if own else []
                loss = sum((part for some in self.ranks.gather("losses", losses) for part in some), loss)
                computed = [gradients.buffer for gradients in self._computed[: len(own)]]
                self.ranks.add_in_order(computed, self.gradients.buffer, fresh=start == 0)
        self.ranks.share(self.gradients.buffer)
        return loss

    def norm(self) -> float:
        """Return the global norm of the gradients as they were computed last, as `gradient_norm` does."""
        if self.ranks.size > 1:  # by one rank for all: another kind of processor may round it differently
            return self.ranks.at_first("norm", lambda: gradient_norm(self.gradients, workers=self.workers))
        if self._crew is None:
            return gradient_norm(self.gradients, workers=self.workers)
        return math.sqrt(math.fsum(self._squares))

    def update(self, lr: float, scale: float = 1.0) -> None:
        """Scale the gradients that were computed last, in place, and let the optimizer make its step with them.

        Parameters
        ----------
        lr : float
        scale : float
            At most 1, as clipping gives it.

        Raises
        ------
        ValueError
            If there is no optimizer, or the scale is over 1.
        ChildProcessError
            If a worker process was killed. Some of the numbers are updated then and some are not: the optimizer is
            `torn`, and goes on only from a state that is loaded.
        """
        if self.optimizer is None:
            raise ValueError("ShardedGradients: expected to be made with an optimizer, which updates, got none")
        if not 0 <= scale <= 1:
            raise ValueError(f"ShardedGradients: expected a scale from 0 to 1, got {scale}")
        if self._crew is None:
            scale_gradients(self.gradients, scale, workers=self.workers)
            self.optimizer.step(self.gradients, lr, workers=self.workers)
            return
        task = self.optimizer.begin(lr)
        self._crew.map("update", [(*cut, task, scale) for cut in self._cuts()])
        self.optimizer.finish(task)

    def __enter__(self) -> ShardedGradients:
        count = min(self.workers.threads, self.shards)
        if CAN_FORK and count > 1:
            self._computed = self._buffers()
            self._crew = Crew(count - 1, {"compute": self._compute, "sum": self._sum, "update": self._update})
        return self

    def _buffers(self) -> list[FlatGradients]:
        """Return gradients for what each thread or process computes."""
        return [self.gradients.flat.gradients() for _ in range(min(self.workers.threads, self.shards))]

    # What each process of the crew does: `number` is its own, [start, stop) its slice of the flat buffers.

    def _cuts(self) -> list[tuple[int, int]]:
        assert self._crew is not None
        return pieces(0, self.gradients.buffer.size, len(self._crew), BLOCK)

    def _compute(self, number: int, task: tuple[Piece, int]) -> float:
        loss, grads = self.compute(*task)
        self._computed[number].assign(grads)
        return float(loss)

    def _sum(self, number: int, task: tuple[int, int, int, bool]) -> list[float]:
        start, stop, count, fresh = task
        squares = []
        for at in range(start, stop, BLOCK):
            cut = slice(at, min(at + BLOCK, stop))
            total, *rest = [computed.buffer[cut] for computed in self._computed[:count]]
            if not fresh:
                total, rest = self.gradients.buffer[cut], [total, *rest]
            for part in rest:
                total = np.add(total, part, out=self.gradients.buffer[cut])
            if not rest:
                self.gradients.buffer[cut] = total
            squares += squares_of_blocks(self.gradients.buffer[cut])  # now, while it is in the cache
        return squares

    def _update(self, number: int, task: tuple[int, int, Update, float]) -> None:
        start, stop, update, scale = task
        assert self.optimizer is not None
        self.optimizer.update_slice(start, stop, self.gradients.buffer, update, scale)

    def __exit__(self, *_: object) -> None:
        if self._crew is not None:
            self._crew.close()
        self._crew, self._computed = None, []

    def pieces(self, batches: dict[str, Any] | Sequence[dict[str, Any]], step: int) -> list[Piece]:
        """Return the parts of the computation in the order of the sum."""
        listed = [batches] if isinstance(batches, dict) else list(batches)
        if not listed:
            raise ValueError("ShardedGradients: expected at least one batch, got an empty list")
        return [
            Piece(shard, (self.seed, step, i * self.shards + k))
            for i, batch in enumerate(listed)
            for k, shard in enumerate(split_rows(batch, self.shards))
        ]

    def num_items(self, pieces: list[Piece]) -> int:
        """Return the number of real labels of all pieces; 1 where there is none, so that the loss is 0, not NaN."""
        return max(1, sum(self.model.count_labels(piece.batch) for piece in pieces))

    def compute(self, piece: Piece, num_items: int) -> tuple[Any, dict]:
        """Return a piece's part of the loss and its tree of gradients."""
        rng = np.random.default_rng(piece.key)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self.model.loss_and_grads(
                piece.batch, rng=rng, num_items=num_items, keep=self.keep, **self.loss_settings
            )
