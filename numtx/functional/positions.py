"""Positions: the table of sines and cosines. (Learned positions are an embedding.)"""

import numpy as np

from numtx.functional.door import count


def sinusoidal_positions(length, width, *, layout="interleaved", base=10000.0, offset=0, dtype=np.float32):
    """Return a (length, width) table whose row t describes position t + offset.

        angle(t, i) = t / base^(2i / width)        for i = 0 .. width/2 - 1

    Parameters
    ----------
    length, width : int
        The width must be even.
    layout : "interleaved" or "half"
        "interleaved": columns 2i and 2i+1 are sin and cos of angle i, as in the paper. "half": all sines, then all
        cosines, as in Marian. The two are a permutation of columns apart, which a trained model does not forgive.
    base : float
    offset : int
        The first row's position.
    dtype : floating dtype
        Angles are computed in float64 first: in float32 they are off by 1e-4 from position 2,000 on.

    Notes
    -----
    Vaswani et al. (2017), section 3.5. There is nothing to learn and so no backward.

    Examples
    --------
    >>> sinusoidal_positions(2, 4).round(3)
    array([[0.   , 1.   , 0.   , 1.   ],
           [0.841, 0.54 , 0.01 , 1.   ]], dtype=float32)
    """
    count("sinusoidal_positions", 0, length=length, offset=offset)
    count("sinusoidal_positions", 2, width=width)
    if width % 2:
        raise ValueError(f"sinusoidal_positions: expected an even width, got {width}")
    if layout not in ("interleaved", "half"):
        raise ValueError(f"sinusoidal_positions: expected layout 'interleaved' or 'half', got {layout!r}")
    position = np.arange(offset, offset + length)[:, None]  # (T, 1)
    angle = position / base ** (np.arange(0, width, 2) / width)  # (T, C/2)
    table = np.empty((length, width), dtype)
    if layout == "interleaved":
        table[:, 0::2], table[:, 1::2] = np.sin(angle), np.cos(angle)
    else:
        table[:, : width // 2], table[:, width // 2 :] = np.sin(angle), np.cos(angle)
    return table
