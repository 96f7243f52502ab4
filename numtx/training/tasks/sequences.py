"""Fine-tuning on whole texts: their class, several classes at once, or a number."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from numtx import functional as F
from numtx.metrics import load
from numtx.models.auto import AutoModelForSequenceClassification
from numtx.text import DataCollatorWithPadding, Dataset, encode_labels
from numtx.training.tasks.data import OWNER, texts, trained_classes
from numtx.training.tasks.task import Findings, FineTuningTask, Table, sample_rows

TEXT = ("text", "sentence", "sentence1", "premise", "question", "content", "review", "tweet")
PAIR = ("text_pair", "sentence2", "hypothesis", "passage")
SHOWN = 10


class _OfTexts(FineTuningTask):
    """A text, or two, and what is asked of it."""

    auto = AutoModelForSequenceClassification
    optional = ("pair",)

    def check_rows(self, rows):
        for role in ("text", "pair"):
            if role in self.columns:
                texts(rows, self.columns[role])

    def features(self, rows, model, tokenizer):
        pair = self.columns.get("pair")
        both = (texts(rows, self.columns["text"]), *([texts(rows, pair)] if pair else []))
        encoded = tokenizer(*both, truncation=True, max_length=self.source_length(model, tokenizer))
        return Dataset({**encoded, "labels": self.labels(rows)})

    def labels(self, rows: Dataset) -> list[Any]:
        """Return the labels of rows as the model has them."""
        raise TypeError(f"{type(self).__name__} has no labels")

    def collator(self, model, tokenizer):
        return DataCollatorWithPadding(tokenizer)

    def shown(self, row: int) -> str:
        """Return a held-out row as a report has it."""
        return "  |  ".join(self.held_out[row][self.columns[role]] for role in ("text", "pair") if role in self.columns)


class TextClassification(_OfTexts):
    """The class of a text, or, where a label is a list, the classes."""

    name = "text-classification"
    roles: ClassVar = {
        "text": TEXT,
        "pair": PAIR,
        "label": ("label", "labels", "class", "category", "sentiment", "target"),
    }
    metric, greater_is_better = "accuracy", True
    measured = MappingProxyType({"accuracy": True, "f1": True})

    def classes_of(self, rows):
        return rows[self.columns["label"]]

    def check_rows(self, rows):
        super().check_rows(rows)
        label = self.columns["label"]
        for number, value in enumerate(rows[label]):
            if value is None or (isinstance(value, str) and not value.strip()):
                raise ValueError(f"{OWNER}: expected a class as {label} in row {number}, got {value!r}")

    def check(self):
        label = self.columns["label"]
        self.several = _several(self.train[label])
        self.names = trained_classes(self.train[label], self.held_out[label], label)
        if len(self.names) < 2:
            got = ", ".join(self.names) or "none"
            raise ValueError(f"{OWNER}: expected two classes or more as {label} in the training rows, got {got}")

    def model_settings(self, config):
        known = list((config.id2label or {}).values())
        if set(self.names) <= set(known):
            self.names = known  # a model that knows these classes keeps its numbers for them
        problem = "multi_label_classification" if self.several else "single_label_classification"
        return {"id2label": dict(enumerate(self.names)), "problem_type": problem}

    def labels(self, rows):
        ids, _ = encode_labels(rows[self.columns["label"]], self.names, column=self.columns["label"])
        if not self.several:
            return ids
        marked = np.zeros((len(ids), len(self.names)))
        for row, given in zip(marked, ids, strict=True):
            row[given] = 1
        return marked.tolist()

    def measures(self, predictions, labels):
        said = _said(predictions, self.several)
        if self.several:
            right = np.asarray(labels) > 0.5
            both, either = np.sum(said & right), np.sum(said) + np.sum(right)
            return {"accuracy": float(np.mean((said == right).all(axis=1))), "f1": float(2 * both / max(either, 1))}
        macro = load("f1").compute(
            predictions=said.tolist(),
            references=list(labels),
            average="macro",
            labels=range(len(self.names)),
            zero_division=0,
        )
        return {"accuracy": float(np.mean(said == labels)), "f1": float(macro["f1"])}

    def findings(self, model, tokenizer, predictions, labels):
        metrics, trained = self.measures(predictions, labels), np.asarray(self.labels(self.train))
        if self.several:
            usual = np.broadcast_to(np.where(trained.mean(axis=0) > 0.5, 1.0, -1.0), predictions.shape)
            return Findings(metrics, self.measures(usual, labels), [self._samples(predictions, labels)])
        usual = np.zeros_like(predictions)
        usual[:, np.bincount(trained).argmax()] = 1
        confusion = np.zeros((len(self.names),) * 2, np.int64)
        np.add.at(confusion, (np.asarray(labels), _said(predictions, False)), 1)
        rows = [
            (name, *counts, f"{counts[k] / max(counts.sum(), 1):.3f}")
            for k, (name, counts) in enumerate(zip(self.names, confusion, strict=True))
        ]
        table = Table("Confusion", ("right \\ said", *self.names, "recall"), rows, "Rows: what is right.")
        return Findings(metrics, self.measures(usual, labels), [table, self._samples(predictions, labels)], confusion)

    def _samples(self, predictions, labels) -> Table:
        """Some held-out rows, half of them wrong ones where there are so many."""
        said = _said(predictions, self.several)
        same = said == (np.asarray(labels) > 0.5 if self.several else labels)
        right = same.all(axis=1) if self.several else same
        wrong = np.flatnonzero(~right)[sample_rows(int(np.sum(~right)), SHOWN // 2)]
        others = np.flatnonzero(right)[sample_rows(int(np.sum(right)), SHOWN - len(wrong))]
        certainty = _certainty(predictions, self.several)
        rows = [
            (self._called(labels[k]), self._called(said[k]), f"{certainty[k]:.2f}", self.shown(k))
            for k in (*others.tolist(), *wrong.tolist())
        ]
        return Table(
            "Held-out rows", ("right", "said", "certainty", "text"), rows, "First some right ones, then wrong."
        )

    def _called(self, label: Any) -> str:
        if self.several:
            return ", ".join(name for name, one in zip(self.names, label, strict=True) if one > 0.5) or "none"
        return self.names[int(label)]


class Regression(_OfTexts):
    """A number for a text, by the squared error."""

    name = "regression"
    roles: ClassVar = {"text": TEXT, "pair": PAIR, "label": ("label", "labels", "score", "rating", "value", "target")}
    measured = MappingProxyType({"mse": False, "mae": False, "pearson": True})

    def check_rows(self, rows):
        super().check_rows(rows)
        label = self.columns["label"]
        wrong = [number for number, value in enumerate(rows[label]) if not _finite(value)]
        if wrong:  # a single cell that is no number makes text of all of a CSV file's: that one is to be named
            number = next((row for row in wrong if not _reads_as_finite(rows[label][row])), wrong[0])
            got = f"{rows[label][number]!r:.40}"
            raise ValueError(f"{OWNER}: expected a finite number as {label} in row {number}, got {got}")

    def model_settings(self, config):
        return {"num_labels": 1, "problem_type": "regression"}

    def labels(self, rows):
        return [float(value) for value in rows[self.columns["label"]]]

    def measures(self, predictions, labels):
        said, right = np.asarray(predictions, np.float64).reshape(-1), np.asarray(labels, np.float64).reshape(-1)
        spread = said.std() * right.std()
        return {
            "mse": float(np.mean((said - right) ** 2)),
            "mae": float(np.mean(np.abs(said - right))),
            "pearson": float(np.mean((said - said.mean()) * (right - right.mean())) / spread) if spread else 0.0,
        }

    def findings(self, model, tokenizer, predictions, labels):
        said, right = np.asarray(predictions).reshape(-1), np.asarray(labels).reshape(-1)
        mean = np.full_like(said, np.mean(self.labels(self.train)))
        rows = [(f"{right[k]:.3f}", f"{said[k]:.3f}", self.shown(k)) for k in sample_rows(len(right), SHOWN)]
        table = Table("Held-out rows", ("right", "said", "text"), rows)
        return Findings(
            self.measures(said, right), self.measures(mean, right), [table], baseline_is="the mean of the training rows"
        )


def _several(values: Sequence[Any]) -> bool:
    """Whether labels are lists of classes."""
    return any(isinstance(value, (list, tuple)) for value in values)


def _said(scores: np.ndarray, several: bool) -> np.ndarray:
    return np.asarray(scores) > 0 if several else np.argmax(scores, axis=-1)


def _certainty(scores: np.ndarray, several: bool) -> np.ndarray:
    """The probability of what is said (of the likeliest class, where there may be several)."""
    if several:
        return F.sigmoid(np.asarray(scores))[0].max(axis=-1)
    return F.softmax(np.asarray(scores))[0].max(axis=-1)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _reads_as_finite(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(np.isfinite(float(value)))
    except ValueError:
        return False
