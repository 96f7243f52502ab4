"""Learning rates: pure functions of the step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.training import TrainingConfig, constant, cosine, linear


@given(
    steps=st.integers(1, 300),
    warmup=st.integers(0, 100),
    lr=st.floats(1e-6, 1),
    share=st.just(0.0) | st.floats(1e-6, 1),
    seed=st.randoms(),
)
@pytest.mark.parametrize("schedule", [cosine, linear, constant])
def test_rises_then_falls_to_the_last_rate(schedule, steps, warmup, lr, share, seed):
    rates = [schedule(s, lr=lr, steps=steps, warmup=warmup, min_lr=share * lr) for s in range(steps)]
    rise, fall = rates[: min(warmup, steps)], rates[warmup:]
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates) or share == 0
    if warmup and warmup <= steps:
        assert rates[warmup - 1] == pytest.approx(lr)
        assert rates[0] == pytest.approx(lr / warmup)
    if steps > warmup + 1:
        assert rates[warmup] == pytest.approx(lr)
        assert rates[-1] == pytest.approx(lr if schedule is constant else share * lr)
    step = seed.randrange(steps)  # asked alone, it is the same
    assert schedule(step, lr=lr, steps=steps, warmup=warmup, min_lr=share * lr) == rates[step]


def test_halfway():
    settings = {"lr": 1.0, "steps": 21, "warmup": 0, "min_lr": 0.2}
    assert linear(10, **settings) == pytest.approx(0.6)
    assert cosine(10, **settings) == pytest.approx(0.6)
    assert linear(5, **settings) == pytest.approx(0.8)
    assert cosine(5, **settings) == pytest.approx(0.2 + 0.8 * (1 + 0.5**0.5) / 2)


def test_a_step_after_the_last_keeps_the_last_rate():
    assert cosine(50, lr=1.0, steps=21, min_lr=0.2) == pytest.approx(0.2)


def test_the_config_asks_its_schedule():
    config = TrainingConfig(steps=21, lr=1.0, min_lr=0.2, warmup=0, schedule="linear")
    assert config.learning_rate(5) == linear(5, lr=1.0, steps=21, min_lr=0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 1.5},
        {"steps": True},
        {"lr": "fast"},
        {"lr": float("inf")},
        {"batch": 0},
        {"shards": 0},
        {"threads": 0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"warmup": -1},
        {"clip": 0.0},
        {"clip": "off"},
        {"betas": (0.9,)},
        {"betas": (0.9, 0.99, 0.999)},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"betas": (0.9, float("nan"))},
        {"betas": ("a", "b")},
        {"betas": 0.9},
        {"eps": 0.0},
        {"eps": float("nan")},
        {"eps": None},
        {"recompute": "no"},
        {"schedule": "step"},
        {"batch": 3, "shards": 4},
        {"checkpoints": 0},
        {"save_every": 0},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="TrainingConfig: expected") as error:
        TrainingConfig(**wrong)
    assert "\n" not in str(error.value)


def test_betas_may_come_as_a_list():
    assert TrainingConfig(betas=[0.9, 0.95]) == TrainingConfig(betas=(0.9, 0.95))
