"""Feature extraction: the hidden states of a text, to do something else with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numtx.pipelines.base import Piece, Pipeline, tokenizer_options


@dataclass(frozen=True)
class Chosen:
    """The settings of a call: options of the tokenizer, and whether the answer is an array."""

    tokenizer: Mapping[str, Any]
    arrays: bool


class FeatureExtractionPipeline(Pipeline):
    """Gives the last hidden states of a text, nested lists of shape (1, T, C).

    Parameters
    ----------
    truncation : bool or str, optional
        As in the tokenizer's call.
    tokenize_kwargs : dict, optional
        Further options of that call.
    return_tensors : bool
        An array instead of lists.

    Notes
    -----
    A model in memory that has a head gives what its head gives. T is a text's own length, however many are computed
    at a time; Transformers pads the answers of a batch to the longest.
    """

    name = "feature-extraction"
    heads = ("base",)

    def decide(
        self,
        *,
        truncation: bool | str | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
        return_tensors: bool = False,
    ) -> Chosen:
        options = tokenizer_options(type(self).__name__, "tokenize_kwargs", tokenize_kwargs)
        if truncation is not None:
            if "truncation" in options:
                raise ValueError(f"{type(self).__name__}: expected truncation once, got it in tokenize_kwargs too")
            options["truncation"] = truncation
        return Chosen(options, bool(return_tensors))

    def said_to_cut(self, options: Mapping[str, Any]) -> str:
        return f"tokenize_kwargs={options}"

    def preprocess(self, text: str, chosen: Chosen) -> list[Piece]:
        return [Piece(self.tokenizer(text, **{**self.quiet, **chosen.tokenizer}))]

    def forward(self, rows: Sequence[Mapping[str, Any]], chosen: Chosen) -> Sequence[np.ndarray]:
        features = self.run(rows)[0]  # (B, T, C), or what a head gives
        return self.unpadded(features, rows) if features.ndim == 3 else features

    def postprocess(self, pieces: Sequence[Piece], results: Sequence[np.ndarray], chosen: Chosen) -> Any:
        features = results[0][None]
        return features.copy() if chosen.arrays else features.tolist()
