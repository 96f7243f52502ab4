"""Predictions and references as files have them, and results as lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numtx.metrics import Metric


def read_examples(metric: Metric, predictions: Path, references: Sequence[Path]) -> dict[str, list[Any]]:
    """Return the arguments of a metric's `compute`.

    Raises
    ------
    ValueError
        If a file is missing, not UTF-8 or not JSON, or the files hold unequally many references.
    """
    if not metric.needs_references:
        return {"predictions": _texts(predictions)}
    if metric.name.startswith("squad"):
        return _answers(metric, read_values(predictions), [read_values(one) for one in references])
    got = _list(predictions, read_values(predictions))
    files = [_list(one, read_values(one)) for one in references]
    if len({len(one) for one in files}) > 1:
        counts = ", ".join(str(len(one)) for one in files)
        raise ValueError(f"evaluate: expected as many references in each file, got {counts}")
    wanted = files[0] if len(files) == 1 else [list(several) for several in zip(*files, strict=True)]
    if metric.features["predictions"] == "int32":
        got, wanted = _classes(got, wanted)
    return {"predictions": got, "references": wanted}


def read_values(path: Path) -> Any:
    """Return what a file holds: JSON (.json), a value a line (.jsonl, .ndjson), or its lines.

    Only a newline ends a line; the one that ends the file begins none.
    """
    name = "standard input" if str(path) == "-" else f"'{path}'"
    text = _read(path, name)
    if path.suffix == ".json":
        return _parsed(text, name)
    lines = text.removesuffix("\n").split("\n") if text else []
    if path.suffix in (".jsonl", ".ndjson"):
        return [_parsed(line, f"line {k} of {name}") for k, line in enumerate(lines, 1) if line.strip()]
    return [line.removesuffix("\r") for line in lines]


def _read(path: Path, name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        raise ValueError(f"evaluate: expected a file, got {name}, which does not exist") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"evaluate: expected UTF-8, got another byte at offset {error.start} of {name}") from None
    except OSError as error:
        raise ValueError(f"evaluate: expected a readable file, got {name}: {error.strerror}") from None


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"evaluate: expected JSON in {name}, got: {error}") from None


def _list(path: Path, values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"evaluate: expected a list in '{path}', got {type(values).__name__}")
    return values


def _texts(path: Path) -> list[Any]:
    """Return the texts of a file: a text file is one."""
    if path.suffix in (".json", ".jsonl", ".ndjson"):
        return _list(path, read_values(path))
    return [_read(path, "standard input" if str(path) == "-" else f"'{path}'")]


def _classes(got: list[Any], wanted: list[Any]) -> tuple[list[Any], list[Any]]:
    """Read classes that are lines of text as integers, if all are."""
    try:
        return [int(one) for one in got], [int(one) for one in wanted]
    except (TypeError, ValueError):
        return got, wanted


def _answers(metric: Metric, predictions: Any, references: Sequence[Any]) -> dict[str, list[Any]]:
    """Return answers and questions, also from the files of SQuAD: {question: answer}, and {"data": articles}."""
    if len(references) > 1:
        raise ValueError(f"evaluate: expected one file of references for {metric.name}, got {len(references)}")
    wanted = references[0]
    if isinstance(predictions, dict):
        certain = {"no_answer_probability": 0.0} if "no_answer_probability" in metric.features["predictions"] else {}
        predictions = [{"id": name, "prediction_text": text} | certain for name, text in predictions.items()]
    if isinstance(wanted, dict):
        try:
            wanted = [
                {"id": question["id"], "answers": question["answers"]}
                for article in wanted["data"]
                for paragraph in article["paragraphs"]
                for question in paragraph["qas"]
            ]
        except (KeyError, TypeError):
            raise ValueError("evaluate: expected a list of questions or a file of SQuAD, got another object") from None
        asked = {one["id"] for one in wanted}
        predictions = [one for one in predictions if not isinstance(one, dict) or one.get("id") in asked]
    return {"predictions": predictions, "references": wanted}


def result_as_json(result: dict[str, Any]) -> str:
    """Return a result as a line of JSON; what is no finite number is null.

    Examples
    --------
    >>> result_as_json({"f1": np.array([0.5, np.nan]), "signature": "é"})
    '{"f1": [0.5, null], "signature": "é"}'
    """
    return json.dumps(_plain(result), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def result_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a result as names and values, an interval beside its score.

    Examples
    --------
    >>> result_rows({"f1": 2 / 3, "total": 3, "confidence_intervals": {"f1": (0.5, 0.75)}})
    [('f1', '0.666667  [0.5, 0.75]'), ('total', '3')]
    """
    intervals = result.get("confidence_intervals", {})
    rows = []
    for name, value in result.items():
        if name != "confidence_intervals":
            interval = f"  [{', '.join(_shown(intervals[name]))}]" if name in intervals else ""
            rows.append((name, " ".join(_shown(value)) + interval))
    return rows


def _shown(value: Any) -> Iterator[str]:
    if isinstance(value, (list, tuple, np.ndarray)):
        values = list(value)
        for one in values[:10]:
            yield " ".join(_shown(one))
        if len(values) > 10:
            yield f"... ({len(values)})"
    elif isinstance(value, (float, np.floating)):
        yield f"{value:.6g}"
    else:
        yield str(value)
