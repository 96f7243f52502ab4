"""LoRA on components: what is put where, what learns, merging, and what is refused."""

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn
from numtx.training import AdamW

F64 = {"dtype": np.float64}


def layer(rng=0):
    attention = nn.PreNorm(nn.LayerNorm(4, **F64), nn.MultiHeadAttention(4, 2, rng=rng, **F64))
    network = nn.PreNorm(nn.LayerNorm(4, **F64), nn.FeedForward(4, 6, rng=rng, **F64))
    return nn.EncoderLayer(attention, network)


def drawn(model, seed=1):
    """The model with numbers in its updates."""
    rng = np.random.default_rng(seed)
    for one in nn.lora_layers(model).values():
        one.lora_B[...] = rng.standard_normal(one.lora_B.shape)
    return model


X = np.random.default_rng(5).standard_normal((2, 3, 4))


def test_nothing_changes_at_first_and_the_update_alone_learns():
    model = layer()
    before, y = dict(model.named_parameters()), model(X)
    assert nn.add_lora(model, r=2, target_modules=["in_proj", "out_proj", "up"], rng=0) is model
    np.testing.assert_array_equal(model(X), y)
    now = dict(model.named_parameters())
    assert all(now[name] is array for name, array in before.items())
    places = ("attention.sublayer", "attention.sublayer.out_proj", "feed_forward.sublayer.up")
    learned = {f"{place}.{part}" for place in places for part in ("lora_A", "lora_B")}
    assert {name for name, _ in model.trainable_parameters()} == learned
    assert set(now) == set(before) | learned
    y, cache = model.forward(X)
    grads = nn.flatten(model.backward(np.cos(y), cache)[1])
    assert set(grads) == learned
    assert not any(grads[name].any() for name in learned if name.endswith("A"))  # B is zero
    assert all(grads[name].any() for name in learned if name.endswith("B"))


def test_the_default_is_queries_and_values():
    model = nn.add_lora(nn.GroupedQueryAttention(8, 4, 2, rng=0), r=1)
    assert list(nn.lora_layers(model)) == ["q_proj", "v_proj"]
    assert list(nn.lora_layers(nn.add_lora(layer()))) == ["attention.sublayer"]


def test_merged_is_the_same_and_unmerged_has_the_bits_of_before():
    model = drawn(nn.add_lora(layer(), r=2, target_modules=["in_proj", "down"], rng=0))
    y, weights = model(X), dict(model.named_parameters())
    assert nn.merge_lora(nn.merge_lora(model)) is model  # twice is once
    down = "feed_forward.sublayer.down.weight"
    assert not np.array_equal(model.get_parameter(down), weights[down])
    np.testing.assert_allclose(model(X), y, rtol=1e-12)
    nn.unmerge_lora(model)
    np.testing.assert_array_equal(model(X), y)
    assert all(array is weights[name] for name, array in model.named_parameters())


@pytest.mark.parametrize("merge", [True, False])
def test_removed_it_is_plain_again(merge):
    model = layer()
    plain, names = model(X), [name for name, _ in model.named_parameters()]
    y = drawn(nn.add_lora(model, r=2, target_modules=["in_proj", "down"], rng=0))(X)
    nn.merge_lora(model)  # in whatever state
    nn.remove_lora(model, merge=merge)
    np.testing.assert_allclose(model(X), y if merge else plain, rtol=1e-12)
    assert type(model.attention.sublayer) is nn.MultiHeadAttention
    assert type(model.feed_forward.sublayer.down) is nn.Linear
    assert [name for name, _ in model.trainable_parameters()] == names


def test_an_order_in_memory_is_kept_by_merging():
    """A weight that is an (out, in) file's transposed view stays one."""
    linear = nn.LoRALinear(3, 5, r=2, rng=0)
    linear.set_parameter("weight", np.ascontiguousarray(linear.weight.T).T)
    linear.lora_B[...] = 1
    linear.merge()
    assert linear.weight.T.flags.c_contiguous


