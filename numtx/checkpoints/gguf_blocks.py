"""How GGUF stores numbers: plain, or in blocks of a few bits a number with a scale (and a minimum) each."""

from typing import NamedTuple

import numpy as np

from numtx.checkpoints.extras import need
from numtx.checkpoints.stored import widened

_AT_ONCE = 1 << 18  # bytes of blocks dequantised in one go: what the package makes of them on the way fits the cache


class BlockType(NamedTuple):
    """A way to store numbers: its name, how many stand in one block, and that block's bytes."""

    name: str
    size: int
    nbytes: int


# By the number that stands in the file. Sizes as in ggml.h; what is not here cannot be read.
BLOCK_TYPES = {
    number: BlockType(*row)
    for number, row in {
        0: ("float32", 1, 4),
        1: ("float16", 1, 2),
        30: ("bfloat16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
    }.items()
}

# The other types that files hold, so that an error can name them.
OTHER_TYPES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


def numbers(stored: np.ndarray, kind: BlockType) -> np.ndarray:
    """Return stored rows as float32.

    Parameters
    ----------
    stored : (rows, bytes of a row) array of uint8
    kind : BlockType

    Returns
    -------
    (rows, columns) array of float32
        A view for ``float32`` (where its memory is aligned), a fresh array for the others.

    Raises
    ------
    ImportError
        If the numbers stand in quantised blocks and the package ``gguf`` is not installed.

    Examples
    --------
    >>> numbers(np.array([[0, 0x3C, 0, 0xC0]], np.uint8), BLOCK_TYPES[1])
    array([[ 1., -2.]], dtype=float32)
    """
    if kind.size == 1:
        plain = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}[kind.name]
        return widened(stored.view(plain), kind.name)
    gguf = need("gguf", extra="hub")
    wanted = gguf.GGMLQuantizationType[kind.name]
    rows, nbytes = stored.shape
    result = np.empty((rows, nbytes // kind.nbytes * kind.size), np.float32)
    step = max(1, _AT_ONCE // max(nbytes, 1))
    # A broken file may hold scales that are not finite; what comes of them is the file's, and no reason to warn.
    with np.errstate(all="ignore"):
        for start in range(0, rows, step):
            result[start : start + step] = gguf.dequantize(stored[start : start + step], wanted)
    return result
