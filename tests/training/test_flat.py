"""One buffer for all parameters: views that stay views, decayed ones first, and gradients of the same layout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import nn
from numtx.training import FlatParameters, Workers, decayed_by_default


class Bag(nn.Module):
    """A module whose parameters are the arrays it is given."""

    def __init__(self, **arrays):
        vars(self).update(arrays)


def feed_forward(seed=0):
    return nn.FeedForward(6, 10, "relu", rng=seed)


def random_tree(flat, seed=0):
    rng = np.random.default_rng(seed)
    return nn.unflatten({name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in flat.views.items()})


def test_parameters_become_views_with_the_same_values():
    model = feed_forward()
    before = {name: array.copy() for name, array in model.named_parameters()}
    flat = FlatParameters(model)
    for name, array in model.named_parameters():
        assert np.shares_memory(array, flat.buffer)
        np.testing.assert_array_equal(array, before[name])
    flat.buffer[:] = 7
    assert all((array == 7).all() for _, array in model.named_parameters())


def test_each_keeps_its_order_in_memory():
    model = nn.Linear(3, 5, rng=0)
    out_in = np.arange(15, dtype=np.float32).reshape(5, 3)
    model.weight = out_in.T
    FlatParameters(model)
    assert model.weight.T.flags.c_contiguous
    np.testing.assert_array_equal(model.weight, out_in.T)


@given(
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=4).map(tuple), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shapes_and_orders(shapes, seed):
    rng = np.random.default_rng(seed)
    arrays = {}
    for i, shape in enumerate(shapes):
        order = rng.permutation(len(shape))
        arrays[f"p{i}"] = rng.standard_normal([shape[a] for a in order]).transpose(np.argsort(order))
    model = Bag(**arrays)
    flat = FlatParameters(model)
    for name, array in model.named_parameters():
        np.testing.assert_array_equal(array, arrays[name])
        long = [axis for axis in range(array.ndim) if array.shape[axis] > 1]  # the stride of an axis of 1 means nothing
        by_stride = sorted(long, key=lambda axis: array.strides[axis])
        assert by_stride == sorted(long, key=lambda axis, old=arrays[name]: old.strides[axis])
    gradients = flat.gradients()
    tree = random_tree(flat, seed)
    gradients.assign(tree)
    for name, array in nn.flatten(tree).items():
        np.testing.assert_array_equal(gradients.views[name], array)
    assert np.isclose(np.abs(gradients.buffer).sum(), sum(np.abs(a).sum() for a in nn.flatten(tree).values()))


def test_decayed_parameters_come_first_and_alone():
    model = feed_forward()
    flat = FlatParameters(model)
    flat.buffer[: flat.decayed] = 1
    flat.buffer[flat.decayed :] = 2
    for name, array in model.named_parameters():
        assert (array == (1 if decayed_by_default(name, array) else 2)).all()
    assert list(flat.views)[:2] == ["up.weight", "down.weight"]


def test_what_is_decayed_may_be_chosen():
    flat = FlatParameters(feed_forward(), decay=lambda name, array: name == "up.bias")
    assert next(iter(flat.views)) == "up.bias"
    assert flat.decayed == flat.slots["up.weight"].start


def test_every_parameter_starts_a_cache_line():
    flat = FlatParameters(feed_forward())
    assert all(view.ctypes.data % 64 == 0 for view in flat.views.values())
    assert flat.decayed * flat.dtype.itemsize % 64 == 0


def test_arrays_put_into_the_model_later_are_taken_over():
    model = feed_forward()
    flat = FlatParameters(model)
    model.up.weight = np.full((6, 10), 3, np.float32)
    flat.sync()
    assert np.shares_memory(model.up.weight, flat.buffer)
    assert (flat.views["up.weight"] == 3).all()


@pytest.mark.parametrize("change", [lambda m: m.astype(np.float64), lambda m: setattr(m.up, "extra", m.up.bias + 1)])
def test_other_parameters_than_were_flattened_are_refused(change):
    model = feed_forward()
    flat = FlatParameters(model)
    change(model)
    with pytest.raises(ValueError, match="FlatParameters: expected"):
        flat.sync()


def test_a_shared_array_is_refused():
    shared = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="got one for a and b"):
        FlatParameters(Bag(a=shared, b=shared))


@pytest.mark.parametrize("arrays", [{}, {"a": np.ones(2), "b": np.ones(2, np.float32)}, {"a": np.ones(2, int)}])
def test_one_floating_dtype_is_needed(arrays):
    with pytest.raises(ValueError, match="expected parameters of one floating dtype"):
        FlatParameters(Bag(**arrays))


def test_assign_replaces_and_add_adds():
    flat = FlatParameters(feed_forward())
    gradients = flat.gradients()
    a, b = random_tree(flat, 1), random_tree(flat, 2)
    gradients.add(a)
    gradients.assign(a)
    gradients.add(b)
    for name, view in gradients.views.items():
        np.testing.assert_array_equal(view, nn.flatten(a)[name] + nn.flatten(b)[name])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_trees_are_summed_in_their_order_by_any_number_of_threads(threads, worth_threads):
    flat = FlatParameters(feed_forward())
    gradients = flat.gradients()
    trees = [random_tree(flat, seed) for seed in range(5)]
    with Workers(threads) as workers:
        gradients.sum_trees(trees[:3], fresh=True, workers=workers)
        gradients.sum_trees(trees[3:], fresh=False, workers=workers)
    for name, view in gradients.views.items():
        t = [nn.flatten(tree)[name] for tree in trees]
        np.testing.assert_array_equal(view, (((t[0] + t[1]) + t[2]) + t[3]) + t[4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["up"].pop("bias"), "none for up.bias"),
        (lambda tree: tree.update(extra=np.ones(2, np.float32)), "an unexpected extra"),
        (lambda tree: tree["up"].update(bias=np.ones(9, np.float32)), r"up.bias to be \(10,\) float32, got \(9,\)"),
        (lambda tree: tree["up"].update(bias=np.ones(10)), "got .* float64"),
    ],
)
def test_gradients_that_do_not_fit_are_named(change, message):
    flat = FlatParameters(feed_forward())
    tree = random_tree(flat)
    change(tree)
    with pytest.raises(ValueError, match=message):
        flat.gradients().assign(tree)
