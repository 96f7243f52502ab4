"""What changes the scores before a token is chosen: what must come, must not come yet, or should come less often.

A processor takes ids (R, t), the prompt and all that was written, and scores (R, V), and gives scores; it never changes
what it was given. Rows of one prompt stand side by side: with B prompts, row r belongs to prompt r // (R // B).
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np


class Processor(Protocol):
    """Takes ids (R, t) and scores (R, V), and returns new scores, or the same array where there is nothing to do."""

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray: ...


class Processors(list[Processor]):
    """Several processors, one after another.

    Examples
    --------
    >>> Processors([MinLength(3, [0])])(np.array([[5]]), np.array([[1.0, 2.0]]))
    array([[-inf,   2.]])
    """

    def __call__(self, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        for processor in self:
            scores = processor(ids, scores)
        return scores


def without(scores: np.ndarray, tokens: np.ndarray | Iterable[int]) -> np.ndarray:
    """Return scores in which some tokens cannot be chosen.

    Examples
    --------
    >>> without(np.array([[1.0, 2.0, 3.0]]), [0, 2])
    array([[-inf,   2., -inf]])
    """
    scores = scores.copy()
    scores[:, np.asarray(tokens)] = -np.inf
    return scores


def only(scores: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return scores in which nothing but some tokens can be chosen, each as well as the other."""
    forced = np.full_like(scores, -np.inf)
    forced[:, tokens] = 0
    return forced


class RepetitionPenalty:
    """Make tokens less likely that are there already: a score s > 0 becomes s / penalty, another s · penalty.

    `starts` (B,) says how much padding each prompt has in front, which does not count. Keskar et al., "CTRL" (2019),
    section 4.1; there positive scores alone are met.

    Examples
    --------
    >>> RepetitionPenalty(2.0)(np.array([[0, 2]]), np.array([[1.0, 1.0, -1.0]]))
    array([[ 0.5,  1. , -2. ]])
    """

    def __init__(self, penalty: float, starts: np.ndarray | None = None):
        self.penalty, self.starts = penalty, starts

    def __call__(self, ids, scores):
        if self.starts is not None:
            starts = np.repeat(self.starts, len(ids) // len(self.starts))[:, None]
            ids = np.where(np.arange(ids.shape[1]) < starts, ids[:, -1:], ids)  # of no consequence: that one is there
        return _penalised(ids, scores, self.penalty)


class EncoderRepetitionPenalty:
    """Make tokens of the source (B, S) more likely, by a penalty above 1: the penalty of repetition, inverted.

    Examples
    --------
    >>> EncoderRepetitionPenalty(2.0, np.array([[1]]))(np.array([[0]]), np.array([[1.0, 1.0, -1.0]]))
    array([[ 1.,  2., -1.]])
    """

    def __init__(self, penalty: float, source: np.ndarray):
        self.penalty, self.source = penalty, source

    def __call__(self, ids, scores):
        source = np.repeat(self.source, len(scores) // len(self.source), axis=0)
        return _penalised(source, scores, 1 / self.penalty)


def _penalised(ids, scores, penalty):
    there = np.take_along_axis(scores, ids, axis=1)  # (R, t)
    scores = scores.copy()
    np.put_along_axis(scores, ids, np.where(there < 0, there * penalty, there / penalty), axis=1)
    return scores


class MinLength:
    """No end token before a row has `length` tokens, its prompt included.

    Examples
    --------
    >>> MinLength(2, [0])(np.array([[5]]), np.array([[1.0, 2.0]]))
    array([[-inf,   2.]])
    """

    def __init__(self, length: int, end_ids: np.ndarray):
        self.length, self.end_ids = length, end_ids

    def __call__(self, ids, scores):
        return without(scores, self.end_ids) if ids.shape[1] < self.length else scores


class ForcedTokens:
    """Nothing but some tokens where a row has `length` tokens.

    That is the first new token behind a start token (`forced_bos_token_id`), and the last one (`forced_eos_token_id`).

    Examples
    --------
    >>> ForcedTokens(1, [1])(np.array([[5]]), np.array([[3.0, 2.0]]))
    array([[-inf,   0.]])
    """

    def __init__(self, length: int, tokens: np.ndarray):
        self.length, self.tokens = length, tokens

    def __call__(self, ids, scores):
        return only(scores, self.tokens) if ids.shape[1] == self.length else scores


class SuppressTokens:
    """Some tokens never, or never where a row has `length` tokens.

    Examples
    --------
    >>> SuppressTokens([1])(np.array([[5]]), np.array([[3.0, 2.0]]))
    array([[  3., -inf]])
    """

    def __init__(self, tokens: np.ndarray, length: int | None = None):
        self.tokens, self.length = tokens, length

    def __call__(self, ids, scores):
        return without(scores, self.tokens) if self.length in (None, ids.shape[1]) else scores


class ExponentialDecay:
    """From `start` tokens on an end token's score s grows by |s| (factorⁿ − 1), n tokens later.

    Examples
    --------
    >>> ExponentialDecay(1, 2.0, [0])(np.array([[5, 6]]), np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    """

    def __init__(self, start: int, factor: float, end_ids: np.ndarray):
        self.start, self.factor, self.end_ids = start, factor, end_ids

    def __call__(self, ids, scores):
        late = ids.shape[1] - self.start
        if late <= 0:
            return scores
        ends = scores[:, self.end_ids]
        more = np.where(np.isfinite(ends), np.abs(ends), 0) * (self.factor**late - 1)
        scores = scores.copy()
        scores[:, self.end_ids] = ends + more
        return scores


class RemoveInvalid:
    """Zero for NaN, and the largest and smallest number of the dtype for the infinities.

    Examples
    --------
    >>> RemoveInvalid()(np.array([[5]]), np.array([[np.nan, 1.0]]))
    array([[0., 1.]])
    """

    def __call__(self, ids, scores):
        return np.nan_to_num(scores, nan=0.0)


class Renormalize:
    """Log-probabilities of what is left: s − log Σ eˢ.

    Examples
    --------
    >>> Renormalize()(np.array([[5]]), np.array([[3.0, -np.inf]]))
    array([[  0., -inf]])
    """

    def __call__(self, ids, scores):
        return log_softmax(scores)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Return s − log Σ eˢ over the last axis; -inf stays, and so does a row of nothing else.

    Examples
    --------
    >>> log_softmax(np.array([[2.0, -np.inf]]))
    array([[  0., -inf]])
    """
    largest = scores.max(axis=-1, keepdims=True)
    scores = scores - np.where(largest == -np.inf, 0, largest)
    total = np.exp(scores).sum(axis=-1, keepdims=True)
    return scores - np.log(np.where(total == 0, 1, total))
