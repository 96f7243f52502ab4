"""Elementwise work in pieces that stay in the cache.

A formula of ten NumPy calls walks ten times over its arrays. Over a large array each walk comes from main memory; over
a piece of it all but the first come from the cache.
"""

import numpy as np

BLOCK = 131_072  # elements: larger ones leave the cache, smaller ones spend more time between the calls than in them


def blocked(kernel, *inputs, out):
    """Call `kernel(*inputs, *outs)` over pieces of arrays of one shape; the kernel writes into the outs.

    The outs are in C order. Inputs of another memory order are copied first.
    """
    flat_out = [array.reshape(-1) for array in out]
    flat_in = [np.ascontiguousarray(array).reshape(-1) for array in inputs]
    for start in range(0, flat_out[0].size, BLOCK):
        piece = slice(start, start + BLOCK)
        kernel(*(array[piece] for array in flat_in), *(array[piece] for array in flat_out))
