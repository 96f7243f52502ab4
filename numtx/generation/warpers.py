"""What a token is drawn from: temperature, and the settings that leave out the unlikely.

They are processors, which come after all others, and only where chance decides. Each keeps at least `keep` tokens of a
row (1; with beams as many as there are end tokens, and one more).
"""

import math
from collections.abc import Iterator

import numpy as np

from numtx.generation.processors import Processor, log_softmax


def warpers(
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical_p: float | None = None,
    epsilon_cutoff: float | None = None,
    eta_cutoff: float | None = None,
    keep: int = 1,
) -> Iterator[Processor]:
    """Yield what scores go through before a token is drawn, in Transformers' order, which matters.

    None, and a value that leaves out nothing, is no warper.

    Examples
    --------
    >>> [type(one).__name__ for one in warpers(top_p=0.9, temperature=0.5, typical_p=1.0)]
    ['Temperature', 'TopP']
    """
    if temperature not in (None, 1):
        yield Temperature(temperature)
    if top_k:
        yield TopK(top_k, keep)
    if top_p is not None and top_p < 1:
        yield TopP(top_p, keep)
    if min_p is not None:
        yield MinP(min_p, keep)
    if typical_p is not None and typical_p < 1:
        yield TypicalP(typical_p, keep)
    if epsilon_cutoff:
        yield EpsilonCutoff(epsilon_cutoff, keep)
    if eta_cutoff:
        yield EtaCutoff(eta_cutoff, keep)


class Temperature:
    """Divide the scores by T: below 1 the likely become likelier.

    Examples
    --------
    >>> Temperature(0.5)(np.array([[0]]), np.array([[1.0, -np.inf]]))
    array([[  2., -inf]])
    """

    def __init__(self, temperature: float):
        self.temperature = temperature

    def __call__(self, ids, scores):
        # What is 0 in the dtype of the scores stands for its smallest number.
        temperature = max(scores.dtype.type(self.temperature), np.finfo(scores.dtype).smallest_subnormal)
        with np.errstate(over="ignore"):
            divided = scores / temperature
            largest, most = scores.max(axis=-1, keepdims=True), divided.max(axis=-1, keepdims=True)
            lost = np.isfinite(largest) & ~np.isfinite(most)  # (R, 1)
            if lost.any():  # under a tiny temperature: with the largest at 0, only the others overflow, as they should
                divided = np.where(lost, (scores - np.where(lost, largest, 0)) / temperature, divided)
        return divided


class TopK:
    """Only the k largest scores, and all that equal the smallest of them.

    Examples
    --------
    >>> TopK(2)(np.array([[0]]), np.array([[3.0, 1.0, 2.0, 2.0]]))
    array([[  3., -inf,   2.,   2.]])
    """

    def __init__(self, k: int, keep: int = 1):
        self.k = max(k, keep)

    def __call__(self, ids, scores):
        return _dropped(scores, scores < kth_largest(scores, self.k))


class TopP:
    """Only the likeliest tokens, up to and with the one that brings the sum of their probabilities to p.

    Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020), equations 2 and 3.

    Notes
    -----
    As in Transformers the sum runs from the unlikely end, up to 1 − p. By rounding that may differ from the other
    way, where a sum hits p exactly.

    Examples
    --------
    >>> TopP(0.6)(np.array([[0]]), np.log(np.array([[0.5, 0.25, 0.25]]))).round(2)
    array([[-0.69,  -inf, -1.39]])
    """

    def __init__(self, p: float, keep: int = 1):
        self.p, self.keep = p, keep

    def __call__(self, ids, scores):
        return _by_row(scores, self._drops)

    def _drops(self, scores):
        ordered = np.sort(scores)  # the least likely first; the places of all would cost six times as much
        many = int((_probabilities(ordered).cumsum() <= 1 - self.p).sum())
        many = min(many, len(scores) - self.keep)
        if many <= 0:
            return []
        drops = scores < ordered[many]
        equal = np.flatnonzero(scores == ordered[many])
        drops[equal[: many - drops.sum()]] = True  # of equals the first
        return np.flatnonzero(drops)


