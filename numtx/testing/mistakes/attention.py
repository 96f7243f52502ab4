"""Classic mistakes of scaled dot-product attention, of its backward, of grouped heads and of the weights it shows."""

from __future__ import annotations

import numpy as np

from numtx.testing.mistakes import attention_backward, attention_grouped, attention_weights
from numtx.testing.mistakes.attention_textbook import (
    Textbook,
    biased,
    blind_row,
    by_distance,
    decoding,
    dropped,
    mistake,
    padded,
    sized,
    square,
)


class _Unscaled(Textbook):
    def scale(self, query):
        return 1.0


class _ScaledByWidth(Textbook):
    def scale(self, query):
        return 1 / query.shape[-1]


class _KeyPermuted(Textbook):
    def products(self, query, key):
        heads = query.shape[0] * query.shape[1]
        scores = query.reshape(heads, *query.shape[2:]) @ key.reshape(heads, *key.shape[2:]).transpose(1, 2, 0)
        return scores.reshape(*query.shape[:3], key.shape[2])


class _KeyReshaped(Textbook):
    def products(self, query, key):
        return query @ key.reshape(*key.shape[:2], key.shape[3], key.shape[2])


class _SoftmaxOverQueries(Textbook):
    axis = -2


class _Filled(Textbook):
    def __init__(self, fill: float) -> None:
        self.fill = fill

    def weights(self, scores, seen):
        return self.softmax(np.where(seen, scores, self.fill))

    def dscores(self, dp, p, seen):
        return np.where(seen, super().dscores(dp, p, seen), 0)


class _MaskAdded(Textbook):
    def weights(self, scores, seen):
        return self.softmax(scores + seen)


class _MaskAfterSoftmax(Textbook):
    def weights(self, scores, seen):
        return self.softmax(scores) * seen


class _MaskInverted(Textbook):
    def seen(self, mask, causal, window, tq, tk):
        return super().seen(None if mask is None else ~mask, causal, window, tq, tk)


class _MaskIgnored(Textbook):
    def seen(self, mask, causal, window, tq, tk):
        return super().seen(None, causal, window, tq, tk)


class _TopLeft(Textbook):
    def seen(self, mask, causal, window, tq, tk):
        seen = super().seen(mask, False, window, tq, tk)
        return seen & np.tri(tq, tk, dtype=bool) if causal else seen


class _OwnKeyHidden(Textbook):
    def seen(self, mask, causal, window, tq, tk):
        seen = super().seen(mask, causal, window, tq, tk)
        return seen & np.tri(tq, tk, tk - tq - 1, dtype=bool) if causal else seen


class _WindowWide(Textbook):
    def seen(self, mask, causal, window, tq, tk):
        return super().seen(mask, causal, None if window is None else window + 1, tq, tk)


class _BiasScaled(Textbook):
    def bias(self, bias, scale, tq, tk):
        return scale * super().bias(bias, scale, tq, tk)

    def dbias(self, ds, bias, scale):
        return scale * super().dbias(ds, bias, scale)


class _BiasIgnored(Textbook):
    def bias(self, bias, scale, tq, tk):
        return np.zeros((), bias.dtype)

    def dbias(self, ds, bias, scale):
        return np.zeros_like(bias)


class _DistanceReversed(Textbook):
    def bias(self, bias, scale, tq, tk):
        return super().bias(bias[:, ::-1] if bias.ndim == 2 else bias, scale, tq, tk)

    def dbias(self, ds, bias, scale):
        dbias = super().dbias(ds, bias, scale)
        return np.ascontiguousarray(dbias[:, ::-1]) if bias.ndim == 2 else dbias


class _DropoutUnscaled(Textbook):
    def drop(self, p, kept, rate):
        return p if kept is None else p * kept


class _DropoutSharedByHeads(Textbook):
    def draw(self, rng, shape, rate):
        kept = super().draw(rng, (shape[0], 1, *shape[2:]), rate)
        return None if kept is None else np.broadcast_to(kept, shape)


class _DropoutAlwaysOn(Textbook):
    def draw(self, rng, shape, rate):
        return super().draw(np.random.default_rng(0) if rng is None else rng, shape, rate)


