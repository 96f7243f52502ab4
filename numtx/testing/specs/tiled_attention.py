"""What is known of attention in tiles: all that is known of the textbook form, and that the two are equal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from numtx.testing.findings import Finding, within
from numtx.testing.op import difference
from numtx.testing.spec import Case, Pair, Spec, functional_pair
from numtx.testing.specs.attention import (
    definition,
    draw,
    dropout_of_weights,
    empty_rows_are_zero,
    unseen_keys_change_nothing,
)
from numtx.testing.statistics import without_randomness

EQUAL = 1e-10
SMALL = 1e-3  # share of the largest gradient below which an array is rounding (the key's, where Tk = 1)


def equals_the_textbook_form(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Without dropout: the same result and gradients, to rounding."""
    keywords = without_randomness(case).keywords()
    right = functional_pair("scaled_dot_product_attention")
    (y, cache), (expected, right_cache) = pair.forward(**keywords), right.forward(**keywords)
    yield within("textbook form", "y", difference(y, expected), EQUAL, "the result differs from the textbook form's")
    dy = np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    gradients, expected = pair.backward(dy, cache), right.backward(dy, right_cache)  # type: ignore[misc]
    floor = SMALL * max(1.0, *(float(np.abs(array).max()) for array in expected if array is not None))
    for name, gradient, other in zip(spec.differentiable, gradients, expected, strict=True):
        if other is not None:
            error = difference(gradient, other, floor)
            yield within("textbook form", name, error, EQUAL, "the gradient differs from the textbook form's")


SPECS = [
    Spec(
        "tiled_attention",
        ("query", "key", "value", "bias"),
        draw,
        definition,
        stochastic=True,
        unbiased=True,
        checks=(unseen_keys_change_nothing, empty_rows_are_zero, dropout_of_weights, equals_the_textbook_form),
    ),
]
