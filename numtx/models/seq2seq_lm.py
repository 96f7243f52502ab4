"""Encoder-decoders with a language-model head: the target's next token."""

import numpy as np

from numtx import functional as F
from numtx.models.causal_lm import LARGE_VOCABULARY
from numtx.models.generating import GeneratesFrom
from numtx.models.loss import IGNORE_INDEX
from numtx.models.tasks import Seq2SeqLM
from numtx.models.with_head import HeadModel


class Seq2SeqLMModel(Seq2SeqLM, GeneratesFrom, HeadModel):
    """Source ids (B, Ts) and what the decoder reads (B, Tt) -> the scores of what comes next, (B, Tt, V).

    The head borrows a table (V, C): the decoder's embedding if `config.tie_word_embeddings`, else the model's own
    `decoder`. To write step by step: `encode` the source once, then `decode` what is new with a cache of `new_cache`.

    Notes
    -----
    Over a large vocabulary, loss and gradient of the head are computed for some positions at a time, without the logits
    of all: `functional.linear_cross_entropy`.
    """

    arguments = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")

    @property
    def output_scale(self) -> float:
        """What the head multiplies the last hidden state by before the table; T5's does."""
        return 1.0

    def final_bias(self) -> np.ndarray | None:
        """Return what the head adds to the logits, (V,), or None; it does not learn."""
        return None

    def encode(self, input_ids, attention_mask=None) -> np.ndarray:
        """Return the memory (B, Ts, C) of a source."""
        return self.body.encode(input_ids, attention_mask)

    def decode(self, decoder_input_ids, memory, **settings) -> np.ndarray:
        """Return the scores of what comes after each token that the decoder reads, (B, Tt, V).

        Parameters
        ----------
        decoder_input_ids : (B, Tt) integer array
            With a `kv_cache` only what is new.
        memory : (B, Ts, C) array
            What `encode` gave; with a `kv_cache` the very same array at each step.
        **settings
            `attention_mask` of the source, `decoder_attention_mask`, `kv_cache`; see the body's `decode`.
        """
        return self.head(self.body.decode(decoder_input_ids, memory, **settings), self._lent())

    def new_cache(self):
        """Return what `decode` remembers between steps, of the tokens and of the memory."""
        return self.body.new_cache()

    def loss(self, batch, num_items=None, label_smoothing=0.0):
        if self.config.vocabulary < LARGE_VOCABULARY:
            return super().loss(batch, num_items, label_smoothing)
        inputs, labels = self.split(batch)
        hidden, _ = self.body.forward(**inputs, keep=None)
        return self._without_logits(hidden.last_hidden_state, labels["labels"], num_items, None, label_smoothing)[0]

    def loss_and_grads(self, batch, rng=None, num_items=None, keep="all", label_smoothing=0.0):
        if self.config.vocabulary < LARGE_VOCABULARY:
            return super().loss_and_grads(batch, rng, num_items, keep, label_smoothing)
        inputs, labels = self.split(batch)
        hidden, body = self._body_forward(**inputs, rng=rng, keep=keep)
        loss, cache = self._without_logits(
            hidden.last_hidden_state, labels["labels"], num_items, "all", label_smoothing
        )
        dx, dweight, _ = F.linear_cross_entropy_backward(1.0, cache)
        g_body, dtable = self._body_backward(self._scaled(dx), body), None if dweight is None else dweight.T
        return loss, self._given_back(g_body, dtable) | {"body": g_body}

    loss_and_grads.__doc__ = HeadModel.loss_and_grads.__doc__

    def _without_logits(self, x, asked, num_items, keep, label_smoothing):
        """The loss and its gradients, computed at once."""
        if asked.shape != x.shape[:2]:
            raise ValueError(f"{type(self).__name__}: expected labels {x.shape[:2]}, got {asked.shape}")
        return F.linear_cross_entropy(
            self._scaled(x),
            self._lent().T,
            asked,
            self.final_bias(),
            ignore_index=IGNORE_INDEX,
            label_smoothing=label_smoothing,
            num_items=num_items,
            keep=keep,
            **self._frozen_table(),
        )

    def _scaled(self, x):
        return x if self.output_scale == 1 else self.output_scale * x
