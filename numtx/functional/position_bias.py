"""What is added to the scores for the distance between a query and a key: ALiBi's numbers and T5's buckets.

Distances count from the query: key minus query, negative for what came before. As everywhere, queries are aligned
bottom-right: query i of Tq stands at i + Tk - Tq among the Tk keys. There are Tq + Tk - 1 different distances, from
1 - Tk to Tq - 1 in the order in which `scaled_dot_product_attention` takes a bias by distance.
"""

import math

import numpy as np

from numtx.functional.door import count


def relative_distances(tq, tk=None):
    """Return the (Tq + Tk - 1,) distances of a bias by distance: entry j - i + Tq - 1 for query i and key j.

    Examples
    --------
    >>> relative_distances(2, 3)  # the last query stands at the last key
    array([-2, -1,  0,  1])
    """
    tk = tq if tk is None else tk
    count("relative_distances", 1, tq=tq, tk=tk)
    return np.arange(1 - tk, tq)


def alibi_slopes(num_heads, dtype=np.float32):
    """Return the (H,) slopes of ALiBi, a geometric sequence: 2^(-8h/H) for h = 1 .. H.

    Where H is no power of two: those of the next smaller power n, then every second one of those of 2n, from the first
    on. Press et al. (2022), section 3, and their code, which BLOOM and MPT follow.

    Examples
    --------
    >>> alibi_slopes(4)
    array([0.25      , 0.0625    , 0.015625  , 0.00390625], dtype=float32)
    >>> alibi_slopes(3)
    array([0.0625    , 0.00390625, 0.25      ], dtype=float32)
    """
    count("alibi_slopes", 1, num_heads=num_heads)
    smaller = 2 ** (int(num_heads).bit_length() - 1)
    exponents = 8 / smaller * np.arange(1, smaller + 1)
    between = 4 / smaller * np.arange(1, 2 * (num_heads - smaller), 2)
    return (2.0 ** -np.concatenate([exponents, between])).astype(dtype)


def alibi(num_heads, tq, tk=None, dtype=np.float32):
    """Return ALiBi's bias by distance, (H, Tq + Tk - 1): -slope_h · |key - query|.

    Nothing is learned. The paper has it under a causal mask only, where |key - query| is how far back a key lies. BLOOM
    adds slope · key instead of slope · (key - query): a constant for each query, which softmax does not see, as long as
    the mask is causal. Without it, these numbers fall off to both sides.

    Press et al. (2022), section 3.

    Examples
    --------
    >>> alibi(2, 2)
    array([[-0.0625    ,  0.        , -0.0625    ],
           [-0.00390625,  0.        , -0.00390625]], dtype=float32)
    """
    count("alibi", 1, num_heads=num_heads, tq=tq, tk=tq if tk is None else tk)
    nearness = (-np.abs(relative_distances(tq, tk))).astype(dtype)  # whole numbers have no -0
    return alibi_slopes(num_heads, dtype)[:, None] * nearness  # (H, Tq + Tk - 1)


def relative_position_bucket(distance, *, bidirectional, num_buckets=32, max_distance=128):
    """Return T5's bucket of each distance (key minus query): near ones have one each, far ones share them.

        n = how far back; with half of the buckets, e, for n < e:
        bucket = n                                                                  n < e
        bucket = e + floor(log(n / e) / log(max_distance / e) · (buckets - e))      else, at most buckets - 1

    Parameters
    ----------
    distance : (...) integer array
    bidirectional : bool
        As T5's encoder: keys before the query (and its own) have the first half of the buckets, keys after it the
        second. Otherwise, as in its decoder, keys after the query, which are masked, all have bucket 0.
    num_buckets : int
        Even if bidirectional.
    max_distance : int
        From here on all is one bucket. Greater than e.

    Notes
    -----
    Raffel et al. (2020), section 2.1, and their code. The logarithm is float32's, as in Transformers: float64's falls
    on the other side of some borders.

    Examples
    --------
    >>> relative_position_bucket(np.array([-200, -9, -1, 0, 1, 9]), bidirectional=True)
    array([15,  8,  1,  0, 17, 24])
    """
    distance = np.asarray(distance)
    exact = _check_buckets(distance, bidirectional, num_buckets, max_distance)
    distance = distance.astype(np.int64)  # in int8, |-128| is -128
    buckets = num_buckets // 2 if bidirectional else num_buckets
    back = np.abs(distance) if bidirectional else np.maximum(-distance, 0)
    first = np.where(distance > 0, buckets, 0) if bidirectional else 0
    ratio = np.maximum(back, exact).astype(np.float32) / exact
    far = exact + (np.log(ratio) / math.log(max_distance / exact) * (buckets - exact)).astype(np.int64)
    return first + np.where(back < exact, back, np.minimum(far, buckets - 1))


def _check_buckets(distance, bidirectional, num_buckets, max_distance):
    """Return how many buckets hold one distance each."""
    op = "relative_position_bucket"
    if distance.dtype.kind != "i":
        raise ValueError(f"{op}: expected distances of signed integers, got {distance.dtype}")
    count(op, 4 if bidirectional else 2, num_buckets=num_buckets)
    if bidirectional and num_buckets % 2:
        raise ValueError(f"{op}: expected an even num_buckets, half for either side, got {num_buckets}")
    exact = num_buckets // (4 if bidirectional else 2)
    count(op, exact + 1, max_distance=max_distance)
    return exact
