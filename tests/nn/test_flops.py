"""Counting FLOPs: against numbers counted by hand, each multiply-add as two."""

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn
from numtx.models import GPT2Config, GPT2LMHeadModel

f32 = np.float32


def counted(model, *inputs, **settings):
    with nn.trace(model) as t:
        model(*inputs, **settings)
    return nn.count_flops(t)


def test_a_linear_layer_multiplies_and_adds():
    """y_11 = x_11 w_11 + x_12 w_21 + x_13 w_31: three products and (with the start at 0) three sums, for 2 x 4 y's."""
    assert counted(nn.Linear(3, 4), np.ones((2, 3), f32)) == {"Linear/linear": 8 * 6}
    assert counted(nn.Linear(3, 4), np.ones((5, 2, 3), f32)) == {"Linear/linear": 5 * 8 * 6}
    assert counted(nn.Linear(3, 4), np.ones(3, f32)) == {"Linear/linear": 4 * 6}


def test_attention_has_two_products():
    """B = 1, H = 2, T = 3, D = 4: 9 scores of 4 multiply-adds a head, and 3 x 4 results of 3."""
    attention = nn.MultiHeadAttention(8, 2)
    found = counted(attention, np.ones((1, 3, 8), f32))
    assert found == {
        "MultiHeadAttention/linear": 2 * 3 * 8 * 24,
        "MultiHeadAttention/scaled_dot_product_attention": 2 * (2 * 9 * 4 + 2 * 12 * 3),
        "out_proj/linear": 2 * 3 * 8 * 8,
    }


@pytest.mark.parametrize("settings", [{"causal": True}, {"window": 2}])
def test_hidden_pairs_count_like_others(settings):
    x = np.ones((1, 6, 8), f32)
    assert counted(nn.MultiHeadAttention(8, 2, **settings), x) == counted(nn.MultiHeadAttention(8, 2), x)


def test_attention_over_a_memory():
    """Tq = 3, Tk = 5: queries are projected from the one, keys and values from the other."""
    found = counted(nn.MultiHeadAttention(8, 2), np.ones((1, 3, 8), f32), np.ones((1, 5, 8), f32))
    assert list(found.values()) == [2 * 3 * 8 * 8, 2 * 5 * 8 * 16, 2 * 2 * 3 * 5 * (4 + 4), 2 * 3 * 8 * 8]


class Lent(nn.Module):
    """Attention whose heads share keys, and whose values have a width of their own; inputs by name."""

    def forward(self, x):
        return F.scaled_dot_product_attention(
            value=np.ones((1, 1, 5, 7), f32), key=np.ones((1, 1, 5, 4), f32), query=np.ones((1, 6, 3, 4), f32)
        )


def test_shared_keys_and_values_of_another_width():
    """Every one of the six heads has scores of its own, though all read one key: 6 · 3 · 5 · (4 + 7) multiply-adds."""
    assert counted(Lent(), None) == {"Lent/scaled_dot_product_attention": 2 * 6 * 3 * 5 * (4 + 7)}


def test_a_component_called_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x)), ()

    assert counted(Twice(), np.ones((1, 3), f32)) == {"layer/linear": 18, "layer/linear#1": 18}


def test_what_makes_no_product_counts_nothing():
    assert counted(nn.LayerNorm(4), np.ones((2, 4), f32)) == {}
    assert counted(nn.Embedding(4, 2), np.array([1, 2])) == {}


def test_a_whole_model_is_the_textbook_sum():
    """GPT-2: 24 B T C² a layer (3 + 1 + 4 + 4 products of C x C), 4 B T² C for attention, 2 B T C V for the head."""
    batch, length, width, layers, vocabulary = 2, 5, 8, 3, 11
    config = GPT2Config(vocab_size=vocabulary, n_positions=6, n_embd=width, n_layer=layers, n_head=2)
    found = counted(GPT2LMHeadModel(config, rng=0), np.zeros((batch, length), int))
    tokens = batch * length
    expected = layers * (24 * tokens * width**2 + 4 * tokens * length * width) + 2 * tokens * width * vocabulary
    assert sum(found.values()) == expected
    assert found["head/linear"] == 2 * tokens * width * vocabulary


def test_backward_is_not_counted():
    model = nn.FeedForward(4, 8, rng=0)
    with nn.trace(model) as t:
        y, cache = model.forward(np.ones((1, 2, 4), f32))
        model.backward(y, cache)
    assert sum(nn.count_flops(t).values()) == 2 * 2 * 4 * 8 * 2
