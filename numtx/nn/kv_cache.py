"""What a decoder keeps between steps: the keys and values of the tokens it has seen."""

import numpy as np

from numtx.functional.door import floating


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
        self._check(key, value)
        start, end = self._length, self._length + key.shape[2]
        self._key = self._grown(self._key, key, end)
        self._value = self._grown(self._value, value, end)
        self._key[:, :, start:end] = key
        self._value[:, :, start:end] = value
        self._length = end
        return self._key[:, :, :end], self._value[:, :, :end]

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
