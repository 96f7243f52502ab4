"""Rotary, ALiBi and T5's table as components: built right or refused, and lent to attention with its gradient."""

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn

X = np.random.default_rng(0).standard_normal((2, 3, 5, 8))  # (B, H, T, D)
LINEAR = {"rope_type": "linear", "factor": 2.0}


def test_rotary_hands_on_its_settings():
    module = nn.Rotary("interleaved", 500.0, 4, LINEAR)
    positions = np.arange(3, 8)
    y, cache = module.forward(X, positions=positions)
    expected, _ = F.rotary(X, positions, layout="interleaved", base=500.0, width=4, scaling=LINEAR)
    np.testing.assert_array_equal(y, expected)
    dx, grads = module.backward(y, cache)
    np.testing.assert_allclose(dx, X, atol=1e-14)  # a turn there and back
    assert grads == {}
    assert module.state_dict() == {}
    assert repr(module) == f"Rotary(layout='interleaved', base=500, width=4, scaling={LINEAR})"


BAD_ROTARY = {
    "layout": {"layout": "neox"},
    "odd width": {"layout": "half", "width": 3},
    "base": {"layout": "half", "base": -1.0},
    "scaling": {"layout": "half", "scaling": {"rope_type": "dynamic", "factor": 2.0}},
}


@pytest.mark.parametrize("settings", BAD_ROTARY.values(), ids=BAD_ROTARY)
def test_a_rotary_that_cannot_be_is_refused_when_it_is_built(settings):
    with pytest.raises(ValueError, match=r"^(Rotary|rotary_frequencies): expected [^\n]*$"):
        nn.Rotary(**settings)


def test_rotary_of_an_odd_head_is_refused():
    with pytest.raises(ValueError, match=r"^rotary: expected an even width[^\n]*7$"):
        nn.Rotary("half")(X[..., :7])


def test_alibi_for_new_queries_after_a_cache():
    bias = nn.ALiBi(4)(1, 3, dtype=np.float64)
    np.testing.assert_array_equal(bias, np.outer([0.25, 0.0625, 0.015625, 0.00390625], [-2, -1, 0]))
    assert nn.ALiBi(4)(2).shape == (4, 3)
    with pytest.raises(ValueError, match=r"^ALiBi: expected num_heads [^\n]*0$"):
        nn.ALiBi(0)


BAD_TABLES = {
    "no head": {"num_buckets": 8, "num_heads": 0, "bidirectional": True},
    "odd": {"num_buckets": 9, "num_heads": 1, "bidirectional": True},
    "short": {"num_buckets": 8, "num_heads": 1, "bidirectional": False, "max_distance": 4},
}


@pytest.mark.parametrize("settings", BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_table_that_cannot_be_is_refused_when_it_is_built(settings):
    with pytest.raises(ValueError, match=r"^(RelativePositionBias|relative_position_bucket): expected [^\n]*$"):
        nn.RelativePositionBias(**settings)


def test_a_table_for_another_number_of_heads_is_refused():
    table = nn.RelativePositionBias(8, 2, bidirectional=True, rng=0, dtype=np.float64)
    message = r"^scaled_dot_product_attention: expected a bias [^\n]*\(3, 9\)[^\n]*got \(2, 9\)$"
    with pytest.raises(ValueError, match=message):
        F.scaled_dot_product_attention(X, X, X, table(5))
    with pytest.raises(ValueError, match=r"^RelativePositionBias: [^\n]*weight: expected \(8, 2\), got \(8, 3\)$"):
        table.load_state_dict({"weight": np.zeros((8, 3))})


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_table_lent_to_two_layers_has_the_sum_of_their_gradients(bidirectional):
    """Beside central differences: the table moves both layers' scores, with queries that are the newest tokens."""
    table = nn.RelativePositionBias(8, 3, bidirectional=bidirectional, max_distance=6, rng=0, dtype=np.float64)
    query = X[:, :, 2:]
    dy = np.random.default_rng(1).standard_normal(query.shape)

    def loss():
        bias, cache = table.forward(3, 5)
        first, second = (
            F.scaled_dot_product_attention(query, X * size, X, bias, causal=not bidirectional) for size in (1, 0.5)
        )
        return np.sum((first[0] + second[0]) * dy), (cache, first[1], second[1])

    cache, *layers = loss()[1]
    dbias = sum(F.scaled_dot_product_attention_backward(dy, layer)[3] for layer in layers)
    nothing, grads = table.backward(dbias, cache)
    assert nothing is None
    numeric = np.empty_like(table.weight)
    for n in np.ndindex(table.weight.shape):
        before = table.weight[n]
        table.weight[n] = before + 1e-5
        up = loss()[0]
        table.weight[n] = before - 1e-5
        down = loss()[0]
        table.weight[n] = before
        numeric[n] = (up - down) / 2e-5
    np.testing.assert_allclose(grads["weight"], numeric, atol=1e-8)
    assert np.count_nonzero(grads["weight"]) > 9