def test_a_merged_update_is_not_trained():
    for model in (nn.LoRALinear(4, 4, r=1, rng=0, **F64), nn.LoRAMultiHeadAttention(4, 2, r=1, rng=0, **F64)):
        model.merge()
        y, cache = model.forward(X)
        with pytest.raises(ValueError, match="backward of a merged update, which is not trained; unmerge it first"):
            model.backward(y, cache)


def test_the_frozen_half_of_an_update_has_no_gradient():
    model = nn.LoRALinear(4, 3, r=2, rng=0, **F64)
    nn.freeze(model, "weight", "lora_A")
    y, cache = model.forward(X)
    assert set(model.backward(y, cache)[1]) == {"bias", "lora_B"}
    attention = nn.LoRAMultiHeadAttention(4, 2, r=1, rng=0, **F64)
    nn.freeze(attention, "lora_*")
    y, cache = attention.forward(X, X + 1)
    assert set(attention.backward(y, cache)[1]) == {"in_proj_weight", "in_proj_bias", "out_proj"}


def test_what_backward_keeps_of_a_frozen_base_is_what_the_update_reads():
    """No second copy of x, and no product for a weight that does not learn."""
    model = nn.add_lora(nn.FeedForward(4, 6, rng=0), r=1, target_modules=["up"]).up
    _, ((x, *_), _) = model.forward(X.astype(np.float32))
    assert x is None


def test_training_moves_the_update_alone():
    model = nn.add_lora(layer(), r=2, rng=0)
    before = {name: array.copy() for name, array in model.named_parameters()}
    optimizer, losses = AdamW(model, lr=0.05), []
    for _ in range(30):
        y, cache = model.forward(X)
        losses.append(float(((y - 1) ** 2).mean()))
        optimizer.step(model.backward(2 * (y - 1) / y.size, cache)[1])
    assert losses[-1] < 0.9 * losses[0]
    moved = {name for name, array in model.named_parameters() if not np.array_equal(array, before[name])}
    assert moved == {f"attention.sublayer.{part}" for part in ("lora_A", "lora_B")}


def test_modules_trained_in_full():
    model = nn.add_lora(layer(), r=2, modules_to_save=["feed_forward"], rng=0)
    learned = [name for name, _ in model.trainable_parameters()]
    assert sum(name.startswith("feed_forward.") for name in learned) == len(learned) - 2


def test_dropout_is_of_the_update_alone():
    model = nn.LoRALinear(4, 3, r=2, dropout=0.5, rng=0, **F64)
    plain = model(X)
    np.testing.assert_array_equal(model.forward(X, rng=np.random.default_rng(0))[0], plain)  # B is zero
    model.lora_B[...] = 1
    assert not np.array_equal(model.forward(X, rng=np.random.default_rng(0))[0], model(X))
    again = [model.forward(X, rng=np.random.default_rng(3))[0] for _ in range(2)]
    np.testing.assert_array_equal(*again)
    y, _ = F.low_rank(X, model.lora_A, model.lora_B, model.lora_scale)
    np.testing.assert_allclose(model(X), plain + y, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 0}, "LoRA.*: expected r as a whole number of at least 1, got 0"),
        ({"alpha": -1}, "alpha"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\), got 1.0"),
        ({"target_modules": ["query"]}, "among in_proj, out_proj, up, down, got 'query'"),
        ({"target_modules": ["up", "ups"]}, "got 'ups'; the nearest is 'up'"),
        ({"target_modules": "(up"}, "as a regular expression"),
        ({"target_modules": r".*\.nothing"}, "among"),
        ({"target_modules": []}, "as names of modules"),
        ({"modules_to_save": ["head"]}, "modules_to_save among"),
    ],
)
def test_refused_before_anything_changes(settings, said):
    model = layer()
    with pytest.raises(ValueError, match=said) as caught:
        nn.add_lora(model, **settings)
    assert "\n" not in str(caught.value)
    assert not nn.lora_layers(model)
    assert not list(model.frozen_parameters())


