"""Classic mistakes in the backward of attention; the forward is right."""

from __future__ import annotations

from numtx.testing.mistakes.attention_textbook import Textbook, biased, dropped, mistake, sized, square, transposed


class _DropoutForgottenInBackward(Textbook):
    def undrop(self, dz, kept, rate):
        return dz


class _ValueFromUndropped(Textbook):
    def dvalue(self, dy, p, z):
        return transposed(p) @ dy


class _ValueUntransposed(Textbook):
    def dvalue(self, dy, p, z):
        return z @ dy


class _RowSumLost(Textbook):
    def dscores(self, dp, p, seen):
        return p * dp


class _WholeSum(Textbook):
    def dscores(self, dp, p, seen):
        return p * (dp - (dp * p).sum(axis=(-2, -1), keepdims=True))


class _DividedByBatch(Textbook):
    def dscores(self, dp, p, seen):
        return super().dscores(dp, p, seen) / len(p)


class _KeyFromReshaped(Textbook):
    def dkey(self, ds, query, scale):
        product = scale * (transposed(query) @ ds)  # (B, H, D, Tk)
        return product.reshape(*ds.shape[:2], ds.shape[3], query.shape[3])


class _KeyUntransposed(Textbook):
    def dkey(self, ds, query, scale):
        return scale * (ds @ query)


class _ScaleLost(Textbook):
    def dquery(self, ds, key, scale):
        return ds @ key

    def dkey(self, ds, query, scale):
        return transposed(ds) @ query


class _ScaleTwice(Textbook):
    def dkey(self, ds, query, scale):
        return scale * super().dkey(ds, query, scale)


class _BiasGradientScaled(Textbook):
    def dbias(self, ds, bias, scale):
        return scale * super().dbias(ds, bias, scale)


class _BiasGradientMean(Textbook):
    def dbias(self, ds, bias, scale):
        dbias = super().dbias(ds, bias, scale)
        return dbias * (dbias.size / ds.size) if bias.ndim == 4 else dbias / len(ds)


MISTAKES = [
    mistake(
        "attention dK = Q^T dS",
        _KeyFromReshaped(),
        sized,
        "The product is formed in the wrong order and its (D, Tk) numbers are read as (Tk, D).",
        "dK_j = scale · Σ_i dS_ij Q_i: which axis of dS is summed over?",
    ),
    mistake(
        "attention dK = dS Q",
        _KeyUntransposed(),
        square,
        "It is copied from dQ = dS K. Where Tq = Tk it runs.",
        "dK_j = scale · Σ_i dS_ij Q_i: which axis of dS is summed over?",
    ),
    mistake(
        "attention dV = P dY",
        _ValueUntransposed(),
        square,
        "It is copied from Y = P V. Where Tq = Tk it runs.",
        "dV_j = Σ_i P_ij dY_i: which axis of P is summed over?",
    ),
    mistake(
        "attention scale forgotten in backward",
        _ScaleLost(),
        sized,
        "The scale is a constant, so it seems to have no gradient; it still stands in the chain rule.",
        "S = scale · Q Kᵀ: what is dS/dQ?",
    ),
    mistake(
        "attention scale applied twice in dK",
        _ScaleTwice(),
        sized,
        "The cached query is scaled already, and the gradient is scaled again.",
        "How often does the scale stand in S = scale · Q Kᵀ?",
    ),
    mistake(
        "attention softmax backward without the row's sum",
        _RowSumLost(),
        sized,
        "The softmax's denominator is taken for a constant.",
        "Add a constant to a row of scores: nothing changes, so each row of dS must sum to zero.",
    ),
    mistake(
        "attention softmax backward summed over all queries",
        _WholeSum(),
        sized,
        "The sum lacks its axis; with one query it is right.",
        "Does the gradient of one query depend on another query?",
    ),
    mistake(
        "attention softmax backward divided by the batch",
        _DividedByBatch(),
        sized,
        "The mean over the batch belongs to the loss; it is easily taken a second time.",
        "Compare at batch 1 and batch 2.",
    ),
    mistake(
        "attention dbias scaled",
        _BiasGradientScaled(),
        biased,
        "dS is scaled once for dQ and dK, and then used for the bias too.",
        "Is the bias added before or after the scale?",
    ),
    mistake(
        "attention dbias averaged over what it was broadcast along",
        _BiasGradientMean(),
        biased,
        "A mean over the batch looks natural.",
        "One number of the bias is added in many places: what does each contribute?",
    ),
    mistake(
        "attention dropout forgotten in the backward of the weights",
        _DropoutForgottenInBackward(),
        dropped,
        "dY Vᵀ is the gradient of the dropped weights, and is taken for that of the softmax.",
        "Can a weight that was dropped change the loss?",
    ),
    mistake(
        "attention dV from the weights before dropout",
        _ValueFromUndropped(),
        dropped,
        "Both are called attention weights, and the wrong one is cached.",
        "By which numbers were the values multiplied in forward?",
    ),
]
