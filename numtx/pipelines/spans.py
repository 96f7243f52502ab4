"""Spans of tokens as answers: which are likeliest, and where they stand in the text."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from numtx import functional as F

NEVER = -10000.0  # the logit of a token that cannot be in an answer


class Span(NamedTuple):
    """Tokens `start` to `end`, the last one included, and how likely they are the answer."""

    start: int
    end: int
    score: float


def best_spans(
    start: np.ndarray, end: np.ndarray, allowed: np.ndarray, *, top_k: int, max_answer_len: int
) -> tuple[list[Span], float]:
    """Return the likeliest spans of a window, and the score of its having no answer.

    ``score(i, j) = softmax(start)_i · softmax(end)_j`` for ``i <= j < i + max_answer_len``, else 0.

    Parameters
    ----------
    start, end : (T,) arrays
        Logits. Token 0 stands for "no answer".
    allowed : (T,) bool array
        Which tokens may be in an answer; the others take no part in the softmax.
    top_k : int
        How many spans are looked at. Of those that would fill up with a score of 0 some are returned, as Transformers
        returns them: where there are too few, whatever of them stands in the partial sort.
    max_answer_len : int

    Returns
    -------
    spans : list of Span
        The likeliest first.
    no_answer : float
        The score of (0, 0), which is no span.

    Examples
    --------
    >>> logits = np.log([0.5, 0.1, 0.4])
    >>> spans, no_answer = best_spans(logits, logits, np.array([True, True, True]), top_k=1, max_answer_len=2)
    >>> spans[0].start, spans[0].end, round(spans[0].score, 2), round(no_answer, 2)
    (2, 2, 0.16, 0.25)
    """
    start, end = (F.softmax(np.where(allowed, logits, logits.dtype.type(NEVER)))[0] for logits in (start, end))
    no_answer = float(start[0] * end[0])
    start[0] = end[0] = 0.0
    scores = np.tril(np.triu(np.outer(start, end)), max_answer_len - 1).reshape(-1)  # (T · T,)
    if top_k == 1:
        best = np.array([scores.argmax()])
    elif len(scores) <= top_k:
        best = np.argsort(-scores)
    else:
        best = np.argpartition(-scores, top_k)[:top_k]
        best = best[np.argsort(-scores[best])]
    takes_part = allowed.copy()
    takes_part[0] = True
    pairs = [(int(flat) // len(start), int(flat) % len(start)) for flat in best]
    spans = [Span(i, j, float(scores[i * len(start) + j])) for i, j in pairs if takes_part[i] and takes_part[j]]
    return spans, no_answer


def characters(encoding: Any, span: Span, sequence: int, *, whole_words: bool) -> tuple[int, int]:
    """Return where a span stands in its text: characters (first, behind the last).

    Parameters
    ----------
    encoding : tokenizers.Encoding
    span : Span
    sequence : int
        Whether the text came first, 0, or second, 1.
    whole_words : bool
        Widen the span to the words that its first and last token are of, where the tokenizer knows words.
    """
    if whole_words:
        words = [encoding.token_to_word(token) for token in (span.start, span.end)]
        if None not in words:
            places = [encoding.word_to_chars(word, sequence) for word in words]
            if None not in places:
                return places[0][0], places[1][1]
    return encoding.offsets[span.start][0], encoding.offsets[span.end][1]


def merged(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return answers without repetition: one of the same text, capitals aside, adds its score to the first.

    Examples
    --------
    >>> merged([{"answer": "Paris", "score": 0.5}, {"answer": "paris", "score": 0.25}])
    [{'answer': 'Paris', 'score': 0.75}]
    """
    answers: dict[str, dict[str, Any]] = {}
    for one in found:
        first = answers.setdefault(one["answer"].lower(), one)
        if first is not one:
            first["score"] += one["score"]
    return list(answers.values())
