"""Heads: what turns the last hidden state into an answer.

All are few parts in a row: a pooling or a pooler (or neither, token by token), a dropout, a product. A language-model
head without a borrowed table needs no class of its own: it is `Linear(width, vocab_size, bias=False)`.
"""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count, floating, positive, rate
from numtx.nn import init
from numtx.nn.linear import Linear
from numtx.nn.module import Module, gradients, told
from numtx.nn.norms import LayerNorm
from numtx.nn.pooling import Pooler, Pooling, hidden, known_activation


class _Head(Module):
    """What the heads with a few outputs share: pool, drop out, project. y = dropout(pool(x)) W + b."""

    def __init__(
        self, width, outputs, dropout, *, pooling=None, pooler=False, activation="tanh", bias=True, rng, dtype
    ):
        name = type(self).__name__
        count(name, 1, width=width, num_labels=outputs)
        rate(name, "dropout", dropout)
        rng = np.random.default_rng(rng)
        self.pooler = Pooler(width, activation, pooling, rng=rng, dtype=dtype) if pooler else Pooling(pooling)
        self.out_proj = Linear(width, outputs, bias, rng=rng, dtype=dtype)
        self.dropout = dropout
        self._per_token = pooling is None

    def _scores(self, x, mask, rng):
        hidden(type(self).__name__, x, len(self.out_proj.weight), pooled=self._per_token)
        h, pooled = self.pooler.forward(x, mask=mask, rng=rng)  # (B, C), or (B, T, C) token by token
        h, drop = F.dropout(h, self.dropout, rng)
        y, out = self.out_proj.forward(h, rng=rng)
        return y, (pooled, drop, out)

    def _scores_backward(self, dy, cache):
        pooled, drop, out = cache
        dh, g_out = self.out_proj.backward(dy, out)
        dh = F.dropout_backward(dh, drop)
        dx, g_pooler = self.pooler.backward(dh, pooled)
        return dx, ({"pooler": g_pooler} if g_pooler else {}) | {"out_proj": g_out}

    def extra_repr(self):
        return f"dropout={self.dropout}" if self.dropout else ""


class SequenceClassificationHead(_Head):
    """Scores of the classes of a sequence: y = dropout(pooler(x)) W + b, (B, T, C) -> (B, num_labels).

    Parameters
    ----------
    width, num_labels : int
    dropout : float
        The rate between pooler and product.
    pooler : bool
        True: a `Pooler`, with its dense layer and `activation`; False: a `Pooling` alone.
    pooling : "first", "last", "mean" or None
        What a sequence is read from; see `Pooling`. None: x is pooled already, (B, C).
    activation : str
        That of the pooler.
    bias : bool
        Whether the product has one.

    Notes
    -----
    `mask` (B, 1, 1, T) says which tokens are real. BERT is the default; DistilBERT has activation "relu"; GPT-2 and
    Llama have `pooler=False, pooling="last", bias=False`; RoBERTa, and BART over the last token, drop out before the
    dense layer too: they pool, drop out, and hand the row on with `pooling=None`. Devlin et al. (2019), section 4.1.

    Examples
    --------
    >>> SequenceClassificationHead(4, 3, rng=0)(np.ones((2, 5, 4), np.float32)).shape
    (2, 3)
    """

    def __init__(
        self, width, num_labels, dropout=0.0, pooler=True, *, pooling="first", activation="tanh", bias=True,
        rng=None, dtype=np.float32,
    ):  # fmt: skip
        super().__init__(
            width, num_labels, dropout, pooling=pooling, pooler=pooler, activation=activation, bias=bias, rng=rng,
            dtype=dtype,
        )  # fmt: skip

    def forward(self, x, *, mask=None, rng=None):
        return self._scores(x, mask, rng)

    def backward(self, dy, cache):
        return self._scores_backward(dy, cache)


