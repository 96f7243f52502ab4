"""What BERT and its relatives share: the embeddings, the body around a stack of encoder layers, heads on that body."""

from typing import Any, ClassVar

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.checkpoints import TRANSPOSED, NameTable
from numtx.functional.door import integers, rate
from numtx.models.batch import incoming_fields, known_ids, padding
from numtx.models.output import BaseModelOutput, BaseModelOutputWithPooling
from numtx.models.pretrained import PretrainedModel
from numtx.models.tasks import MaskedLM
from numtx.models.with_head import OnBody


class BertEmbeddings(nn.Module):
    """ids (B, T) -> dropout(norm(E[ids] + S[types] + P[positions])), (B, T, C). Devlin et al. (2019), figure 2.

    Parameters
    ----------
    vocab_size, width, num_positions : int
    num_types : int
        Rows of S, the segments of a pair of sentences; 0 for none (DistilBERT).
    eps, dropout : float
    padding_idx : int or None
        The row of E that does not learn.
    padded_position : int or None
        The row of P that does not learn, where padding stands (RoBERTa).

    Examples
    --------
    >>> BertEmbeddings(5, 4, 8, rng=0)(np.array([[1, 2, 1]]), np.array([[0, 1, 1]])).shape
    (1, 3, 4)
    """

    def __init__(
        self,
        vocab_size,
        width,
        num_positions,
        num_types=2,
        *,
        eps=1e-12,
        dropout=0.0,
        padding_idx=None,
        padded_position=None,
        rng=None,
        dtype=np.float32,
    ):
        rate("BertEmbeddings", "dropout", dropout)
        made = {"rng": np.random.default_rng(rng), "dtype": dtype}
        self.words = nn.Embedding(vocab_size, width, padding_idx=padding_idx, **made)
        self.types = nn.Embedding(num_types, width, **made) if num_types else None
        self.positions = nn.LearnedPositions(num_positions, width, padding_idx=padded_position, **made)
        self.norm = nn.LayerNorm(width, eps, dtype=dtype)
        self.dropout = dropout

    def forward(self, ids, types=None, *, positions=None, rng=None):
        """Return (y, cache). `types` are 0 if None, `positions` 0 .. T-1."""
        x, words = self.words.forward(ids)  # (B, T, C)
        typed = None
        if self.types is not None:
            rows, typed = self.types.forward(np.zeros_like(ids) if types is None else types)
            x = x + rows
        x, placed = self.positions.forward(x, positions=positions)
        x, norm = self.norm.forward(x)
        y, drop = F.dropout(x, self.dropout, rng)
        return y, (words, typed, placed, norm, drop)

    def backward(self, dy, cache):
        """Return (None, grads)."""
        words, typed, placed, norm, drop = cache
        dx = F.dropout_backward(dy, drop)
        dx, g_norm = self.norm.backward(dx, norm)
        dx, g_positions = self.positions.backward(dx, placed)
        grads = {"words": self.words.backward(dx, words)[1]}
        if self.types is not None:
            grads["types"] = self.types.backward(dx, typed)[1]
        return None, grads | {"positions": g_positions, "norm": g_norm}

    def extra_repr(self):
        return f"dropout={self.dropout}" if self.dropout else ""


