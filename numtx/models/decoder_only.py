"""A ready-made decoder: ids in, the log-probabilities of the next one out."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from numtx import nn
from numtx.models.batch import known_labels
from numtx.models.loss import shift_left
from numtx.models.ready_made import ReadyMade, TransformerConfig
from numtx.models.writing import WritesOn


@dataclass(kw_only=True)
class DecoderOnlyConfig(TransformerConfig):
    """The settings of a `DecoderOnlyTransformer`: those of `TransformerConfig`, and the ones here.

    Attributes
    ----------
    vocab_size, num_layers : int
    eos_token_id : int or None
        Where a text that the model writes ends.
    """

    model_type: ClassVar[str] = "decoder_only_transformer"
    sizes: ClassVar[tuple[str, ...]] = ("vocab_size", "num_layers")
    special_ids: ClassVar[tuple[str, ...]] = ("eos_token_id",)

    vocab_size: int
    num_layers: int = 2
    eos_token_id: int | None = None


class DecoderOnlyTransformer(WritesOn, ReadyMade):
    """Ids (B, T) -> log-probabilities of the token that follows each, (B, T, V).

        y = log_softmax(stack(embedding(ids)) W + b)

    Built of a `DecoderOnlyConfig`, or by its keywords. The stack is an encoder's with causal attention: a decoder has
    nothing to attend over but itself here. The head's matrix is its own, not the embedding's (GPT-2 ties them).

    Examples
    --------
    >>> model = DecoderOnlyTransformer(vocab_size=5, d_model=8, nhead=2, dim_feedforward=16, max_length=16, rng=0)
    >>> ids = np.array([[1, 2, 3]])
    >>> model(ids).log_probs.shape
    (1, 3, 5)
    >>> model.generate(ids, max_new_tokens=4).shape
    (1, 7)
    """

    config_class = DecoderOnlyConfig
    config: DecoderOnlyConfig

    def _build(self, rng, dtype):
        config = self.config
        self.embedding = config.embedding(config.vocab_size, rng, dtype)
        self.stack = nn.Stack(
            [
                nn.TransformerEncoderLayer(**config.layer(), causal=True, rng=rng, dtype=dtype)
                for _ in range(config.num_layers)
            ],
            nn.LayerNorm(config.d_model, config.layer_norm_eps, dtype=dtype),
        )
        self.head = nn.ClassifierHead(
            config.d_model, config.vocab_size, config.dropout, pooling=None, rng=rng, dtype=dtype
        )

    def forward(self, input_ids, attention_mask=None, position_ids=None, *, kv_cache=None, rng=None, keep="all"):
        """Return (LogProbsOutput, cache).

        Parameters
        ----------
        input_ids : (B, T) integer array
        attention_mask : (B, T) array of 1 for a token and 0 for padding, or None
            With a `kv_cache` it covers the old tokens too: (B, old + T).
        position_ids : (T,) or (B, T) integer array or None
            Default: 0, 1, 2 ...; with a `kv_cache`, on from the old tokens. Left padding needs them.
        kv_cache : list of one KVCache a layer, or None
            With one nothing is kept.
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Stack`.
        """
        keep = keep if kv_cache is None else None
        x, parts = self._hidden(input_ids, attention_mask, position_ids, kv_cache, rng, keep)
        log_probs, head = self.head.forward(x, rng=rng)  # (B, T, V)
        return self._outputs(log_probs, (*parts, head), keep)

    def _hidden(self, input_ids, attention_mask=None, position_ids=None, kv_cache=None, rng=None, keep=None):
        """Return what the head reads, (B, T, C), and what the parts kept."""
        old = len(kv_cache[0]) if kv_cache else 0
        ids = self._ids("input_ids", input_ids, self.config.vocab_size, old)
        mask = self._mask("attention_mask", attention_mask, (len(ids), old + ids.shape[1]))
        positions = np.arange(old, old + ids.shape[1]) if position_ids is None else position_ids
        x, embedded = self.embedding.forward(ids, positions=positions, rng=rng)  # (B, T, C)
        settings = {"mask": mask, "kv_cache": kv_cache, "rng": rng, "keep": keep}
        x, stack = self.stack.forward(x, **settings, **nn.frozen_inputs(x=self.embedding))
        return x, (embedded, stack)

    def _asked(self, name, labels, shape):
        labels = known_labels(type(self).__name__, name, labels, shape, self.config.vocab_size)
        return shift_left(labels) if name == "labels" else labels

    def _decoding(self):
        kv_cache = [nn.KVCache() for _ in range(self.config.num_layers)]
        # Of a prompt only the last token is scored: (B, C) -> (B, V).
        return lambda ids: self.head(self._hidden(ids, kv_cache=kv_cache)[0][:, -1])
