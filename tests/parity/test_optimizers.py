"""The optimizers, the clip and a whole training beside torch.optim in float64."""

import numpy as np
import pytest

from numtx import nn
from numtx.training import SGD, Adam, AdamW, clip_grad_norm, rates_by_pattern

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")

ALL = {"decay": lambda name, array: True}  # torch decays every parameter of a group
CASES = {
    "SGD": (lambda m: SGD(m, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "SGD momentum decay": (
        lambda m: SGD(m, 0.1, momentum=0.9, weight_decay=0.3, **ALL),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.3),
    ),
    "Adam": (lambda m: Adam(m), torch.optim.Adam),
    "Adam decay": (
        lambda m: Adam(m, 0.1, (0.8, 0.95), 1e-2, 0.3, **ALL),
        lambda p: torch.optim.Adam(p, 0.1, (0.8, 0.95), 1e-2, 0.3),
    ),
    "AdamW": (lambda m: AdamW(m, **ALL), torch.optim.AdamW),
    "AdamW decay": (
        lambda m: AdamW(m, 0.1, (0.8, 0.95), 1e-2, 0.3, **ALL),
        lambda p: torch.optim.AdamW(p, 0.1, (0.8, 0.95), 1e-2, 0.3),
    ),
}


def twins():
    model = nn.FeedForward(6, 10, "relu", rng=0, dtype=np.float64)
    return model, {name: torch.nn.Parameter(torch.tensor(array.copy())) for name, array in model.named_parameters()}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps(case, clip, agree):
    ours, theirs = CASES[case]
    model, parameters = twins()
    optimizer, reference = ours(model), theirs(list(parameters.values()))
    rng = np.random.default_rng(1)
    for step in range(20):
        lr = 0.1 / (step + 1)
        scale = 10.0 ** rng.integers(-6, 3)  # eps matters in some steps, not in others
        grads = {name: scale * rng.standard_normal(array.shape) for name, array in model.named_parameters()}
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(grads[name].copy())
        if clip is not None:
            norm = clip_grad_norm(grads, clip)
            assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(parameters.values(), clip)), rel=1e-12)
        reference.param_groups[0]["lr"] = lr
        reference.step()
        optimizer.step(nn.unflatten(grads), lr)
    agree(case, (dict(model.named_parameters()), {}), ({n: p.detach().numpy() for n, p in parameters.items()}, {}))
    if "Adam" in case:
        for i, name in enumerate(parameters):
            state = reference.state_dict()["state"][i]
            for moment in ("exp_avg", "exp_avg_sq"):
                mine = optimizer.state_dict()[f"{moment}.{name}"]
                np.testing.assert_allclose(mine, state[moment].numpy(), rtol=1e-10, atol=1e-300)


def test_groups_as_gpt_trainings_have_them(agree):
    """Decay on matrices alone, the default here, is two groups there."""
    model, parameters = twins()
    groups = [
        {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": 0.4},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer, reference = AdamW(model, 0.05, weight_decay=0.4), torch.optim.AdamW(groups, 0.05)
    rng = np.random.default_rng(2)
    for _ in range(5):
        grads = {name: rng.standard_normal(array.shape) for name, array in model.named_parameters()}
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(grads[name])
        reference.step()
        optimizer.step(grads)
    agree("AdamW", (dict(model.named_parameters()), {}), ({n: p.detach().numpy() for n, p in parameters.items()}, {}))


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_groups_of_their_own_rates_beside_frozen_ones(kind, agree):
    """A schedule multiplies every group's rate there, and so it does the factors here."""
    model, parameters = twins()
    nn.freeze(model, "up.bias")
    parameters["up.bias"].requires_grad_(False)
    settings = {"weight_decay": 0.4} | ({"momentum": 0.9} if kind == "SGD" else {})
    factors = {"up.*": 0.1, "*.bias": 3.0, "down.*": 1.0}
    rates = rates_by_pattern(model, factors)
    ours = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}[kind](model, 0.05, **settings, **ALL, rates=rates)
    learning = {name: p for name, p in parameters.items() if p.requires_grad}
    groups = [{"params": [p], "lr": 0.05 * rates(name, p)} for name, p in learning.items()]
    reference = getattr(torch.optim, kind)(groups, 0.05, **settings)
    rng = np.random.default_rng(3)
    for step in range(8):
        grads = {name: rng.standard_normal(array.shape) for name, array in model.trainable_parameters()}
        for group, name in zip(reference.param_groups, learning, strict=True):
            learning[name].grad = torch.tensor(grads[name].copy())
            group["lr"] = 0.05 / (step + 1) * rates(name, None)
        reference.step()
        ours.step(grads, 0.05 / (step + 1))
    agree(kind, (dict(model.named_parameters()), {}), ({n: p.detach().numpy() for n, p in parameters.items()}, {}))
