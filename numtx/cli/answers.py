"""The answers of pipelines as lines for people, and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

TEXTS = ("generated_text", "summary_text", "translation_text")
NUMBERS = 6  # of each token's features


def lines_of_answer(task: str, answer: Any) -> Iterator[str]:
    """Yield an answer as lines: a text as it is, anything else as a table.

    Parameters
    ----------
    task : str
        An entry of `numtx.pipelines.TASKS`.
    answer : what the task's pipeline gave for one input

    Examples
    --------
    >>> answer = [{"label": "joy", "score": 0.75}, {"label": "anger", "score": 0.25}]
    >>> print(*lines_of_answer("text-classification", answer), sep="\\n")
    label  score
    joy    0.7500
    anger  0.2500
    """
    if task == "feature-extraction":
        yield from _features(np.asarray(answer))
        return
    for k, group in enumerate(_groups(answer)):
        if k:
            yield ""
        yield from _group(group)


def as_json(answer: Any) -> str:
    """Return an answer as a line of JSON.

    Examples
    --------
    >>> as_json([{"word": "Zürich", "score": np.float32(0.5)}])
    '[{"word": "Zürich", "score": 0.5}]'
    """
    return json.dumps(answer, ensure_ascii=False, default=lambda value: value.tolist())


def one_line(text: str, width: int | None = None) -> str:
    """Return a text on one line, shortened to a width.

    Examples
    --------
    >>> one_line("Once  upon\\na time", 12)
    'Once upon...'
    """
    line = " ".join(text.split())
    return line if width is None or len(line) <= width else line[: max(width - 3, 0)].rstrip() + "..."


def _groups(answer: Any) -> list[list[Any]]:
    """An answer as tables: one most often, several where a text has several blanks to fill."""
    if isinstance(answer, Mapping) and isinstance(answer.get("labels"), Sequence):
        pairs = zip(answer["labels"], answer["scores"], strict=True)
        return [[{"label": label, "score": score} for label, score in pairs]]
    if not isinstance(answer, list):
        return [[answer]]
    return answer if answer and all(isinstance(one, list) for one in answer) else [answer]


def _group(rows: Sequence[Any]) -> Iterator[str]:
    if not rows:
        yield "nothing found"
    elif all(isinstance(row, Mapping) and _text(row) is None for row in rows):
        yield from _table(rows)
    else:
        for k, row in enumerate(rows):
            if k:
                yield ""
            text = _text(row) if isinstance(row, Mapping) else row
            yield from str(text).split("\n")


def _text(row: Mapping[str, Any]) -> Any:
    """The text that an answer is, if it is one; of a conversation what was said last."""
    found = next((row[name] for name in TEXTS if name in row), None)
    return found[-1].get("content", "") if isinstance(found, list) and found else found


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(names))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.4f}"
    return "-" if value is None else one_line(str(value))


def _features(features: np.ndarray) -> Iterator[str]:
    """What hidden states (1, T, C), or the scores (1, K) that a head gave, look like: length and first numbers."""
    rows = features.reshape(-1, features.shape[-1])  # (T, C)
    yield f"{len(rows)} x {rows.shape[1]} numbers (--json has all)"
    first = [[f"{value:.4f}" for value in row[:NUMBERS]] for row in rows]
    more = rows.shape[1] > NUMBERS
    numbered = [
        {"token": k, "length": float(np.linalg.norm(row)), **_named(shown, more)}
        for k, (row, shown) in enumerate(zip(rows, first, strict=True))
    ]
    yield from _table(numbered)


def _named(shown: Sequence[str], more: bool) -> dict[str, str]:
    return {f"[{k}]": value for k, value in enumerate(shown)} | ({"...": "..."} if more else {})
