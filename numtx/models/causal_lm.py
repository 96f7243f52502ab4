"""Decoder-only models with a head: the next token, and the class of a sequence read from its last token."""

from typing import Any, ClassVar

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.models.batch import as_array
from numtx.models.generating import GeneratesOn
from numtx.models.loss import linear_next_token_loss, linear_next_token_loss_backward
from numtx.models.tasks import CausalLM, SequenceClassification
from numtx.models.with_head import HeadModel
from numtx.models.writing import Streams

LARGE_VOCABULARY = 8192  # from here on the loss is computed without all logits: below, they are small and no slower


class CausalLMModel(CausalLM, GeneratesOn, Streams, HeadModel):
    """A language model: ids (B, T) -> the scores of what comes next, (B, T, V).

    The head borrows a table (V, C): the embedding's if `config.tie_word_embeddings`, else the model's own `decoder`.
    The body's `forward` takes a `kv_cache`, and its `new_cache` makes one.

    Notes
    -----
    Over a large vocabulary, loss and gradient of the head are computed for some positions at a time, without the logits
    of all: `functional.linear_cross_entropy`.
    """

    def _decoding(self):
        kv_cache = self.body.new_cache()

        def step(ids):
            hidden, _ = self.body.forward(ids, kv_cache=kv_cache, keep=None)
            return self.head(hidden.last_hidden_state[:, -1], self._lent())  # (B, V): of a prompt only the last

        return step

    row_step_class: ClassVar[Any] = None  # of a family that has a faster step

    def row_step(self, kv_cache):
        """Return a faster form of the step for one row without padding, a token -> (1, V), or None if there is none."""
        step = self.row_step_class
        return step(self.body, self._lent(), kv_cache) if step is not None and step.suits(self.body) else None

    def loss(self, batch, num_items=None):
        if self.config.vocab_size < LARGE_VOCABULARY:
            return super().loss(batch, num_items)
        inputs, labels = self.split(batch)
        hidden, _ = self.body.forward(**inputs, keep=None)
        return linear_next_token_loss(
            hidden.last_hidden_state, self._lent().T, **labels, num_items=num_items, keep=None
        )[0]

    def loss_and_grads(self, batch, rng=None, num_items=None, keep="all"):
        if self.config.vocab_size < LARGE_VOCABULARY:
            return super().loss_and_grads(batch, rng, num_items, keep)
        inputs, labels = self.split(batch)
        hidden, body = self.body.forward(**inputs, rng=rng, keep=keep)
        loss, cache = linear_next_token_loss(hidden.last_hidden_state, self._lent().T, **labels, num_items=num_items)
        dx, dweight = linear_next_token_loss_backward(1.0, cache)
        _, g_body = self.body.backward({"last_hidden_state": dx}, body)
        return loss, self._given_back(g_body, dweight.T, inputs["input_ids"]) | {"body": g_body}

    loss_and_grads.__doc__ = HeadModel.loss_and_grads.__doc__


class LastTokenClassification(SequenceClassification, HeadModel):
    """The class of a sequence, read from its last token that is not padding; which that is the ids say."""

    new_parts = ("head.",)

    def __init__(self, body, config, *, rng=None, dtype=np.float32):
        self.config, self.body = config, body
        self.head = nn.SequenceClassificationHead(
            body.width, config.num_labels, pooler=False, pooling="last", bias=False, rng=rng, dtype=dtype
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