class EncoderBody(PretrainedModel):
    """A body of embeddings, a stack of encoder layers, and a pooler or none; a subclass makes the three.

    It says what its `forward` takes, and hands it to `_encode`.
    """

    output: ClassVar[Any] = BaseModelOutput
    prefix: ClassVar[str]  # of the names in files of models with heads
    heads: ClassVar[tuple[str, ...]]  # how the names of all heads of the family begin
    embeddings: BertEmbeddings
    stack: nn.Stack
    pooler: Any = None

    def _encode(self, input_ids, attention_mask, types, positions, *, shown, rng, keep):
        """Return (outputs, cache); `shown` says which of hidden states and attentions are asked for."""
        name = type(self).__name__
        ids, positions = self._placed(input_ids, positions)
        mask = padding(name, "attention_mask", attention_mask, ids.shape)
        types = None if types is None else self._known_types(types, ids)
        x, embedded = self.embeddings.forward(ids, types, positions=positions, rng=rng)  # (B, T, C)
        settings = {"mask": mask, "rng": rng, "keep": keep, **shown}
        y, stack = self.stack.forward(x, **settings, **nn.frozen_inputs(x=self.embeddings))
        y, states, attentions, _ = y if isinstance(y, nn.StackOutput) else (y, None, None, None)
        more: dict[str, Any] = {"hidden_states": states, "attentions": attentions}
        pooled = None
        if self.pooler is not None:
            more["pooler_output"], pooled = self.pooler.forward(y, rng=rng)  # (B, C)
        outputs = self.output(last_hidden_state=y, **more)
        given = {field: (outputs[field].shape, outputs[field].dtype) for field in _DIFFERENTIABLE if field in outputs}
        return outputs, None if stack is None else (embedded, stack, pooled, given)

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict of the gradients of `last_hidden_state` and `pooler_output`.

        Absent means zero.
        """
        name = type(self).__name__
        if cache is None:
            raise ValueError(f"{name}: backward after a forward with keep=None")
        embedded, stack, pooled, given = cache
        gradients = incoming_fields(name, doutputs, given)
        dy, grads = gradients["last_hidden_state"], {}
        if pooled is not None:
            dx, grads["pooler"] = self.pooler.backward(gradients["pooler_output"], pooled)
            dy = dy + dx  # the first row went two ways
        (dx, *_), g_stack = self.stack.backward(dy, stack)
        _, g_embeddings = nn.backward_below(self.embeddings, dx, embedded)
        return None, {"embeddings": g_embeddings, "stack": g_stack} | grads

    @classmethod
    def rows(cls, prefix) -> list[tuple[Any, ...]]:
        """Return the rows of the table of names."""
        raise TypeError(f"{cls.__name__} has no table of names")

    @classmethod
    def names(cls, config):
        ignored = [*(f"{head}*" for head in cls.heads), *strays(cls.prefix)]
        return NameTable(cls.rows(cls.prefix), optional_prefix=cls.prefix, bare=True, ignored=ignored)

    def _placed(self, input_ids, positions):
        """Return the ids, known to be good, and their positions or None."""
        most = self.config.max_position_embeddings
        context = ("max_position_embeddings", most)
        name, vocab_size = type(self).__name__, self.config.vocab_size
        return known_ids(name, "input_ids", input_ids, vocab_size, context=context), one_for_all(positions)

    def _known_types(self, types, ids):
        name, types = type(self).__name__, np.asarray(types)
        if types.shape != ids.shape:
            raise ValueError(f"{name}: expected token_type_ids (B, T) = {ids.shape}, got {types.shape}")
        return integers(name, "token_type_ids", types, self.config.type_vocab_size)


_DIFFERENTIABLE = ("last_hidden_state", "pooler_output")


class PooledBody(EncoderBody):
    """A body whose `forward` takes token types, and which has a pooler unless `add_pooling_layer` is false."""

    arguments = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    new_parts = ("pooler.",)
    output = BaseModelOutputWithPooling

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        *,
        output_hidden_states=False,
        output_attentions=False,
        rng=None,
        keep="all",
    ):
        """Return (BaseModelOutputWithPooling, cache).

        Parameters
        ----------
        input_ids : (B, T) integer array
        attention_mask : (B, T) array of 1 for a token and 0 for padding, or None
        token_type_ids : (B, T) integer array or None
            The segment of each token; 0 if None.
        position_ids : (T,) or (B, T) integer array or None
            None means 0, 1, 2 ..., or what the family says.
        output_hidden_states, output_attentions : bool
            Whether the output has them: to look at, not to differentiate.
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Stack`.
        """
        shown = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        return self._encode(input_ids, attention_mask, token_type_ids, position_ids, shown=shown, rng=rng, keep=keep)


class OnEncoder(OnBody):
    """A head on an `EncoderBody`, and the names of its weights."""

    @classmethod
    def names(cls, config):
        rows = cls.rows_with_head(cls.body_class.rows(cls.body_class.prefix))
        return NameTable(rows, optional_prefix=cls.body_class.prefix, ignored=cls._ignored(rows))

    @classmethod
    def _ignored(cls, rows):
        """What other models of the family have beside the body, and stray buffers."""
        own = tuple(row[1] for row in rows)
        others = [head for head in cls.body_class.heads if not any(name.startswith(head) for name in own)]
        return [f"{head}*" for head in others] + strays(cls.body_class.prefix)


class EncoderMaskedLM(MaskedLM, OnEncoder):
    """A body with a masked language model's head, tied to the embedding or not.

    Notes
    -----
    Files name the table twice, and the bias too, as the decoder's and as the head's own (`loose_bias`). They should be
    one if the head is tied; if it is not, or they differ, Transformers 5 computes with the decoder's, and 4 has one
    under both names: the one that the file names last.
    """

    table = "embeddings.words.weight"
    decoder_name: ClassVar[str]  # of the decoder in files
    loose_bias: ClassVar[str | None] = None

    @classmethod
    def names(cls, config):
        tied, decoder = config.tie_word_embeddings, f"{cls.decoder_name}.weight"
        bias = f"{cls.decoder_name}.bias"
        first, second = (cls.loose_bias, bias) if tied and cls.loose_bias else (bias, cls.loose_bias)
        rows = [*cls.rows_with_head(cls.body_class.rows(cls.body_class.prefix)), ("head.bias", first)]
        words = dict(row[:2] for row in rows)[f"body.{cls.table}"]
        copies = {words: [decoder]} if tied else {}
        other: dict[str, Any] = {
            "spares": {first: [second]} if second else {},
            "before": {first: bias} if first != bias else {},
        }
        rows += [] if tied else [("decoder", decoder)]
        settings: dict[str, Any] = {"optional_prefix": cls.body_class.prefix, "ignored": cls._ignored(rows)}
        return NameTable(rows, copies=copies, **settings, **other)

    def to_checkpoint(self, tree=None):
        written = super().to_checkpoint(tree)
        if tree is None and self.loose_bias is not None and not self.config.tie_word_embeddings:
            written[self.loose_bias] = written[f"{self.decoder_name}.bias"]
        return written

    to_checkpoint.__doc__ = PretrainedModel.to_checkpoint.__doc__


def strays(prefix):
    """Patterns of what files hold beside weights: buffers of old versions, and a pooler that this model has not."""
    return [f"{prefix}{name}" for name in ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.*")]


def one_for_all(positions):
    """Positions (1, T), which serve each row of a batch, as (T,); others as they are."""
    if positions is None:
        return None
    positions = np.asarray(positions)
    return positions[0] if positions.ndim == 2 and len(positions) == 1 else positions


def linear_names(ours, theirs):
    """The two rows of a `Linear`."""
    return [(f"{ours}.weight", f"{theirs}.weight", TRANSPOSED), (f"{ours}.bias", f"{theirs}.bias")]


def norm_names(ours, theirs):
    """The two rows of a norm."""
    return [(f"{ours}.{part}", f"{theirs}.{part}") for part in ("weight", "bias")]