def test_twice_and_none():
    model = nn.add_lora(layer())
    with pytest.raises(ValueError, match="EncoderLayer: expected a model without LoRA"):
        nn.add_lora(model)
    for function in (nn.merge_lora, nn.unmerge_lora, nn.remove_lora):
        with pytest.raises(ValueError, match="EncoderLayer: expected a model with LoRA, got one without"):
            function(layer())


def test_dropout_where_nobody_hands_on_randomness():
    class Plain(nn.Module):
        def __init__(self):
            self.dense = nn.Linear(4, 4, rng=0)

        def forward(self, x):
            return self.dense.forward(x)

    nn.add_lora(Plain(), target_modules=["dense"])
    with pytest.raises(ValueError, match="expected no dropout for the update at dense"):
        nn.add_lora(Plain(), dropout=0.1, target_modules=["dense"])


def test_converted_between_dtypes():
    model = drawn(nn.add_lora(layer(), r=2, rng=0)).astype(np.float32)
    assert {array.dtype for _, array in model.named_parameters()} == {np.dtype(np.float32)}
    assert model(X.astype(np.float32)).dtype == np.float32


def test_merging_again_takes_the_new_numbers():
    rng = np.random.default_rng(0)
    one = nn.LoRALinear(5, 4, 2, rng=0, dtype=np.float64)
    x = rng.normal(size=(3, 5))
    one.merge()
    one.lora_B[...] = rng.normal(size=one.lora_B.shape)
    one.merge()
    merged = one(x)
    one.unmerge()
    np.testing.assert_allclose(merged, one(x), rtol=1e-12)
    assert np.abs(one(x) - (x @ one.weight + one.bias)).max() > 0.1


def test_unmerged_is_what_was_there_though_its_memory_was_written_to():
    one = nn.LoRALinear(5, 4, 2, rng=0, dtype=np.float64)
    one.lora_B[...] = 1.0
    optimizer, before = AdamW(one), one.weight.copy()
    one.merge()
    optimizer.flat.sync()  # takes the merged weight into its buffer
    one.unmerge()
    np.testing.assert_array_equal(one.weight, before)


def test_a_merged_state_is_refused():
    """W + s A B beside A and B would count the update twice wherever it is loaded."""
    model, other = (drawn(nn.add_lora(layer(), r=2, target_modules=["in_proj", "down"], rng=0)) for _ in range(2))
    want = model.state_dict()
    nn.merge_lora(model)
    for ask in (model.state_dict, lambda: model.load_state_dict(want)):
        with pytest.raises(ValueError, match="expected no merged update in a state, got one; unmerge it first"):
            ask()
    nn.unmerge_lora(model)
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other(X), model(X))
    assert all(model.state_dict()[name] is array for name, array in want.items())


@pytest.mark.parametrize("kind", [nn.LoRALinear, nn.LoRAMultiHeadAttention])
def test_backward_follows_its_own_forward(kind):
    """Whatever was merged or unmerged since."""
    sizes = (4, 4) if kind is nn.LoRALinear else (4, 2)
    model = kind(*sizes, r=1, rng=0, **F64)
    model.lora_B[...] = 0.5
    y, cache = model.forward(X)
    want = model.backward(np.cos(y), cache)
    model.merge()
    got = model.backward(np.cos(y), cache)
    _, merged = model.forward(X)
    model.unmerge()
    with pytest.raises(ValueError, match="backward of a merged update, which is not trained; unmerge it first"):
        model.backward(y, merged)
    for name, array in nn.flatten(want[1]).items():
        np.testing.assert_array_equal(nn.flatten(got[1])[name], array, err_msg=name)
    np.testing.assert_array_equal(*(dx if kind is nn.LoRALinear else dx[0] for dx, _ in (want, got)))


def test_removed_nothing_of_the_update_is_left_frozen():
    model = nn.add_lora(layer(), r=2, rng=0)
    nn.freeze(model)
    nn.remove_lora(model)
    assert not any(module.frozen for _, module in model.named_modules())


def test_a_scale_of_numpy_keeps_the_dtype():
    x, a, b = (np.ones(shape, np.float32) for shape in ((2, 3), (3, 1), (1, 4)))
    assert F.low_rank(x, a, b, np.float64(0.5))[0].dtype == np.float32
