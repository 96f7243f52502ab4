"""The battery must fail what is wrong: toy ops with one fault each, and the same op without it."""

import numpy as np
import pytest

from numtx.testing import Case, Drawer, Finding, Options, Pair, Spec, battery, rejection


def draw(d):
    """x and w of one shape."""
    shape = d.sizes(2, 2, 4)
    return Case({"x": d.array(shape), "w": d.array(shape, mean=1.0)})


def definition(x, w):
    return np.array([a * a * b for a, b in zip(x.ravel(), w.ravel(), strict=True)]).reshape(x.shape)


def forward(x, w):
    """y = x² w."""
    return x * x * w, (x, w)


def backward(dy, cache):
    x, w = cache
    return 2 * x * w * dy, x * x * dy


SPEC = Spec("toy", ("x", "w"), draw, definition, resolve=lambda: Pair(forward, backward))
CASES = [draw(Drawer(seed)) for seed in range(3)]


def names(findings):
    return {f.check for f in findings if not f.ok}


def failed(pair, case=CASES[0], spec=SPEC):
    """All checks that fail."""
    return names(battery(spec, case, pair))


def test_a_right_op_passes_everything():
    for case in CASES:
        assert failed((forward, backward), case) == set()


def test_a_right_op_with_a_cache_of_its_own_passes():
    def own_forward(x, w):
        return np.power(x, 2) * w, {"twice": 2 * x * w, "square": np.square(x)}

    def own_backward(dy, cache):
        return cache["twice"] * dy, cache["square"] * dy

    for case in CASES:
        assert failed((own_forward, own_backward), case) == set()


def test_every_check_ran():
    ran = {f.check for f in battery(SPEC, CASES[0])}
    assert ran >= {
        "definition",
        "gradient",
        "Jacobian",
        "linear in dy",
        "backward twice gives the same",
        "interleaved forwards",
        "inputs unchanged",
        "dtype kept",
        "gradient's shape",
        "float32",
        "extreme values finite",
    }


def test_wrong_forward_with_its_own_right_backward_differs_from_the_definition():
    pair = (lambda x, w: (x**3 * w, (x, w)), lambda dy, c: (3 * c[0] ** 2 * c[1] * dy, c[0] ** 3 * dy))
    assert failed(pair) == {"definition"}


def test_a_gradient_wrong_by_one_part_in_100_000_is_seen():
    def slightly(dy, cache):
        dx, dw = backward(dy, cache)
        return dx * (1 + 1e-5), dw

    assert {"gradient", "Jacobian"} <= failed((forward, slightly))


def test_one_wrong_number_cannot_hide_in_a_sum():
    def one(dy, cache):
        dx, dw = (g.copy() for g in backward(dy, cache))
        dx[0, 0] *= 1 + 1e-4
        return dx, dw

    case = draw(Drawer(1, scale=1.0))
    assert "Jacobian" in failed((forward, one), case)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_fails(bad):
    def broken(dy, cache):
        dx, dw = (g.copy() for g in backward(dy, cache))
        dx[0, 0] = bad
        return dx, dw

    checks = failed((forward, broken))
    assert {"finite", "gradient"} <= checks
    found = [f for f in battery(SPEC, CASES[0], (forward, broken)) if f.check == "gradient" and f.subject == "x"]
    assert not found[0].ok


def test_a_result_of_nan_fails():
    assert "definition" in failed((lambda x, w: (x * np.nan, (x, w)), backward))


def test_softmax_gradient_is_not_hidden_by_ones():
    """Under an incoming gradient of ones, softmax's gradient is zero whatever the backward does."""

    def softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        p = e / e.sum(axis=-1, keepdims=True)
        return p, p

    def batch_too(dy, p):
        return p * (dy - (dy * p).sum(axis=-1, keepdims=True)) / len(dy)

    spec = Spec("softmax", ("x",), lambda d: Case({"x": d.array((3, 4))}), lambda x: softmax(x)[0])
    assert np.allclose(batch_too(np.ones((3, 4)), softmax(np.eye(3, 4))[1]), 0)
    assert "gradient" in failed((softmax, batch_too), spec.draw(Drawer(0)), spec)