MISTAKES = [
    mistake(
        "attention scores not scaled by sqrt(D)",
        _Unscaled(),
        sized,
        "softmax(Q Kᵀ) V runs and even learns; the scale only keeps the softmax from saturating in wide heads.",
        "Let all keys and queries be ones: what is a score at head width 4, and at 64?",
    ),
    mistake(
        "attention scores divided by D for sqrt(D)",
        _ScaledByWidth(),
        sized,
        "The square root is dropped.",
        "What is the variance of a sum of D products of unit variance?",
    ),
    mistake(
        "attention key permuted to (1, 2, 0)",
        _KeyPermuted(),
        lambda: sized((1, 2, 2, 2, 2, 2)),
        "The axes to exchange are counted wrongly; where as many keys as heads stand in the batch, it runs.",
        "Which axes of the key are left where they are in K transposed?",
    ),
    mistake(
        "attention key reshaped instead of transposed",
        _KeyReshaped(),
        square,
        "reshape gives the shape that the product wants, with the numbers in another order.",
        "Write down the first row of Kᵀ.",
    ),
    mistake(
        "attention softmax over the queries",
        _SoftmaxOverQueries(),
        square,
        "The axis is given by number, or PyTorch's old default axis was relied on.",
        "Whose weights should sum to 1: those a query gives, or those a key gets?",
    ),
    mistake(
        "attention mask filled with 1e-9",
        _Filled(1e-9),
        padded,
        "-1e9 was meant: a masked key then counts as one with score zero.",
        "How much weight does a masked key get?",
    ),
    mistake(
        "attention mask filled with -1e9",
        _Filled(-1e9),
        blind_row,
        "It is as good as -∞, until a row has nothing else: then all are equal, and the padding is averaged.",
        "What should a query see that may see nothing?",
    ),
    mistake(
        "attention mask added as 0 and 1",
        _MaskAdded(),
        padded,
        "A boolean mask is put where an additive one is expected.",
        "How much weight does a masked key get?",
    ),
    mistake(
        "attention weights masked after the softmax",
        _MaskAfterSoftmax(),
        padded,
        "Masked weights are zero, as they should be; but their share was taken from the others.",
        "What do the weights of a padded row sum to?",
    ),
    mistake(
        "attention mask inverted",
        _MaskInverted(),
        padded,
        "nn.Transformer's masks say where one may NOT attend.",
        "What does True mean here?",
    ),
    mistake(
        "attention mask ignored",
        _MaskIgnored(),
        padded,
        "With one sequence a batch there is no padding, and nobody notices.",
        "Change a padded token: may the result change?",
    ),
    mistake(
        "attention causal mask aligned top-left",
        _TopLeft(),
        decoding,
        "np.tri(Tq, Tk) is right for Tq = Tk; with a cache the queries are the last ones, not the first.",
        "What may the last query see when there are more keys than queries?",
    ),
    mistake(
        "attention hiding the query's own key",
        _OwnKeyHidden(),
        lambda: square(causal=True),
        "`<` for `<=` in the causal mask: the first query then sees nothing.",
        "What may the first query see?",
    ),
    mistake(
        "attention window one key too wide",
        _WindowWide(),
        lambda: square(causal=True, window=1),
        "`<=` for `<`: the query's own key is one of the window.",
        "How many keys does a query see with a window of 1?",
    ),
    mistake(
        "attention bias scaled with the scores",
        _BiasScaled(),
        biased,
        "scale · (Q Kᵀ + bias) for scale · Q Kᵀ + bias.",
        "Double the head width: may the bias lose influence?",
    ),
    mistake(
        "attention bias ignored",
        _BiasIgnored(),
        biased,
        "It starts at zero, so nothing is missing at first.",
        "Give the bias numbers that are not zero.",
    ),
    mistake(
        "attention bias by distance read backwards",
        _DistanceReversed(),
        by_distance,
        "The distance is taken as query minus key.",
        "Which entry belongs to the key one step before the query?",
    ),
    mistake(
        "attention dropout not rescaled",
        _DropoutUnscaled(),
        dropped,
        "The original paper scales at inference instead; here inference must change nothing.",
        "What is the mean of y over many draws?",
    ),
    mistake(
        "attention dropout mask shared by the heads",
        _DropoutSharedByHeads(),
        dropped,
        "The mask is drawn for (B, 1, Tq, Tk) and broadcast.",
        "Are the same weights dropped in every head?",
    ),
    mistake(
        "attention dropout active without an rng",
        _DropoutAlwaysOn(),
        lambda: sized(dropout=0.4),
        "The switch between training and inference is forgotten.",
        "What should happen at inference?",
    ),
    *attention_backward.MISTAKES,
    *attention_grouped.MISTAKES,
    *attention_weights.MISTAKES,
]
