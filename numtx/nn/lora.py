"""LoRA: a frozen matrix and a trained update of low rank beside it, y = x W + b + s dropout(x) A B."""

import math

import numpy as np

from numtx import functional as F
from numtx.functional.door import count, positive, rate
from numtx.nn import init
from numtx.nn.attention import MultiHeadAttention
from numtx.nn.attention_parts import merge_heads, split_heads
from numtx.nn.linear import Linear
from numtx.nn.module import Module, gradients, told

UPDATE = ("lora_A", "lora_B")  # the parameters of an update, by name


class _LowRank(Module):
    """What modules with an update of a matrix W (I, O) share: A (I, r), B (r, O), and W + s A B in W's place.

    The subclass says by `matrix` which of its parameters W is.
    """

    matrix = "weight"

    def _update(self, r, alpha, dropout, rs, rng):
        """Put an update beside the matrix: A drawn evenly within ±1/√I, B zero, so that nothing changes yet.

        PEFT draws A by Kaiming's rule for a slope of √5, which is the same; Hu et al. (2021) by a normal distribution.
        """
        name = type(self).__name__
        count(name, 1, r=r)
        positive(name, alpha=alpha)
        rate(name, "dropout", dropout)
        rows, columns = getattr(self, self.matrix).shape
        dtype = getattr(self, self.matrix).dtype
        self.lora_A = init.uniform((rows, r), 1 / math.sqrt(rows), np.random.default_rng(rng), dtype)
        self.lora_B = init.zeros((r, columns), dtype)
        self.lora_r, self.lora_alpha, self.lora_dropout, self.lora_rs = r, alpha, dropout, rs
        self._unmerged = None  # W as it was, while the update is merged

    @property
    def lora_scale(self) -> float:
        """s = α / r, or α / √r with rank stabilisation."""
        return float(self.lora_alpha / (math.sqrt(self.lora_r) if self.lora_rs else self.lora_r))

    @property
    def is_merged(self) -> bool:
        """Whether W + s A B stands in W's place."""
        return self._unmerged is not None

    def merged(self) -> np.ndarray:
        """Return W + s A B, in a new array of W's order in memory."""
        matrix = getattr(self, self.matrix)
        total = np.empty_like(matrix)  # its strides are W's
        return np.add(matrix, (self.lora_A * self.lora_scale) @ self.lora_B, out=total)

    def merge(self) -> None:
        """Put W + s A B in W's place: one product in forward, and no backward. W itself is kept, for `unmerge`.

        Merged already, it takes A and B as they are now.
        """
        self.unmerge()
        before = getattr(self, self.matrix)
        setattr(self, self.matrix, self.merged())
        # One that is trained lies in an optimizer's buffer, which may be written to meanwhile.
        self._unmerged = before if self.matrix in self.frozen else before.copy(order="K")

    def unmerge(self) -> None:
        """Put W back: the very array that was there, where W is frozen, else its numbers."""
        if self._unmerged is not None:
            dtype = getattr(self, self.matrix).dtype
            setattr(self, self.matrix, self._unmerged.astype(dtype, copy=False))
            self._unmerged = None

    def _low_rank(self, x, rng, columns=slice(None)):
        """Return s dropout(x) A B, and what backward needs."""
        frozen = told([name[-1].lower() for name in UPDATE if name in self.frozen])
        z, drop = F.dropout(x, self.lora_dropout, rng)
        y, low = F.low_rank(z, self.lora_A, self.lora_B[:, columns], self.lora_scale, **frozen)
        return y, (drop, low)

    def _low_rank_backward(self, dy, cache):
        drop, low = cache
        dz, da, db = F.low_rank_backward(dy, low)
        return F.dropout_backward(dz, drop), da, db

    def check_state(self):
        """A state holds A and B too: with W + s A B in W's place the update would count twice in another model."""
        if self.is_merged:
            raise ValueError(
                f"{type(self).__name__}: expected no merged update in a state, got one; unmerge it first, or remove it"
            )

    def _refuse_merged(self):
        raise ValueError(f"{type(self).__name__}: backward of a merged update, which is not trained; unmerge it first")

    def _said_of_update(self):
        text = f", r={self.lora_r}, alpha={self.lora_alpha:g}" + (", merged" if self.is_merged else "")
        return text + (f", lora_dropout={self.lora_dropout}" if self.lora_dropout else "")


