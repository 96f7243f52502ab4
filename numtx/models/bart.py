"""BART: an encoder and a decoder, post-norm, with learned positions from row 2 on, and the heads that stand on them.

Lewis et al., "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
Comprehension" (2020).
"""

from typing import Any, ClassVar

import numpy as np

from numtx import nn
from numtx.checkpoints import NameTable
from numtx.checkpoints.names import Transform
from numtx.models.bart_body import HEADS, STRAYS, TABLES, BartBase, BartInputs, BartModel, held
from numtx.models.bart_config import BartConfig
from numtx.models.seq2seq_heads import EndTokenClassification, TargetQuestionAnswering
from numtx.models.seq2seq_lm import Seq2SeqLMModel
from numtx.models.with_head import OnBody

__all__ = [
    "BartConfig",
    "BartForConditionalGeneration",
    "BartForQuestionAnswering",
    "BartForSequenceClassification",
    "BartInputs",
    "BartModel",
]
BIAS = "final_logits_bias"
ONE_ROW = Transform(lambda bias: bias.reshape(-1), lambda bias: bias[None])  # files hold (1, V)


class OnBart(BartBase, OnBody):
    """A head on a body of the family, and the names of its weights."""

    body_class: ClassVar[type[BartModel]] = BartModel

    @classmethod
    def unsaid(cls, config, arrays):
        return cls.body_class.unsaid(config, arrays)

    @classmethod
    def names(cls, config):
        body = cls.body_class.rows(config)
        rows = cls.rows_with_head(body)
        rows += [("decoder", "lm_head.weight")] if cls.table is not None and not config.tie_word_embeddings else []
        own = {row[1] for row in rows}
        ignored = [head for head in HEADS if not any(name.startswith(head.removesuffix("*")) for name in own)]
        table = dict(row[:2] for row in body)["embedding.weight"]
        settings: dict[str, Any] = {"optional_prefix": "model.", "ignored": (*ignored, *STRAYS)}
        copies, head = list(TABLES[1:]) if config.one_table else [], ["lm_head.weight"]
        if not config.tie_word_embeddings:
            return NameTable(rows, copies={table: copies}, **settings)
        if cls.table is None:  # the head is another model's
            return NameTable(rows, copies={table: copies}, spares={table: head}, **settings)
        return NameTable(rows, copies={table: [*copies, *head]}, **settings)


class BartForConditionalGeneration(OnBart, Seq2SeqLMModel):
    """BART with its language-model head: source (B, Ts) and target (B, Tt) ids -> what comes next, (B, Tt, V).

        logits = y Eᵀ + b        with E the table of the embedding, and b `final_logits_bias`, which does not learn

    Examples
    --------
    >>> sizes = {f"{side}_{size}": 2 for side in ("encoder", "decoder") for size in ("layers", "attention_heads")}
    >>> config = BartConfig(vocab_size=7, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, **sizes)
    >>> model = BartForConditionalGeneration(config, rng=0)
    >>> batch = {"input_ids": np.array([[0, 3, 4, 2]]), "labels": np.array([[0, 5, 2]])}
    >>> model(**batch).logits.shape
    (1, 3, 7)
    >>> loss, grads = model.loss_and_grads(batch)
    >>> list(grads["body"])
    ['embedding', 'encoder_inputs', 'decoder_inputs', 'encoder', 'decoder']
    """

    table = "embedding.weight"
    head_names = ((BIAS, BIAS, ONE_ROW),)

    def _make_head(self, config, dtype):
        return nn.Seq2SeqLMHead(config.vocabulary, dtype=dtype)

    def final_bias(self):
        return self.head.final_logits_bias

    @classmethod
    def unsaid(cls, config, arrays):
        bias = {} if held(BIAS, arrays) else {BIAS: np.zeros((1, config.vocabulary), np.float32)}
        return super().unsaid(config, arrays) | bias


class BartForSequenceClassification(EndTokenClassification, OnBart):
    """BART with scores of the classes of a sequence, read from its last end token: (B, T) -> (B, num_labels).

    Source and target are the same text: the decoder reads the source one place late, and its state at the last
    `eos_token_id` of the source has seen all of it. Each row needs one; that all have equally many, as Transformers
    demands, does not matter here.

    Examples
    --------
    >>> sizes = {f"{side}_{size}": 2 for side in ("encoder", "decoder") for size in ("layers", "attention_heads")}
    >>> config = BartConfig(vocab_size=7, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, **sizes)
    >>> BartForSequenceClassification(config, rng=0)(np.array([[0, 3, 4, 2]])).logits.shape
    (1, 3)
    """


class BartForQuestionAnswering(TargetQuestionAnswering, OnBart):
    """BART with scores of where an answer starts and ends in what the decoder reads: (B, T) -> two of (B, T).

    Without target ids the decoder reads the source one place late, so place t stands for the source's token t.

    Examples
    --------
    >>> sizes = {f"{side}_{size}": 2 for side in ("encoder", "decoder") for size in ("layers", "attention_heads")}
    >>> config = BartConfig(vocab_size=7, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, **sizes)
    >>> BartForQuestionAnswering(config, rng=0)(np.array([[0, 3, 4, 2]])).end_logits.shape
    (1, 4)
    """
