"""Fine-tuning on words: a class for each, as of names and parts of speech."""

from typing import ClassVar

import numpy as np

from numtx.models.auto import AutoModelForTokenClassification
from numtx.text import DataCollatorForTokenClassification, Dataset, encode_labels, encode_words
from numtx.text.labels import IGNORED
from numtx.training.tasks.data import OWNER, trained_classes
from numtx.training.tasks.task import Findings, FineTuningTask, Table, sample_rows

SHOWN = 8


class TokenClassification(FineTuningTask):
    """A class for each word: lists of words and of labels in JSON rows.

    Where all labels are O, B-X or I-X, the measure is the F1 of whole entities, else the accuracy.
    """

    name = "token-classification"
    auto = AutoModelForTokenClassification
    tokenizer_settings: ClassVar = {"add_prefix_space": True}  # byte-level ones keep words apart by it
    roles: ClassVar = {"words": ("tokens", "words"), "label": ("labels", "ner_tags", "tags", "pos_tags", "label")}

    def classes_of(self, rows):
        return rows[self.columns["label"]]

    def check_rows(self, rows):
        words, label = self.columns["words"], self.columns["label"]
        for number, row in enumerate(rows):
            for name in (words, label):
                if not isinstance(row[name], (list, tuple)) or not row[name]:
                    raise ValueError(f"{OWNER}: expected a list as {name} in row {number}, got {row[name]!r:.40}")
            if len(row[words]) != len(row[label]):
                got = f"{len(row[words])} words and {len(row[label])} labels"
                raise ValueError(f"{OWNER}: expected a label for each word in row {number}, got {got}")

    def check(self):
        label = self.columns["label"]
        self.names = trained_classes(self.train[label], self.held_out[label], label)
        self.entities = all(name == "O" or name[:2] in ("B-", "I-") for name in self.names) and "O" in self.names
        self.metric, self.greater_is_better = "f1" if self.entities else "accuracy", True
        more = ("precision", "recall", "f1") if self.entities else ()
        self.measured = dict.fromkeys(("accuracy", *more), True)

    def model_settings(self, config):
        known = list((config.id2label or {}).values())
        if set(self.names) <= set(known):
            self.names = known
        return {"id2label": dict(enumerate(self.names))}

    def features(self, rows, model, tokenizer):
        words, label = self.columns["words"], self.columns["label"]
        ids, _ = encode_labels(rows[label], self.names, column=label)
        columns = {"tokens": [list(map(str, row)) for row in rows[words]], "labels": ids}
        return Dataset(encode_words(columns, tokenizer, max_length=self.source_length(model, tokenizer)))

    def collator(self, model, tokenizer):
        return DataCollatorForTokenClassification(tokenizer)

    def measures(self, predictions, labels):
        said, labels = np.argmax(predictions, axis=-1), np.asarray(labels)
        asked = labels != IGNORED
        measured = {"accuracy": float(np.mean(said[asked] == labels[asked]))}
        if self.entities:
            pairs = [
                (self._names(right[kept]), self._names(one[kept]))
                for right, one, kept in zip(labels, said, asked, strict=True)
            ]
            measured |= entity_scores(pairs)
        return measured

    def findings(self, model, tokenizer, predictions, labels):
        label = self.columns["label"]
        ids, _ = encode_labels(self.train[label], self.names, column=label)
        usual = np.zeros_like(predictions)
        usual[..., np.bincount(np.concatenate([np.asarray(row) for row in ids])).argmax()] = 1
        said, labels = np.argmax(predictions, axis=-1), np.asarray(labels)
        rows = []
        for k in sample_rows(len(labels), SHOWN):
            kept = labels[k] != IGNORED
            words = self.held_out[k][self.columns["words"]][: np.count_nonzero(kept)]
            both = zip(words, self._names(labels[k][kept]), self._names(said[k][kept]), strict=True)
            marked = [_marked(word, right, one) for word, right, one in both]
            rows.append((" ".join(marked),))
        note = "A word with its label; where the model says another: right -> said."
        return Findings(
            self.measures(predictions, labels),
            self.measures(usual, labels),
            [Table("Held-out rows", ("words",), rows, note)],
        )

    def _names(self, ids) -> list[str]:
        return [self.names[one] for one in ids]


def _marked(word: str, right: str, said: str) -> str:
    if right == said:
        return word if right == "O" else f"{word}/{right}"
    return f"**{word}/{right} -> {said}**"


def entity_scores(pairs) -> dict[str, float]:
    """Return precision, recall and F1 of whole entities: right where first word, last word and class are.

    Parameters
    ----------
    pairs : list of (labels, labels)
        Of each row what is right and what is said: O, B-X, I-X. An I-X that follows no X begins one, as in the CoNLL
        script.

    Examples
    --------
    >>> entity_scores([(["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O", "O", "B-LOC"])])
    {'precision': 0.5, 'recall': 0.5, 'f1': 0.5}
    """
    right = said = both = 0
    for true, given in pairs:
        expected, got = entities(true), entities(given)
        right, said, both = right + len(expected), said + len(got), both + len(expected & got)
    return {"precision": both / max(said, 1), "recall": both / max(right, 1), "f1": 2 * both / max(said + right, 1)}


def entities(labels) -> set[tuple[str, int, int]]:
    """Return the entities of a row, (class, first word, behind the last).

    Examples
    --------
    >>> sorted(entities(["B-A", "B-A", "I-A", "O", "I-B"]))
    [('A', 0, 1), ('A', 1, 3), ('B', 4, 5)]
    """
    found, begun, before = set(), 0, "O"
    for k, label in enumerate([*labels, "O"]):
        if label[:2] == "I-" and before[2:] == label[2:]:
            continue
        if before != "O":
            found.add((before[2:], begun, k))
        begun, before = k, label
    return found
