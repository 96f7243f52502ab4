"""What stands on a decoder-only body: scores of a sequence, of its tokens, and of where an answer is."""

from typing import Any, ClassVar

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.checkpoints import TRANSPOSED, NameTable
from numtx.models.batch import as_array
from numtx.models.bert_body import linear_names
from numtx.models.tasks import QuestionAnswering, SequenceClassification, TokenClassification
from numtx.models.with_head import HeadModel

LM_HEAD = "lm_head.weight"
HEADS = (LM_HEAD, "score.", "classifier.", "qa_outputs.")  # what files hold beside the body, by their beginnings


class OnDecoder(HeadModel):
    """A head on a decoder-only body. A family names the body, and says what files call its weights."""

    body_class: ClassVar[Any]
    prefix: ClassVar[str]  # of the body's weights in files
    body_names: ClassVar[list[tuple[Any, ...]]]  # rows of the table of names, without the prefix
    strays: ClassVar[tuple[str, ...]] = ()  # buffers that say nothing, without the prefix
    head_names: ClassVar[tuple[tuple[Any, ...], ...]] = ()

    def __init__(self, config, *, rng=None, dtype=np.float32):
        rng = np.random.default_rng(rng)
        self.config, self.body = config, self.body_class(config, rng=rng, dtype=dtype)
        self.head = self._make_head(config, rng, dtype)
        if self.table is not None and not config.tie_word_embeddings:
            shape = self.body.get_parameter(self.table).shape
            self.decoder = nn.init.normal(shape, config.initializer_range, rng, dtype)

    def _make_head(self, config, rng, dtype):
        raise TypeError(f"{type(self).__name__} has no head")

    @classmethod
    def names(cls, config):
        rows = [(f"body.{ours}", cls.prefix + theirs, *layout) for ours, theirs, *layout in cls.body_names]
        rows += [(f"head.{ours}", *theirs) for ours, *theirs in cls.head_names]
        own, copies = tuple(row[1] for row in rows), {}
        if cls.table is not None:
            own = (*own, LM_HEAD)
            if config.tie_word_embeddings:
                copies = {dict(row[:2] for row in rows)[f"body.{cls.table}"]: (LM_HEAD,)}
            else:
                rows.append(("decoder", LM_HEAD))
        ignored = [f"{head}*" for head in HEADS if not any(name.startswith(head) for name in own)]
        ignored += [cls.prefix + stray for stray in cls.strays]
        return NameTable(rows, optional_prefix=cls.prefix, ignored=ignored, copies=copies)


class LastTokenClassification(SequenceClassification, OnDecoder):
    """The class of a sequence, read from its last token that is not padding; which that is the ids say."""

    new_parts = ("head.",)
    head_names = (("out_proj.weight", "score.weight", TRANSPOSED),)

    def _make_head(self, config, rng, dtype):
        return nn.SequenceClassificationHead(
            self.body.width, config.num_labels, pooler=False, pooling="last", bias=False, rng=rng, dtype=dtype
        )

    def _masks(self, inputs, settings):
        name, pad = type(self).__name__, self.config.pad_token_id
        ids = as_array(name, "input_ids", settings["input_ids"] if "input_ids" in settings else inputs[0])
        if ids.ndim != 2 or not ids.size:
            return {}  # which the body refuses
        if pad is None:
            if len(ids) > 1:
                raise ValueError(
                    f"{name}: expected a config with a pad_token_id for a batch of {len(ids)}, "
                    "whose last tokens nobody else can tell, got None"
                )
            return {}
        real = ids != pad
        if not real.any(axis=1).all():
            row = int(np.argmin(real.any(axis=1)))
            raise ValueError(f"{name}: expected a token besides padding (id {pad}) in each row, got none in row {row}")
        return {"mask": F.padding_mask(real)}


class DecoderTokenClassification(TokenClassification, OnDecoder):
    """The class of each token, of which each has seen those before it."""

    def _make_head(self, config, rng, dtype):
        rate = config.head_dropout
        return nn.TokenClassificationHead(self.body.width, config.num_labels, rate, rng=rng, dtype=dtype)


class DecoderQuestionAnswering(QuestionAnswering, OnDecoder):
    """Where an answer starts and ends."""

    head_names = (*linear_names("out_proj", "qa_outputs"),)

    def _make_head(self, config, rng, dtype):
        return nn.SpanHead(self.body.width, rng=rng, dtype=dtype)
