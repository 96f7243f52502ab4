"""T5 and Flan-T5: an encoder and a decoder, pre-norm, without positions but for a bias by distance; and the heads.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (2020). T5 1.1 and
Flan-T5 have gated feed-forward networks and a head of their own: Shazeer (2020); Chung et al. (2022).
"""

from dataclasses import replace
from typing import ClassVar

import numpy as np

from numtx import nn
from numtx.models.batch import known_ids, read_late
from numtx.models.bert_body import linear_names
from numtx.models.pretrained import PretrainedModel
from numtx.models.seq2seq_heads import EndTokenClassification, TargetQuestionAnswering
from numtx.models.seq2seq_lm import Seq2SeqLMModel
from numtx.models.t5_body import HEAD, T5Base, T5EncoderModel, T5Model, name_table
from numtx.models.t5_stack import T5Config, T5LMHead
from numtx.models.tasks import TokenClassification
from numtx.models.with_head import OnBody

__all__ = [
    "T5Config",
    "T5EncoderModel",
    "T5ForConditionalGeneration",
    "T5ForQuestionAnswering",
    "T5ForSequenceClassification",
    "T5ForTokenClassification",
    "T5Model",
]


class T5ForConditionalGeneration(T5Base, Seq2SeqLMModel):
    """T5 with its language-model head: ids of a source and of a target -> logits (B, Tq, V).

    Examples
    --------
    >>> config = T5Config(vocab_size=5, d_model=4, d_kv=3, d_ff=6, num_layers=2, num_heads=2, decoder_start_token_id=0)
    >>> model = T5ForConditionalGeneration(config, rng=0)
    >>> model(np.array([[1, 2, 3]]), labels=np.array([[4, 1]])).logits.shape
    (1, 2, 5)
    """

    table = "embedding.weight"
    own_stds: ClassVar[dict[str, float]] = {"decoder": 1.0}

    def __init__(self, config: T5Config, *, rng=None, dtype=np.float32):
        rng = np.random.default_rng(rng)
        self.config = config
        self.body = T5Model(config, rng=rng, dtype=dtype)
        self.head = T5LMHead(self.output_scale)
        if not config.tie_word_embeddings:
            shape = (config.vocab_size, config.d_model)
            self.decoder = nn.init.normal(shape, config.initializer_factor, rng, dtype)

    @property
    def output_scale(self):
        """What the decoder's output is multiplied by before the head."""
        return self.config.d_model**-0.5 if self.config.scale_decoder_outputs else 1.0

    @classmethod
    def settled(cls, config, arrays):
        """Whether the head is tied the arrays say: there is another table, or there is not."""
        return replace(config, tie_word_embeddings=config.tie_word_embeddings or HEAD not in arrays)

    @classmethod
    def names(cls, config):
        own, both = {"ours": "body."}, ("encoder", "decoder")
        if config.tie_word_embeddings:
            return name_table(config, *both, **own, copies=(HEAD,))
        return name_table(config, *both, **own, head=(("decoder", HEAD),))


class OnT5(T5Base, OnBody):
    """A head on both stacks. Where a batch has no `decoder_input_ids`, the decoder reads the source one place late."""

    body_class: ClassVar[type[PretrainedModel]] = T5Model
    arguments = T5Model.arguments
    bare: ClassVar[bool] = False  # whether files have no prefix before the body's weights
    stacks: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    def forward(self, *inputs, **settings):
        """Return (outputs, cache). The arguments are those of the body; see its `forward`."""
        given = dict(zip(self.arguments, inputs, strict=False)) | settings
        if given.get("decoder_input_ids") is None and given.get("input_ids") is not None:
            name = type(self).__name__
            ids = known_ids(name, "input_ids", given["input_ids"], self.config.vocab_size)
            given["decoder_input_ids"] = read_late(name, self.config, ids)
        return super().forward(**given)

    @classmethod
    def names(cls, config):
        head = [(f"head.{ours}", *theirs) for ours, *theirs in cls.head_names]
        return name_table(config, *cls.stacks, ours="body.", bare=cls.bare, head=head)


class T5ForSequenceClassification(EndTokenClassification, OnT5):
    """T5 with scores of the classes of a sequence, read from its last end token: (B, T) -> (B, num_labels).

    Source and target are the same text; see `BartForSequenceClassification`.

    Examples
    --------
    >>> sizes = {"vocab_size": 5, "d_model": 4, "d_kv": 3, "d_ff": 6, "num_layers": 2, "num_heads": 2}
    >>> config = T5Config(**sizes, decoder_start_token_id=0)
    >>> T5ForSequenceClassification(config, rng=0)(np.array([[2, 3, 1]])).logits.shape
    (1, 2)
    """


class T5ForTokenClassification(TokenClassification, T5Base, OnBody):
    """T5's encoder with scores of the classes of each token: ids (B, T) -> (B, T, num_labels).

    Examples
    --------
    >>> config = T5Config(vocab_size=5, d_model=4, d_kv=3, d_ff=6, num_layers=2, num_heads=2)
    >>> T5ForTokenClassification(config, rng=0)(np.array([[1, 2, 3]])).logits.shape
    (1, 3, 2)
    """

    body_class: ClassVar[type[PretrainedModel]] = T5EncoderModel
    arguments = T5EncoderModel.arguments
    head_names = (*linear_names("out_proj", "classifier"),)
    own_stds: ClassVar[dict[str, float]] = {"head.out_proj.weight": 1.0}

    def _make_head(self, config, dtype):
        return nn.TokenClassificationHead(config.d_model, config.num_labels, config.classifier_dropout, dtype=dtype)

    @classmethod
    def names(cls, config):
        head = [(f"head.{ours}", *theirs) for ours, *theirs in cls.head_names]
        return name_table(config, "encoder", ours="body.", bare=False, head=head)


class T5ForQuestionAnswering(TargetQuestionAnswering, OnT5):
    """T5 with scores of where an answer starts and ends in what the decoder reads: (B, T) -> two of (B, T).

    Without target ids the decoder reads the source one place late, so place t stands for the source's token t.

    Examples
    --------
    >>> sizes = {"vocab_size": 5, "d_model": 4, "d_kv": 3, "d_ff": 6, "num_layers": 2, "num_heads": 2}
    >>> config = T5Config(**sizes, decoder_start_token_id=0)
    >>> T5ForQuestionAnswering(config, rng=0)(np.array([[2, 3, 1]])).end_logits.shape
    (1, 3)
    """

    bare = True
