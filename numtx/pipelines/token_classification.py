"""Token classification: which class each token of a text is of, and the names and places that tokens make up."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numtx import functional as F
from numtx.functional.door import count
from numtx.pipelines.base import Piece, Pipeline
from numtx.pipelines.entities import STRATEGIES, Token, groups, merged_overlaps, one_a_word
from numtx.pipelines.text_classification import label_names
from numtx.text.word_labels import require_words_apart


@dataclass(frozen=True)
class Chosen:
    """The settings of a call."""

    strategy: str
    ignored: frozenset[str]
    stride: int | None
    delimiter: str | None  # between words; None: the input is a text, not a list of words


class TokenClassificationPipeline(Pipeline):
    """Says which tokens of a text are of which class, and joins them to entities on request.

    An answer is a list of ``{"entity": ..., "score": ..., "index": ..., "word": ..., "start": ..., "end": ...}``, one a
    token; joined ones have ``entity_group`` and no ``index``. `start` and `end` are characters of the text.

    Parameters
    ----------
    aggregation_strategy : {"none", "simple", "first", "average", "max"}
        "none": tokens as they are. "simple": neighbours of one class are joined; "B-" begins a new entity. The others
        first let the tokens of a word agree: on the class of its first token, on that of the mean of its tokens'
        scores, or on that of its surest token.
    ignore_labels : list of str
        Classes that are left out; default ["O"].
    stride : int, optional
        A text that is too long is read in windows of the tokenizer's `model_max_length`, of which neighbours share so
        many tokens. Without it such a text is cut.
    is_split_into_words : bool
        An input is a list of words, not a text; places count in the words joined by `delimiter`, default a space.
    grouped_entities, ignore_subwords : bool, optional
        The older way to ask for "simple", or for "first" where both are true.
    """

    name = "token-classification"
    heads = ("token-classification",)

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """Classify the tokens of a text, or of many; see `Pipeline.answer`."""
        if isinstance(inputs, (list, tuple)):
            if not inputs:
                raise ValueError(f"{type(self).__name__}: expected at least one text, got none")
            if {**self.settings, **settings}.get("is_split_into_words") and isinstance(inputs[0], str):
                inputs = [inputs]  # as in Transformers, the answer to one list of words stands in a list too
        return self.answer(inputs, **settings)

    def decide(
        self,
        *,
        aggregation_strategy: str | None = None,
        ignore_labels: Iterable[str] | None = None,
        stride: int | None = None,
        is_split_into_words: bool = False,
        delimiter: str | None = None,
        grouped_entities: bool | None = None,
        ignore_subwords: bool | None = None,
    ) -> Chosen:
        owner, strategy = type(self).__name__, aggregation_strategy
        if grouped_entities is not None or ignore_subwords is not None:
            strategy = ("first" if ignore_subwords else "simple") if grouped_entities else "none"
        if strategy is not None and (not isinstance(strategy, str) or strategy.lower() not in STRATEGIES):
            raise ValueError(f"{owner}: expected aggregation_strategy of {', '.join(STRATEGIES)}, got {strategy!r}")
        given = [] if ignore_labels is None else ignore_labels
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ValueError(f"{owner}: expected ignore_labels as a list of names, got {ignore_labels!r}")
        if not getattr(self.tokenizer, "is_fast", False):
            raise ValueError(f"{owner}: expected a tokenizer that knows places in the text, got {self.tokenizer!r}")
        if stride is not None:
            limit = self.tokenizer.model_max_length
            count(owner, 0, stride=stride)
            if stride >= limit:
                raise ValueError(f"{owner}: expected stride below model_max_length = {limit}, got {stride}")
            if strategy is not None and strategy.lower() == "none":
                raise ValueError(f"{owner}: expected an aggregation_strategy other than 'none' with a stride, got it")
        if strategy is not None and STRATEGIES[strategy.lower()] is not None and not self._marks_subwords():
            warnings.warn(
                f"{owner}: this tokenizer does not mark the parts of a word; what no space parts is taken for one",
                stacklevel=4,
            )
        ignored = frozenset(["O"] if ignore_labels is None else ignore_labels)
        between = (" " if delimiter is None else delimiter) if is_split_into_words else None
        if is_split_into_words:
            require_words_apart(owner, self.tokenizer)
        return Chosen((strategy or "none").lower(), ignored, stride, between)

    def _marks_subwords(self) -> bool:
        """Whether tokens inside a word look other than those that begin one, as WordPiece's do."""
        return bool(getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None))

    def preprocess(self, text: Any, chosen: Chosen) -> Iterable[Piece]:
        begins = None
        options: dict[str, Any] = {} if chosen.stride is None else {"stride": chosen.stride}
        asked = text
        if chosen.delimiter is not None:
            if not isinstance(text, (list, tuple)) or not all(isinstance(word, str) for word in text):
                raise ValueError(f"{type(self).__name__}: expected a list of words, got {type(text).__name__}")
            options["is_split_into_words"] = True
            asked, text = list(text), chosen.delimiter.join(text)
            ends = np.cumsum([len(word) + len(chosen.delimiter) for word in asked])
            begins = [0, *ends.tolist()]  # of each word in the text
        elif not isinstance(text, str):
            raise ValueError(f"{type(self).__name__}: expected a text, got {type(text).__name__}")
        encoded = self.tokenizer(
            [asked],
            truncation=True,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
            return_overflowing_tokens=chosen.stride is not None,
            **options,
        )
        for window, ids in enumerate(encoded["input_ids"]):
            row = {name: encoded[name][window] for name in encoded if name in self.model.arguments}
            spans = encoded["offset_mapping"][window]
            if begins is not None:
                words = encoded.word_ids(window)
                shifts = [0 if word is None else begins[word] for word in words]
                spans = [(start + shift, end + shift) for (start, end), shift in zip(spans, shifts, strict=True)]
            special = encoded["special_tokens_mask"][window]
            yield Piece(row, {"text": text, "ids": ids, "spans": spans, "special": special})

    def forward(self, rows: Sequence[Mapping[str, Any]], chosen: Chosen) -> list[np.ndarray]:
        return self.unpadded(F.softmax(self.run(rows).logits)[0], rows)  # (T, num_labels) each

    def postprocess(
        self, pieces: Sequence[Piece], results: Sequence[np.ndarray], chosen: Chosen
    ) -> list[dict[str, Any]]:
        names, answers = label_names(self.model.config), []
        for piece, scores in zip(pieces, results, strict=True):
            tokens = self._tokens(piece, scores, chosen)
            if (agree := STRATEGIES[chosen.strategy]) is not None:
                found = one_a_word(tokens, names, agree, self.tokenizer.convert_tokens_to_string)
            else:
                found = [token.answer(names) for token in tokens]
            if chosen.strategy != "none":
                found = groups(found, self.tokenizer.convert_tokens_to_string)
            kind = "entity" if chosen.strategy == "none" else "entity_group"
            answers += [answer for answer in found if answer[kind] not in chosen.ignored]
        return merged_overlaps(answers) if len(pieces) > 1 else answers

    def _tokens(self, piece: Piece, scores: np.ndarray, chosen: Chosen) -> list[Token]:
        """The tokens of a window that are no special ones, and whether each goes on with a word."""
        text, marked, tokens = piece.more["text"], self._marks_subwords(), []
        for i, (index, (start, end)) in enumerate(zip(piece.more["ids"], piece.more["spans"], strict=True)):
            if piece.more["special"][i]:
                continue
            word, written = self.tokenizer.convert_ids_to_tokens(index), text[start:end]
            if index == self.tokenizer.unk_token_id:
                word, goes_on = written, False
            elif marked:
                goes_on = len(word) != len(written)
            else:
                goes_on = start > 0 and " " not in text[start - 1 : start + 1]
            tokens.append(Token(word, scores[i], start, end, i, goes_on))
        return tokens
