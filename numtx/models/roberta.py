"""RoBERTa: BERT's encoder, whose positions count from behind the padding id, and heads of its own.

Liu et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach" (2019).
"""

from dataclasses import dataclass

import numpy as np

from numtx import nn
from numtx.functional.door import count
from numtx.models.batch import known_ids, too_long
from numtx.models.bert import BertConfig, BertForQuestionAnswering, BertForTokenClassification, BertModel
from numtx.models.bert_body import EncoderMaskedLM, OnEncoder, linear_names, norm_names, one_for_all
from numtx.models.tasks import SequenceClassification


@dataclass(kw_only=True)
class RobertaConfig(BertConfig):
    """The settings of a RoBERTa, by the names of its `config.json`.

    The first `pad_token_id` + 1 positions belong to no token, so the longest sequence is shorter than
    `max_position_embeddings` by as many.

    Examples
    --------
    >>> RobertaConfig(max_position_embeddings=514).context
    512
    """

    model_type = "roberta"

    vocab_size: int = 50265
    pad_token_id: int = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self):
        super().__post_init__()
        count("RobertaConfig", 0, pad_token_id=self.pad_token_id)
        if self.context < 1:
            raise ValueError(
                f"RobertaConfig: expected max_position_embeddings over pad_token_id + 1 = {self.pad_token_id + 1}, "
                f"got {self.max_position_embeddings}"
            )

    @property
    def context(self) -> int:
        """The longest sequence that the model takes, padding aside."""
        return self.max_position_embeddings - self.pad_token_id - 1


def positions_of(ids, pad):
    """Return the positions of ids (B, T): pad + 1, pad + 2, ... for tokens, and pad for padding, wherever it stands.

    Examples
    --------
    >>> positions_of(np.array([[0, 5, 6, 2, 1, 1]]), pad=1)
    array([[2, 3, 4, 5, 1, 1]])
    """
    real = ids != pad
    return np.cumsum(real, axis=1) * real + pad


class RobertaModel(BertModel):
    """RoBERTa without a head: ids (B, T) -> the last hidden state (B, T, C), and the pooled first token (B, C).

    Padding is what the ids say for the positions, and what the attention mask says for the attention.

    Examples
    --------
    >>> config = RobertaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> RobertaModel(config, rng=0)(np.array([[0, 3, 2]])).last_hidden_state.shape
    (1, 3, 8)
    """

    config_class = RobertaConfig
    prefix = "roberta."
    heads = ("lm_head.", "classifier.", "qa_outputs.")

    def _placed(self, input_ids, positions):
        name, config = type(self).__name__, self.config
        ids = known_ids(name, "input_ids", input_ids, config.vocab_size)
        if positions is not None:
            return ids, one_for_all(positions)
        positions = positions_of(ids, config.pad_token_id)
        if positions.max() >= config.max_position_embeddings:
            limit = f"max_position_embeddings - pad_token_id - 1 = {config.context}"
            got = positions.max() - config.pad_token_id
            raise too_long(name, f"input_ids of at most {limit} tokens", got, config.context)
        return ids, positions

    @staticmethod
    def _padded_position(config):
        return config.pad_token_id


class OnRoberta(OnEncoder):
    """What the models on a RoBERTa share. None of them has a pooler."""

    config_class, body_class = RobertaConfig, RobertaModel
    arguments, body_settings = RobertaModel.arguments, {"add_pooling_layer": False}


class RobertaForMaskedLM(OnRoberta, EncoderMaskedLM):
    """RoBERTa with scores of what stands at each place: ids (B, T) -> (B, T, V). The head's gelu is always exact.

    Examples
    --------
    >>> config = RobertaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> RobertaForMaskedLM(config, rng=0)(np.array([[0, 4, 2]])).logits.shape
    (1, 3, 5)
    """

    decoder_name, loose_bias = "lm_head.decoder", "lm_head.bias"
    head_names = (*linear_names("dense", "lm_head.dense"), *norm_names("norm", "lm_head.layer_norm"))

    def _make_head(self, config, dtype):
        return nn.MaskedLMHead(config.hidden_size, config.vocab_size, "gelu", config.layer_norm_eps, dtype=dtype)


class RobertaForSequenceClassification(OnRoberta, SequenceClassification, OnEncoder):
    """RoBERTa with scores of the classes of a sequence, from its first token: ids (B, T) -> (B, num_labels).

    Examples
    --------
    >>> config = RobertaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> RobertaForSequenceClassification(config, rng=0)(np.array([[0, 4, 2]])).logits.shape
    (1, 2)
    """

    head_names = (
        *linear_names("pooler.dense", "classifier.dense"),
        *linear_names("out_proj", "classifier.out_proj"),
    )

    def _make_head(self, config, dtype):
        return nn.ClassificationHead(config.hidden_size, config.num_labels, config.head_dropout, dtype=dtype)


class RobertaForTokenClassification(OnRoberta, BertForTokenClassification):
    """RoBERTa with scores of the classes of each token: ids (B, T) -> (B, T, num_labels).

    Examples
    --------
    >>> config = RobertaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> RobertaForTokenClassification(config, rng=0)(np.array([[0, 4, 2]])).logits.shape
    (1, 3, 2)
    """


class RobertaForQuestionAnswering(OnRoberta, BertForQuestionAnswering):
    """RoBERTa with scores of where an answer starts and ends: ids (B, T) -> two of (B, T).

    Examples
    --------
    >>> config = RobertaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> RobertaForQuestionAnswering(config, rng=0)(np.array([[0, 4, 2]])).start_logits.shape
    (1, 3)
    """
