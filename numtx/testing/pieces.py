"""What large arrays go through, on small ones.

Some ops work in blocks that fit the cache, larger than any array that a check can afford. What they sum over their
blocks (the gradient of a norm's weight, of attention's keys) would never be summed in a check of one block.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numtx.functional import attention, blocks

# By its path: the package's attribute of this name is the pair.
vocabulary: Any = importlib.import_module("numtx.functional.linear_cross_entropy")
tiled: Any = importlib.import_module("numtx.functional.tiled_attention")


@contextmanager
def small_blocks(
    elements: int = 3, queries: int = 2, scores: int = 1, logits: int = 8, classes: int = 2
) -> Iterator[None]:
    """Let the ops work in tiny blocks for the time of a ``with``. Not for several threads at once.

    Parameters
    ----------
    elements : int
        Of an elementwise block; a norm takes as many whole rows as these fill, at least one. And keys
        of a block of tiled attention.
    queries : int
        Of a block of causal or of tiled attention.
    scores : int
        Of a block of attention: so many rows of the batch are taken together, at least one.
    logits : int
        That a loss over a large vocabulary holds at once: so many rows are taken together, at least one.
    classes : int
        Of a block of such a loss.

    Examples
    --------
    >>> from numtx.testing import check, small_blocks
    >>> with small_blocks(elements=2):
    ...     bool(check("layer_norm", count=2))
    True
    """
    before = blocks.BLOCK, attention.QUERIES, attention.SCORES
    before_loss = vocabulary.LOGITS, vocabulary.COLUMNS
    before_tiles = tiled.QUERIES, tiled.KEYS, tiled.TOGETHER, tiled.FAR
    blocks.BLOCK, attention.QUERIES, attention.SCORES = elements, queries, scores
    vocabulary.LOGITS, vocabulary.COLUMNS = logits, classes
    tiled.QUERIES, tiled.KEYS, tiled.TOGETHER, tiled.FAR = queries, elements, 2, 1.0
    try:
        yield
    finally:
        blocks.BLOCK, attention.QUERIES, attention.SCORES = before
        vocabulary.LOGITS, vocabulary.COLUMNS = before_loss
        tiled.QUERIES, tiled.KEYS, tiled.TOGETHER, tiled.FAR = before_tiles
