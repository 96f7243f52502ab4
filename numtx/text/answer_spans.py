"""Extractive question answering: contexts cut into windows with the place of the answer, and logits back to text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numtx.functional.door import count
from numtx.text.datasets import Dataset, as_dataset

Offsets = Sequence[tuple[int, int] | None]


def span_features(
    examples: Any,
    tokenizer: Any,
    *,
    max_length: int = 384,
    doc_stride: int | None = None,
    pad_to_max_length: bool = False,
    evaluation: bool = False,
) -> Dataset:
    """Encode questions with their contexts, which are read in windows where they are too long.

    Parameters
    ----------
    examples : dataset, or what `as_dataset` takes
        Columns ``question`` and ``context``; for training ``answers``, ``{"text": [...], "answer_start": [...]}`` as
        SQuAD has them, empty lists where there is no answer; for evaluation ``id``.
    tokenizer : PretrainedTokenizer
        One of the package ``tokenizers``, which keeps the places of tokens. One that pads on the left reads the context
        first.
    max_length : int
        Tokens of a window, the question, which is never cut, included; no more than the tokenizer's own limit.
    doc_stride : int, optional
        Tokens of the context that neighbouring windows share. Default: 128, or half a window.
    pad_to_max_length : bool
        Otherwise a collator pads.
    evaluation : bool
        Make what `span_answers` needs instead of the labels.

    Returns
    -------
    Dataset
        A row a window: what the model reads, and for training ``start_positions`` and ``end_positions``, the first and
        last token of the first answer, or the position of the CLS token (else of the BOS token, else 0) in windows that
        do not hold it whole; for evaluation ``example_id`` and ``offset_mapping``, None outside of the context.

    Raises
    ------
    ValueError
        If a column is missing, there are no rows, a question leaves no room, or an answer does not stand where it says.

    Notes
    -----
    As Transformers' question-answering example, but for two things. There an answer whose first token is the last of
    the context is said to start behind it; and where several tokens are one character together, as bytes of an emoji,
    an answer starts with the last and ends with the first of them.
    """
    owner = "span_features"
    rows = as_dataset(examples, owner).require(owner, "question", "context", "id" if evaluation else "answers")
    if not getattr(tokenizer, "is_fast", False):
        got = type(tokenizer).__name__
        raise ValueError(f"{owner}: expected a tokenizer of the tokenizers package, which keeps places, got {got}")
    count(owner, 1, max_length=max_length)
    max_length = min(max_length, tokenizer.model_max_length)
    doc_stride = min(128, max_length // 2) if doc_stride is None else doc_stride
    count(owner, 0, doc_stride=doc_stride)
    question_first = tokenizer.padding_side == "right"
    questions, contexts = [text.lstrip() for text in _texts(rows, "question")], _texts(rows, "context")
    given = [] if evaluation else rows["answers"]
    answers = [first_answer(row, answer, contexts[row]) for row, answer in enumerate(given)]
    _check_room(tokenizer, questions, max_length, doc_stride)
    encoded = tokenizer(
        *((questions, contexts) if question_first else (contexts, questions)),
        truncation="only_second" if question_first else "only_first",
        max_length=max_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length" if pad_to_max_length else False,
    )
    of_example, offsets = encoded["overflow_to_sample_mapping"], encoded["offset_mapping"]
    left_out = ("overflow_to_sample_mapping", "offset_mapping")
    columns = {name: values for name, values in encoded.items() if name not in left_out}
    sequence = 1 if question_first else 0  # which of the two the context is
    in_context: list[list[tuple[int, int] | None]] = [
        [
            (int(place[0]), int(place[1])) if part == sequence else None
            for place, part in zip(offsets[window], encoded.sequence_ids(window), strict=True)
        ]
        for window in range(len(offsets))
    ]
    if evaluation:
        ids = rows["id"]
        return Dataset({**columns, "example_id": [ids[row] for row in of_example], "offset_mapping": in_context})
    places = [
        _labels(answers[row], in_context[window], _no_answer(tokenizer, columns["input_ids"][window]))
        for window, row in enumerate(of_example)
    ]
    starts, ends = ([place[side] for place in places] for side in (0, 1))
    return Dataset({**columns, "start_positions": starts, "end_positions": ends})


@dataclass(frozen=True)
class SpanAnswer:
    """What a model answers.

    Attributes
    ----------
    text : str
        The answer; empty for none.
    n_best : list of dict
        ``text, start, end, start_logit, end_logit, probability``, the best first; start and end count characters of the
        context. The probabilities of these few add up to one.
    null_difference : float or None
        How much better no answer is than the best one, where there may be none.
    """

    text: str
    n_best: list[dict[str, Any]]
    null_difference: float | None = None


def span_answers(
    examples: Any,
    features: Any,
    start_logits: Sequence[np.ndarray] | np.ndarray,
    end_logits: Sequence[np.ndarray] | np.ndarray,
    *,
    version_2_with_negative: bool = False,
    n_best_size: int = 20,
    max_answer_length: int = 30,
    null_score_diff_threshold: float = 0.0,
    padding_side: str = "right",
) -> dict[Any, SpanAnswer]:
    """Return the answer to each question, by the question's id.

        score(i, j) = start_i + end_j        over i <= j < i + max_answer_length in the context

    of the `n_best_size` largest starts and ends of each window. The score of no answer is start₀ + end₀, the least over
    the windows.

    Parameters
    ----------
    examples : dataset
        Columns ``id`` and ``context``.
    features : dataset
        What ``span_features(..., evaluation=True)`` made of them.
    start_logits, end_logits : (N, T) arrays, or N rows
        One row a feature; what is behind a feature's own tokens is padding, and takes no part.
    version_2_with_negative : bool
        Whether there may be no answer, as in SQuAD v2.
    n_best_size, max_answer_length : int
    null_score_diff_threshold : float
        How much better no answer has to be than the best one.
    padding_side : {"right", "left"}
        Where the rows of logits were padded.

    Raises
    ------
    ValueError
        If there is not one row of logits a feature, a row is too short, or a feature is of no example.

    Notes
    -----
    As Transformers' question-answering example, which for a question without a span that may be answers "empty"; here
    the answer is empty then. There the largest of a padded row count the padding too.

    Examples
    --------
    >>> examples = [{"id": "a", "context": "In Paris."}]
    >>> features = [{"example_id": "a", "offset_mapping": [None, (0, 2), (3, 8), (8, 9)]}]
    >>> found = span_answers(examples, features, [[0.0, 1.0, 4.0, 0.0]], [[0.0, 0.0, 3.0, 1.0]])
    >>> found["a"].text, [best["text"] for best in found["a"].n_best[:3]]
    ('Paris', ['Paris', 'Paris.', 'In Paris'])
    """
    owner = "span_answers"
    rows = as_dataset(examples, owner).require(owner, "id", "context")
    windows = as_dataset(features, owner).require(owner, "example_id", "offset_mapping")
    count(owner, 1, n_best_size=n_best_size, max_answer_length=max_answer_length)
    if padding_side not in ("right", "left"):
        raise ValueError(f"{owner}: expected padding_side right or left, got {padding_side!r}")
    for name, logits in (("start_logits", start_logits), ("end_logits", end_logits)):
        if len(logits) != len(windows):
            raise ValueError(f"{owner}: expected {name} for {len(windows)} features, got {len(logits)}")
    of_example: dict[Any, list[int]] = {key: [] for key in rows["id"]}
    if len(of_example) != len(rows):
        raise ValueError(f"{owner}: expected a different id for each of {len(rows)} examples, got {len(of_example)}")
    for number, key in enumerate(windows["example_id"]):
        if key not in of_example:
            raise ValueError(f"{owner}: expected features of the examples, got one of {key!r}")
        of_example[key].append(number)
    offsets, answers = windows["offset_mapping"], {}
    for row in rows:
        found, nothing = list[dict[str, Any]](), list[dict[str, Any]]()
        for number in of_example[row["id"]]:
            start, end = (
                _own(owner, logits[number], len(offsets[number]), padding_side) for logits in (start_logits, end_logits)
            )
            found += _spans(start, end, offsets[number], n_best_size, max_answer_length)
            nothing.append(_candidate(start, end, 0, 0, (0, 0)))
        if not nothing:
            raise ValueError(f"{owner}: expected features of each example, got none of {row['id']!r}")
        none = min(nothing, key=lambda one: one["score"]) if version_2_with_negative else None
        answers[row["id"]] = _chosen(row["context"], found, none, n_best_size, null_score_diff_threshold)
    return answers


# --- labels of training


def _texts(rows: Dataset, column: str) -> list[str]:
    for number, text in enumerate(rows[column]):
        if not isinstance(text, str) or not text.strip():
            got = "an empty one" if isinstance(text, str) else type(text).__name__
            raise ValueError(f"span_features: expected a text as {column} in row {number}, got {got}")
    return rows[column]


def _check_room(tokenizer: Any, questions: list[str], max_length: int, doc_stride: int) -> None:
    special = tokenizer.num_special_tokens_to_add(True)
    for number, ids in enumerate(tokenizer(questions, add_special_tokens=False, verbose=False)["input_ids"]):
        if max_length - special - len(ids) <= doc_stride:
            raise ValueError(
                f"span_features: expected questions that leave more than doc_stride {doc_stride} of max_length "
                f"{max_length} tokens to the context, got one of {len(ids)} tokens in row {number}"
            )


def first_answer(row: int, answers: Any, context: str, *, owner: str = "span_features") -> tuple[int, int] | None:
    """Where the first answer stands in the context, (first character, behind the last), or None."""
    if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= answers.keys():
        raise ValueError(f"{owner}: expected answers with text and answer_start in row {row}, got {answers!r:.60}")
    if len(answers["text"]) != len(answers["answer_start"]):
        raise ValueError(
            f"{owner}: expected an answer_start for each answer in row {row}, got "
            f"{len(answers['answer_start'])} for {len(answers['text'])}"
        )
    if not len(answers["text"]):
        return None
    text, start = answers["text"][0], int(answers["answer_start"][0])
    if not text.strip() or context[max(start, 0) : start + len(text)] != text:
        there = context[max(start, 0) : max(start, 0) + len(text)]
        raise ValueError(f"{owner}: expected {text[:40]!r} at {start} of the context in row {row}, got {there[:40]!r}")
    return start, start + len(text)


def _no_answer(tokenizer: Any, ids: list[int]) -> int:
    """The position that stands for "no answer"."""
    for token in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if token is not None and token in ids:
            return ids.index(token)
    return 0


def _labels(answer: tuple[int, int] | None, offsets: Offsets, no_answer: int) -> tuple[int, int]:
    """The first and last token of an answer: the first that reaches into it, the last that starts before its end."""
    places = [(token, place) for token, place in enumerate(offsets) if place is not None]
    if answer is None or not places or places[0][1][0] > answer[0] or places[-1][1][1] < answer[1]:
        return no_answer, no_answer
    start = min(token for token, place in places if place[1] > answer[0])
    return start, max(token for token, place in places if place[0] < answer[1])


# --- logits to text


def _own(owner: str, logits: Any, tokens: int, padding_side: str) -> np.ndarray:
    """The logits of a feature's own tokens."""
    row = np.asarray(logits)
    if row.ndim != 1 or len(row) < tokens:
        raise ValueError(f"{owner}: expected logits for {tokens} tokens, got {row.shape}")
    return row[:tokens] if padding_side == "right" else row[len(row) - tokens :]


