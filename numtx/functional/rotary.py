"""Rotary positions: each pair of numbers of a head is turned by an angle that grows with the position."""

import math
from functools import lru_cache

import numpy as np

from numtx.functional import blocks
from numtx.functional.door import count, floating

LAYOUTS = ("half", "interleaved")
# The kinds of scaling, by Transformers' names, and what each must be given.
SCALINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def rotary(x, positions=None, *, layout, base=10000.0, width=None, scaling=None):
    """Turn each pair of numbers of a query or key by its position times the pair's frequency.

        (y_a + i y_b) = (x_a + i x_b) · e^{i t f_p}       f_p = base^(-2p / width)       for p = 0 .. width/2 - 1

    Parameters
    ----------
    x : (B, H, T, D) floating array
    positions : (T,) or (B, T) integer array or None
        t of each token; 0 .. T-1 if None. After a cache they go on where its keys end.
    layout : "half" or "interleaved"
        Which two numbers a pair p is made of: a, b = p, p + width/2 ("half": Transformers' Llama, GPT-NeoX) or
        a, b = 2p, 2p + 1 ("interleaved": RoFormer, GPT-J, Meta's files). The two are a permutation of columns apart,
        which a trained model does not forgive; so there is no default.
    base : float
    width : int or None
        Only the first `width` of the D numbers are turned; all if None. Even.
    scaling : dict or None
        See `rotary_frequencies`.

    Returns
    -------
    y : (B, H, T, D) array
    cache : the e^{i t f}, and the layout; x is not needed, for y is linear in it

    Notes
    -----
    Su et al. (2021), eq. 12 and 13. A query turned by t and a key turned by s have the product that their distance
    t - s alone decides: Re(q e^{itf} · conj(k e^{isf})) = Re(q conj(k) e^{i(t-s)f}). Values are never turned.

    Angles are computed in the dtype of x, as Transformers does in float32: frequencies first, then their product with
    the position. Tables are kept, so that the layers of one step share them.

    Examples
    --------
    >>> y, cache = rotary(np.ones((1, 1, 3, 2)), np.array([0, 1, 2]), layout="half")
    >>> y[0, 0].round(3)
    array([[ 1.   ,  1.   ],
           [-0.301,  1.382],
           [-1.325,  0.493]])
    """
    width = _check(x, layout, width)
    scaling = _scaling("rotary", scaling)
    turns = _turns(_positions(x, positions), width, _base("rotary", base), scaling, x.dtype)
    return _turned(x, turns, layout), (turns, layout)


def rotary_backward(dy, cache):
    """Return dx.

    Derivation: each pair is multiplied by a rotation matrix R = [[cos, -sin], [sin, cos]], so

        dx = Rᵀ dy,     and a rotation's transpose is the turn back by the same angle: R(φ)ᵀ = R(-φ)

    In complex numbers: dx = dy · conj(e^{i t f}). What was not turned gets its gradient as it is.

    Examples
    --------
    >>> y, cache = rotary(np.ones((1, 1, 2, 2)), layout="half")
    >>> rotary_backward(y, cache)[0, 0]
    array([[1., 1.],
           [1., 1.]])
    """
    turns, layout = cache
    return _turned(dy, turns.conj(), layout)


def rotary_frequencies(width, *, base=10000.0, scaling=None, dtype=np.float32):
    """Return the (width/2,) frequencies of `rotary`, in radians a position: base^(-2p / width), perhaps scaled.

    Parameters
    ----------
    width : int
        Even.
    base : float
    scaling : dict or None
        How a model was stretched to a longer context, by Transformers' names ("type" stands for "rope_type" too):

        - `{"rope_type": "linear", "factor": s}`: f / s. Chen et al. (2023).
        - `{"rope_type": "llama3", "factor": s, "low_freq_factor": a, "high_freq_factor": b,
          "original_max_position_embeddings": n}`: with r = n f / 2π turns in the old context, f where r ≥ b, f / s
          where r ≤ a, and between them (1 - m) f / s + m f with m = (r - a) / (b - a).
        - `{"rope_type": "default"}`: as None.
    dtype : floating dtype
        All steps are done in it: Llama's float32 frequencies differ from float64's in the last bit, which at position
        100,000 is an angle of 0.01.

    Examples
    --------
    >>> rotary_frequencies(4)
    array([1.  , 0.01], dtype=float32)
    >>> rotary_frequencies(4, scaling={"rope_type": "linear", "factor": 2.0})
    array([0.5  , 0.005], dtype=float32)
    """
    op = "rotary_frequencies"
    _even(op, width)
    return _frequencies(int(width), _base(op, base), _scaling(op, scaling), np.dtype(dtype))


def _frequencies(width, base, scaling, dtype):
    exponent = np.arange(0, width, 2).astype(dtype) / width  # (width/2,)
    # NumPy's own power in float32 misses the last bits, and by others on another processor.
    frequency = 1 / (base ** exponent.astype(np.float64)).astype(dtype)
    if scaling is None:
        return frequency
    kind, factor, *others = scaling
    if kind == "linear":
        return frequency / factor
    low, high, original = others
    wavelength = 2 * math.pi * (1 / frequency)
    turns = original * (1 / wavelength)  # in the old context; PyTorch divides a number by an array so, to the last bit
    mix = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - mix) * frequency / factor + mix * frequency


