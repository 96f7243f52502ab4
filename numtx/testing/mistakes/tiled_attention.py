"""Classic mistakes of attention in tiles: what goes wrong between one block and the next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from numtx.testing.mistake import Mistake
from numtx.testing.mistakes.attention_textbook import (
    Textbook,
    biased,
    blind_row,
    decoding,
    dropped,
    padded,
    sized,
    transposed,
)
from numtx.testing.spec import Case

BLOCK = 2  # keys, and queries in backward


class Tiled(Textbook):
    """Attention block by block, one step a method; right as it stands. Each mistake overrides one step."""

    hidden = -np.inf

    def forward(
        self, query, key, value, bias=None, *, mask=None, causal=False, window=None, scale=None, dropout=0.0, rng=None
    ):
        scale = self.scale(query) if scale is None else scale
        kv_heads = key.shape[1]
        key, value = (self.shared(array, query.shape[1] // kv_heads) for array in (key, value))
        scores = scale * self.products(query, key)
        tq, tk = scores.shape[2:]
        if bias is not None:
            scores = scores + self.bias(bias, scale, tq, tk)
        seen = np.broadcast_to(self.seen(mask, causal, window, tq, tk), scores.shape)
        seed = int(rng.integers(2**63)) if rng is not None and dropout > 0 else None
        kept = self.kept(seed, scores.shape, kv_heads, dropout)
        highest = np.full((*scores.shape[:3], 1), -np.inf, scores.dtype)
        total = np.zeros_like(highest)
        acc = np.zeros((*scores.shape[:3], value.shape[3]), scores.dtype)
        for keys in self.blocks(tk):
            s = np.where(seen[..., keys], scores[..., keys], self.hidden)
            new = np.maximum(highest, s.max(axis=-1, keepdims=True))
            top = self.finite(new)
            p, shrink = np.exp(s - top), np.exp(highest - top)
            total = self.shrunk_total(total, shrink) + p.sum(axis=-1, keepdims=True)
            z = self.drop(p, None if kept is None else kept[..., keys], dropout)
            acc = self.shrunk(acc, shrink) + z @ value[..., keys, :]
            highest = new
        total = np.where(total == 0, 1, total)
        log = self.log_total(self.finite(highest), total)
        y = acc / total
        return y, (query, key, value, bias, scale, seen, seed, dropout, kv_heads, y, log)

    def blocks(self, length):
        return [slice(start, start + BLOCK) for start in range(0, length, BLOCK)]

    def finite(self, highest):
        return np.where(highest == -np.inf, 0, highest)

    def shrunk(self, acc, shrink):
        return shrink * acc

    def shrunk_total(self, total, shrink):
        return shrink * total

    def log_total(self, highest, total):
        return highest + np.log(total)

    def kept(self, seed, shape, kv_heads, rate):
        """What dropout keeps: numtx's own numbers, as long as all fits one tile."""
        if seed is None:
            return None
        batch, heads, tq, tk = shape
        group = heads // kv_heads
        draws = [
            np.random.default_rng([seed, b, head, 0, 0]).random((group, tk, tq), dtype=np.float32)
            for b in range(batch)
            for head in range(0, heads, group)
        ]
        return transposed(np.stack(draws).reshape(batch, heads, tk, tq)) >= rate

    def backward(self, dy, cache):
        query, key, value, bias, scale, seen, seed, dropout, kv_heads, y, log = cache
        tq, tk = query.shape[2], key.shape[2]
        scores = scale * (query @ transposed(key))
        if bias is not None:
            scores = scores + self.bias_again(bias, scale, tq, tk)
        p = np.exp(np.where(self.seen_again(seen), scores - log, -np.inf))
        kept = self.kept_again(seed, scores.shape, kv_heads, dropout)
        dp = self.undrop(dy @ transposed(value), kept, dropout)
        ds = p * (dp - self.row_sums(dy, y, dp, p))
        z = self.drop(p, kept, dropout)
        dkey, dvalue = np.zeros_like(key), np.zeros_like(value)
        for rows in self.blocks(tq):
            dvalue = self.added(dvalue, transposed(z[..., rows, :]) @ dy[..., rows, :])
            dkey = self.added(dkey, self.dkey(ds[..., rows, :], query[..., rows, :], scale))
        dbias = None if bias is None else self.dbias(ds, bias, scale)
        dkey, dvalue = (self.over_group(d, kv_heads) for d in (dkey, dvalue))
        return self.dquery(ds, key, scale), dkey, dvalue, dbias

    def bias_again(self, bias, scale, tq, tk):
        return self.bias(bias, scale, tq, tk)

    def seen_again(self, seen):
        return seen

    def kept_again(self, seed, shape, kv_heads, rate):
        return self.kept(seed, shape, kv_heads, rate)

    def row_sums(self, dy, y, dp, p):
        return (dy * y).sum(axis=-1, keepdims=True)

    def added(self, gradient, part):
        return gradient + part


class _AccNotShrunk(Tiled):
    def shrunk(self, acc, shrink):
        return acc


class _TotalNotShrunk(Tiled):
    def shrunk_total(self, total, shrink):
        return total