def _candidate(start: np.ndarray, end: np.ndarray, i: int, j: int, place: tuple[int, int]) -> dict[str, Any]:
    return {
        "start": place[0],
        "end": place[1],
        "start_logit": float(start[i]),
        "end_logit": float(end[j]),
        "score": start[i] + end[j],  # in the dtype of the logits, whose rounding decides between nearly equal ones
    }


def _spans(start: np.ndarray, end: np.ndarray, offsets: Offsets, n_best: int, longest: int) -> list[dict[str, Any]]:
    starts, ends = (np.argsort(logits)[-1 : -n_best - 1 : -1].tolist() for logits in (start, end))
    found = []
    for i in starts:
        for j in ends:
            first, last = offsets[i], offsets[j]
            if first is not None and last is not None and i <= j < i + longest:
                found.append(_candidate(start, end, i, j, (first[0], last[1])))
    return found


def _chosen(
    context: str, found: list[dict[str, Any]], none: dict[str, Any] | None, n_best: int, threshold: float
) -> SpanAnswer:
    candidates = found + ([] if none is None else [none])
    best = sorted(candidates, key=lambda one: one["score"], reverse=True)[:n_best]
    if none is not None and not any(one["start"] == one["end"] == 0 for one in best):
        best.append(none)  # it is always among them
    scores = np.array([one["score"] for one in best], dtype=np.float64)
    weights = np.exp(scores - scores.max(initial=-np.inf))
    n_best_answers = [
        {"text": context[one["start"] : one["end"]]}
        | {name: value for name, value in one.items() if name != "score"}
        | {"probability": float(weight / weights.sum())}
        for one, weight in zip(best, weights, strict=True)
    ]
    answer = next((one for one in n_best_answers if one["text"]), None)
    if none is None or answer is None:
        # Nothing in the context is among the best: there is no answer to be compared with.
        return SpanAnswer("" if answer is None else n_best_answers[0]["text"], n_best_answers)
    difference = float(none["score"]) - answer["start_logit"] - answer["end_logit"]
    return SpanAnswer("" if difference > threshold else answer["text"], n_best_answers, difference)
