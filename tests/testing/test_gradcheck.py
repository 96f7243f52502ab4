"""`gradcheck`: what it takes, what it gives, and what it must refuse."""

import numpy as np
import pytest

from numtx import functional as F
from numtx.testing import assert_gradients, gradcheck

X = np.array([[0.3, -1.2, 2.0], [0.7, 0.1, -0.5]])
W = np.array([[1.0, 0.5], [-0.3, 0.2], [0.8, -1.1]])


def product(x, w):
    return x @ w, (x, w)


def product_backward(dy, cache):
    x, w = cache
    return dy @ w.T, x.T @ dy


def test_right_gradients_pass_and_print_as_a_table():
    report = gradcheck(product, product_backward, [X, W])
    assert report
    lines = str(report).splitlines()
    assert lines[0].split("  ")[0] == "what"
    assert [word in lines[0] for word in ("gradient", "worst relative error", "cases", "verdict")] == [True] * 4
    assert [row.gradient for row in report] == ["x", "w"]
    assert all(row.error < 1e-8 and row.cases == 4 for row in report)


def test_wrong_gradients_fail_by_name():
    report = gradcheck(product, lambda dy, c: (dy @ c[1].T, 1.001 * c[0].T @ dy), [X, W])
    assert not report
    assert [row.gradient for row in report if not row.ok] == ["w"]
    assert "FAILED" in str(report)


def test_inputs_by_keyword():
    assert gradcheck(product, product_backward, {"w": W, "x": X}, ["x", "w"])
    assert not gradcheck(product, product_backward, {"w": W, "x": X})  # gradients come in the order of the names


def test_a_forward_that_returns_only_y_hands_its_inputs_to_backward():
    assert gradcheck(lambda x, w: x @ w, lambda dy, x, w: (dy @ w.T, x.T @ dy), [X, W])
    assert gradcheck(lambda x, w: x @ w, lambda dy, x, w: (dy @ w.T, x.T @ dy), {"x": X, "w": W})
    assert not gradcheck(lambda x, w: x @ w, lambda dy, x, w: (dy @ w.T, x.T @ dy / 2), [X, W])


def test_gradients_as_list_dict_bare_and_tuple_of_one():
    assert gradcheck(product, lambda dy, c: list(product_backward(dy, c)), [X, W])
    assert gradcheck(product, lambda dy, c: dict(zip("wx", product_backward(dy, c)[::-1], strict=True)), [X, W])
    assert gradcheck(lambda x: (x * x, x), lambda dy, x: (2 * x * dy,), [X])
    assert gradcheck(lambda x: (x * x, x), lambda dy, x: 2 * x * dy, [X])


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_a_number_whose_terms_cancel_is_rounded_as_they_are(factor):
    """Of three numbers the last is near zero, and as rough as the others: its quotient says no more than theirs."""

    def forward(x):
        near_one = 1.0 + 1e-9 * x[0]
        return np.array([near_one, -near_one, near_one - 1.0]), None

    def backward(dy, cache):
        return 1e-9 * np.array([dy[0] - dy[1] + factor * dy[2]])

    assert bool(gradcheck(forward, backward, [np.array([0.7])])) == (factor == 1.0)


@pytest.mark.parametrize("chosen", [["w"], "w", 1, [1], [-1]])
def test_some_inputs_only(chosen):
    assert gradcheck(product, lambda dy, c: c[0].T @ dy, [X, W], chosen)


def test_float32_is_cast_and_integers_are_not_differentiated():
    ids = np.array([1, 0, 1])

    def rows(table, ids):
        return table[ids], (table.shape, ids)

    def right(dy, cache):
        shape, ids = cache
        gradient = np.zeros(shape)
        np.add.at(gradient, ids, dy)
        return gradient

    def overwriting(dy, cache):
        shape, ids = cache
        gradient = np.zeros(shape)
        gradient[ids] = dy
        return gradient

    table = X.astype(np.float32)
    assert gradcheck(rows, right, [table, ids])
    assert not gradcheck(rows, overwriting, [table, ids])
    assert table.dtype == np.float32


def test_inputs_are_left_alone():
    x = X.copy()
    gradcheck(lambda x: (np.add(x, 1, out=x), None), lambda dy, _: dy, [x])
    assert (x == X).all()
    assert not gradcheck(lambda x: (np.add(x, 1, out=x), None), lambda dy, _: dy, [x])


def test_lists_of_numbers_and_plain_settings():
    assert gradcheck(lambda x, p: (x**p, (x, p)), lambda dy, c: c[1] * c[0] ** (c[1] - 1) * dy, [[0.5, 1.5], 3])


def test_a_generator_draws_the_same_in_every_call():
    report = gradcheck(
        lambda x, p, rng: F.dropout(x, p, rng), F.dropout_backward, {"x": X, "p": 0.5, "rng": np.random.default_rng(0)}
    )
    assert report


def test_a_loss_that_forgets_dy_fails():
    assert gradcheck(lambda x: (np.sum(x**2), x), lambda dy, x: 2 * x * dy, [X])
    assert not gradcheck(lambda x: (np.sum(x**2), x), lambda dy, x: 2 * x, [X])


def test_nan_fails():
    report = gradcheck(lambda x: (x * x, x), lambda dy, x: np.full_like(x, np.nan), [X])
    assert not report
    assert not gradcheck(lambda x: (x * np.nan, x), lambda dy, x: x * np.nan, [X])


def test_exceptions_are_in_the_report():
    report = gradcheck(lambda x: (x @ x, x), lambda dy, x: x, [X])
    assert not report
    assert "ValueError" in str(report)


def test_a_gradient_too_few_is_in_the_report():
    report = gradcheck(product, lambda dy, c: dy @ c[1].T, [X, W])
    assert not report
    assert "expected a tuple of 2 gradients" in str(report)


def test_assert_gradients_raises_with_the_table():
    assert_gradients(product, product_backward, [X, W])
    with pytest.raises(AssertionError, match=r"gradients are wrong\nwhat +gradient") as caught:
        assert_gradients(product, lambda dy, c: (dy @ c[1].T, c[0].T @ dy * 2), [X, W], name="my product")
    assert "my product" in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "chosen", "message"),
    [
        (X, None, "write \\[x\\]"),
        ([np.array([1, 2])], None, "expected floating arrays to differentiate, got none"),
        ([X], ["y"], "expected inputs among \\['x'\\], got \\['y'\\]"),
        ([X], [3], "got \\[3\\]"),
        ([X, np.array([1])], ["b"], "got \\['b'\\]"),
    ],
)
def test_what_cannot_be_checked_is_refused(inputs, chosen, message):
    def square(x, b=None):
        return x * x, x

    with pytest.raises(ValueError, match=message):
        gradcheck(square, lambda dy, x: 2 * x * dy, inputs, chosen)


def test_numtx_pairs_pass():
    assert gradcheck(F.layer_norm, F.layer_norm_backward, {"x": X, "weight": X[0] + 2, "bias": X[1]})
    assert gradcheck(F.gelu, F.gelu_backward, [X])


def test_equal_seeds_give_equal_reports():
    assert str(gradcheck(product, product_backward, [X, W], seed=3)) == str(
        gradcheck(product, product_backward, [X, W], seed=3)
    )
