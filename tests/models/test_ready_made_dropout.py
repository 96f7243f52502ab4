"""Dropout of whole models: where it stands, how strong it is, and that no two places draw alike."""

from itertools import combinations

import numpy as np
import pytest
from ready_made_models import BATCHES, KINDS, make

from numtx import nn
from numtx.models import Transformer

RATE = 0.25
ENCODER_LAYER = (
    "attention.sublayer/scaled_dot_product_attention",
    "attention/dropout",
    "feed_forward.sublayer/dropout",
    "feed_forward/dropout",
)
DECODER_LAYER = (
    *ENCODER_LAYER[:2],
    "cross_attention.sublayer/scaled_dot_product_attention",
    "cross_attention/dropout",
    *ENCODER_LAYER[2:],
)


def places(stack, layer):
    return [f"{stack}.layers.{i}.{place}" for i in range(2) for place in layer]


STACKS = [*places("encoder", ENCODER_LAYER), *places("decoder", DECODER_LAYER)]
PLACES = {
    "encoder": ["embedding.dropout/dropout", *places("stack", ENCODER_LAYER), "head/dropout"],
    "decoder": ["embedding.dropout/dropout", *places("stack", ENCODER_LAYER), "head/dropout"],
    "both": [
        "src_embedding.dropout/dropout",
        "tgt_embedding.dropout/dropout",
        *(f"transformer.{place}" for place in STACKS),
        "head/dropout",
    ],
}


def rates(trace):
    """The rate of every place with a generator, in the order of the calls."""
    found = {}
    for name, site in trace.sites.items():
        if name.endswith("/dropout") and site.inputs[2] is not None:
            found[name] = site.inputs[1]
        elif name.endswith("/scaled_dot_product_attention") and site.settings["rng"] is not None:
            found[name] = site.settings["dropout"]
    return found


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_where_it_stands(kind, norm_first):
    model = make(kind, dropout=RATE, norm_first=norm_first)
    for drawing, expected in ((True, dict.fromkeys(PLACES[kind], RATE)), (False, {})):
        with nn.trace(model) as t:
            model.loss_and_grads(BATCHES[kind], rng=np.random.default_rng(0) if drawing else None)
        assert list(rates(t).items()) == list(expected.items())


def test_where_it_stands_in_the_twin():
    model = Transformer(6, 2, 2, 2, 8, dropout=RATE, rng=0)
    x = np.ones((2, 3, 6), np.float32)
    with nn.trace(model) as t:
        model.forward(x, x, rng=np.random.default_rng(0))
    assert list(rates(t).items()) == list(dict.fromkeys(STACKS, RATE).items())


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_places_draw_alike(kind, randomized):
    """Of two places with arrays of one shape, about half of the numbers share their fate at a rate of a half."""
    model = randomized(make(kind, dropout=0.5, activation="gelu", max_length=60))
    rng = np.random.default_rng(1)
    ids = rng.integers(1, 6, (2, 50))
    labels = rng.integers(3, size=2) if kind == "encoder" else ids
    with nn.trace(model) as t:
        model.loss_and_grads({"input_ids": ids, "shift_labels": labels}, rng=np.random.default_rng(2))
    sites = {name: site for name, site in t.sites.items() if name.endswith("/dropout")}
    assert len(sites) == len(PLACES[kind]) - sum("scaled" in place for place in PLACES[kind])
    dropped = {name: (site.output == 0) & (site.inputs[0] != 0) for name, site in sites.items()}
    for (a, one), (b, other) in combinations(dropped.items(), 2):
        if one.shape == other.shape and one.size > 100:
            assert 0.4 < (one == other).mean() < 0.6, f"{a} and {b}"