def _turns(positions, width, base, scaling, dtype):
    """Return e^{i t f}: (T, width/2) or (B, 1, T, width/2)."""
    return _table(positions.tobytes(), positions.shape, positions.dtype.str, width, base, scaling, dtype)


@lru_cache(maxsize=8)
def _table(positions, shape, kind, width, base, scaling, dtype):
    """As `_turns`, by what can be looked up: every layer of a step asks for the same one."""
    positions = np.frombuffer(positions, kind).reshape(shape).astype(dtype)
    angle = positions[..., None] * _frequencies(width, base, scaling, dtype)  # (T, width/2) or (B, T, width/2)
    table = np.empty(angle.shape, np.result_type(dtype, np.complex64))
    table.real, table.imag = np.cos(angle), np.sin(angle)
    table.flags.writeable = False
    return table if table.ndim == 2 else table[:, None]


def _turned(x, turns, layout):
    """Multiply each pair of the first numbers of x by its complex number of length one."""
    width = 2 * turns.shape[-1]
    y = np.empty(x.shape, x.dtype)
    y[..., width:] = x[..., width:]
    step = max(1, blocks.BLOCK // max(1, x[:1].size))  # rows of the batch, so that a block stays in the cache
    for start in range(0, len(x), step):
        b = slice(start, start + step)
        x_, y_ = x[b, ..., :width], y[b, ..., :width]
        turn = turns if turns.ndim == 2 else turns[b]
        if layout == "half":
            pairs = np.empty((*x_.shape[:-1], width // 2), turns.dtype)
            pairs.real, pairs.imag = x_[..., : width // 2], x_[..., width // 2 :]
            pairs *= turn
            y_[..., : width // 2], y_[..., width // 2 :] = pairs.real, pairs.imag
        else:
            if x_.strides[-1] != x_.itemsize:  # only neighbours in memory can be read as one complex number
                x_ = np.ascontiguousarray(x_)
            np.multiply(x_.view(turns.dtype), turn, out=y_.view(turns.dtype))
    return y


def _check(x, layout, width):
    """Return how many numbers of a head are turned."""
    floating("rotary", x=x)
    if x.ndim != 4:
        raise ValueError(f"rotary: expected x (B, H, T, D), got {x.shape}")
    if layout not in LAYOUTS:
        raise ValueError(f"rotary: expected layout 'half' or 'interleaved', got {layout!r}")
    width = x.shape[3] if width is None else width
    _even("rotary", width)
    if width > x.shape[3]:
        raise ValueError(f"rotary: expected a width of at most {x.shape[3]}, that of a head, got {width}")
    return int(width)


def _even(op, width):
    count(op, 2, width=width)
    if width % 2:
        raise ValueError(f"{op}: expected an even width, numbers in pairs, got {width}")


def _base(op, base):
    if not isinstance(base, int | float | np.number) or not 0 < base < np.inf:
        raise ValueError(f"{op}: expected base as a finite number above 0, got {base!r}")
    return float(base)


def _positions(x, positions):
    batch, _, length, _ = x.shape
    positions = np.arange(length) if positions is None else np.asarray(positions)
    if positions.dtype.kind not in "iu" or positions.shape not in ((length,), (batch, length)):
        raise ValueError(
            f"rotary: expected integer positions (T,) or (B, T) for x {x.shape}, "
            f"got {positions.dtype} {positions.shape}"
        )
    if positions.size and positions.min() < 0:
        raise ValueError(f"rotary: expected positions of at least 0, got {positions.min()}")
    return positions


def _scaling(op, scaling):
    """Return (kind, its numbers in the order of `SCALINGS`), or None where nothing is scaled."""
    if scaling is None:
        return None
    if not isinstance(scaling, dict):
        raise ValueError(f"{op}: expected scaling as a dict or None, got {type(scaling).__name__}")
    given = {name: value for name, value in scaling.items() if name not in ("rope_type", "type")}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind not in SCALINGS or scaling.get("type", kind) != kind:
        got = [scaling[name] for name in ("rope_type", "type") if name in scaling]
        raise ValueError(f"{op}: expected a scaling with rope_type {', '.join(map(repr, SCALINGS))}, got {got}")
    if set(given) != set(SCALINGS[kind]):
        raise ValueError(f"{op}: expected {kind} scaling with {list(SCALINGS[kind])}, got {list(given)}")
    numbers = [given[name] for name in SCALINGS[kind]]
    if any(not isinstance(n, int | float | np.number) or not 0 < n < np.inf for n in numbers):
        raise ValueError(f"{op}: expected finite numbers above 0 in the scaling, got {given}")
    if kind == "llama3" and not given["low_freq_factor"] < given["high_freq_factor"]:
        raise ValueError(f"{op}: expected low_freq_factor under high_freq_factor in the scaling, got {given}")
    return None if kind == "default" else (kind, *map(float, numbers))
