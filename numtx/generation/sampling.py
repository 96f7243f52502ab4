"""The choice of the next token: the likeliest, or one drawn after temperature, top-k and top-p."""

from dataclasses import dataclass

import numpy as np

from numtx.generation.choose import choose
from numtx.generation.config_checks import check_value
from numtx.generation.processors import Processors
from numtx.generation.warpers import warpers


@dataclass(frozen=True)
class Sampler:
    """Chooses the next token of each row of logits; the settings have the names and meanings of Transformers.

    Parameters
    ----------
    do_sample : bool
        False: the likeliest token (the first of equals), whatever the other settings say.
    temperature : float
        Logits are divided by it. 0 means the likeliest token.
    top_k : int, optional
        Only the k largest logits stay, and all that equal the smallest of them. None or 0: all stay.
    top_p : float
        Only the likeliest tokens stay, up to and with the one whose probability brings their sum to `top_p`, of equals
        the last. 1: all stay.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    Temperature comes first, then top-k, then top-p of what is left: `numtx.generation.warpers`, in float64.

    Examples
    --------
    >>> Sampler()(np.array([[0.1, 2.0, 0.3]]))
    array([1])
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_k", "top_p"):
            value = getattr(self, name)
            if value is not None or name != "top_k":
                check_value("Sampler", name, value)

    @property
    def is_greedy(self) -> bool:
        """Whether chance plays no part."""
        return not self.do_sample or self.temperature == 0

    def __call__(self, logits: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return the chosen ids, int64, shape (B,).

        Parameters
        ----------
        logits : array of shape (B, V)
            -inf forbids a token.
        rng : np.random.Generator
            Needed where chance plays a part; gives one number for each row.

        Raises
        ------
        ValueError
            If `logits` have another shape, or a row holds NaN or +inf or forbids every token; if `rng` is lacking.
        """
        _check_logits(logits)
        if self.is_greedy:
            return logits.argmax(axis=-1)
        if not isinstance(rng, np.random.Generator):
            raise ValueError(f"Sampler: expected an np.random.Generator to sample with, got {type(rng).__name__}")
        kept = filter_logits(logits, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
        return choose(kept, rng)


def filter_logits(
    logits: np.ndarray, *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> np.ndarray:
    """Return logits in float64 after temperature, top-k and top-p, with -inf for the tokens that dropped out.

    Settings as in `Sampler`, temperature above 0; `logits` and result have shape (B, V).

    Examples
    --------
    >>> filter_logits(np.array([[3.0, 1.0, 2.0, 2.0]]), top_k=2)
    array([[  3., -inf,   2.,   2.]])
    """
    made = warpers(temperature=temperature, top_k=top_k, top_p=top_p)
    return Processors(made)(np.empty((len(logits), 0), np.int64), logits.astype(np.float64))


def _check_logits(logits: np.ndarray) -> None:
    if logits.ndim != 2 or logits.size == 0 or not np.issubdtype(logits.dtype, np.floating):
        raise ValueError(
            f"Sampler: expected floating logits of shape (B, V), got {logits.dtype} of shape {logits.shape}"
        )
    largest = logits.max(axis=-1)  # NaN if any is
    if not np.isfinite(largest).all():
        row = int(np.argmin(np.isfinite(largest)))
        raise ValueError(f"Sampler: expected a finite largest logit in every row, got {largest[row]} in row {row}")
