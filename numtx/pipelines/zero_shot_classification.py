"""Zero-shot classification: classes that nobody trained on, as hypotheses which a text may entail."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numtx import functional as F
from numtx.pipelines.base import Piece
from numtx.pipelines.text_classification import SequenceClassification


@dataclass(frozen=True)
class Hypotheses:
    """The settings of a call: the labels, the sentence of each, and whether several may hold."""

    labels: Sequence[str]
    sentences: Sequence[str]
    multi_label: bool


class ZeroShotClassificationPipeline(SequenceClassification):
    """Says which labels fit a text: ``{"sequence": ..., "labels": [...], "scores": [...]}``, the best first.

    A model of natural-language inference reads the text as premise and, for each label, "This example is LABEL." as
    hypothesis. Its class of entailment is the one whose name begins with "entail".

    Parameters
    ----------
    candidate_labels : list of str, or str of them with commas between
    hypothesis_template : str
        With ``{}`` where the label goes.
    multi_label : bool
        False: the entailment scores of all labels go through one softmax. True, or with one label: each label's
        entailment stands against its contradiction alone.

    Notes
    -----
    A text that is too long is cut; the hypothesis never is.
    """

    name = "zero-shot-classification"

    def __init__(self, model: Any, tokenizer: Any, **settings: Any) -> None:
        super().__init__(model, tokenizer, **settings)
        if self.entailment_id == -1:
            classes = ", ".join(model.config.label2id)
            warnings.warn(
                f"{type(self).__name__}: no class of the model begins with 'entail' ({classes}); the last is taken",
                stacklevel=3,
            )

    @property
    def entailment_id(self) -> int:
        """The class of entailment; -1, the last, where no name says which."""
        named = self.model.config.label2id.items()
        return next((i for label, i in named if label.lower().startswith("entail")), -1)

    def __call__(self, sequences: Any, candidate_labels: Any = None, **settings: Any) -> Any:
        """Say which labels fit a text, or each of many; see `Pipeline.answer`."""
        if candidate_labels is not None:
            settings["candidate_labels"] = candidate_labels
        if "candidate_labels" not in {**self.settings, **settings}:
            raise ValueError(f"{type(self).__name__}: expected candidate_labels, got none")
        if isinstance(sequences, (list, tuple)) and not sequences:
            raise ValueError(f"{type(self).__name__}: expected at least one text, got none")
        return self.answer(sequences, **settings)

    def decide(
        self,
        *,
        candidate_labels: str | Iterable[str] | None = None,
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
    ) -> Hypotheses:
        owner = type(self).__name__
        labels = candidate_labels if candidate_labels is not None else ["label"]  # that of a call is to come
        if isinstance(labels, str):
            labels = [label.strip() for label in labels.split(",") if label.strip()]
        labels = list(labels) if isinstance(labels, Iterable) else []
        if not labels or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"{owner}: expected candidate_labels as one or more texts, got {candidate_labels!r}")
        try:
            sentences = [hypothesis_template.format(label) for label in labels]
        except (AttributeError, IndexError, KeyError, ValueError):
            sentences = [hypothesis_template]
        if sentences[0] == hypothesis_template:
            raise ValueError(
                f"{owner}: expected a hypothesis_template with {{}} where a label goes, got {hypothesis_template!r}"
            )
        return Hypotheses(labels, sentences, multi_label)

    def preprocess(self, text: Any, chosen: Hypotheses) -> Iterable[Piece]:
        if not isinstance(text, str) or not text:
            got = "an empty one" if text == "" else type(text).__name__
            raise ValueError(f"{type(self).__name__}: expected a text, got {got}")
        for sentence in chosen.sentences:
            yield Piece(self._pair(text, sentence), {"sequence": text})

    def _pair(self, text: str, sentence: str) -> Mapping[str, Any]:
        try:
            return self.tokenizer(text, sentence, truncation="only_first")
        except ValueError as error:
            if "too short" not in str(error):  # to be cut enough; the model may still take it whole
                raise
            return self.tokenizer(text, sentence, **self.quiet)

    def forward(self, rows: Sequence[Mapping[str, Any]], chosen: Any) -> np.ndarray:
        return self.run(rows).logits

    def postprocess(
        self,
        pieces: Sequence[Piece],
        results: Sequence[np.ndarray],
        chosen: Hypotheses,
    ) -> dict[str, Any]:
        logits, entailed = np.stack(results), self.entailment_id  # (labels, classes)
        if chosen.multi_label or len(chosen.labels) == 1:
            contradicted = -1 if entailed == 0 else 0
            scores = F.softmax(logits[:, [contradicted, entailed]])[0][:, 1]
        else:
            scores = F.softmax(np.ascontiguousarray(logits[:, entailed]))[0]
        best = np.argsort(scores)[::-1]
        return {
            "sequence": pieces[0].more["sequence"],
            "labels": [chosen.labels[i] for i in best],
            "scores": scores[best].tolist(),
        }
