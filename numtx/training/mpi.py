"""Ranks: several processes, on one machine or many, that train one model together through MPI.

Each rank computes some of the shards of every batch. Their gradients are summed in the order of the shards, whoever
computed them, so that any number of ranks gives the bits of one process. Every rank holds all weights and makes the
same update; rank 0 alone saves, logs and calls callbacks.

What ranks tell each other besides arrays goes through one kind of exchange, and a rank that fails takes part in it with
its error. So the error meets the others wherever they wait, and ends them too.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from numtx.functional.threads import available_processors
from numtx.training.agreement import differences
from numtx.training.crew import sendable
from numtx.training.threads import available_threads

if TYPE_CHECKING:
    from numtx.training.plan import TrainingPlan

MESSAGE = 1 << 18  # elements that are passed on at once: a rank adds its part to one while the next is on its way
LONGEST_PAUSE = 2e-4  # seconds between two looks for the others; whoever waits leaves its processor to those who work

# Where an mpiexec leaves the number of processes it started: MPICH, Intel MPI and Slurm's pmi2; Open MPI; Slurm's pmix.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")

Value = TypeVar("Value")


class RankError(RuntimeError):
    """Another rank failed, and this one ends with it.

    Attributes
    ----------
    error : Exception, what the other raised
    """

    def __init__(self, message: str, error: Exception):
        super().__init__(message)
        self.error = error


class Alone:
    """The one rank of a process that was not started under MPI: all it does with others does nothing.

    Attributes
    ----------
    rank, size : int, this process's number and how many there are
    blamed : int or None, the lowest rank that failed
    alike : bool, whether all failed, with the same error

    Examples
    --------
    >>> Alone().gather("losses", 1.5), Alone().part(2, [4])
    ([1.5], slice(0, 2, None))
    """

    rank, size = 0, 1
    blamed: int | None = None
    alike = True

    @property
    def first(self) -> bool:
        """Whether this rank saves, logs and shows."""
        return self.rank == 0

    def threads(self, plan: TrainingPlan) -> int:
        """Return how many threads work in this rank."""
        return plan.threads or min(available_threads(), plan.shards)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """End all ranks with an error that leaves the block."""
        yield

    def gather(self, what: str, value: Value) -> list[Value]:
        """Return the values of all ranks, in their order. `what` must be the same everywhere."""
        return [value]

    def at_first(self, what: str, function: Callable[[], Value]) -> Value:
        """Return function(), called on rank 0 alone, on every rank."""
        return function()

    def agree(self, owner: str, facts: Mapping[str, Any]) -> None:
        """Require every rank to have the same facts.

        Raises
        ------
        ValueError
            On every rank, with each fact that differs, its values, and the ranks that have them.
        """

    def broadcast(self, array: np.ndarray) -> None:
        """Put the numbers of rank 0's array, without gaps in memory, into everybody's."""

    def part(self, count: int, threads: Sequence[int]) -> slice:
        """Return which of `count` tasks are this rank's.

        The ranks take neighbouring ones, as evenly as their threads allow.

        Parameters
        ----------
        count : int
            At most as many as there are threads.
        threads : sequence of int
            Of each rank.
        """
        if count > sum(threads):
            raise ValueError(f"Ranks: expected at most a task for each of {sum(threads)} threads, got {count}")
        shares = [0] * self.size
        while sum(shares) < count:
            for rank in range(self.size):
                if shares[rank] < threads[rank] and sum(shares) < count:
                    shares[rank] += 1
        start = sum(shares[: self.rank])
        return slice(start, start + shares[self.rank])

    def add_in_order(self, parts: Sequence[np.ndarray], total: np.ndarray, *, fresh: bool) -> None:
        """Add the parts of rank 0, then those of rank 1 and so on, each in its order, to the total on the last rank.

        Parameters
        ----------
        parts : sequence of (N,) arrays, perhaps empty; on rank 0 at least one
        total : (N,) array
            Afterwards the sum on the last rank, and the sum so far on the others.
        fresh : bool
            Begin from zero, not from the total on the last rank.
        """
        for number, part in enumerate(parts):
            np.copyto(total, part) if fresh and number == 0 else np.add(total, part, out=total)

    def share(self, total: np.ndarray) -> None:
        """Put the numbers of the last rank's array into everybody's."""


class Ranks(Alone):
    """The ranks of an MPI communicator. Every method is called by all of them, in the same order.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    sharing : int
        How many of the ranks share the processors of this one.
    """

    def __init__(self, comm: Any, sharing: int = 1):
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._sharing = sharing
        self._known: BaseException | None = None  # an error that all ranks were told of
        self._passing = False  # arrays are on their way: whoever fails now cannot tell the others

    def threads(self, plan: TrainingPlan) -> int:
        """Return how many threads work in this rank: as told, or at most its share of the processors."""
        if plan.threads:
            return plan.threads
        shards = -(-plan.shards // self.size)
        return max(1, min(available_threads(), available_processors() // self._sharing, shards))

    @contextmanager
    def guard(self) -> Iterator[None]:
        """End all ranks with an error that leaves the block."""
        try:
            yield
        except Exception as error:
            if self.knows(error):
                raise
            if self._passing:
                self.abort(error)
            self._exchange("error", None, error)
            raise
        except BaseException as error:
            self.abort(error)

    def knows(self, error: BaseException | None) -> bool:
        """Whether all ranks were told of an error, or of one it was raised after."""
        while error is not None:
            if error is self._known:
                return True
            error = error.__cause__ or error.__context__
        return False

    def abort(self, error: BaseException) -> NoReturn:
        """Say what happened here, and end all ranks at once."""
        if not isinstance(error, ValueError | OSError | MemoryError | KeyboardInterrupt):
            traceback.print_exception(error)
        self._end(_said(error))

    def _end(self, said: str) -> NoReturn:
        print(f"error: rank {self.rank}: {said}", file=sys.stderr, flush=True)
        self._comm.Abort(1)
        raise SystemExit(1)  # not reached

    def gather(self, what: str, value: Value) -> list[Value]:
        """Return the values of all ranks, in their order. `what` must be the same everywhere."""
        return self._exchange(what, value)

    def at_first(self, what: str, function: Callable[[], Value]) -> Value:
        """Return function(), called on rank 0 alone, on every rank."""
        return self._exchange(what, function() if self.first else None)[0]

    def agree(self, owner: str, facts: Mapping[str, Any]) -> None:
        """Require every rank to have the same facts; see Alone.agree."""
        if found := differences(self._exchange("facts", dict(facts))):
            raise ValueError(f"{owner}: expected the same on every rank, got {found}")

    def broadcast(self, array: np.ndarray) -> None:
        """Put the numbers of rank 0's array, without gaps in memory, into everybody's."""
        with self._arrays():
            self._comm.Bcast(array, root=0)

    def add_in_order(self, parts: Sequence[np.ndarray], total: np.ndarray, *, fresh: bool) -> None:
        """Add the ranks' parts in their order to the total on the last rank; see Alone.add_in_order.

        The sum so far goes from rank to rank in pieces, all of them at work at once. Each rank receives and sends the
        buffer once, whatever their number, and ((t0 + t1) + t2) + ... is what one process computes.
        """
        if self.size == 1:
            return super().add_in_order(parts, total, fresh=fresh)
        last = self.size - 1
        before = last if self.rank == 0 and not fresh else self.rank - 1
        sent: list[Any] = []
        with self._arrays():
            if self.rank == last and not fresh:
                for request in [self._comm.Isend(piece, dest=0) for piece in _messages(total)]:
                    request.Wait()  # before the new sum comes in where the old one lies
            for number, piece in enumerate(_messages(total)):
                here = [_messages(part)[number] for part in parts]
                if before >= 0:
                    self._comm.Recv(piece, source=before)
                else:
                    np.copyto(piece, here.pop(0))
                for part in here:
                    piece += part
                if self.rank < last:
                    sent.append(self._comm.Isend(piece, dest=self.rank + 1))
            for request in sent:
                request.Wait()
        return None

    def share(self, total: np.ndarray) -> None:
        """Put the numbers of the last rank's array into everybody's."""
        with self._arrays():
            self._comm.Bcast(total, root=self.size - 1)

    @contextmanager
    def _arrays(self) -> Iterator[None]:
        self._passing = True
        yield
        self._passing = False  # left as it is by an error

    def _exchange(self, what: str, value: Any, error: Exception | None = None) -> list[Any]:
        """Return what each rank gives, or raise on all what one of them raised."""
        told = pickle.dumps(
            (what, value, sendable(error) if error else None)
        )  # what fails here fails before others wait
        self._wait()
        heard = [pickle.loads(one) for one in self._comm.allgather(told)]
        failed = {rank: raised for rank, (_, _, raised) in enumerate(heard) if raised is not None}
        if failed:
            self.blamed = min(failed)
            texts = {_said(raised) for raised in failed.values()}
            self.alike = len(failed) == self.size and len(texts) == 1
            there = failed[self.blamed]
            self._known = error or RankError(f"rank {self.blamed}: {_said(there)}", there)
            raise self._known
        if found := differences([{"": one} for one, _, _ in heard]):
            raise ValueError(f"Ranks: expected all ranks to do the same, got{found}")
        return [given for _, given, _ in heard]

    def _wait(self) -> None:
        """Wait until all ranks are here, asleep: MPI would wait on a busy processor, and would keep signals out."""
        request, pause = self._comm.Ibarrier(), 0.0
        while not request.Test():
            time.sleep(pause)
            pause = min(pause + LONGEST_PAUSE / 10, LONGEST_PAUSE)


def _messages(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + MESSAGE] for start in range(0, array.size, MESSAGE)]


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def launched() -> tuple[int, int] | None:
    """Return this process's rank and the number of processes if an mpiexec started several, from the environment."""
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "")
    size = next((os.environ[name] for name in SIZES if name in os.environ), "")
    if not (rank.isdigit() and size.isdigit()) or int(size) < 2:
        return None
    return int(rank), int(size)


