"""ROUGE, as rouge-score computes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from numtx.checkpoints.extras import need
from numtx.metrics.metric import Measured, Metric
from numtx.metrics.texts import FEATURES, texts_and_references

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge(Metric):
    """The F-measure of n-grams and of longest common subsequences, mean over the texts, from 0 to 1.

    Notes
    -----
    `evaluate` gives the middle of a resampling without a seed, which differs from the mean in the third digit, and from
    itself the next time. With ``bootstrap`` the interval is given beside the mean.

    Examples
    --------
    >>> Rouge().compute(predictions=["hello there"], references=["hello there"])["rougeL"]  # doctest: +SKIP
    1.0
    """

    name = "rouge"
    description = (
        "ROUGE as rouge-score computes it (Lin 2004): the F-measure of words (rouge1), pairs of words (rouge2), the"
        " longest common subsequence of a text (rougeL), and of its lines (rougeLsum: sentences are split by newlines"
        " alone), mean over the texts, from 0 to 1. Words are runs of a-z and 0-9 in lower case: text in another script"
        " needs a tokenizer. Of several references a text counts the best, for each type."
    )
    features = FEATURES

    def measure(
        self,
        predictions,
        references,
        rouge_types: Sequence[str] | None = None,
        use_aggregator: bool = True,
        use_stemmer: bool = False,
        tokenizer: Callable[[str], list[str]] | None = None,
    ):
        """Go through texts.

        Parameters
        ----------
        predictions : list of str
        references : list of str, or of lists of str
        rouge_types : list of str, optional
            Of rouge1 to rouge9, rougeL and rougeLsum. Default: rouge1, rouge2, rougeL, rougeLsum.
        use_aggregator : bool
            False gives the scores of each text in a list, not their mean.
        use_stemmer : bool
            Take Porter's stem of words of more than three letters.
        tokenizer : callable, optional
            From a text to its words, instead of rouge-score's own.
        """
        scorers = need("rouge_score.rouge_scorer", extra="metrics")
        types = list(TYPES if rouge_types is None else rouge_types)
        wrong = [one for one in types if not (isinstance(one, str) and re.fullmatch(r"rouge([1-9]|L|Lsum)", one))]
        if wrong or not types or isinstance(rouge_types, str):
            got = rouge_types if isinstance(rouge_types, str) else ", ".join(map(str, wrong)) or "none"
            raise ValueError(f"{self.name}: expected a list of rouge1 to rouge9, rougeL or rougeLsum, got {got}")
        texts, several = texts_and_references(self.name, predictions, references)
        scorer = scorers.RougeScorer(types, use_stemmer=use_stemmer, tokenizer=_wrapped(tokenizer))
        rows = [scorer.score_multi(own, text) for text, own in zip(texts, several, strict=True)]
        scores = np.array([[row[one].fmeasure for one in types] for row in rows], np.float64)  # (N, types)

        def score(times):
            return dict(zip(types, (times @ scores / times.sum()).tolist(), strict=True))

        if use_aggregator:
            return Measured(len(texts), score)
        return Measured(len(texts), lambda times: {}, dict(zip(types, scores.T.tolist(), strict=True)))


def _wrapped(tokenizer: Callable[[str], list[str]] | None) -> Any:
    if tokenizer is None or hasattr(tokenizer, "tokenize"):
        return tokenizer
    if not callable(tokenizer):
        raise ValueError(f"rouge: expected a tokenizer that makes words of a text, got {type(tokenizer).__name__}")
    return _Tokenizer(tokenizer)


class _Tokenizer:
    """A function as the object with `tokenize` that rouge-score wants."""

    def __init__(self, words: Callable[[str], list[str]]) -> None:
        self.tokenize = words
