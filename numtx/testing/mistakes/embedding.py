"""Classic mistakes of embedding."""

from __future__ import annotations

import numpy as np

from numtx.functional.embedding import embedding, embedding_backward
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


def _repeated() -> Case:
    return Case({"ids": np.array([[2, 0, 2], [1, 2, 0]]), "weight": np.arange(8.0).reshape(4, 2) / 7})


def _assigned(dy, cache):
    ids, weight = cache
    dweight = np.zeros_like(weight)
    dweight[ids] += dy  # NumPy reads, adds and writes once an id: the last of the equal ones wins
    return dweight


def _averaged(dy, cache):
    ids, weight = cache
    counts = np.bincount(ids.reshape(-1), minlength=len(weight))
    return embedding_backward(dy, cache) / np.maximum(counts, 1)[:, None].astype(weight.dtype)


def _without_first_row(dy, cache):
    dweight = embedding_backward(dy, cache)
    dweight[0] = 0
    return dweight


def _counted_from_one(ids, weight):
    return embedding(np.asarray((ids - 1) % len(weight)), weight)


MISTAKES = [
    Mistake(
        name="embedding gradient of repeated ids overwritten",
        of="embedding",
        why="`dweight[ids] = dy`, and `dweight[ids] += dy` too: NumPy writes a repeated row once, with the last value.",
        hint="Let one id stand in the batch twice. (np.add.at, or a product with a one-hot matrix, adds both.)",
        backward=_assigned,
        witness=_repeated,
    ),
    Mistake(
        name="embedding gradient averaged over repeats",
        of="embedding",
        why="It looks fair to frequent words; it is another learning rate for each word, not the gradient.",
        hint="What does the loss gain when a row moves that was looked up twice?",
        backward=_averaged,
        witness=_repeated,
    ),
    Mistake(
        name="embedding row 0 taken for padding",
        of="embedding",
        why="Many vocabularies have their padding at 0; here no row is special.",
        hint="Look at the gradient row by row.",
        backward=_without_first_row,
        witness=_repeated,
    ),
    Mistake(
        name="embedding ids counted from one",
        of="embedding",
        why="The vocabulary file numbers its lines from 1, or the row of padding was taken out of the table.",
        hint="Which row does id 0 give?",
        forward=_counted_from_one,
        witness=_repeated,
    ),
]
