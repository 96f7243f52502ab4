"""Decoder-only models with a language-model head: the next token."""

from typing import Any, ClassVar

from numtx import nn
from numtx.models.decoder_heads import OnDecoder
from numtx.models.generating import GeneratesOn
from numtx.models.loss import linear_next_token_loss, linear_next_token_loss_backward
from numtx.models.tasks import CausalLM
from numtx.models.writing import Streams

LARGE_VOCABULARY = 8192  # from here on the loss is computed without all logits: below, they are small and no slower


class CausalLMModel(CausalLM, GeneratesOn, Streams, OnDecoder):
    """A language model: ids (B, T) -> the scores of what comes next, (B, T, V).

    The head borrows a table (V, C): the embedding's if `config.tie_word_embeddings`, else the model's own `decoder`.
    The body's `forward` takes a `kv_cache`, and its `new_cache` makes one.

    Notes
    -----
    Over a large vocabulary, loss and gradient of the head are computed for some positions at a time, without the logits
    of all: `functional.linear_cross_entropy`.
    """

    table = "embedding.weight"

    def _make_head(self, config, rng, dtype):
        return nn.TiedLMHead()

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

    def loss(self, batch, num_items=None, label_smoothing=0.0):
        if self.config.vocab_size < LARGE_VOCABULARY:
            return super().loss(batch, num_items, label_smoothing)
        inputs, labels = self.split(batch)
        hidden, _ = self.body.forward(**inputs, keep=None)
        return linear_next_token_loss(
            hidden.last_hidden_state,
            self._lent().T,
            **labels,
            num_items=num_items,
            keep=None,
            label_smoothing=label_smoothing,
        )[0]

    def loss_and_grads(self, batch, rng=None, num_items=None, keep="all", label_smoothing=0.0):
        if self.config.vocab_size < LARGE_VOCABULARY:
            return super().loss_and_grads(batch, rng, num_items, keep, label_smoothing)
        inputs, labels = self.split(batch)
        hidden, body = self._body_forward(**inputs, rng=rng, keep=keep)
        settings = {"num_items": num_items, "label_smoothing": label_smoothing, **self._frozen_table()}
        loss, cache = linear_next_token_loss(hidden.last_hidden_state, self._lent().T, **labels, **settings)
        dx, dweight = linear_next_token_loss_backward(1.0, cache)
        g_body, dtable = self._body_backward(dx, body), None if dweight is None else dweight.T
        return loss, self._given_back(g_body, dtable, inputs["input_ids"]) | {"body": g_body}

    loss_and_grads.__doc__ = OnDecoder.loss_and_grads.__doc__
