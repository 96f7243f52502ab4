"""Parity with PyTorch and Transformers: skipped where they are absent, an error under NUMTX_REQUIRE_PARITY=1."""

import importlib
import os
import sys
from collections.abc import Callable

import numpy as np
import pytest

if os.environ.get("NUMTX_REQUIRE_PARITY", "0") not in ("", "0"):
    # The modules call `pytest.importorskip`; where parity is required (CI), an absent oracle must not pass as a skip.
    for _name in ("torch", "transformers", "accelerate", "datasets", "peft"):
        importlib.import_module(_name)


@pytest.fixture(autouse=True)
def _double_precision():
    """PyTorch's factories make float64 during a parity test; the default comes back afterwards."""
    torch = sys.modules.get("torch")
    if torch is None:  # a module that tests against other libraries
        yield
        return
    torch.set_num_threads(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def single_precision(_double_precision):
    """For tests of what is opened in float32, as a GGUF file is."""
    import torch

    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def differentiate() -> Callable[..., tuple[dict, dict]]:
    """`differentiate(oracle, inputs, dy)`: PyTorch's `({"y": value}, {name: gradient})` of a function of tensors."""
    import torch

    def run(oracle: Callable, inputs: dict[str, np.ndarray], dy: np.ndarray) -> tuple[dict, dict]:
        dtype = torch.get_default_dtype()
        leaves = {
            name: torch.tensor(np.array(array), dtype=dtype, requires_grad=True) for name, array in inputs.items()
        }
        y = oracle(**leaves)
        gradients = torch.autograd.grad(y, list(leaves.values()), torch.tensor(np.array(dy), dtype=dtype))
        return {"y": y.detach().numpy()}, {name: g.numpy() for name, g in zip(leaves, gradients, strict=True)}

    return run


def _one_ulp(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ulp = np.abs(np.spacing(np.asarray(array, np.float32))).astype(np.float64)
    return array + rng.choice((-1.0, 1.0), np.shape(array)) * ulp


@pytest.fixture(scope="session")
def within_noise(differentiate) -> Callable[..., float]:
    """`within_noise(where, ours, oracle, inputs, dy)`: float32 results beside the float64 oracle.

    The noise is what float32 cannot help: how far the oracle's result moves (RMS over the elements and eight trials)
    when every input moves by one float32 ulp, plus the last bit of the result itself, plus what the oracle run in
    float32 misses by (inner roundings that the inputs do not show, as of p in p - 1/V at small logits). A gradient's
    noise is at least the last bit of the object's largest one: dQ may be nearly zero (saturated scores), but is made
    of dP, which is not. Allowed is 32 times the noise, as the worst element is compared with an RMS. A wrong formula
    (tanh for erf, a term lost) is off by thousands. Returns the largest error over noise.
    """
    import torch

    def in_float32(oracle: Callable, inputs: dict, dy: np.ndarray) -> tuple[dict, dict]:
        torch.set_default_dtype(torch.float32)
        try:
            return differentiate(oracle, inputs, dy)
        finally:
            torch.set_default_dtype(torch.float64)

    def compare(where: str, ours: tuple[dict, dict], oracle: Callable, inputs: dict, dy, factor: float = 32) -> float:
        exact = differentiate(oracle, inputs, dy)
        rng = np.random.default_rng(0)
        trials = [
            differentiate(oracle, {name: _one_ulp(array, rng) for name, array in inputs.items()}, _one_ulp(dy, rng))
            for _ in range(8)
        ]
        single = in_float32(oracle, inputs, dy)
        largest = max(float(np.max(np.abs(gradient), initial=0.0)) for gradient in exact[1].values())
        worst = 0.0
        for part, what, floor in ((0, "value", 0.0), (1, "gradient", float(np.spacing(np.float32(largest))))):
            assert list(ours[part]) == list(exact[part])
            for name, reference in exact[part].items():
                got = np.asarray(ours[part][name])
                assert got.dtype == np.float32, f"{where}: {what} {name} is {got.dtype}"
                assert got.shape == reference.shape, f"{where}: {what} {name} is {got.shape}"
                shift = np.sqrt(np.mean([np.mean((trial[part][name] - reference) ** 2) for trial in trials]))
                last_bit = np.sqrt(np.mean(np.spacing(reference.astype(np.float32)).astype(np.float64) ** 2))
                inside = np.sqrt(np.mean((single[part][name] - reference) ** 2))
                noise = max(float(shift + last_bit + inside), floor)
                error = float(np.max(np.abs(got - reference), initial=0.0))
                assert error <= factor * noise, f"{where}: {what} {name}: error {error:.2e}, noise {noise:.2e}"
                worst = max(worst, error / noise)
        return worst

    return compare
