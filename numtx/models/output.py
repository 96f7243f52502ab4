"""What a model returns: named fields, by Transformers' names; those that were not asked for are None."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ModelOutput:
    """Named fields, which can be had as attributes, by name in brackets, or by number among those that are there.

    Examples
    --------
    >>> outputs = CausalLMOutput(logits=np.zeros((1, 2, 3)))
    >>> outputs.logits is outputs["logits"] is outputs[0]
    True
    >>> list(outputs.keys())
    ['logits']
    """

    def keys(self) -> list[str]:
        """Return the names of the fields that are there."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are there."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(key)
            return getattr(self, key)
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()


Arrays = tuple[np.ndarray, ...] | None


@dataclass(frozen=True)
class BaseModelOutput(ModelOutput):
    """What a stack gives.

    Attributes
    ----------
    last_hidden_state : (B, T, C) array
    hidden_states : tuple of (B, T, C) arrays or None
        What came into the first layer, and after each layer; the last one is `last_hidden_state`.
    attentions : tuple of (B, H, Tq, Tk) arrays or None
        The weights of each layer, after the softmax and before dropout.
    """

    last_hidden_state: np.ndarray
    hidden_states: Arrays = None
    attentions: Arrays = None


@dataclass(frozen=True)
class BaseModelOutputWithPooling(ModelOutput):
    """As `BaseModelOutput`, and `pooler_output` (B, C), the pooled first token; None without a pooler."""

    last_hidden_state: np.ndarray
    pooler_output: np.ndarray | None = None
    hidden_states: Arrays = None
    attentions: Arrays = None


@dataclass(frozen=True)
class _Scores(ModelOutput):
    """The fields of a model of one stack that scores."""

    loss: np.floating | None = None
    logits: np.ndarray | None = None
    hidden_states: Arrays = None
    attentions: Arrays = None


@dataclass(frozen=True)
class CausalLMOutput(_Scores):
    """The scores of a causal language model: logits (B, T, V), what follows each position; with labels their loss."""


@dataclass(frozen=True)
class MaskedLMOutput(_Scores):
    """The scores of a masked language model: logits (B, T, V), what stands at each position."""


@dataclass(frozen=True)
class SequenceClassifierOutput(_Scores):
    """The scores of the classes of a sequence, or its numbers in a regression: logits (B, num_labels)."""


@dataclass(frozen=True)
class TokenClassifierOutput(_Scores):
    """The scores of the classes of each token: logits (B, T, num_labels)."""


@dataclass(frozen=True)
class QuestionAnsweringModelOutput(ModelOutput):
    """The scores of where an answer starts and ends: start_logits and end_logits (B, T)."""

    loss: np.floating | None = None
    start_logits: np.ndarray | None = None
    end_logits: np.ndarray | None = None
    hidden_states: Arrays = None
    attentions: Arrays = None


@dataclass(frozen=True)
class Seq2SeqModelOutput(ModelOutput):
    """What an encoder and a decoder give; `last_hidden_state` (B, Tq, C) is the decoder's."""

    last_hidden_state: np.ndarray
    decoder_hidden_states: Arrays = None
    decoder_attentions: Arrays = None
    cross_attentions: Arrays = None
    encoder_last_hidden_state: np.ndarray | None = None
    encoder_hidden_states: Arrays = None
    encoder_attentions: Arrays = None


@dataclass(frozen=True)
class _Seq2SeqScores(ModelOutput):
    """The fields of an encoder-decoder that scores."""

    loss: np.floating | None = None
    logits: np.ndarray | None = None
    decoder_hidden_states: Arrays = None
    decoder_attentions: Arrays = None
    cross_attentions: Arrays = None
    encoder_last_hidden_state: np.ndarray | None = None
    encoder_hidden_states: Arrays = None
    encoder_attentions: Arrays = None


@dataclass(frozen=True)
class Seq2SeqLMOutput(_Seq2SeqScores):
    """The scores of an encoder-decoder language model: logits (B, Tq, V), what follows each decoder position."""


@dataclass(frozen=True)
class Seq2SeqSequenceClassifierOutput(_Seq2SeqScores):
    """As `SequenceClassifierOutput`, of an encoder-decoder."""


@dataclass(frozen=True)
class Seq2SeqQuestionAnsweringModelOutput(ModelOutput):
    """As `QuestionAnsweringModelOutput`, of an encoder-decoder."""

    loss: np.floating | None = None
    start_logits: np.ndarray | None = None
    end_logits: np.ndarray | None = None
    decoder_hidden_states: Arrays = None
    decoder_attentions: Arrays = None
    cross_attentions: Arrays = None
    encoder_last_hidden_state: np.ndarray | None = None
    encoder_hidden_states: Arrays = None
    encoder_attentions: Arrays = None


@dataclass(frozen=True)
class LogProbsOutput:
    """What a model that ends in log-probabilities gives.

    Attributes
    ----------
    log_probs : (B, V) array, or (B, T, V) where each token has its own
        Their exponentials sum to one over the last axis.
    """

    log_probs: np.ndarray
