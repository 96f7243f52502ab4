"""The residual around a sublayer, with its norm before or after."""

from numtx import functional as F
from numtx.functional.door import rate
from numtx.nn.module import Module


class Residual(Module):
    """What the two ways share: a norm, a sublayer, and the rate of the dropout between the sublayer and the sum."""

    def __init__(self, norm, sublayer, dropout=0.0):
        rate(type(self).__name__, "dropout", dropout)
        self.norm, self.sublayer, self.dropout = norm, sublayer, dropout

    def check_inputs(self, x, *others, **settings):
        self.sublayer.check_inputs(x, *others, **settings)

    def extra_repr(self):
        return f"dropout={self.dropout}" if self.dropout else ""


class PreNorm(Residual):
    """y = x + dropout(sublayer(norm(x))): the way of GPT-2, and of most models since. Xiong et al. (2020).

    Further inputs and settings go to the sublayer as they are. If the sublayer's backward gives a tuple of input
    gradients, so does this one. Attention that is asked for its weights (`need_weights`) gives (y, weights), and so
    does what stands around it.

    Examples
    --------
    >>> import numpy as np
    >>> from numtx import nn
    >>> block = PreNorm(nn.LayerNorm(4), nn.FeedForward(4, 8, rng=0))
    >>> block(np.ones((1, 2, 4), np.float32)).shape
    (1, 2, 4)
    """

    def forward(self, x, *others, rng=None, **settings):
        h, norm = self.norm.forward(x)
        h, sub = self.sublayer.forward(h, *others, rng=rng, **settings)
        h, weights = _shown(h)
        h, drop = F.dropout(h, self.dropout, rng)
        return _beside(x + h, weights), (norm, sub, drop)

    def backward(self, dy, cache):
        norm, sub, drop = cache
        dh = F.dropout_backward(dy, drop)
        dh, dothers, g_sub = _first(*self.sublayer.backward(dh, sub))
        dx, g_norm = self.norm.backward(dh, norm)
        return _joined(dy + dx, dothers), {"norm": g_norm, "sublayer": g_sub}


class PostNorm(Residual):
    """y = norm(x + dropout(sublayer(x))): the way of the original transformer and BERT. Vaswani et al. (2017), 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from numtx import nn
    >>> block = PostNorm(nn.LayerNorm(4), nn.FeedForward(4, 8, rng=0))
    >>> block(np.ones((1, 2, 4), np.float32)).shape
    (1, 2, 4)
    """

    def forward(self, x, *others, rng=None, **settings):
        h, sub = self.sublayer.forward(x, *others, rng=rng, **settings)
        h, weights = _shown(h)
        h, drop = F.dropout(h, self.dropout, rng)
        y, norm = self.norm.forward(x + h)
        return _beside(y, weights), (norm, sub, drop)

    def backward(self, dy, cache):
        norm, sub, drop = cache
        dsum, g_norm = self.norm.backward(dy, norm)
        dh = F.dropout_backward(dsum, drop)
        dh, dothers, g_sub = _first(*self.sublayer.backward(dh, sub))
        return _joined(dsum + dh, dothers), {"norm": g_norm, "sublayer": g_sub}


def _first(dinputs, grads):
    """Take the gradient of a sublayer's x apart from those of its other inputs (None where it has but one input)."""
    return (dinputs[0], dinputs[1:], grads) if isinstance(dinputs, tuple) else (dinputs, None, grads)


def _shown(result):
    """Take what a sublayer gives apart: y, and the weights where it shows some."""
    return result if isinstance(result, tuple) else (result, None)


def _beside(y, weights):
    return y if weights is None else (y, weights)


def _joined(dx, dothers):
    return dx if dothers is None else (dx, *dothers)
