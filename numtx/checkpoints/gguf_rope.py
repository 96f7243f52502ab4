"""Llama 3's rope scaling, found again in the factors that a GGUF file has for each frequency."""

import math
from collections.abc import Iterator

import numpy as np

from numtx import functional as F

_RTOL = 1e-5  # factors are float32, computed from float32 frequencies
_LLAMA3 = (1.0, 4.0, 8192)  # low and high frequency factor and original context of the models that it was made for


def llama3_scaling(factors: np.ndarray, base: float) -> dict[str, float | int | str] | None:
    """Return the numbers of the scaling that divides the frequencies by `factors`; None if nothing is scaled.

    Parameters
    ----------
    factors : (width/2,) array
    base : float

    Notes
    -----
    With x = frequency / 2π and the original context n, scaling by ``factor`` has a ramp between two plateaus::

        1 / factors = (1 - s) / factor + s       s = (n x - low) / (high - low), held within 0 and 1

    Only the line s(x) can be seen, so one of n, low and high is free. Those that people use are tried first, then what
    a straight line through the ramp says, with low near 1 and n whole. What is found must give the factors again.

    Raises
    ------
    ValueError
        If no such scaling gives these factors.

    Examples
    --------
    >>> plain = F.rotary_frequencies(64, base=10000.0, dtype=np.float64)
    >>> scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    >>> scaling["original_max_position_embeddings"] = 8192
    >>> scaled = F.rotary_frequencies(64, base=10000.0, scaling=scaling, dtype=np.float64)
    >>> llama3_scaling(plain / scaled, 10000.0) == scaling
    True
    """
    factors = np.asarray(factors, np.float64)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise ValueError("llama3_scaling: expected finite factors above 0, got others")
    if np.allclose(factors, 1.0, rtol=_RTOL, atol=0):
        return None
    plain = F.rotary_frequencies(2 * len(factors), base=base, dtype=np.float64)
    for low, high, context in _candidates(factors, plain / (2 * math.pi)):
        if not (0 < low < high < math.inf and context >= 1):
            continue
        scaling: dict[str, float | int | str] = {
            "rope_type": "llama3",
            "factor": float(factors.max()),
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": context,
        }
        scaled = F.rotary_frequencies(2 * len(factors), base=base, scaling=scaling, dtype=np.float64)
        if np.allclose(plain / scaled, factors, rtol=_RTOL, atol=0):
            return scaling
    raise ValueError(
        "llama3_scaling: expected one factor on low frequencies, 1 on high ones and a ramp between, got other factors"
    )


def _candidates(factors: np.ndarray, x: np.ndarray) -> Iterator[tuple[float, float, int]]:
    low, high, _ = _LLAMA3
    yield _LLAMA3
    largest = factors.max()
    ramp = (factors > 1 + _RTOL) & (factors < largest * (1 - _RTOL))
    if not ramp.any():
        full = x[factors >= largest * (1 - _RTOL)].max(initial=0.0)
        yield low, high, int(1 / full) if full > 0 else 0
        return
    s = (1 / factors[ramp] - 1 / largest) / (1 - 1 / largest)
    yield low, high, round(float(np.mean((s * (high - low) + low) / x[ramp])))
    if ramp.sum() > 1:
        slope, intercept = np.polyfit(x[ramp], s, 1)
        if slope > 0 and intercept < 0:
            context = max(1, round(float(slope * -1 / intercept)))  # where low is nearly 1
            yield 1.0, float(round(1 - 1 / intercept, 3)), context
            low = float(-intercept * context / slope)
            yield low, low + float(context / slope), context