def found_ranks() -> Alone:
    """Return the ranks this process was started among: `world()` under mpiexec, else Alone()."""
    return Alone() if launched() is None else world()


@lru_cache(maxsize=1)
def world() -> Ranks:
    """Return all ranks of this MPI job. This, and nothing else, imports mpi4py, which starts MPI.

    An error that nothing catches on one rank then ends all of them, where the others would wait for it for ever.

    Raises
    ------
    ImportError
        If mpi4py or an MPI library is missing.
    ValueError
        If they are not those of the mpiexec that started this process.
    """
    try:
        mpi = importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"mpi: expected mpi4py and an MPI library, got: {error}; pip install 'numtx[mpi]' brings both"
        ) from None
    comm, asked = mpi.COMM_WORLD.Dup(), launched()
    if asked is not None and comm.Get_size() != asked[1]:
        library = mpi.Get_library_version().split("\n")[0].strip()
        raise ValueError(
            f"mpi: expected the {asked[1]} ranks that mpiexec started, got {comm.Get_size()}; take the mpiexec that"
            f" belongs to the library of mpi4py, {library}"
        )
    affinity = getattr(os, "sched_getaffinity", None)  # an mpiexec may give each rank processors of its own
    own = sorted(affinity(0)) if affinity else None
    ranks = Ranks(comm, comm.Split_type(mpi.COMM_TYPE_SHARED).allgather(own).count(own))
    if ranks.size > 1:
        _end_all_with_uncaught(ranks)
    return ranks


def _end_all_with_uncaught(ranks: Ranks) -> None:
    before = sys.excepthook

    def hook(kind: Any, error: BaseException, trace: Any) -> None:
        before(kind, error, trace)
        if not ranks.knows(error):
            ranks._end(_said(error))

    sys.excepthook = hook