class LoRALinear(_LowRank, Linear):
    """A linear map with an update of low rank: y = x W + b + s dropout(x) A B, s = α / r. Hu et al. (2021), eq. 3.

    W and b are a `Linear`'s, by its names, and are usually frozen; A (in, r) and B (r, out) learn. B starts at zero,
    and so does the update. `nn.add_lora` puts such layers in the place of a model's own.

    Parameters
    ----------
    in_features, out_features : int
    r : int
        The rank; from min(in, out) on nothing is saved.
    alpha : float, α
    dropout : float
        Of what goes into A; with no `rng` there is none.
    rs : bool
        s = α / √r: a higher rank then learns as fast. Kalajdzievski (2023).
    bias : bool

    Notes
    -----
    PEFT holds A as (r, in) and B as (out, r), and y = x Wᵀ + b + s dropout(x) Aᵀ Bᵀ. The paper scales by α / r, and
    some codes by α alone. `merge` puts W + s A B in W's place, which is the same to rounding.

    Examples
    --------
    >>> layer = LoRALinear(3, 5, r=2, rng=0)
    >>> {name: array.shape for name, array in layer.named_parameters()}
    {'weight': (3, 5), 'bias': (5,), 'lora_A': (3, 2), 'lora_B': (2, 5)}
    """

    def __init__(
        self, in_features, out_features, r=8, alpha=8, dropout=0.0, bias=True, *, rs=False, rng=None, dtype=np.float32
    ):
        rng = np.random.default_rng(rng)
        super().__init__(in_features, out_features, bias, rng=rng, dtype=dtype)
        self._update(r, alpha, dropout, rs, rng)

    @classmethod
    def beside(cls, linear, r, alpha, dropout, rs, rng):
        """Return a layer with the arrays of a `Linear`, and an update beside them."""
        return _beside(cls, linear, r, alpha, dropout, rs, rng)

    def forward(self, x, *, rng=None):
        y, base = F.linear(x, self.weight, self.bias, **told(self.frozen.difference(UPDATE)))
        if self.is_merged:
            return y, None
        update, low = self._low_rank(x, rng)
        return y + update, (base, low)

    def backward(self, dy, cache):
        if cache is None:
            self._refuse_merged()
        base, low = cache
        dx, dweight, dbias = F.linear_backward(dy, base)
        dx_low, da, db = self._low_rank_backward(dy, low)
        return dx + dx_low, gradients(weight=dweight, bias=dbias, lora_A=da, lora_B=db)

    def extra_repr(self):
        return Linear.extra_repr(self) + self._said_of_update()


class LoRAMultiHeadAttention(_LowRank, MultiHeadAttention):
    """Multi-head attention whose packed projections have one update: x (W_q | W_k | W_v) + s dropout(x) A B.

    A (C, r) is shared by queries, keys and values; B is (r, 3C). So PEFT has it for GPT-2's `c_attn` and for PyTorch's
    attention, where separate projections have an A each. `out_proj` is as it is, a `Linear` or a `LoRALinear`.

    Parameters
    ----------
    width, num_heads, **settings
        Those of `MultiHeadAttention`.
    r, alpha, lora_dropout, rs
        Those of `LoRALinear`.

    Examples
    --------
    >>> attention = LoRAMultiHeadAttention(8, 2, r=3, causal=True, rng=0)
    >>> attention.lora_A.shape, attention.lora_B.shape
    ((8, 3), (3, 24))
    """

    matrix = "in_proj_weight"

    def __init__(self, width, num_heads, r=8, alpha=8, lora_dropout=0.0, *, rs=False, rng=None, **settings):
        rng = np.random.default_rng(rng)
        super().__init__(width, num_heads, rng=rng, **settings)
        self._update(r, alpha, lora_dropout, rs, rng)

    @classmethod
    def beside(cls, attention, r, alpha, dropout, rs, rng):
        """Return an attention with the arrays and parts of a `MultiHeadAttention`, and an update beside them."""
        return _beside(cls, attention, r, alpha, dropout, rs, rng)

    def _project(self, x, memory, kv_cache=None, rng=None):
        if self.is_merged:
            *parts, _ = super()._project(x, memory, kv_cache)
            return *parts, None
        if memory is None:
            *parts, base = super()._project(x, None)
            update, low = self._low_rank(x, rng)  # (B, T, 3C)
            added = np.split(update, 3, axis=-1)
            return *(self._plus(part, more) for part, more in zip(parts, added, strict=True)), (base, (low,))
        width = self.width
        update, of_x = self._low_rank(x, rng, slice(None, width))
        if kv_cache:  # of the memory, which went through before
            query, key, value, _ = super()._project(x, memory, kv_cache)
            return self._plus(query, update), key, value, None
        query, key, value, base = super()._project(x, memory)
        added, of_memory = self._low_rank(memory, rng, slice(width, None))  # (B, Tk, 2C)
        key, value = (self._plus(part, more) for part, more in zip((key, value), np.split(added, 2, -1), strict=True))
        if kv_cache is not None:
            key, value = kv_cache.fill(key, value, memory)
        return self._plus(query, update), key, value, (base, (of_x, of_memory))

    def _plus(self, part, update):
        return part + split_heads(update, self.num_heads)

    def _project_backward(self, dquery, dkey, dvalue, projections):
        """The update was used with x and with the memory, of which each has its columns of B; A gets both."""
        if projections is None:
            self._refuse_merged()
        base, lows = projections
        dx, dmemory, grads = super()._project_backward(dquery, dkey, dvalue, base)
        if len(lows) == 1:
            dx_low, da, db = self._low_rank_backward(merge_heads(dquery, dkey, dvalue), lows[0])
            return dx + dx_low, dmemory, grads | gradients(lora_A=da, lora_B=db)
        dx_low, da, db = self._low_rank_backward(merge_heads(dquery), lows[0])
        dmemory_low, da_memory, db_memory = self._low_rank_backward(merge_heads(dkey, dvalue), lows[1])
        da = None if da is None else da + da_memory
        db = None if db is None else np.concatenate([db, db_memory], axis=1)
        return dx + dx_low, dmemory + dmemory_low, grads | gradients(lora_A=da, lora_B=db)

    def extra_repr(self):
        return MultiHeadAttention.extra_repr(self) + self._said_of_update()


def _beside(kind, module, r, alpha, dropout, rs, rng):
    made = kind.__new__(kind)
    vars(made).update(vars(module))
    made._update(r, alpha, dropout, rs, rng)
    return made
