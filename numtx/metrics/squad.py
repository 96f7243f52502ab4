"""Answers to the questions of SQuAD: the same words as a gold answer, and how many of them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from numtx.metrics.metric import Measured, Metric

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ANSWER = {"id": "string", "prediction_text": "string"}
_GOLDS = {"id": "string", "answers": [{"text": "string", "answer_start": "int32"}]}
FEATURES = {"predictions": _ANSWER, "references": _GOLDS}
FEATURES_V2 = {"predictions": {**_ANSWER, "no_answer_probability": "float32"}, "references": _GOLDS}


def normalized(answer: str) -> str:
    """Return an answer as SQuAD compares it: lower case, without ASCII punctuation, articles and spare spaces.

    Examples
    --------
    >>> normalized("The  U.S. (a nation)")
    'us nation'
    """
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def word_f1(answer: str, gold: str) -> float:
    """Return the F1 of the words of two answers, repeated ones counted: 2 · common / (words + gold words).

    0 where neither has a word; SQuAD 2 says otherwise there.

    Examples
    --------
    >>> word_f1("the red fox", "a red fox cub"), word_f1("", "")
    (0.8, 0.0)
    """
    words, gold_words = normalized(answer).split(), normalized(gold).split()
    common = sum((Counter(words) & Counter(gold_words)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(words), common / len(gold_words)
    return 2 * precision * recall / (precision + recall)


class Squad(Metric):
    """Exact match and F1 of version 1, in percent: for each question the best over its gold answers.

    Examples
    --------
    >>> predictions = [{"id": "56e1", "prediction_text": "the 1976 games"}]
    >>> references = [{"id": "56e1", "answers": {"text": ["1976"], "answer_start": [97]}}]
    >>> Squad().compute(predictions=predictions, references=references)
    {'exact_match': 0.0, 'f1': 66.66666666666666}
    """

    name = "squad"
    description = (
        "Exact match and F1 of SQuAD 1.1, in percent. Answers are compared in lower case, without ASCII punctuation,"
        " articles and spare spaces; each question counts its best gold answer."
    )
    features = FEATURES

    def measure(self, predictions, references):
        """Go through answers.

        Parameters
        ----------
        predictions : list of dict
            ``id`` and ``prediction_text``.
        references : list of dict
            ``id`` and ``answers``, with their ``text`` in a list; ``answer_start`` is not read. Their order may be
            another than the predictions'.
        """
        said = _predictions(self.name, predictions)
        exact, f1 = np.zeros(len(references)), np.zeros(len(references))
        for k, (question, golds) in enumerate(_questions(self.name, references, said)):
            if not golds:
                raise ValueError(f"{self.name}: expected a gold answer for {question!r}, got none: squad_v2 allows it")
            answer = said[question]["prediction_text"]
            exact[k] = max(normalized(answer) == normalized(gold) for gold in golds)
            f1[k] = max(word_f1(answer, gold) for gold in golds)

        def score(times):
            total = times.sum()
            return {"exact_match": float(100 * (times @ exact) / total), "f1": float(100 * (times @ f1) / total)}

        return Measured(len(references), score)


class SquadV2(Metric):
    """Exact match and F1 of version 2, where a question may have no answer, in percent.

    Examples
    --------
    >>> predictions = [{"id": "1", "prediction_text": "1976", "no_answer_probability": 0.0},
    ...                {"id": "2", "prediction_text": "", "no_answer_probability": 0.9}]
    >>> references = [{"id": "1", "answers": {"text": ["1976"], "answer_start": [97]}},
    ...               {"id": "2", "answers": {"text": [], "answer_start": []}}]
    >>> result = SquadV2().compute(predictions=predictions, references=references)
    >>> result["exact"], result["HasAns_f1"], result["NoAns_total"], result["best_f1_thresh"]
    (100.0, 100.0, 1, 0.0)
    """

    name = "squad_v2"
    description = (
        "Exact match and F1 of SQuAD 2.0, in percent, over all questions and over those with (HasAns) and without"
        " (NoAns) an answer. Where neither has a word the F1 is 1, where one of them has none it is 0. A question whose"
        " no_answer_probability is above the threshold counts as not answered. best_exact and best_f1 are what the best"
        " threshold would have given."
    )
    features = FEATURES_V2

    def measure(self, predictions, references, no_answer_threshold: float = 1.0):
        """Go through answers.

        Parameters
        ----------
        predictions : list of dict
            ``id``, ``prediction_text`` and ``no_answer_probability``.
        references : list of dict
            ``id`` and ``answers``; no text in it, or none that has a word, means that there is no answer.
        no_answer_threshold : float
        """
        said = _predictions(self.name, predictions, probability=True)
        rows = len(references)
        raw = np.zeros((2, rows))  # exact match and F1, whatever the threshold
        has_answer, answered, unsure = np.zeros(rows, bool), np.zeros(rows, bool), np.zeros(rows)
        for k, (question, golds) in enumerate(_questions(self.name, references, said)):
            answer = said[question]["prediction_text"]
            real = [gold for gold in golds if normalized(gold)] or [""]
            raw[0, k] = max(normalized(answer) == normalized(gold) for gold in real)
            raw[1, k] = max(_f1_or_agreement(answer, gold) for gold in real)
            has_answer[k], answered[k] = bool(golds), bool(answer)
            unsure[k] = said[question]["no_answer_probability"]
        final = np.where(unsure > no_answer_threshold, ~has_answer, raw)  # (2, N)
        # The official script goes through the predictions in the order of their probabilities.
        places = {one["id"]: k for k, one in enumerate(references)}
        order = sorted((places[question] for question in said), key=lambda k: unsure[k])
        gain = np.where(has_answer, raw, -answered.astype(float))[:, order]  # of answering it, beside staying silent

        def score(times):
            found: dict[str, Any] = {}
            for prefix, chosen in (("", slice(None)), ("HasAns_", has_answer), ("NoAns_", ~has_answer)):
                weights = times[chosen]
                total = weights.sum()
                if total:
                    exact, f1 = 100 * (final[:, chosen] @ weights) / total
                    found |= {f"{prefix}exact": float(exact), f"{prefix}f1": float(f1), f"{prefix}total": round(total)}
            silent = times[~has_answer].sum()
            for name, gains in zip(("exact", "f1"), gain, strict=True):
                best, threshold = _best_threshold(silent, gains * times[order], unsure[order])
                found[f"best_{name}"] = float(100 * best / times.sum())
                found[f"best_{name}_thresh"] = float(threshold)
            return found

        return Measured(rows, score)


def _best_threshold(silent, gains, thresholds):
    """Return the best sum when all up to a place are answered, and the probability there; `silent` and 0 at first."""
    sums = silent + np.cumsum(gains)
    best = int(np.argmax(sums))  # the first of several
    return (sums[best], thresholds[best]) if sums[best] > silent else (silent, 0.0)


def _f1_or_agreement(answer: str, gold: str) -> float:
    words, gold_words = normalized(answer), normalized(gold)
    return float(words == gold_words) if not words or not gold_words else word_f1(answer, gold)


def _predictions(name: str, predictions: Sequence[Any], probability: bool = False) -> dict[Any, dict[str, Any]]:
    """Return the predictions by their questions."""
    keys = {"id", "prediction_text"} | ({"no_answer_probability"} if probability else set())
    said: dict[Any, dict[str, Any]] = {}
    for k, one in enumerate(predictions):
        if not isinstance(one, dict) or not keys <= set(one):
            got = ", ".join(map(str, one)) if isinstance(one, dict) else type(one).__name__
            raise ValueError(f"{name}: expected {', '.join(sorted(keys))} in prediction {k}, got {got}")
        if not isinstance(one["prediction_text"], str):
            got = type(one["prediction_text"]).__name__
            raise ValueError(f"{name}: expected a text as prediction_text of prediction {k}, got {got}")
        if not isinstance(one["id"], (str, int)):
            raise ValueError(f"{name}: expected a text as id of prediction {k}, got {type(one['id']).__name__}")
        if one["id"] in said:
            raise ValueError(f"{name}: expected one prediction for each question, got two for {one['id']!r}")
        if probability:
            unsure = one["no_answer_probability"]
            if not isinstance(unsure, (int, float, np.number)) or not np.isfinite(unsure):
                raise ValueError(
                    f"{name}: expected a number as no_answer_probability of prediction {k}, got {unsure!r}"
                )
        said[one["id"]] = one
    return said


def _questions(name: str, references: Sequence[Any], said: dict[Any, Any]) -> list[tuple[Any, list[str]]]:
    """Return each question with its gold answers; each has a prediction."""
    questions: list[tuple[Any, list[str]]] = []
    for k, one in enumerate(references):
        if not isinstance(one, dict) or not {"id", "answers"} <= set(one):
            got = ", ".join(map(str, one)) if isinstance(one, dict) else type(one).__name__
            raise ValueError(f"{name}: expected id and answers in reference {k}, got {got}")
        answers = one["answers"]
        if isinstance(answers, dict):
            texts = answers.get("text")
        else:  # as in the files of SQuAD: a list of {"text", "answer_start"}
            given = answers if isinstance(answers, (list, tuple)) else [answers]
            texts = [answer.get("text") if isinstance(answer, dict) else None for answer in given]
        if not isinstance(texts, (list, tuple, np.ndarray)) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name}: expected the answers of reference {k} with a list of texts, got {answers!r}")
        if not isinstance(one["id"], (str, int)):
            raise ValueError(f"{name}: expected a text as id of reference {k}, got {type(one['id']).__name__}")
        questions.append((one["id"], list(texts)))
    asked = {question for question, _ in questions}
    if len(asked) < len(questions):
        raise ValueError(f"{name}: expected each question once among the references, got one twice")
    if missing := [question for question in asked if question not in said]:
        raise ValueError(
            f"{name}: expected a prediction for each question, got none for {sorted(map(str, missing))[0]}"
        )
    return questions
