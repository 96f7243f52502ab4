"""BERT: an encoder, post-norm, with learned positions and segments, and its heads.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (2019).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from numtx import nn
from numtx.models.bert_body import (
    BertEmbeddings,
    EncoderMaskedLM,
    OnEncoder,
    PooledBody,
    linear_names,
    norm_names,
)
from numtx.models.config import PretrainedConfig
from numtx.models.tasks import QuestionAnswering, SequenceClassification, TokenClassification

# What changes the computation, and the one value that is computed here.
_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


@dataclass(kw_only=True)
class BertConfig(PretrainedConfig):
    """The settings of a BERT, by the names of its `config.json`.

    Examples
    --------
    >>> BertConfig(vocab_size=65, hidden_size=12, num_attention_heads=3).context
    512
    """

    model_type = "bert"
    required = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "hidden_act",
        "layer_norm_eps",
    )
    sizes = (*required[:6], "type_vocab_size")
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    positives = ("layer_norm_eps",)
    activations = ("hidden_act",)
    layers = ("num_hidden_layers",)
    matrices = (
        ("vocab_size", "hidden_size"),
        ("max_position_embeddings", "hidden_size"),
        ("type_vocab_size", "hidden_size"),
        ("hidden_size", "hidden_size"),
        ("hidden_size", "intermediate_size"),
        ("num_labels", "hidden_size"),
    )

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | None = None
    pad_token_id: int | None = 0

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{type(self).__name__}: expected heads that divide the width {self.hidden_size}, "
                f"got {self.num_attention_heads}"
            )

    @property
    def head_dropout(self) -> float:
        """The rate before the product of a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @classmethod
    def read(cls, entries):
        for name, only in _ONLY.items():
            if entries.get(name) not in (None, only):
                raise ValueError(f"{cls.__name__}: expected {name} {only}, got {entries[name]}")
        return entries


class BertModel(PooledBody):
    """BERT without a head: ids (B, T) -> the last hidden state (B, T, C), and the pooled first token (B, C).

    Examples
    --------
    >>> config = BertConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> outputs = BertModel(config, rng=0)(np.array([[1, 2, 3]]))
    >>> outputs.last_hidden_state.shape, outputs.pooler_output.shape
    ((1, 3, 8), (1, 8))
    """

    config_class: ClassVar[type[BertConfig]] = BertConfig
    prefix = "bert."
    heads = ("cls.", "classifier.", "qa_outputs.")

    def __init__(self, config, add_pooling_layer=True, *, rng=None, dtype=np.float32):
        width, eps, rate = config.hidden_size, config.layer_norm_eps, config.hidden_dropout_prob
        self.config = config
        with nn.init.undrawn():
            self.embeddings = BertEmbeddings(
                config.vocab_size, width, config.max_position_embeddings, config.type_vocab_size, eps=eps, dropout=rate,
                padding_idx=config.padding_row, padded_position=self._padded_position(config), dtype=dtype,
            )  # fmt: skip
            self.stack = nn.Stack([self._layer(config, dtype) for _ in range(config.num_hidden_layers)])
            self.pooler = nn.Pooler(width, dtype=dtype) if add_pooling_layer else None
        self.draw(np.random.default_rng(rng))

    @staticmethod
    def _padded_position(config):
        return None

    @staticmethod
    def _layer(config, dtype):
        width, eps, rate = config.hidden_size, config.layer_norm_eps, config.hidden_dropout_prob
        attention = nn.GroupedQueryAttention(
            width, config.num_attention_heads, dropout=config.attention_probs_dropout_prob, dtype=dtype
        )
        feed_forward = nn.FeedForward(width, config.intermediate_size, config.activation_of("hidden_act"), dtype=dtype)
        return nn.EncoderLayer(
            nn.PostNorm(nn.LayerNorm(width, eps, dtype=dtype), attention, rate),
            nn.PostNorm(nn.LayerNorm(width, eps, dtype=dtype), feed_forward, rate),
        )

    @classmethod
    def rows(cls, prefix):
        """The rows of the table of names."""
        layer, here = f"{prefix}encoder.layer.{{i}}", "stack.layers.{i}"
        return [
            ("embeddings.words.weight", f"{prefix}embeddings.word_embeddings.weight"),
            ("embeddings.types.weight", f"{prefix}embeddings.token_type_embeddings.weight"),
            ("embeddings.positions.weight", f"{prefix}embeddings.position_embeddings.weight"),
            *norm_names("embeddings.norm", f"{prefix}embeddings.LayerNorm"),
            *linear_names(f"{here}.attention.sublayer.q_proj", f"{layer}.attention.self.query"),
            *linear_names(f"{here}.attention.sublayer.k_proj", f"{layer}.attention.self.key"),
            *linear_names(f"{here}.attention.sublayer.v_proj", f"{layer}.attention.self.value"),
            *linear_names(f"{here}.attention.sublayer.out_proj", f"{layer}.attention.output.dense"),
            *norm_names(f"{here}.attention.norm", f"{layer}.attention.output.LayerNorm"),
            *linear_names(f"{here}.feed_forward.sublayer.up", f"{layer}.intermediate.dense"),
            *linear_names(f"{here}.feed_forward.sublayer.down", f"{layer}.output.dense"),
            *norm_names(f"{here}.feed_forward.norm", f"{layer}.output.LayerNorm"),
            *linear_names("pooler.dense", f"{prefix}pooler.dense"),
        ]


