"""What large arrays go through, on small ones.

Some ops work in blocks that fit the cache, larger than any array that a check can afford. What they sum over their
blocks (the gradient of a norm's weight, of attention's keys) would never be summed in a check of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from numtx.functional import attention, blocks


@contextmanager
def small_blocks(elements: int = 3, queries: int = 2, scores: int = 1) -> Iterator[None]:
    """Let the ops work in tiny blocks for the time of a ``with``. Not for several threads at once.

    Parameters
    ----------
    elements : int
        Of an elementwise block; a norm takes as many whole rows as these fill, at least one.
    queries : int
        Of a block of causal attention.
    scores : int
        Of a block of attention: so many rows of the batch are taken together, at least one.

    Examples
    --------
    >>> from numtx.testing import check, small_blocks
    >>> with small_blocks(elements=2):
    ...     bool(check("layer_norm", count=2))
    True
    """
    before = blocks.BLOCK, attention.QUERIES, attention.SCORES
    blocks.BLOCK, attention.QUERIES, attention.SCORES = elements, queries, scores
    try:
        yield
    finally:
        blocks.BLOCK, attention.QUERIES, attention.SCORES = before
