"""The drawer: equal seeds give equal cases; sizes equal in some draws, distinct in others."""

import numpy as np
import pytest

from numtx.testing import SCALES, Case, Drawer, Spec, cases, find_spec


def test_equal_seeds_give_equal_numbers():
    for seed in range(3):
        a, b = Drawer(seed), Drawer(seed)
        assert a.sizes(3) == b.sizes(3)
        assert (a.array((2, 3)) == b.array((2, 3))).all()
        assert a.seed() == b.seed()


def test_arrays_of_one_case_differ():
    d = Drawer(0)
    assert (d.array((4,)) != d.array((4,))).all()


def test_sizes_are_equal_in_some_draws_and_distinct_in_others():
    drawn = [Drawer(seed).sizes(3, 1, 5) for seed in range(60)]
    equal = sum(len(set(sizes)) == 1 for sizes in drawn)
    distinct = sum(len(set(sizes)) == 3 for sizes in drawn)
    assert equal > 8
    assert distinct > 25
    assert all(1 <= n <= 5 for sizes in drawn for n in sizes)


def test_more_sizes_than_there_are_numbers():
    assert all(1 <= n <= 2 for seed in range(20) for n in Drawer(seed).sizes(4, 1, 2))


def test_small_sizes_are_small():
    for seed in range(30):
        d = Drawer(seed, small=True)
        assert d.size(1, 9) <= 3
        assert all(n <= 3 for n in d.sizes(2, 1, 9))
        assert 4 <= d.size(4, 9) <= 5


def test_one_scale_for_a_case():
    assert {Drawer(seed).scale for seed in range(30)} == set(SCALES)
    d = Drawer(0, scale=0.5)
    assert d.scale == 0.5
    assert np.isclose(d.array((4000,)).std(), 0.5, rtol=0.1)
    assert np.isclose(d.array((4000,), scale=0.1, mean=3.0).mean(), 3.0, atol=0.02)


def test_norm_weights_are_not_ones_and_ids_are_in_range():
    d = Drawer(5)
    assert (np.abs(d.near_one((8,)) - 1) > 0).all()
    assert set(d.ids((50,), 3).tolist()) == {0, 1, 2}
    assert d.mask((50,)).dtype == bool
    assert d.uniform((3,), 2.0, 3.0).min() >= 2.0


def test_a_drawer_over_another_source():
    assert Drawer(integer=lambda low, high: high).sizes(2, 1, 4) == (4, 3)
    assert Drawer(integer=lambda low, high: low).sizes(2, 1, 4) == (1, 1)


def test_zero_axes_are_arrays_too():
    d = Drawer(0)
    for array in (d.array(()), d.near_one(()), d.uniform(()), d.ids((), 3), d.mask(())):
        assert isinstance(array, np.ndarray)


def test_a_case_gives_a_fresh_generator_to_every_call():
    case = Case({"x": np.ones(2)}, {"rng": 5, "p": 0.5})
    first, second = case.keywords()["rng"], case.keywords()["rng"]
    assert first is not second
    assert first.random() == second.random()
    assert Case({}, {"rng": None}).keywords()["rng"] is None


def test_casting_copies_floating_arrays_only():
    ids, x = np.array([1, 2]), np.ones(2)
    cast = Case({"x": x, "ids": ids, "b": None}, {"mask": ids > 1, "table": x}).cast(np.float32)
    assert cast.inputs["x"].dtype == np.float32
    assert cast.inputs["ids"] is ids
    assert cast.inputs["b"] is None
    assert cast.settings["table"].dtype == np.float32
    again = Case({"x": x}).cast(np.float64)
    assert again.inputs["x"] is not x


def test_cases_are_the_same_every_time_and_take_each_scale():
    spec = find_spec("softmax")
    first, second = list(cases(spec, 6)), list(cases(spec, 6))
    assert all((a.inputs["x"] == b.inputs["x"]).all() for a, b in zip(first, second, strict=True))
    assert (next(cases(spec, 1, seed=1)).inputs["x"].ravel()[0] != first[0].inputs["x"].ravel()[0]).all()
    scales = []
    list(cases(Spec("s", (), lambda d: scales.append(d.scale), lambda: None), 6))
    assert set(scales) == set(SCALES)


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(ValueError, match="such as layer_norm"):
        find_spec("layernorm")