def test_inputs_changed_by_forward_or_backward_fail():
    def in_place(x, w):
        y = x * x * w
        x += 1e-9
        return y, (x - 1e-9, w)

    def on_dy(dy, cache):
        x, w = cache
        dx = 2 * x * w * dy
        dw = x * x * dy
        dy *= 1.0 + 1e-7
        return dx, dw

    def on_x(dy, cache):
        x, w = cache
        gradients = (2 * x * w * dy, x * x * dy)
        x *= 1.0 + 1e-9
        return gradients

    for pair in ((in_place, backward), (forward, on_dy), (forward, on_x)):
        case = CASES[0].cast(np.float64)
        assert "inputs unchanged" in failed(pair, case)


def test_state_between_calls_fails():
    kept = {}

    def keeping(x, w):
        kept["x"] = x
        return x * x * w, w

    def from_kept(dy, w):
        return 2 * kept["x"] * w * dy, kept["x"] ** 2 * dy

    assert failed((keeping, from_kept)) == {"interleaved forwards"}


def test_a_backward_that_uses_its_cache_up_fails():
    def list_forward(x, w):
        return x * x * w, [x, w]

    def popping(dy, cache):
        w, x = cache.pop(), cache.pop()
        return 2 * x * w * dy, x * x * dy

    assert "runs" in failed((list_forward, popping))


def test_a_backward_that_changes_its_cache_fails():
    def copying(x, w):
        return x * x * w, (x.copy(), w.copy())

    def scaling(dy, cache):
        x, w = cache
        x *= 2.0
        return x * w * dy, x * x / 4.0 * dy

    assert "backward twice gives the same" in failed((copying, scaling))


def test_a_result_that_a_later_call_overwrites_fails():
    buffers = {}

    def buffer_like(x, what):
        return buffers.setdefault((what, x.shape, x.dtype), np.empty_like(x))

    def reusing(x, w):
        return np.multiply(x * x, w, out=buffer_like(x, "y")), (x, w)

    def reusing_backward(dy, cache):
        x, w = cache
        return np.multiply(2 * x * w, dy, out=buffer_like(x, "dx")), x * x * dy

    assert "results stay as they are" in failed((reusing, backward))
    assert "results stay as they are" in failed((forward, reusing_backward))


def test_randomness_without_a_generator_fails():
    numbers = np.random.default_rng(0)

    def noisy(x, w):
        return x * x * w * (1 + 1e-11 * numbers.standard_normal(x.shape)), (x, w)

    assert "forward twice gives the same" in failed((noisy, backward))


def test_a_backward_that_is_not_linear_fails():
    def clipped(dy, cache):
        dx, dw = backward(dy, cache)
        return np.clip(dx, -0.1, 0.1), dw

    assert "linear in dy" in failed((forward, clipped), draw(Drawer(2, scale=1.0)))


def test_affine_backward_is_not_linear():
    assert "linear in dy" in failed((forward, lambda dy, c: (backward(dy, c)[0] + 1e-3, backward(dy, c)[1])))


def test_a_dtype_that_is_not_kept_fails():
    def widened(x, w):
        return x * x * w * np.float64(1.0), (x, w)

    def narrowed(dy, cache):
        return tuple(g.astype(np.float32) for g in backward(dy, cache))

    assert failed((widened, backward)) == {"dtype kept"}
    assert "dtype kept" in failed((forward, narrowed))


def test_a_gradient_of_a_wrong_shape_fails_without_being_broadcast():
    def summed(dy, cache):
        dx, dw = backward(dy, cache)
        return dx, dw.sum(axis=0)

    assert "gradient's shape" in failed((forward, summed))
    assert "runs" in failed((forward, lambda dy, c: backward(dy, c)[0]))
    assert "gradient's shape" in failed((forward, lambda dy, c: (None, backward(dy, c)[1])))


def test_overflow_at_large_values_fails():
    def cubic(x, w):
        e = np.exp(x)
        return np.log(1 + e), (e / (1 + e), w)

    spec = Spec("softplus", ("x",), lambda d: Case({"x": d.array((3,))}), lambda x: np.log1p(np.exp(x)))
    pair = (lambda x: cubic(x, 1.0), lambda dy, c: c[0] * dy)
    assert "extreme values finite" in failed(pair, spec.draw(Drawer(0)), spec)


