"""Floating-point operations, counted from the shapes that a trace saw."""

from collections.abc import Callable

from numtx.nn.trace import Site, Trace


def linear_flops(x, weight) -> int:
    """2 · N · I · O for x (..., I) and W (I, O): each of the N · O numbers is I products and as many sums.

    Examples
    --------
    >>> import numpy as np
    >>> linear_flops(np.ones((2, 3, 4)), np.ones((4, 5)))
    240
    """
    return 2 * x.size * weight.shape[1]


def attention_flops(query, key, value) -> int:
    """2 · B · H · Tq · Tk · (D + Dv): the scores Q Kᵀ, and the weights times V.

    In full: a pair that a causal mask or a window hides counts like the others, as in PyTorch's counter and in most
    published figures. `F.scaled_dot_product_attention` leaves out nearly half of them where it is causal.

    Examples
    --------
    >>> import numpy as np
    >>> attention_flops(np.ones((1, 2, 3, 4)), np.ones((1, 2, 5, 4)), np.ones((1, 2, 5, 6)))
    600
    """
    batch, heads, tq, width = query.shape
    return 2 * batch * heads * tq * key.shape[2] * (width + value.shape[3])


# How much a pair's matrix products are, from the inputs that it takes by position.
PRODUCTS: dict[str, Callable[..., int]] = {
    "linear": lambda x, weight, *_: linear_flops(x, weight),
    "scaled_dot_product_attention": lambda query, key, value, *_: attention_flops(query, key, value),
    "tiled_attention": lambda query, key, value, *_: attention_flops(query, key, value),
}


def count_flops(trace: Trace) -> dict[str, int]:
    """Return the FLOPs of the matrix products of the forwards in a trace, by the site of each.

    A multiply and an add are two. Norms, activations, softmax, biases and look-ups are not counted: beside the products
    they are few, though not free.

    Examples
    --------
    >>> import numpy as np
    >>> from numtx import nn
    >>> model = nn.FeedForward(4, 8, rng=0)
    >>> with nn.trace(model) as t:
    ...     y = model(np.ones((1, 2, 4), np.float32))
    >>> count_flops(t)
    {'up/linear': 128, 'down/linear': 128}
    """
    pairs = {name: name.partition("/")[2].partition("#")[0] for name in trace}
    return {name: PRODUCTS[pair](*_by_position(trace[name])) for name, pair in pairs.items() if pair in PRODUCTS}


def _by_position(site: Site) -> tuple:
    """The first inputs of a pair: components give them by position, others may name them."""
    named = [site.settings[name] for name in ("x", "weight", "query", "key", "value") if name in site.settings]
    return (*site.inputs, *named)
