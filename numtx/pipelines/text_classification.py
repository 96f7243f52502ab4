"""Text classification: which classes a text, or a pair of texts, belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from numtx import functional as F
from numtx.functional.door import count
from numtx.pipelines.base import Piece, Pipeline, refuse_unknown
from numtx.text.lengths import EncodingOptions

FUNCTIONS = ("sigmoid", "softmax", "none")
OF_THE_TOKENIZER = tuple(one.name for one in fields(EncodingOptions))


@dataclass(frozen=True)
class Chosen:
    """The settings of a call: how many classes (None: all), whether sorted in a list, what makes scores of logits."""

    top_k: int | None
    ranked: bool
    function: str
    tokenizer: Mapping[str, Any]


class SequenceClassification(Pipeline):
    """What the pipelines of sequence classifiers share."""

    heads = ("sequence-classification",)

    def can_pad(self) -> bool:
        # A decoder-only classifier reads the last token that is not padding, and must know which one padding is.
        return super().can_pad() and self.model.config.pad_token_id is not None


class TextClassificationPipeline(SequenceClassification):
    """Says which class a text is of: ``{"label": ..., "score": ...}``.

    Parameters
    ----------
    top_k : int or None, optional
        How many classes, the likeliest first; None: all. Without it the likeliest alone, and not in a list.
    function_to_apply : "sigmoid", "softmax" or "none", optional
        What makes scores of the logits. Default: none in a regression, the sigmoid where the classes do not exclude
        each other or there is one alone, else the softmax.
    return_all_scores : bool, optional
        The older way to ask for `top_k=None` (then not sorted) or `top_k=1`.
    **tokenizer
        Options of the tokenizer's call: ``truncation=True, max_length=...``.

    Notes
    -----
    As in Transformers, a single text's answer stands in a list of one, unless its call says `top_k`; a list of texts
    has a list of answers. A pair is a dict of ``text`` and ``text_pair``.
    """

    name = "text-classification"

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """Classify a text, a pair, or many of them; see `Pipeline.answer`."""
        answer = self.answer(inputs, **settings)
        return [answer] if isinstance(inputs, str) and "top_k" not in settings else answer

    def decide(
        self,
        *,
        top_k: int | str | None = "",
        function_to_apply: str | None = None,
        return_all_scores: bool | None = None,
        **tokenizer: Any,
    ) -> Chosen:
        owner, config = type(self).__name__, self.model.config
        own = ("top_k", "function_to_apply", "return_all_scores")
        refuse_unknown(owner, tokenizer, own, more=OF_THE_TOKENIZER)
        EncodingOptions.of(owner, tokenizer)
        function = function_to_apply
        if function in (None, "default"):
            function = _default_function(config.problem_type, config.num_labels)
        elif not isinstance(function, str) or function.lower() not in FUNCTIONS:
            raise ValueError(f"{owner}: expected function_to_apply of {', '.join(FUNCTIONS)}, got {function!r}")
        if return_all_scores is None:
            return_all_scores = config.other.get("return_all_scores")
        most: Any = (None if return_all_scores else 1) if top_k == "" else top_k
        if most is not None:
            count(owner, 1, top_k=most)
        return Chosen(most, top_k != "", function.lower(), tokenizer)

    def said_to_cut(self, options: Mapping[str, Any]) -> str:
        return ", ".join(f"{name}={value}" for name, value in options.items())

    def preprocess(self, text: Any, chosen: Chosen) -> list[Piece]:
        if isinstance(text, list) and len(text) == 1 and isinstance(text[0], list) and len(text[0]) == 2:
            text = {"text": text[0][0], "text_pair": text[0][1]}  # an older way to say a pair
        if isinstance(text, str):
            text = {"text": text}
        if not isinstance(text, Mapping) or set(text) - {"text", "text_pair"} or "text" not in text:
            raise ValueError(
                f"{type(self).__name__}: expected a text, or a pair as {{'text': ..., 'text_pair': ...}}, got"
                f" {sorted(text) if isinstance(text, Mapping) else type(text).__name__}"
            )
        return [Piece(self.tokenizer(**text, **{**self.quiet, **chosen.tokenizer}))]

    def forward(self, rows: Sequence[Mapping[str, Any]], chosen: Chosen) -> np.ndarray:
        return scores_of(self.run(rows).logits, chosen.function)  # (B, num_labels)

    def postprocess(self, pieces: Sequence[Piece], results: Sequence[np.ndarray], chosen: Chosen) -> Any:
        names = label_names(self.model.config)
        order = np.argsort(-results[0], kind="stable") if chosen.ranked else range(len(names))
        answers = [{"label": names[int(i)], "score": float(results[0][i])} for i in order]
        if chosen.ranked or chosen.top_k is None:
            return answers[: chosen.top_k]
        return answers[int(results[0].argmax())]


def _default_function(problem_type: str | None, num_labels: int) -> str:
    if problem_type == "regression":
        return "none"
    return "sigmoid" if problem_type == "multi_label_classification" or num_labels == 1 else "softmax"


def scores_of(logits: np.ndarray, function: str) -> np.ndarray:
    """Return what a function makes of logits (..., classes).

    Examples
    --------
    >>> scores_of(np.array([[0.0, 0.0]]), "softmax")
    array([[0.5, 0.5]])
    """
    if function == "none":
        return logits
    return F.softmax(logits)[0] if function == "softmax" else F.sigmoid(logits)[0]


def label_names(config: Any) -> dict[int, str]:
    """Return the names of a model's classes by number."""
    return {i: label for label, i in config.label2id.items()} if config.id2label is None else config.id2label
