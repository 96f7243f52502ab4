"""What stands on an encoder-decoder beside a language model's head: the class of a sequence, and where an answer is.

Source and target are the same text: the decoder reads the source one place late.
"""

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.models.batch import as_array
from numtx.models.bert_body import linear_names
from numtx.models.loss import IGNORE_INDEX
from numtx.models.output import Seq2SeqQuestionAnsweringModelOutput, Seq2SeqSequenceClassifierOutput
from numtx.models.tasks import QuestionAnswering, SequenceClassification
from numtx.models.with_head import OnBody


class EndTokenClassification(SequenceClassification, OnBody):
    """The class of a sequence, read from the decoder's state at the last end token of the source, which has seen all.

    Each row needs one; that all have equally many, as Transformers demands, does not matter here.
    """

    output = Seq2SeqSequenceClassifierOutput
    head_names = (
        *linear_names("pooler.dense", "classification_head.dense"),
        *linear_names("out_proj", "classification_head.out_proj"),
    )

    def _make_head(self, config, dtype):
        return nn.ClassificationHead(
            config.d_model, config.num_labels, config.classifier_dropout, pooling="last", dtype=dtype
        )

    def _masks(self, inputs, settings):
        return {"mask": F.padding_mask(self._ends(inputs, settings))}

    def _ends(self, inputs, settings):
        """Return which tokens of the source are end tokens, (B, T), one or more in each row."""
        name, ids = type(self).__name__, inputs[0] if inputs else settings.get("input_ids")
        if ids is None:
            raise ValueError(f"{name}: expected input_ids, whose end tokens say where to read, got None")
        ends = np.isin(as_array(name, "input_ids", ids), self.config.eos_token_id)
        target = dict(zip(self.arguments, inputs, strict=False)).get("decoder_input_ids")
        target = settings.get("decoder_input_ids", target)
        if target is not None and np.shape(target) != ends.shape:
            raise ValueError(
                f"{name}: expected decoder_input_ids of the shape of input_ids, {ends.shape}, got {np.shape(target)}"
            )
        if ends.ndim == 2 and not ends.any(axis=1).all():
            row = int(np.argmin(ends.any(axis=1)))
            raise ValueError(
                f"{name}: expected an end token, eos_token_id = {self.config.eos_token_id}, in each row, "
                f"got none in row {row}"
            )
        return ends


class TargetQuestionAnswering(QuestionAnswering, OnBody):
    """Where an answer starts and ends in what the decoder reads."""

    output = Seq2SeqQuestionAnsweringModelOutput
    head_names = tuple(linear_names("out_proj", "qa_outputs"))

    def _make_head(self, config, dtype):
        return nn.SpanHead(config.d_model, dtype=dtype)

    def checked(self, labels, shape):
        return super().checked(labels, (shape[0], np.iinfo(np.int64).max))  # positions in what the decoder reads

    def loss_of(self, outputs, labels, num_items=None, label_smoothing=0.0):
        length = outputs.start_logits.shape[1]
        inside = {name: np.where(given < length, given, IGNORE_INDEX) for name, given in labels.items()}
        return super().loss_of(outputs, inside, num_items, label_smoothing)
