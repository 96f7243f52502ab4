"""Processors that look at several tokens at once: n-grams that must not come twice, and sequences that are biased."""

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class NoRepeatNGrams:
    """No n tokens twice in a row of tokens, its prompt included.

    Where the last n − 1 tokens stood before, whatever came behind them must not come again. Paulus et al., "A Deep
    Reinforced Model for Abstractive Summarization" (2017), section 2.5.

    Examples
    --------
    >>> NoRepeatNGrams(2)(np.array([[1, 2, 1]]), np.zeros((1, 4)))
    array([[  0.,   0., -inf,   0.]])
    """

    def __init__(self, n: int):
        self.n = n

    def __call__(self, ids, scores):
        return _without_successors(ids, ids, self.n, scores)


class NoEncoderNGrams:
    """No n tokens that stand in the source (B, S).

    Examples
    --------
    >>> NoEncoderNGrams(2, np.array([[3, 1]]))(np.array([[0, 3]]), np.zeros((1, 4)))
    array([[  0., -inf,   0.,   0.]])
    """

    def __init__(self, n: int, source: np.ndarray):
        self.n, self.source = n, source

    def __call__(self, ids, scores):
        source = np.repeat(self.source, len(ids) // len(self.source), axis=0)
        return _without_successors(source, ids, self.n, scores)


def _without_successors(text, ids, n, scores):
    """Forbid what stands in the text (R, S) behind the last n − 1 tokens of ids (R, t)."""
    if text.shape[1] < n or ids.shape[1] < n - 1:
        return scores
    last = ids[:, ids.shape[1] - (n - 1) :]  # (R, n - 1)
    windows = sliding_window_view(text, n, axis=1)  # (R, S - n + 1, n)
    rows, places = np.nonzero((windows[..., :-1] == last[:, None]).all(axis=-1))
    if not len(rows):
        return scores
    scores = scores.copy()
    scores[rows, windows[rows, places, -1]] = -np.inf
    return scores


class SequenceBias:
    """Add a number to the score of the token that completes a sequence; -inf forbids it (`bad_words_ids`).

    Examples
    --------
    >>> SequenceBias({(2,): 1.0, (1, 3): -np.inf})(np.array([[0, 1]]), np.zeros((1, 4)))
    array([[  0.,   0.,   1., -inf]])
    """

    def __init__(self, biases: Mapping[tuple[int, ...], float]):
        single = {words[0]: bias for words, bias in biases.items() if len(words) == 1}
        self.tokens = np.array(list(single), np.int64)
        self.numbers = np.array(list(single.values()), np.float64)
        self.longer = [(np.array(words[:-1]), words[-1], bias) for words, bias in biases.items() if len(words) > 1]

    def __call__(self, ids, scores):
        bias = np.zeros_like(scores)
        bias[:, self.tokens] = self.numbers
        for before, last, number in self.longer:
            if len(before) <= ids.shape[1]:
                rows = (ids[:, ids.shape[1] - len(before) :] == before).all(axis=1)
                bias[rows, last] += number
        return scores + bias
