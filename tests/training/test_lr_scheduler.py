"""Learning rates by Transformers' names: hand-computed values; tests/parity compares all of them with theirs."""

import math

import pytest

from numtx.training import get_scheduler
from numtx.training.lr_scheduler import LR_SCHEDULERS

SETTINGS = {"cosine_with_min_lr": {"min_lr": 0.1}, "warmup_stable_decay": {"num_decay_steps": 3}}


@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_a_warm_up_begins_at_zero_and_reaches_the_rate(name):
    rate = get_scheduler(name, 2.0, 4, 20, **SETTINGS.get(name, {}))
    wanted = [2.0] * 5 if name == "constant" else [0.0, 0.5, 1.0, 1.5, 2.0]
    assert [rate(step) for step in range(5)] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("name", "settings", "step", "share"),
    [
        ("linear", {}, 12, 0.5),
        ("linear", {}, 20, 0.0),
        ("cosine", {}, 8, (1 + math.cos(math.pi / 4)) / 2),
        ("cosine", {"num_cycles": 1.0}, 12, 0.0),
        ("cosine_with_restarts", {"num_cycles": 2}, 12, 1.0),
        ("cosine_with_restarts", {"num_cycles": 2}, 20, 0.0),
        ("polynomial", {"power": 2.0, "lr_end": 0.0}, 12, 0.25),
        ("polynomial", {"lr_end": 0.5}, 30, 0.25),
        ("constant_with_warmup", {}, 19, 1.0),
        ("inverse_sqrt", {}, 16, 0.5),
        ("inverse_sqrt", {"timescale": 2}, 10, 0.5),
        ("cosine_with_min_lr", {"min_lr_rate": 0.25}, 20, 0.25),
        ("warmup_stable_decay", {"num_decay_steps": 4, "decay_type": "linear"}, 18, 0.5),
        ("warmup_stable_decay", {"num_decay_steps": 4, "decay_type": "1-sqrt", "min_lr_ratio": 0.5}, 17, 0.75),
        ("warmup_stable_decay", {"num_decay_steps": 4, "num_stable_steps": 2}, 10, 0.0),
    ],
)
def test_what_follows_the_warm_up(name, settings, step, share):
    assert get_scheduler(name, 2.0, 4, 20, **settings)(step) == pytest.approx(2.0 * share, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("quadratic", {}, "expected one of linear, cosine"),
        ("linear", {"power": 2}, "expected no settings for 'linear', got power"),
        ("polynomial", {"powr": 2}, "expected the settings lr_end, power for 'polynomial', got powr"),
        ("polynomial", {"lr_end": 3.0}, "expected lr_end below the learning rate 2.0, got 3.0"),
        ("cosine_with_min_lr", {}, "expected either min_lr or min_lr_rate, got neither"),
        ("warmup_stable_decay", {}, "expected the setting num_decay_steps"),
        ("warmup_stable_decay", {"num_decay_steps": 4, "warmup_type": "sine"}, "expected a type of linear, cosine"),
        ("cosine", {"num_cycles": "half"}, "expected numbers as the settings of 'cosine'"),
        ("inverse_sqrt", {"timescale": 0}, "expected a timescale above 0, got 0"),
        ("inverse_sqrt", {"timescale": -3}, "expected a timescale above 0, got -3"),
        ("inverse_sqrt", {"timescale": math.nan}, "expected a timescale above 0, got nan"),
        ("inverse_sqrt", {"timescale": 1e400}, "expected settings of 'inverse_sqrt' that give finite rates"),
        ("polynomial", {"power": -1e9}, "expected settings of 'polynomial' that give finite rates"),
    ],
)
def test_settings_that_do_not_fit(name, settings, said):
    with pytest.raises(ValueError, match=f"get_scheduler: {said}"):
        get_scheduler(name, 2.0, 4, 20, **settings)