class OnBert(OnEncoder):
    """What the models on a BERT share. Those that read no pooled token have no pooler."""

    config_class, body_class = BertConfig, BertModel
    arguments, body_settings = BertModel.arguments, {"add_pooling_layer": False}


class BertForMaskedLM(OnBert, EncoderMaskedLM):
    """BERT with scores of what stands at each place: ids (B, T) -> (B, T, V).

    Examples
    --------
    >>> config = BertConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> model = BertForMaskedLM(config, rng=0)
    >>> model(np.array([[1, 4, 3]]), labels=np.array([[-100, 2, -100]])).logits.shape
    (1, 3, 5)
    """

    decoder_name, loose_bias = "cls.predictions.decoder", "cls.predictions.bias"
    head_names = (
        *linear_names("dense", "cls.predictions.transform.dense"),
        *norm_names("norm", "cls.predictions.transform.LayerNorm"),
    )

    def _make_head(self, config, dtype):
        activation = config.activation_of("hidden_act")
        return nn.MaskedLMHead(config.hidden_size, config.vocab_size, activation, config.layer_norm_eps, dtype=dtype)

    @classmethod
    def _ignored(cls, rows):
        return [*super()._ignored(rows), "cls.seq_relationship.*"]


class BertForSequenceClassification(OnBert, SequenceClassification, OnEncoder):
    """BERT with scores of the classes of a sequence, from the pooled first token: ids (B, T) -> (B, num_labels).

    Examples
    --------
    >>> config = BertConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> BertForSequenceClassification(config, rng=0)(np.array([[1, 4, 3]])).logits.shape
    (1, 2)
    """

    reads, body_settings = "pooler_output", {}
    new_parts = ("head.", "body.pooler.")
    head_names = (*linear_names("out_proj", "classifier"),)

    def _make_head(self, config, dtype):
        return nn.SequenceClassificationHead(
            config.hidden_size, config.num_labels, config.head_dropout, pooler=False, pooling=None, dtype=dtype
        )


class BertForTokenClassification(OnBert, TokenClassification, OnEncoder):
    """BERT with scores of the classes of each token: ids (B, T) -> (B, T, num_labels).

    Examples
    --------
    >>> config = BertConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> BertForTokenClassification(config, rng=0)(np.array([[1, 4, 3]])).logits.shape
    (1, 3, 2)
    """

    head_names = (*linear_names("out_proj", "classifier"),)

    def _make_head(self, config, dtype):
        return nn.TokenClassificationHead(config.hidden_size, config.num_labels, config.head_dropout, dtype=dtype)


class BertForQuestionAnswering(OnBert, QuestionAnswering, OnEncoder):
    """BERT with scores of where an answer starts and ends: ids (B, T) -> two of (B, T).

    Examples
    --------
    >>> config = BertConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> BertForQuestionAnswering(config, rng=0)(np.array([[1, 4, 3]])).start_logits.shape
    (1, 3)
    """

    head_names = (*linear_names("out_proj", "qa_outputs"),)

    def _make_head(self, config, dtype):
        return nn.SpanHead(config.hidden_size, dtype=dtype)
