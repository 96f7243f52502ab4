"""Planting a mistake changes the right place, for the time of a `with` only."""

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn
from numtx.testing import MISTAKES, Case, Mistake, planted

SOFTMAX = MISTAKES["softmax backward divided by the batch"]


def mistake(**changes):
    given = {
        "name": "m",
        "of": "softmax",
        "why": "",
        "hint": "",
        "witness": lambda: Case({}),
        "forward": lambda x, axis=-1: (x, None),
    }
    return Mistake(**{**given, **changes})


def test_it_is_put_in_and_taken_out():
    forward, backward = F.softmax, F.softmax_backward
    with planted(SOFTMAX) as inside:
        assert inside is SOFTMAX
        assert F.softmax is forward
        assert F.softmax_backward is SOFTMAX.backward
    assert F.softmax_backward is backward


def test_it_is_taken_out_after_an_exception():
    right = F.softmax_backward
    with pytest.raises(RuntimeError), planted(SOFTMAX):
        raise RuntimeError
    assert F.softmax_backward is right


def test_components_meet_it():
    attend = nn.FeedForward(4, 6, activation="relu", rng=0)
    x = np.ones((1, 4), np.float32)
    right = attend(x)
    with planted(MISTAKES["relu passing gradient at negative inputs"]):
        y, cache = attend.forward(x)
        assert (y == right).all()
        wrong, _ = attend.backward(np.ones_like(y), cache)
    y, cache = attend.forward(x)
    assert (attend.backward(np.ones_like(y), cache)[0] != wrong).any()


def test_methods_of_a_class():
    right = nn.Linear.forward
    wrong = mistake(of="Linear", owner="numtx.nn.Linear", forward=lambda self, x: (x, None))
    layer = nn.Linear(2, 3, rng=0)
    with planted(wrong):
        assert layer.forward(5)[0] == 5
    assert nn.Linear.forward is right


def test_an_inherited_method_is_inherited_again():
    class Child(nn.Linear):
        pass

    nn_child = mistake(of="Child", owner="numtx.nn.Linear", forward=lambda self, x: (x, None))
    with planted(nn_child):
        assert Child(2, 3, rng=0).forward(5)[0] == 5
    assert "forward" not in vars(Child)
    assert Child(2, 3, rng=0)(np.ones((1, 2), np.float32)).shape == (1, 3)


def test_two_at_once():
    right = F.softmax, F.softmax_backward
    with planted(SOFTMAX), planted(mistake()):
        assert F.softmax is not right[0]
        assert F.softmax_backward is not right[1]
    assert (F.softmax, F.softmax_backward) == right


def test_a_mistake_without_a_wrong_function_is_refused():
    with pytest.raises(ValueError, match="expected a wrong forward or a wrong backward"):
        mistake(forward=None)
