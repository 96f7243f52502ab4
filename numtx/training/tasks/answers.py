"""Fine-tuning on extractive question answering: where in a context the answer stands."""

import json
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from numtx.metrics import load
from numtx.models.auto import AutoModelForQuestionAnswering
from numtx.text import DataCollatorWithPadding, Dataset, span_answers, span_features
from numtx.text.answer_spans import first_answer
from numtx.training.tasks.data import OWNER, texts
from numtx.training.tasks.task import Findings, FineTuningTask, Table, sample_rows

SHOWN = 8
WINDOW = ("example_id", "offset_mapping")  # what only the way back to text needs


class QuestionAnswering(FineTuningTask):
    """A question, a context and its answers: rows as those of SQuAD, or a file of SQuAD.

    An answer may also be a text, which is looked for in the context, empty where there is none.
    """

    name = "question-answering"
    auto = AutoModelForQuestionAnswering
    roles: ClassVar = {"question": ("question",), "context": ("context", "passage"), "answers": ("answers", "answer")}
    metric, greater_is_better = "f1", True
    measured = MappingProxyType({"exact_match": True, "f1": True})
    longest = 384

    def read(self, source, **reading):
        if isinstance(source, (str, Path)) and Path(source).suffix.lower() == ".json":
            articles = _articles(Path(source))
            if articles is not None:
                return articles.require(OWNER)
        return super().read(source, **reading)

    def check_rows(self, rows):
        self._asked(rows)

    def check(self):
        self.train, self.held_out = self._asked(self.train), self._asked(self.held_out)
        self.unanswerable = any(not one["text"] for rows in (self.train, self.held_out) for one in rows["answers"])

    def _asked(self, rows: Dataset) -> Dataset:
        """Rows as SQuAD has them."""
        question, context = (texts(rows, self.columns[role]) for role in ("question", "context"))
        answers = rows[self.columns["answers"]]
        return Dataset(
            {
                "id": [str(number) for number in range(rows.num_rows)],
                "question": question,
                "context": context,
                "answers": [_answer(k, one, text) for k, (one, text) in enumerate(zip(answers, context, strict=True))],
            }
        )

    def features(self, rows, model, tokenizer):
        length = self.source_length(model, tokenizer)
        labelled = span_features(rows, tokenizer, max_length=length)
        if rows is self.held_out:
            self.windows = span_features(rows, tokenizer, max_length=length, evaluation=True).select_columns(WINDOW)
            self.side = tokenizer.padding_side
        return labelled

    def collator(self, model, tokenizer):
        return DataCollatorWithPadding(tokenizer)

    def measures(self, predictions, labels):
        answers = self._answers(predictions)
        given = [{"id": key, "prediction_text": one.text} for key, one in answers.items()]
        if self.unanswerable:
            given = [one | {"no_answer_probability": 0.0} for one in given]
        rows = [{"id": row["id"], "answers": row["answers"]} for row in self.held_out]
        measured = load("squad_v2" if self.unanswerable else "squad").compute(predictions=given, references=rows)
        exact = measured["exact" if self.unanswerable else "exact_match"]
        return {"exact_match": float(exact), "f1": float(measured["f1"])}

    def findings(self, model, tokenizer, predictions, labels):
        answers = self._answers(predictions)
        rows = [
            (row["question"], next(iter(row["answers"]["text"]), "(none)"), answers[row["id"]].text or "(none)")
            for row in (self.held_out[k] for k in sample_rows(self.held_out.num_rows, SHOWN))
        ]
        table = Table("Held-out questions", ("question", "right", "said"), rows)
        return Findings(self.measures(predictions, labels), {}, [table])

    def _answers(self, predictions):
        return span_answers(
            self.held_out,
            self.windows,
            *predictions[:2],
            version_2_with_negative=self.unanswerable,
            padding_side=self.side,
        )


def _answer(row: int, given, context: str) -> dict:
    """An answer as SQuAD has it, of what a row holds."""
    if isinstance(given, dict):
        first_answer(row, given, context, owner=OWNER)
        return given
    if given is None or (isinstance(given, str) and not given.strip()):
        return {"text": [], "answer_start": []}
    if not isinstance(given, str) or given not in context:
        raise ValueError(f"{OWNER}: expected an answer that stands in the context in row {row}, got {given!r:.60}")
    return {"text": [given], "answer_start": [context.index(given)]}


def _articles(path: Path) -> Dataset | None:
    """Return the questions of a file of SQuAD, or None if it is another."""
    try:
        whole = json.loads(path.read_bytes())
        rows = [
            {
                "question": question["question"],
                "context": paragraph["context"],
                "answers": {
                    "text": [one["text"] for one in question["answers"]],
                    "answer_start": [one["answer_start"] for one in question["answers"]],
                },
            }
            for article in whole["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        return None  # what it is instead, and what is wrong with it, the reader of rows says
    return Dataset.from_list(rows)
