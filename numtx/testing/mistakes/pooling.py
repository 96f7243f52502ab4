"""Classic mistakes of pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.functional.pooling import pooling, pooling_backward
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case

X = np.random.default_rng(5).standard_normal((2, 3, 4))  # (B, T, C)
REAL = np.array([[True, True, False], [True, True, True]])[:, None, None, :]  # (B, 1, 1, T)


def averages_over_padding(x: Any, *, how: str, mask: Any = None) -> Any:
    return pooling(x, how=how, mask=None if how == "mean" else mask)


def divided_by_length(x: Any, *, how: str, mask: Any = None) -> Any:
    y, cache = pooling(x, how=how, mask=mask)
    if how != "mean":
        return y, cache
    _, real, number = cache
    return y * number / x.dtype.type(x.shape[1]), (how, real, np.full_like(number, x.shape[1]))


def last_place_for_last_token(x: Any, *, how: str, mask: Any = None) -> Any:
    return pooling(x, how=how, mask=None if how == "last" else mask)


def first_place_for_first_token(x: Any, *, how: str, mask: Any = None) -> Any:
    return pooling(x, how=how, mask=None if how == "first" else mask)


def last_for_first(x: Any, *, how: str, mask: Any = None) -> Any:
    return pooling(x, how="last" if how == "first" else how, mask=mask)


def padding_gets_gradient(dy: Any, cache: Any) -> Any:
    how, real, number = cache
    return np.repeat((dy / number)[:, None, :], real.shape[1], axis=1) if how == "mean" else pooling_backward(dy, cache)


def mean_not_shared(dy: Any, cache: Any) -> Any:
    how, real, number = cache
    return pooling_backward(dy, (how, real, np.ones_like(number)) if how == "mean" else cache)


def all_tokens_get_the_gradient(dy: Any, cache: Any) -> Any:
    how, real, _ = cache
    if how == "mean":
        return pooling_backward(dy, cache)
    return np.where(real[:, :, None], dy[:, None, :], np.zeros((), dy.dtype))


def _mistake(name: str, how: str, why: str, hint: str, real: np.ndarray = REAL, **planted: Any) -> Mistake:
    """Two sequences, one of them padded, on the right if nothing else is said."""
    case = Case({"x": X}, {"how": how, "mask": real})
    return Mistake(name=name, of="pooling", why=why, hint=hint, witness=lambda: case, **planted)


MISTAKES = [
    _mistake(
        "pooling averages over padding",
        "mean",
        "The mean over an axis is one call, and in a batch of one length there is no padding.",
        "Change the numbers in a padded place, or pad a sequence further: the mean must not move.",
        forward=averages_over_padding,
    ),
    _mistake(
        "pooled sum divided by the padded length",
        "mean",
        "Padding is zeroed out of the sum, but still counted: T is at hand, the number of real tokens is not.",
        "The mean of equal rows is that row, however much padding follows.",
        forward=divided_by_length,
    ),
    _mistake(
        "last place taken for the last token",
        "last",
        "x[:, -1] is the last token only where nothing is padded on the right.",
        "Read the result for a short sequence in a batch with a long one.",
        forward=last_place_for_last_token,
    ),
    _mistake(
        "first place taken for the first token",
        "first",
        "x[:, 0] is the first token only where nothing is padded on the left, as decoders that write are.",
        "Pad the short sequence on its other side.",
        real=REAL[..., ::-1],
        forward=first_place_for_first_token,
    ),
    _mistake(
        "last token pooled where the first was asked for",
        "first",
        "Decoders are read at the end, and encoders at the start.",
        "Change the first token of x. Does the result move?",
        forward=last_for_first,
    ),
    _mistake(
        "pooling gives padding a gradient",
        "mean",
        "Forward takes the mask and backward does not: the gradient is spread over all T places.",
        "What does the result owe to a padded token? That is its gradient.",
        backward=padding_gets_gradient,
    ),
    _mistake(
        "pooling backward not divided by the number of tokens",
        "mean",
        "A sum hands its gradient to every term as it is; a mean looks like one.",
        "Sum the gradient of x over the tokens: it should be the incoming gradient, once.",
        backward=mean_not_shared,
    ),
    _mistake(
        "pooled token's gradient given to all tokens",
        "first",
        "The gradient (B, C) broadcasts to (B, T, C) without a word.",
        "On how many tokens does the result depend? So many have a gradient.",
        backward=all_tokens_get_the_gradient,
    ),
]