class _LastBlockLeftOut(Tiled):
    def blocks(self, length):
        return [slice(start, start + BLOCK) for start in range(0, max(length - BLOCK + 1, 1), BLOCK)]


class _BlockPlaces(Tiled):
    def seen(self, mask, causal, window, tq, tk):
        seen = super().seen(mask, False, window, tq, tk)
        if not causal:
            return super().seen(mask, causal, window, tq, tk)
        return seen & (np.arange(tk) % BLOCK <= np.arange(tq)[:, None] + tk - tq)


class _SkippedTopLeft(Tiled):
    def seen(self, mask, causal, window, tq, tk):
        seen = super().seen(mask, causal, window, tq, tk)
        last = np.arange(tq) // BLOCK * BLOCK + BLOCK - 1  # of the query's block
        return seen & (np.arange(tk) // BLOCK * BLOCK <= last[:, None]) if causal else seen


class _HiddenByANumber(Tiled):
    hidden = -1e9


class _LogWithoutMaximum(Tiled):
    def log_total(self, highest, total):
        return np.log(total)


class _BiasForgottenAgain(Tiled):
    def bias_again(self, bias, scale, tq, tk):
        return np.zeros((), bias.dtype)


class _MaskForgottenAgain(Tiled):
    def seen_again(self, seen):
        return np.broadcast_to(seen.any(axis=-1, keepdims=True), seen.shape)


class _DrawnAnew(Tiled):
    def kept_again(self, seed, shape, kv_heads, rate):
        return self.kept(None if seed is None else seed + 1, shape, kv_heads, rate)


class _RowSumOfABlock(Tiled):
    def row_sums(self, dy, y, dp, p):
        product, sums = dp * p, np.empty_like(dp)
        for keys in self.blocks(dp.shape[3]):
            sums[..., keys] = product[..., keys].sum(axis=-1, keepdims=True)
        return sums


class _LastQueriesAlone(Tiled):
    def added(self, gradient, part):
        return part


def _mistake(name: str, wrong: Tiled, witness: Callable[[], Case], why: str, hint: str) -> Mistake:
    return Mistake(
        name=f"tiled attention {name}",
        of="tiled_attention",
        why=why,
        hint=hint,
        witness=witness,
        forward=wrong.forward,
        backward=wrong.backward,
    )


MISTAKES = [
    _mistake(
        "sum of values not brought to the new maximum",
        _AccNotShrunk(),
        sized,
        "Only the normaliser is corrected when a greater score is met.",
        "Put the greatest score into the last block: by what are the values of the first block weighted?",
    ),
    _mistake(
        "normaliser not brought to the new maximum",
        _TotalNotShrunk(),
        sized,
        "Only the sum of the values is corrected when a greater score is met.",
        "Put the greatest score into the last block: do the weights still sum to 1?",
    ),
    _mistake(
        "last incomplete block left out",
        _LastBlockLeftOut(),
        lambda: sized((2, 2, 3, 5, 3, 2)),
        "The number of blocks is the length divided by the size, rounded down.",
        "Which keys are seen where the length is no multiple of the block?",
    ),
    _mistake(
        "causal mask counted from the first key of each block",
        _BlockPlaces(),
        lambda: sized((2, 2, 4, 4, 3, 2), causal=True),
        "Inside a block keys are numbered from zero, and the block's own place is not added.",
        "What may the first query see of the second block of keys?",
    ),
    _mistake(
        "causal blocks skipped as if aligned top-left",
        _SkippedTopLeft(),
        decoding,
        "A block of keys is skipped where it starts behind the query's row: right for Tq = Tk alone.",
        "How many blocks does the last query see when there are more keys than queries?",
    ),
    _mistake(
        "hidden scores filled with -1e9",
        _HiddenByANumber(),
        blind_row,
        "-∞ - (-∞) is NaN in a block of which a query sees nothing, and a large number makes that go away.",
        "What does a query see that sees nothing in any block?",
    ),
    _mistake(
        "maximum left out of what is saved",
        _LogWithoutMaximum(),
        sized,
        "log Σ exp(S - m) is saved, and used as if it were log Σ exp(S).",
        "Do the weights that backward computes again sum to 1?",
    ),
    _mistake(
        "bias forgotten where scores are computed again",
        _BiasForgottenAgain(),
        biased,
        "Backward has its own copy of the line that forms the scores.",
        "Do the weights that backward computes again sum to 1?",
    ),
    _mistake(
        "mask forgotten where scores are computed again",
        _MaskForgottenAgain(),
        padded,
        "In the textbook form a mask needs no line in backward, for P is saved.",
        "What is exp(S - L) of a hidden key?",
    ),
    _mistake(
        "dropout drawn anew in backward",
        _DrawnAnew(),
        dropped,
        "The generator has moved on since forward.",
        "Which weights did forward drop?",
    ),
    _mistake(
        "softmax backward with the row's sum over one block",
        _RowSumOfABlock(),
        sized,
        "Σ_k dP_ik P_ik is formed where the block is at hand.",
        "Over which keys does that sum run, and what is it equal to?",
    ),
    _mistake(
        "dK and dV of the last block of queries alone",
        _LastQueriesAlone(),
        sized,
        "`=` for `+=` in the loop over blocks of queries.",
        "Whose gradients does a key get?",
    ),
]
