"""The statistics of dropout must refuse a wrong rate, a wrong scale, and masks that depend on each other."""

import numpy as np
import pytest

from numtx import functional as F
from numtx.testing import Case, Drawer, Pair, Spec, battery, find_spec
from numtx.testing.statistics import dropout_statistics

SPEC = Spec("dropout", ("x",), lambda d: Case({"x": d.array((3, 4))}, {"p": 0.5, "rng": d.seed()}), lambda x, p, rng: x)


def failed(forward, backward=lambda dy, scale: dy * scale):
    pair = Pair(forward, backward)
    return {f.check for f in dropout_statistics()(SPEC, SPEC.draw(Drawer(1)), pair) if not f.ok}


def dropping(mask_of, scale_of=lambda p: 1 / (1 - p)):
    """A dropout whose mask and scale are given."""

    def forward(x, p, rng):
        if rng is None or p == 0:
            return x, 1.0
        scale = mask_of(x.shape, p, rng) * scale_of(p)
        return x * scale, scale

    return forward


def test_right_dropouts_pass():
    assert failed(F.dropout, F.dropout_backward) == set()
    assert failed(dropping(lambda shape, p, rng: rng.random(shape) >= p)) == set()
    assert failed(dropping(lambda shape, p, rng: rng.binomial(1, 1 - p, shape))) == set()


def test_a_wrong_rate_fails():
    assert failed(dropping(lambda shape, p, rng: rng.random(shape) >= 0.8 * p)) == {"rate of dropping"}


def test_a_wrong_scale_fails():
    assert failed(dropping(lambda shape, p, rng: rng.random(shape) >= p, lambda p: 1.0)) == {"scale of what is kept"}


@pytest.mark.parametrize("axis", [0, 1])
def test_one_mask_for_all_rows_or_columns_fails(axis):
    def shared(shape, p, rng):
        kept = rng.random(shape[1 - axis]) >= p
        return np.broadcast_to(np.expand_dims(kept, axis), shape)

    assert "independence" in failed(dropping(shared))


def test_one_mask_for_two_halves_fails():
    def doubled(shape, p, rng):
        half = rng.random((shape[0] // 2, *shape[1:])) >= p
        return np.concatenate([half, half])

    assert "independence" in failed(dropping(doubled))


def test_a_mask_that_is_kept_fails():
    kept = {}

    def remembered(shape, p, rng):
        return kept.setdefault((shape, p), rng.random(shape) >= p)

    assert failed(dropping(remembered)) == {"independence"}


def test_dropping_without_a_generator_fails():
    def always(x, p, rng):
        scale = (np.random.default_rng(0).random(x.shape) >= p) / (1 - p)
        return x * scale, scale

    assert {"identity without rng", "independence"} <= failed(always)


def checks(pair):
    case = Case({"x": np.full((4, 5), 0.7)}, {"p": 0.5, "rng": 3})
    return {f.check for f in battery(find_spec("dropout"), case, pair) if not f.ok}


def test_the_mean_over_seeds_sees_a_missing_scale():
    right = dropping(lambda shape, p, rng: rng.random(shape) >= p)
    wrong = dropping(lambda shape, p, rng: rng.random(shape) >= p, lambda p: 1.0)
    back = (lambda dy, scale: (dy * scale).astype(np.result_type(dy)),)

    def keep_dtype(forward):
        def call(x, p, rng):
            y, scale = forward(x, p, rng)
            return y.astype(x.dtype), np.asarray(scale, dtype=x.dtype)

        return call

    assert checks((keep_dtype(right), *back)) == set()
    assert "mean over seeds" in checks((keep_dtype(wrong), *back))


def test_an_rng_that_is_not_used_is_seen():
    assert "randomness is used" in checks((lambda x, p, rng: (x, None), lambda dy, _: dy))