class ClassificationHead(_Head):
    """Scores of the classes of a sequence, dropout on both sides of the dense layer: (B, T, C) -> (B, num_labels).

        y = dropout(act(dropout(pool(x)) W + b)) U + c

    The head of RoBERTa, which pools the first token, and of BART, which pools the last end token: `pooling="last"` with
    a `mask` that is True at end tokens alone. The parameters are those of `SequenceClassificationHead`.
    Liu et al. (2019) and Lewis et al. (2020), and their code.

    Examples
    --------
    >>> ClassificationHead(4, 3, 0.1, rng=0)(np.ones((2, 5, 4), np.float32)).shape
    (2, 3)
    """

    def __init__(
        self, width, num_labels, dropout=0.0, *, pooling="first", activation="tanh", rng=None, dtype=np.float32
    ):
        super().__init__(width, num_labels, dropout, pooler=True, activation=activation, rng=rng, dtype=dtype)
        self.pooling = Pooling(pooling)

    def forward(self, x, *, mask=None, rng=None):
        hidden("ClassificationHead", x, len(self.out_proj.weight), pooled=self.pooling.pooling is None)
        h, pooled = self.pooling.forward(x, mask=mask)  # (B, C)
        h, drop = F.dropout(h, self.dropout, rng)
        y, scores = self._scores(h, None, rng)
        return y, (pooled, drop, scores)

    def backward(self, dy, cache):
        pooled, drop, scores = cache
        dh, grads = self._scores_backward(dy, scores)
        dx, _ = self.pooling.backward(F.dropout_backward(dh, drop), pooled)
        return dx, grads


class ClassifierHead(_Head):
    """Log-probabilities of the classes: y = log_softmax(dropout(pool(x)) W + b), (B, T, C) -> (B, num_labels).

    Parameters
    ----------
    width, num_labels : int
    dropout : float
    pooler : bool
        Whether a dense layer with `activation` stands behind the pooling, as in BERT.
    pooling : "first", "last", "mean" or None
        See `Pooling`. None: x is pooled already, (B, C), or each token has a class, (B, T, C) -> (B, T, num_labels).
    bias : bool
        Whether the product has one.

    Notes
    -----
    `mask` (B, 1, 1, T) keeps padding out of the pooling; without one there is nothing to keep it out of.
    The loss of log-probabilities is `F.nll_loss`; `F.cross_entropy` takes scores.

    Examples
    --------
    >>> y = ClassifierHead(4, 3, pooling="mean", rng=0)(np.ones((2, 5, 4), np.float32))
    >>> np.exp(y).sum(axis=-1).round(5)
    array([1., 1.], dtype=float32)
    """

    def __init__(
        self, width, num_labels, dropout=0.0, pooler=False, *, pooling="first", activation="tanh", bias=True,
        rng=None, dtype=np.float32,
    ):  # fmt: skip
        super().__init__(
            width, num_labels, dropout, pooling=pooling, pooler=pooler, activation=activation, bias=bias, rng=rng,
            dtype=dtype,
        )  # fmt: skip

    def forward(self, x, *, mask=None, rng=None):
        scores, cache = self._scores(x, mask, rng)
        y, log = F.log_softmax(scores)
        return y, (cache, log)

    def backward(self, dy, cache):
        cache, log = cache
        return self._scores_backward(F.log_softmax_backward(dy, log), cache)


class RegressorHead(_Head):
    """One number for a sequence: y = dropout(pool(x)) w + b, (B, T, C) -> (B,).

    The parameters are those of `ClassifierHead`; with `pooling=None`, (B, C) -> (B,) and (B, T, C) -> (B, T).
    Transformers' name for it is a sequence classifier with one label; with `pooler=True` it is BERT's.

    Examples
    --------
    >>> RegressorHead(4, rng=0)(np.ones((2, 5, 4), np.float32)).shape
    (2,)
    """

    def __init__(
        self, width, dropout=0.0, pooler=False, *, pooling="first", activation="tanh", bias=True, rng=None,
        dtype=np.float32,
    ):  # fmt: skip
        super().__init__(
            width, 1, dropout, pooling=pooling, pooler=pooler, activation=activation, bias=bias, rng=rng, dtype=dtype
        )

    def forward(self, x, *, mask=None, rng=None):
        y, cache = self._scores(x, mask, rng)
        return y[..., 0], cache  # (B,)

    def backward(self, dy, cache):
        return self._scores_backward(dy[..., None], cache)


