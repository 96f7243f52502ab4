"""What a decoder keeps between steps: the keys and values of the tokens it has seen, and those of its memory."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numtx.functional.door import count, floating, integers


class KVCache:
    """Keys and values of one attention, (B, H, T, D), in buffers that double when full.

    Caches are the one thing in this house that forward changes. `append` returns all keys and values so far, as views,
    which hold until the next change.

    Notes
    -----
    `reorder` is for beams, of which some go on twice and others not at all. Two beams have most of their past in
    common, so the cache knows of every two rows how many keys from the first on they share, and copies what follows.

    Examples
    --------
    >>> cache = KVCache()
    >>> key, value = cache.append(np.zeros((2, 2, 3, 4)), np.zeros((2, 2, 3, 4)))
    >>> key, value = cache.append(np.ones((2, 2, 1, 4)), np.ones((2, 2, 1, 4)))
    >>> key.shape, len(cache)
    ((2, 2, 4, 4), 4)
    >>> cache.reorder(np.array([1, 1, 0]))
    >>> cache.crop(3)
    >>> len(cache)
    3
    """

    def __init__(self):
        self._key: Any = None
        self._value: Any = None
        self._length = 0
        self._shared: Any = None  # (B, B): how many of their first keys two rows share; None: nobody has asked

    def __len__(self):
        return self._length

    def append(self, key, value):
        """Take new keys (B, H, T, D) and values (B, H, T, Dv), and return all so far."""
        self._check(key, value)
        start, end = self._length, self._length + key.shape[2]
        self._key = self._grown(self._key, key, end)
        self._value = self._grown(self._value, value, end)
        self._key[:, :, start:end] = key
        self._value[:, :, start:end] = value
        self._length = end
        return self._key[:, :, :end], self._value[:, :, :end]

    def reorder(self, rows):
        """Put row rows[i] in the place of row i; `rows` (B',) may be more or fewer, and name one several times."""
        rows = _rows("KVCache", rows, None if self._key is None else len(self._key))
        if self._key is None:
            return
        batch, length = len(self._key), self._length
        shared = np.zeros((batch, batch), np.int64) if self._shared is None else self._shared
        np.fill_diagonal(shared, length)
        if len(rows) > batch:
            self._key, self._value = (_more_rows(buffer, rows, length) for buffer in (self._key, self._value))
        else:
            places = np.arange(len(rows))
            starts = shared[places, rows]
            moved = [(i, rows[i], starts[i]) for i in np.flatnonzero(starts < length)]
            for buffer in (self._key, self._value):
                tails = [buffer[row, :, start:length].copy() for _, row, start in moved]  # all, before any is written
                for (i, _, start), tail in zip(moved, tails, strict=True):
                    buffer[i, :, start:length] = tail
            self._key, self._value = self._key[: len(rows)], self._value[: len(rows)]
        self._shared = shared[np.ix_(rows, rows)]

    def crop(self, length):
        """Forget all but the first `length` tokens."""
        count("KVCache", 0, length=length)
        if length > self._length:
            raise ValueError(f"KVCache: expected a length of at most {self._length}, what it holds, got {length}")
        self._length = length
        if self._shared is not None:
            self._shared = np.minimum(self._shared, length)

    def _check(self, key, value):
        floating("KVCache", key=key, value=value)
        if key.ndim != 4 or value.ndim != 4 or key.shape[:3] != value.shape[:3]:
            raise ValueError(f"KVCache: expected key and value (B, H, T, D), got {key.shape} and {value.shape}")
        for name, new, old in (("key", key, self._key), ("value", value, self._value)):
            if old is None:
                continue
            if (new.dtype, *new.shape[:2], new.shape[3]) != (old.dtype, *old.shape[:2], old.shape[3]):
                raise ValueError(
                    f"KVCache: expected a {old.dtype} {name} {(*old.shape[:2], 'T', old.shape[3])}, "
                    f"got {new.dtype} {new.shape}"
                )

    def _grown(self, buffer, new, end):
        if buffer is not None and end <= buffer.shape[2]:
            return buffer
        batch, heads, _, width = new.shape
        grown = np.empty((batch, heads, max(2 * self._length, end, 16), width), new.dtype)
        if buffer is not None:
            grown[:, :, : self._length] = buffer[:, :, : self._length]
        return grown


class MemoryCache:
    """Keys and values of a memory, which stay what they are: attention over it fills this once, and then reads it.

    `key` and `value` (S, H, Tk, D) have a row for each source; the rows that ask are S · `beams`, those of one source
    side by side. Beams so read one memory, and none is copied for them.

    Examples
    --------
    >>> from numtx import nn
    >>> attention, cache = nn.MultiHeadAttention(8, 2, rng=0), MemoryCache()
    >>> memory = np.ones((1, 5, 8), np.float32)
    >>> attention(np.ones((1, 1, 8), np.float32), memory, kv_cache=cache).shape, len(cache)
    ((1, 1, 8), 5)
    >>> cache.reorder(np.array([0, 0, 0]))
    >>> attention(np.ones((3, 1, 8), np.float32), memory, kv_cache=cache).shape, cache.key.shape
    ((3, 1, 8), (1, 2, 5, 4))
    """

    def __init__(self):
        self.key: Any = None
        self.value: Any = None
        self.beams = 1
        self._sources: tuple = ()

    def __len__(self):
        return 0 if self.key is None else self.key.shape[2]

    def fill(self, key, value, *sources):
        """Take the keys and values made of `sources`, the memory and values of their own or None; and return both."""
        # In C order: they are read at every step.
        self.key, self.value = np.ascontiguousarray(key), np.ascontiguousarray(value)
        self._sources = sources
        return self.key, self.value

    def check(self, op, x, *sources):
        """Refuse x of other rows, and, once it is filled, another memory than that of which its keys are."""
        if self.key is None:
            if len(x) != len(sources[0]):
                raise ValueError(f"{op}: expected x and memory of one batch, got {x.shape} and {sources[0].shape}")
            return
        if any(one is not other for one, other in zip(sources, self._sources, strict=True)):
            raise ValueError(f"{op}: expected the very memory of which the MemoryCache was filled, got another")
        if len(x) != len(self.key) * self.beams:
            rows = len(self.key) * self.beams
            raise ValueError(f"{op}: expected x of the {rows} rows of the MemoryCache, got {x.shape}")

    def reorder(self, rows):
        """As `KVCache.reorder`. Where beams change among those of one source, nothing moves."""
        rows = _rows("MemoryCache", rows, None if self.key is None else len(self.key) * self.beams)
        if self.key is None:
            return
        sources = rows // self.beams
        starts = np.flatnonzero(np.diff(sources, prepend=-1))
        beams = np.diff(starts, append=len(sources))
        if (beams == beams[0]).all():
            sources, self.beams = sources[starts], int(beams[0])
        else:
            self.beams = 1
        if not np.array_equal(sources, np.arange(len(self.key))):
            self.key, self.value = self.key[sources], self.value[sources]


@dataclass
class DecoderLayerCache:
    """What a `DecoderLayer` keeps between steps: of the tokens it has seen, and of its memory. Its length is theirs.

    Examples
    --------
    >>> from numtx import nn
    >>> layer, cache = nn.TransformerDecoderLayer(8, 2, 16, causal=True, rng=0), DecoderLayerCache()
    >>> layer(np.ones((1, 1, 8), np.float32), np.ones((1, 5, 8), np.float32), kv_cache=cache).shape, len(cache)
    ((1, 1, 8), 1)
    """

    self_attention: KVCache = field(default_factory=KVCache)
    cross_attention: MemoryCache = field(default_factory=MemoryCache)

    def __len__(self):
        return len(self.self_attention)

    def reorder(self, rows):
        """As `KVCache.reorder`, for both."""
        self.self_attention.reorder(rows)
        self.cross_attention.reorder(rows)

    def crop(self, length):
        """As `KVCache.crop`; the memory stays."""
        self.self_attention.crop(length)


def _rows(op, rows, count):
    """Return rows as integers (B',) under `count`; None: whatever they are, there is nothing to find."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or not rows.size or rows.dtype.kind not in "iu":
        raise ValueError(f"{op}: expected rows as integers (B,), not empty, got {rows.dtype} {rows.shape}")
    return rows if count is None else integers(op, "rows", rows, count)


def _more_rows(buffer, rows, length):
    made = np.empty((len(rows), *buffer.shape[1:]), buffer.dtype)
    made[:, :, :length] = buffer[rows, :, :length]
    return made
