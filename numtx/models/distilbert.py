"""DistilBERT: BERT's encoder at half the depth, without segments and pooler, and with names of its own.

Sanh et al., "DistilBERT, a distilled version of BERT" (2019).
"""

from dataclasses import dataclass

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.models.bert_body import (
    BertEmbeddings,
    EncoderBody,
    EncoderMaskedLM,
    OnEncoder,
    linear_names,
    norm_names,
)
from numtx.models.config import PretrainedConfig
from numtx.models.tasks import QuestionAnswering, SequenceClassification, TokenClassification

EPS = 1e-12  # of every norm; no config says another


@dataclass(kw_only=True)
class DistilBertConfig(PretrainedConfig):
    """The settings of a DistilBERT, by the names of its `config.json`.

    `sinusoidal_pos_embds` says what the table of positions starts from; it is learned all the same.

    Examples
    --------
    >>> DistilBertConfig(vocab_size=65, dim=12, n_heads=3).context
    512
    """

    model_type = "distilbert"
    required = ("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim", "max_position_embeddings", "activation")
    sizes = required[:6]
    rates = ("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout")
    activations = ("activation",)
    layers = ("n_layers",)
    matrices = (
        ("vocab_size", "dim"),
        ("max_position_embeddings", "dim"),
        ("dim", "dim"),
        ("dim", "hidden_dim"),
        ("num_labels", "dim"),
    )

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    pad_token_id: int | None = 0

    def __post_init__(self):
        super().__post_init__()
        if self.dim % self.n_heads:
            raise ValueError(f"DistilBertConfig: expected heads that divide the width {self.dim}, got {self.n_heads}")


class DistilBertModel(EncoderBody):
    """DistilBERT without a head: ids (B, T) -> the last hidden state (B, T, C).

    Examples
    --------
    >>> config = DistilBertConfig(vocab_size=5, dim=8, n_layers=1, n_heads=2)
    >>> DistilBertModel(config, rng=0)(np.array([[1, 2, 3]])).last_hidden_state.shape
    (1, 3, 8)
    """

    config_class = DistilBertConfig
    prefix = "distilbert."
    heads = ("vocab_", "pre_classifier.", "classifier.", "qa_outputs.")

    def __init__(self, config, *, rng=None, dtype=np.float32):
        self.config = config
        with nn.init.undrawn():
            self.embeddings = BertEmbeddings(
                config.vocab_size, config.dim, config.max_position_embeddings, 0, eps=EPS, dropout=config.dropout,
                padding_idx=config.padding_row, dtype=dtype,
            )  # fmt: skip
            self.stack = nn.Stack([self._layer(config, dtype) for _ in range(config.n_layers)])
        self.draw(np.random.default_rng(rng))

    def draw(self, rng, std=None):
        super().draw(rng, std)
        start_positions(self.embeddings, self.config)

    @staticmethod
    def _layer(config, dtype):
        # Unlike BERT's, what attention gives is not dropped out.
        attention = nn.GroupedQueryAttention(config.dim, config.n_heads, dropout=config.attention_dropout, dtype=dtype)
        feed_forward = nn.FeedForward(config.dim, config.hidden_dim, config.activation_of("activation"), dtype=dtype)
        return nn.EncoderLayer(
            nn.PostNorm(nn.LayerNorm(config.dim, EPS, dtype=dtype), attention),
            nn.PostNorm(nn.LayerNorm(config.dim, EPS, dtype=dtype), feed_forward, config.dropout),
        )

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        *,
        output_hidden_states=False,
        output_attentions=False,
        rng=None,
        keep="all",
    ):
        """Return (BaseModelOutput, cache).

        Parameters
        ----------
        input_ids : (B, T) integer array
        attention_mask : (B, T) array of 1 for a token and 0 for padding, or None
        position_ids : (T,) or (B, T) integer array or None
            None means 0, 1, 2 ...
        output_hidden_states, output_attentions : bool
            Whether the output has them: to look at, not to differentiate.
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Stack`.
        """
        shown = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        return self._encode(input_ids, attention_mask, None, position_ids, shown=shown, rng=rng, keep=keep)

    @classmethod
    def rows(cls, prefix):
        """The rows of the table of names."""
        layer, here = f"{prefix}transformer.layer.{{i}}", "stack.layers.{i}"
        return [
            ("embeddings.words.weight", f"{prefix}embeddings.word_embeddings.weight"),
            ("embeddings.positions.weight", f"{prefix}embeddings.position_embeddings.weight"),
            *norm_names("embeddings.norm", f"{prefix}embeddings.LayerNorm"),
            *linear_names(f"{here}.attention.sublayer.q_proj", f"{layer}.attention.q_lin"),
            *linear_names(f"{here}.attention.sublayer.k_proj", f"{layer}.attention.k_lin"),
            *linear_names(f"{here}.attention.sublayer.v_proj", f"{layer}.attention.v_lin"),
            *linear_names(f"{here}.attention.sublayer.out_proj", f"{layer}.attention.out_lin"),
            *norm_names(f"{here}.attention.norm", f"{layer}.sa_layer_norm"),
            *linear_names(f"{here}.feed_forward.sublayer.up", f"{layer}.ffn.lin1"),
            *linear_names(f"{here}.feed_forward.sublayer.down", f"{layer}.ffn.lin2"),
            *norm_names(f"{here}.feed_forward.norm", f"{layer}.output_layer_norm"),
        ]