class ValueHead(_Head):
    """One number for each token, the value of the state after it: y = dropout(x) w + b, (B, T, C) -> (B, T).

    Those who learn from rewards often begin at zero: `head.out_proj.weight[...] = 0`. Schulman et al. (2017);
    Ziegler et al. (2019), section 2.

    Examples
    --------
    >>> ValueHead(4, rng=0)(np.ones((2, 5, 4), np.float32)).shape
    (2, 5)
    """

    def __init__(self, width, dropout=0.0, *, rng=None, dtype=np.float32):
        super().__init__(width, 1, dropout, rng=rng, dtype=dtype)

    def forward(self, x, *, rng=None):
        y, cache = self._scores(x, None, rng)
        return y[..., 0], cache  # (B, T)

    def backward(self, dy, cache):
        return self._scores_backward(dy[..., None], cache)


class TokenClassificationHead(_Head):
    """Scores of the classes of each token: y = dropout(x) W + b, (B, T, C) -> (B, T, num_labels).

    Devlin et al. (2019), section 5.3.

    Examples
    --------
    >>> TokenClassificationHead(4, 3, rng=0)(np.ones((2, 5, 4), np.float32)).shape
    (2, 5, 3)
    """

    def __init__(self, width, num_labels, dropout=0.0, *, rng=None, dtype=np.float32):
        super().__init__(width, num_labels, dropout, rng=rng, dtype=dtype)

    def forward(self, x, *, rng=None):
        return self._scores(x, None, rng)

    def backward(self, dy, cache):
        return self._scores_backward(dy, cache)


class SpanHead(_Head):
    """Scores of where an answer starts and where it ends: (B, T, C) -> (start (B, T), end (B, T)).

    Column 0 of one product is the start and column 1 the end, as in Transformers' `qa_outputs`. Nothing keeps padding
    or the question out: that belongs to whoever chooses the span. Devlin et al. (2019), section 4.2.

    Examples
    --------
    >>> start, end = SpanHead(4, rng=0)(np.ones((2, 5, 4), np.float32))
    >>> start.shape, end.shape
    ((2, 5), (2, 5))
    """

    def __init__(self, width, dropout=0.0, *, rng=None, dtype=np.float32):
        super().__init__(width, 2, dropout, rng=rng, dtype=dtype)

    def forward(self, x, *, rng=None):
        y, cache = self._scores(x, None, rng)  # (B, T, 2)
        return (y[..., 0].copy(), y[..., 1].copy()), cache

    def backward(self, dy, cache):
        """Return (dx, grads) for dy = (dstart, dend)."""
        dstart, dend = dy
        return self._scores_backward(np.stack([dstart, dend], axis=-1), cache)  # (B, T, 2)


class TiedLMHead(Module):
    """Scores for the next token from a borrowed embedding table: logits = x Eᵀ, (..., C) -> (..., V).

    The table E (V, C) belongs to whoever owns the embedding, which adds the two gradients; where it is frozen,
    `frozen=("weight",)` says so, and there is none. So it is in all heads that borrow one. Press and Wolf (2017).

    Examples
    --------
    >>> import numpy as np
    >>> TiedLMHead()(np.ones((1, 2)), np.array([[1.0, 0.0], [2.0, 3.0]]))
    array([[1., 5.]])
    """

    def forward(self, x, weight, *, frozen=()):
        _table("TiedLMHead", x, weight)
        return F.linear(x, weight.T, **told(frozen))

    def backward(self, dy, cache):
        """Return ((dx, dweight), {})."""
        dx, dweight, _ = F.linear_backward(dy, cache)
        return (dx, _turned(dweight)), {}