class MinP:
    """Only tokens that are at least p times as likely as the likeliest.

    Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs" (2024), section 3.

    Examples
    --------
    >>> MinP(0.6)(np.array([[0]]), np.log(np.array([[0.5, 0.25, 0.25]]))).round(2)
    array([[-0.69,  -inf,  -inf]])
    """

    def __init__(self, p: float, keep: int = 1):
        self.p, self.keep = p, keep

    def __call__(self, ids, scores):
        return _by_row(scores, self._drops)

    def _drops(self, scores):
        p = _probabilities(scores)
        drops = p < self.p * p.max()
        if self.keep > 1:  # the likeliest stays in any case
            drops[np.argsort(-p, kind="stable")[: self.keep]] = False
        return np.flatnonzero(drops)


class TypicalP:
    """Only the tokens whose surprise −log p is nearest to the mean surprise, until their probabilities sum to `mass`.

    Meister et al., "Locally Typical Sampling" (2023), equation 7.

    Examples
    --------
    >>> TypicalP(0.4)(np.array([[0]]), np.log(np.array([[0.5, 0.25, 0.25]]))).round(2)
    array([[-0.69,  -inf,  -inf]])
    """

    def __init__(self, mass: float, keep: int = 1):
        self.mass, self.keep = mass, keep

    def __call__(self, ids, scores):
        return _by_row(scores, self._drops)

    def _drops(self, scores):
        log_p = log_softmax(scores)
        entropy = -(log_p * np.exp(log_p)).sum()
        far = np.abs(-log_p - entropy)
        order = np.argsort(far, kind="stable")  # the most typical first
        enough = int((_probabilities(scores[order]).cumsum() < self.mass).sum())
        drops = far[order] > far[order[min(enough, len(order) - 1)]]
        drops[: self.keep] = False
        return order[drops]


class EpsilonCutoff:
    """Only tokens of a probability of at least ε.

    Hewitt et al., "Truncation Sampling as Language Model Desmoothing" (2022), section 4.

    Examples
    --------
    >>> EpsilonCutoff(0.3)(np.array([[0]]), np.log(np.array([[0.5, 0.25, 0.25]]))).round(2)
    array([[-0.69,  -inf,  -inf]])
    """

    def __init__(self, epsilon: float, keep: int = 1):
        self.epsilon, self.keep = epsilon, keep

    def __call__(self, ids, scores):
        p = np.exp(log_softmax(scores))
        return _dropped(scores, (p < self._least(p)) & (scores < kth_largest(scores, self.keep)))

    def _least(self, p):
        return self.epsilon


class EtaCutoff(EpsilonCutoff):
    """Only tokens of a probability of at least min(ε, √ε · e^(−entropy)).

    Hewitt et al. (2022), as `EpsilonCutoff`, section 5.

    Examples
    --------
    >>> EtaCutoff(0.3)(np.array([[0]]), np.log(np.array([[0.9, 0.1]]))).round(2)
    array([[-0.11,  -inf]])
    """

    def _least(self, p):
        entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1, keepdims=True)
        return np.minimum(self.epsilon, math.sqrt(self.epsilon) * np.exp(-entropy))


def kth_largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the k-th largest score of each row, (R, 1); the smallest where there are fewer.

    Examples
    --------
    >>> kth_largest(np.array([[3.0, 1.0, 2.0]]), 2)
    array([[2.]])
    """
    place = max(scores.shape[-1] - k, 0)
    return np.partition(scores, place, axis=-1)[:, place, None]


def _dropped(scores, drops):
    return np.where(drops, -scores.dtype.type(np.inf), scores)


def _by_row(scores, drops):
    """Drop from each row what `drops` names among the scores that are left, which after top-k are few."""
    made = scores.copy()
    for row, out in zip(scores, made, strict=True):
        left = np.flatnonzero(row > -np.inf)
        if len(left):
            out[left[drops(row[left])]] = -np.inf
    return made


def _probabilities(scores):
    p = np.exp(scores - scores.max())
    return p / p.sum()
