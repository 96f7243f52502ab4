"""BLEU and chrF, as sacrebleu computes them, with the signature that says how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numtx.checkpoints.extras import need
from numtx.metrics.metric import Measured, Metric
from numtx.metrics.texts import FEATURES, texts_and_references

_SMOOTHING = ("none", "floor", "add-k", "exp")


class _SacreBleuMetric(Metric):
    """What sacrebleu counts for each text, summed over the texts, and made a score of."""

    features = FEATURES

    def _measured(self, predictions, references, scorer: Any, results: Callable[[Any], dict[str, Any]], sentences: Any):
        """Go through texts with one of sacrebleu's metrics.

        A corpus score is made of sums over texts, which sacrebleu counts for its own resampling; so all resamplings
        share one pass over the texts.
        """
        texts, several = texts_and_references(self.name, predictions, references)
        most = max(map(len, several))
        # Sacrebleu takes a list of first references, one of second ones, ...; None where a text has fewer.
        transposed = [[own[i] if i < len(own) else None for own in several] for i in range(most)]
        counts = np.array(scorer._extract_corpus_statistics(texts, transposed), np.float64)  # (N, K)

        def score(times):
            return results(scorer._compute_score_from_stats([round(one) for one in times @ counts]))

        facts: dict[str, Any] = {"signature": str(scorer.get_signature())}
        if sentences is not None:
            scores = [sentences._compute_score_from_stats([round(one) for one in row]).score for row in counts]
            facts["sentence_scores"] = scores
        return Measured(len(texts), score, facts)


class _OfWords(_SacreBleuMetric):
    """BLEU under the names of one of the two metrics of `evaluate`, which `_results` has."""

    _results: Callable[[Any], dict[str, Any]]

    def measure(
        self,
        predictions,
        references,
        smooth_method: str = "exp",
        smooth_value: float | None = None,
        force: bool = False,
        lowercase: bool = False,
        tokenize: str | None = None,
        use_effective_order: bool = False,
        max_order: int = 4,
        sentence_scores: bool = False,
    ):
        """Go through texts.

        Parameters
        ----------
        predictions : list of str
        references : list of str, or of lists of str
            One or several for each text; their number may differ.
        smooth_method : "exp", "floor", "add-k" or "none"
            What stands for a precision of zero (Chen and Cherry 2014).
        smooth_value : float, optional
            For "floor" (0.1) and "add-k" (1).
        force : bool
            No warning about texts that look tokenized.
        lowercase : bool
        tokenize : str, optional
            One of sacrebleu's tokenizers: 13a (the default), intl, zh, char, none, ...
        use_effective_order : bool
            Leave out the orders that a text is too short for.
        max_order : int
            Of the n-grams.
        sentence_scores : bool
            The result has the BLEU of each text too, in effective order, from 0 to 100.
        """
        bleu = need("sacrebleu.metrics.bleu", extra="metrics").BLEU
        if smooth_method not in _SMOOTHING:
            raise ValueError(f"{self.name}: expected smooth_method {', '.join(_SMOOTHING)}, got {smooth_method!r}")
        known = sorted(set(bleu.TOKENIZERS))
        if tokenize is not None and tokenize not in known:
            raise ValueError(f"{self.name}: expected tokenize {', '.join(known)}, got {tokenize!r}")
        if isinstance(max_order, bool) or not isinstance(max_order, int) or max_order < 1:
            raise ValueError(f"{self.name}: expected max_order of at least 1, got {max_order!r}")
        settings = {
            "smooth_method": smooth_method,
            "smooth_value": smooth_value,
            "force": force,
            "lowercase": lowercase,
            "tokenize": tokenize,
            "max_ngram_order": max_order,
        }
        return self._measured(
            predictions,
            references,
            bleu(**settings, effective_order=use_effective_order),
            self._results,
            bleu(**settings, effective_order=True) if sentence_scores else None,
        )


class SacreBleu(_OfWords):
    """BLEU from 0 to 100, under sacrebleu's names.

    Examples
    --------
    >>> SacreBleu().compute(predictions=["hello there"], references=[["hello there"]])["score"]  # doctest: +SKIP
    100.0
    """

    name = "sacrebleu"
    description = (
        "BLEU of a corpus, from 0 to 100, as sacrebleu computes it (Papineni et al. 2002, Post 2018): the geometric"
        " mean of n-gram precisions up to 4, times a penalty for being shorter than the closest reference. Texts are"
        " given as they are; sacrebleu tokenizes. The signature says how, and belongs beside the score."
    )

    def _results(self, one):
        return {
            "score": float(one.score),
            "counts": [int(count) if float(count).is_integer() else count for count in one.counts],
            "totals": [int(total) if float(total).is_integer() else total for total in one.totals],
            "precisions": [float(precision) for precision in one.precisions],
            "bp": float(one.bp),
            "sys_len": int(one.sys_len),
            "ref_len": int(one.ref_len),
        }


class Bleu(_OfWords):
    """BLEU from 0 to 1, under the names of `evaluate`'s bleu.

    Examples
    --------
    >>> Bleu().compute(predictions=["hello there"], references=[["hello there"]])["bleu"]  # doctest: +SKIP
    1.0
    """

    name = "bleu"
    description = (
        "BLEU of a corpus, from 0 to 1: sacrebleu's score under the names of evaluate's bleu. That one differs: it does"
        " not smooth, and compares lengths with the shortest reference, not the closest."
    )

    def _results(self, one):
        return {
            "bleu": float(one.score / 100),
            "precisions": [float(precision / 100) for precision in one.precisions],
            "brevity_penalty": float(one.bp),
            "length_ratio": float(one.sys_len / one.ref_len) if one.ref_len else 0.0,
            "translation_length": int(one.sys_len),
            "reference_length": int(one.ref_len),
        }


class ChrF(_SacreBleuMetric):
    """The F-score of character n-grams (chrF), and of words too (chrF++), from 0 to 100.

    Examples
    --------
    >>> ChrF().compute(predictions=["a cat"], references=["a cat"])["score"]  # doctest: +SKIP
    100.0
    """

    name = "chrf"
    description = (
        "The F-score of character n-grams up to 6, recall weighted beta = 2 times, from 0 to 100, as sacrebleu computes"
        " it (Popović 2015); with word_order=2 it is chrF++ (Popović 2017). Of several references a text counts the"
        " best. The signature belongs beside the score."
    )

    def measure(
        self,
        predictions,
        references,
        char_order: int = 6,
        word_order: int = 0,
        beta: int = 2,
        lowercase: bool = False,
        whitespace: bool = False,
        eps_smoothing: bool = False,
        sentence_scores: bool = False,
    ):
        """Go through texts.

        Parameters
        ----------
        predictions : list of str
        references : list of str, or of lists of str
            One or several for each text; their number may differ.
        char_order, word_order : int
            The longest n-grams of characters and of words.
        beta : int
            How many times recall weighs precision.
        lowercase, whitespace : bool
            Whether case is ignored, and whether spaces count as characters.
        eps_smoothing : bool
            As chrF++.py and Moses smooth, where sacrebleu leaves out orders that do not occur.
        sentence_scores : bool
            The result has the score of each text too.
        """
        chrf = need("sacrebleu.metrics.chrf", extra="metrics").CHRF
        for what, value, least in (("char_order", char_order, 1), ("word_order", word_order, 0), ("beta", beta, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{self.name}: expected {what} of at least {least}, got {value!r}")
        scorer = chrf(char_order, word_order, beta, lowercase, whitespace, eps_smoothing)

        def results(one):
            return {"score": float(one.score), "char_order": char_order, "word_order": word_order, "beta": beta}

        return self._measured(predictions, references, scorer, results, scorer if sentence_scores else None)