class Seq2SeqLMHead(Module):
    """A tied head with a bias of its own: logits = x Eᵀ + b, (..., C) -> (..., V).

    BART and Marian call the bias `final_logits_bias`. It starts at zero and does not learn: it is a buffer, without a
    gradient. Marian's files hold one that was trained before. The borrowed table E is (V, C). Lewis et al. (2020).

    Examples
    --------
    >>> Seq2SeqLMHead(2, dtype=np.float64)(np.ones((1, 2)), np.array([[1.0, 0.0], [2.0, 3.0]]))
    array([[1., 5.]])
    """

    buffers = ("final_logits_bias",)

    def __init__(self, vocab_size, *, rng=None, dtype=np.float32):
        count("Seq2SeqLMHead", 1, vocab_size=vocab_size)
        self.final_logits_bias = init.zeros(vocab_size, dtype)

    def forward(self, x, weight, *, frozen=()):
        _table("Seq2SeqLMHead", x, weight, len(self.final_logits_bias))
        return F.linear(x, weight.T, self.final_logits_bias, **told(frozen))

    def backward(self, dy, cache):
        """Return ((dx, dweight), {})."""
        dx, dweight, _ = F.linear_backward(dy, cache)
        return (dx, _turned(dweight)), {}

    def extra_repr(self):
        return f"{len(self.final_logits_bias)}"


class MaskedLMHead(Module):
    """Scores for masked tokens: logits = norm(act(x W + b)) Eᵀ + c, (..., C) -> (..., V).

    The table E (V, C) is borrowed from the embedding, whose owner adds the two gradients; the bias c is the head's
    own. BERT names the parts `transform.dense`, `transform.LayerNorm` and `bias`; RoBERTa `dense`, `layer_norm` and
    `bias`; DistilBERT `vocab_transform`, `vocab_layer_norm` and `vocab_projector.bias`. The eps comes from the config;
    DistilBERT's is always 1e-12. Devlin et al. (2019), section 3.1 and its code.

    Examples
    --------
    >>> MaskedLMHead(4, 7, rng=0)(np.ones((2, 3, 4), np.float32), np.ones((7, 4), np.float32)).shape
    (2, 3, 7)
    """

    def __init__(self, width, vocab_size, activation="gelu", eps=1e-12, *, rng=None, dtype=np.float32):
        count("MaskedLMHead", 1, width=width, vocab_size=vocab_size)
        known_activation("MaskedLMHead", activation)
        positive("MaskedLMHead", eps=eps)
        self.dense = Linear(width, width, rng=rng, dtype=dtype)
        self.norm = LayerNorm(width, eps, dtype=dtype)
        self.bias = init.zeros(vocab_size, dtype)
        self.activation = activation

    def forward(self, x, weight, *, frozen=(), rng=None):
        hidden("MaskedLMHead", x, len(self.dense.weight), pooled=True)
        _table("MaskedLMHead", x, weight, len(self.bias))
        h, dense = self.dense.forward(x, rng=rng)
        h, act = getattr(F, self.activation)(h)
        h, norm = self.norm.forward(h)
        y, decoder = F.linear(h, weight.T, self.bias, **told((*frozen, *self.frozen)))  # (..., V)
        return y, (dense, act, norm, decoder)

    def backward(self, dy, cache):
        """Return ((dx, dweight), grads)."""
        dense, act, norm, decoder = cache
        dh, dweight, dbias = F.linear_backward(dy, decoder)
        dh, g_norm = self.norm.backward(dh, norm)
        dh = getattr(F, f"{self.activation}_backward")(dh, act)
        dx, g_dense = self.dense.backward(dh, dense)
        return (dx, _turned(dweight)), gradients(bias=dbias) | {"dense": g_dense, "norm": g_norm}

    def extra_repr(self):
        return self.activation


def _turned(dweight):
    return None if dweight is None else dweight.T


def _table(component, x, weight, vocab_size=None):
    """Require a borrowed table (V, C) for x (..., C), of its dtype; of any length if that is not known."""
    floating(component, x=x, weight=weight)
    expected = (len(weight) if vocab_size is None and weight.ndim else vocab_size, *x.shape[-1:])
    if weight.shape != expected:
        raise ValueError(f"{component}: expected the borrowed table (V, C) = {expected}, got {weight.shape}")
