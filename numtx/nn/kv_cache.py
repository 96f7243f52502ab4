"""What a decoder keeps between steps: the keys and values of the tokens it has seen."""

import numpy as np


class KVCache:
    """Keys and values of one attention, (B, H, T, D), in buffers that double when full.

    The one thing in this house that forward changes. `append` returns all keys and values so far, as views.

    Examples
    --------
    >>> cache = KVCache()
    >>> key, value = cache.append(np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 3, 4)))
    >>> key, value = cache.append(np.ones((1, 2, 1, 4)), np.ones((1, 2, 1, 4)))
    >>> key.shape, len(cache)
    ((1, 2, 4, 4), 4)
    """

    def __init__(self):
        self._key = self._value = None
        self._length = 0

    def __len__(self):
        return self._length

    def append(self, key, value):
        if self._key is not None and key.shape[:2] != self._key.shape[:2]:
            raise ValueError(f"KVCache: expected keys {self._key.shape[:2]} + (T, D), got {key.shape}")
        start, end = self._length, self._length + key.shape[2]
        self._key = self._grown(self._key, key, end)
        self._value = self._grown(self._value, value, end)
        self._key[:, :, start:end] = key
        self._value[:, :, start:end] = value
        self._length = end
        return self._key[:, :, :end], self._value[:, :, :end]

    def _grown(self, buffer, new, end):
        if buffer is not None and end <= buffer.shape[2]:
            return buffer
        batch, heads, _, width = new.shape
        grown = np.empty((batch, heads, max(2 * self._length, end, 16), width), new.dtype)
        if buffer is not None:
            grown[:, :, : self._length] = buffer[:, :, : self._length]
        return grown