def test_float32_that_is_worse_than_it_must_be_fails():
    def cancelling(x):
        shifted = x + x.dtype.type(1000)
        return shifted - x.dtype.type(1000), None

    spec = Spec("identity", ("x",), lambda d: Case({"x": d.array((5,), scale=1.0)}), lambda x: x)
    pair = (cancelling, lambda dy, _: dy)
    assert "float32" in failed(pair, spec.draw(Drawer(0)), spec)
    assert failed((lambda x: (x + 0, None), lambda dy, _: dy), spec.draw(Drawer(0)), spec) == set()


def test_a_gradient_that_depends_on_the_batch_fails():
    assert "gradient" in failed((forward, lambda dy, c: (backward(dy, c)[0] / len(dy), backward(dy, c)[1])))


def test_kinks_are_left_behind_by_smaller_steps():
    spec = Spec("relu", ("x",), lambda d: Case({"x": d.array((6, 8), scale=0.02)}), lambda x: np.maximum(x, 0))
    right = (lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x > 0))
    leaky = (lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * np.where(x > 0, 1, 1e-4))
    for seed in range(20):
        case = spec.draw(Drawer(seed))
        assert failed(right, case, spec) == set()
        assert "gradient" in failed(leaky, case, spec)


def test_a_gradient_of_zero_is_measured_against_the_whole_object():
    """Softmax does not see a constant added to all scores: its gradient is rounding, and no fault."""

    def shifted(x, b):
        z = x + b
        e = np.exp(z - z.max())
        p = e / e.sum()
        return p, p

    def back(dy, p):
        dz = p * (dy - (dy * p).sum())
        return dz, dz.sum(keepdims=True)

    def leaking(dy, p):
        dz, db = back(dy, p)
        return dz, db + 1e-4 * dy.sum()

    def inputs(d):
        return Case({"x": d.array((7,)), "b": d.array((1,))})

    spec = Spec("shifted", ("x", "b"), inputs, lambda x, b: shifted(x, b)[0])
    for seed in range(5):
        assert failed((shifted, back), spec.draw(Drawer(seed)), spec) == set()
        assert "gradient" in failed((shifted, leaking), spec.draw(Drawer(seed)), spec)


def test_an_exception_is_a_failure_and_not_the_end():
    def raising(dy, cache):
        raise RuntimeError("no")

    finding = rejection(SPEC, CASES[0], (forward, raising))
    assert isinstance(finding, Finding)
    assert finding.check == "runs"
    assert "RuntimeError: no" in finding.note


def test_several_results_and_scalars():
    """A pair may give a tuple of arrays, or a number."""

    def two(x):
        return (x * x, 3 * x), x

    spec = Spec("two", ("x",), lambda d: Case({"x": d.array((4,))}), lambda x: (x * x, 3 * x))
    assert failed((two, lambda dy, x: 2 * x * dy[0] + 3 * dy[1]), spec.draw(Drawer(0)), spec) == set()
    assert "gradient" in failed((two, lambda dy, x: 2 * x * dy[0] + dy[1]), spec.draw(Drawer(0)), spec)
    loss = Spec("loss", ("x",), lambda d: Case({"x": d.array((4,))}), lambda x: float(sum(x * x)))
    assert failed((lambda x: ((x * x).sum(), x), lambda dy, x: 2 * x * dy), loss.draw(Drawer(0)), loss) == set()
    assert "linear in dy" in failed((lambda x: ((x * x).sum(), x), lambda dy, x: 2 * x), loss.draw(Drawer(0)), loss)


def test_an_optional_input_that_is_not_given_has_no_gradient():
    def maybe(x, b=None):
        return (x if b is None else x + b), b

    def back(dy, b):
        return dy, None if b is None else dy

    def inputs(d):
        return Case({"x": d.array((3,)), "b": d.optional(lambda: d.array((3,)))})

    spec = Spec("maybe", ("x", "b"), inputs, lambda x, b=None: x + (0 if b is None else b))
    for seed in range(4):
        case = spec.draw(Drawer(seed))
        assert failed((maybe, back), case, spec) == set()
        wrong = failed((maybe, lambda dy, b: (dy, dy)), case, spec)
        assert wrong == ({"gradient's shape"} if case.inputs["b"] is None else set())


def test_options_leave_out_what_is_dear():
    ran = {f.check for f in battery(SPEC, CASES[0], options=Options(jacobian_limit=0, float32=False))}
    assert not ran & {"Jacobian", "float32", "extreme values finite"}
