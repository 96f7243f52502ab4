"""Filling in: which tokens may stand where the mask token does."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numtx import functional as F
from numtx.functional.door import count
from numtx.pipelines.base import Piece, Pipeline, tokenizer_options


@dataclass(frozen=True)
class Chosen:
    """The settings of a call: how many tokens, out of which ids (None: all), and options of the tokenizer."""

    top_k: int
    targets: np.ndarray | None
    tokenizer: Mapping[str, Any] = field(default_factory=dict)


class FillMaskPipeline(Pipeline):
    """Says what may stand at the mask, the likeliest first.

    An answer is a list of ``{"score": ..., "token": id, "token_str": ..., "sequence": the text filled in}``; with
    several masks a list of such lists, one a mask.

    Parameters
    ----------
    top_k : int
        How many tokens; default 5.
    targets : str or list of str, optional
        Only these. One that the vocabulary does not hold counts as the first of its tokens, with a warning.
    tokenizer_kwargs : dict, optional
        Options of the tokenizer's call: ``{"truncation": True}``.

    Notes
    -----
    As in Transformers: the scores of several masks are each mask's own, not those of all together, and a list of one
    text is answered without the list.
    """

    name = "fill-mask"
    heads = ("masked-lm",)

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """Fill in the masks of a text, or of many; see `Pipeline.answer`."""
        answers = self.answer(inputs, **settings)
        return answers[0] if isinstance(inputs, list) and len(inputs) == 1 else answers

    def decide(
        self,
        *,
        top_k: int | None = None,
        targets: str | Iterable[str] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> Chosen:
        owner = type(self).__name__
        if self.tokenizer.mask_token_id is None:
            raise ValueError(f"{owner}: expected a tokenizer with a mask token, got one without")
        top_k = 5 if top_k is None else top_k
        count(owner, 1, top_k=top_k)
        ids = None if targets is None else self.target_ids(targets)
        most = self.model.config.vocabulary if ids is None else len(ids)
        if ids is None and top_k > most:
            raise ValueError(f"{owner}: expected top_k of at most {most}, the tokens of the vocabulary, got {top_k}")
        return Chosen(min(top_k, most), ids, tokenizer_options(owner, "tokenizer_kwargs", tokenizer_kwargs))

    def target_ids(self, targets: str | Iterable[str]) -> np.ndarray:
        """Return the ids of tokens, without repetition."""
        if isinstance(targets, str):
            targets = [targets]
        targets = list(targets) if isinstance(targets, Iterable) else [targets]
        if not all(isinstance(one, str) for one in targets):
            raise ValueError(f"{type(self).__name__}: expected targets as one or more texts, got {targets!r}")
        found = {self._target_id(target) for target in targets} - {None}
        if not found:
            raise ValueError(f"{type(self).__name__}: expected at least one target that is a token, got none")
        return np.array(sorted(i for i in found if i is not None))

    def _target_id(self, target: str) -> int | None:
        known = self.tokenizer.token_to_id(target)
        if known is not None:
            return known
        ids = self.tokenizer(target, add_special_tokens=False, max_length=1, truncation=True)["input_ids"]
        instead = f"{self.tokenizer.convert_ids_to_tokens(ids[0])!r} is taken" if ids else "it is left out"
        warnings.warn(f"{type(self).__name__}: the target {target!r} is no token; {instead}", stacklevel=2)
        return ids[0] if ids else None

    def said_to_cut(self, options: Mapping[str, Any]) -> str:
        return f"tokenizer_kwargs={options}"

    def preprocess(self, text: str, chosen: Chosen) -> list[Piece]:
        encoded = self.tokenizer(text, **{**self.quiet, **chosen.tokenizer})
        ids = np.array(encoded["input_ids"], dtype=np.int64)
        masks = np.flatnonzero(ids == self.tokenizer.mask_token_id)
        if not len(masks):
            mask = self.tokenizer.mask_token
            raise ValueError(f"{type(self).__name__}: expected a text with the mask token {mask}, got one without")
        return [Piece(encoded, {"ids": ids, "masks": masks})]

    def forward(self, rows: Sequence[Mapping[str, Any]], chosen: Chosen) -> list[np.ndarray]:
        logits = self.run(rows).logits  # (B, T, V)
        mask = self.tokenizer.mask_token_id
        found = [np.flatnonzero(np.asarray(row["input_ids"]) == mask) for row in rows]
        return [F.softmax(one[at])[0] for one, at in zip(logits, found, strict=True)]  # (masks, V) each

    def postprocess(self, pieces: Sequence[Piece], results: Sequence[np.ndarray], chosen: Chosen) -> Any:
        ids, masks = pieces[0].more["ids"], pieces[0].more["masks"]
        alone = len(masks) == 1
        answers = [self._row(ids, at, scores, alone, chosen) for at, scores in zip(masks, results[0], strict=True)]
        return answers[0] if alone else answers

    def _row(self, ids: np.ndarray, at: int, scores: np.ndarray, alone: bool, chosen: Chosen) -> list[dict[str, Any]]:
        """The answer at one mask; the other masks of the text, special tokens, stay in it as they are."""
        candidates = np.arange(len(scores)) if chosen.targets is None else chosen.targets
        best = np.argsort(-scores[candidates], kind="stable")[: chosen.top_k]
        row = []
        for token in candidates[best]:
            filled = ids.copy()
            filled[at] = token
            if self.tokenizer.pad_token_id is not None:
                filled = filled[filled != self.tokenizer.pad_token_id]
            row.append(
                {
                    "score": float(scores[token]),
                    "token": int(token),
                    "token_str": self.tokenizer.decode([token]),
                    "sequence": self.tokenizer.decode(filled, skip_special_tokens=alone),
                }
            )
        return row