def start_positions(embeddings, config):
    """Put sines and cosines into the table of positions, where the config says that it starts from them."""
    if config.sinusoidal_pos_embds and nn.init.draws():
        table = embeddings.positions.weight
        table[...] = F.sinusoidal_positions(*table.shape, dtype=table.dtype)


class OnDistilBert(OnEncoder):
    """What the models on a DistilBERT share."""

    config_class, body_class = DistilBertConfig, DistilBertModel
    arguments = DistilBertModel.arguments

    def draw(self, rng, std=None):
        super().draw(rng, std)
        start_positions(self.body.embeddings, self.config)


class DistilBertForMaskedLM(OnDistilBert, EncoderMaskedLM):
    """DistilBERT with scores of what stands at each place: ids (B, T) -> (B, T, V).

    Examples
    --------
    >>> config = DistilBertConfig(vocab_size=5, dim=8, n_layers=1, n_heads=2)
    >>> DistilBertForMaskedLM(config, rng=0)(np.array([[1, 4, 3]])).logits.shape
    (1, 3, 5)
    """

    decoder_name = "vocab_projector"
    head_names = (*linear_names("dense", "vocab_transform"), *norm_names("norm", "vocab_layer_norm"))

    def _make_head(self, config, dtype):
        return nn.MaskedLMHead(config.dim, config.vocab_size, config.activation_of("activation"), EPS, dtype=dtype)


class DistilBertForSequenceClassification(OnDistilBert, SequenceClassification, OnEncoder):
    """DistilBERT with scores of the classes of a sequence, from its first token: ids (B, T) -> (B, num_labels).

    Examples
    --------
    >>> config = DistilBertConfig(vocab_size=5, dim=8, n_layers=1, n_heads=2)
    >>> DistilBertForSequenceClassification(config, rng=0)(np.array([[1, 4, 3]])).logits.shape
    (1, 2)
    """

    head_names = (*linear_names("pooler.dense", "pre_classifier"), *linear_names("out_proj", "classifier"))

    def _make_head(self, config, dtype):
        return nn.SequenceClassificationHead(
            config.dim, config.num_labels, config.seq_classif_dropout, activation="relu", dtype=dtype
        )


class DistilBertForTokenClassification(OnDistilBert, TokenClassification, OnEncoder):
    """DistilBERT with scores of the classes of each token: ids (B, T) -> (B, T, num_labels).

    Examples
    --------
    >>> config = DistilBertConfig(vocab_size=5, dim=8, n_layers=1, n_heads=2)
    >>> DistilBertForTokenClassification(config, rng=0)(np.array([[1, 4, 3]])).logits.shape
    (1, 3, 2)
    """

    head_names = (*linear_names("out_proj", "classifier"),)

    def _make_head(self, config, dtype):
        return nn.TokenClassificationHead(config.dim, config.num_labels, config.dropout, dtype=dtype)


class DistilBertForQuestionAnswering(OnDistilBert, QuestionAnswering, OnEncoder):
    """DistilBERT with scores of where an answer starts and ends: ids (B, T) -> two of (B, T).

    Examples
    --------
    >>> config = DistilBertConfig(vocab_size=5, dim=8, n_layers=1, n_heads=2)
    >>> DistilBertForQuestionAnswering(config, rng=0)(np.array([[1, 4, 3]])).start_logits.shape
    (1, 3)
    """

    head_names = (*linear_names("out_proj", "qa_outputs"),)

    def _make_head(self, config, dtype):
        return nn.SpanHead(config.dim, config.qa_dropout, dtype=dtype)
