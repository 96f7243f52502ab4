"""Settings of every test run: one BLAS thread, the Hypothesis profiles, and how numtx is compared with an oracle."""

# ruff: noqa: E402  (the environment is set before NumPy loads)

import os

# Before NumPy loads: its BLAS reads these once, and small products under many threads are slower, not faster.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import importlib
import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from numtx import nn

ORACLES = ("torch", "transformers")
EXTRAS = ("tokenizers", "sentencepiece", "huggingface_hub", "gguf", "jinja2", "sacrebleu", "rouge_score", "nltk")

if os.environ.get("NUMTX_REQUIRE_EXTRAS", "0") not in ("", "0"):
    # What needs the extras `hub` and `metrics` is skipped where they are absent; where they are required (CI), that
    # must not pass.
    for _name in EXTRAS:
        importlib.import_module(_name)

# A machine that is busy must not turn a right answer red: no deadline. The default run is the same run every time.
settings.register_profile(
    "default", derandomize=True, max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "thorough", max_examples=500, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("NUMTX_HYPOTHESIS_PROFILE", "default"))


def absent_oracles() -> list[str]:
    """Names of the parity libraries that cannot be imported here."""
    return [name for name in ORACLES if importlib.util.find_spec(name) is None]


def pytest_terminal_summary(terminalreporter) -> None:
    """Say it where nobody overlooks it when parity was not tested."""
    absent = absent_oracles()
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "parity/" in r.nodeid]
    if absent and skipped:
        terminalreporter.write_line(
            f"tests/parity: {len(skipped)} files or tests skipped, {' and '.join(absent)} not installed "
            "(pip install 'numtx[parity]'); only the golden files were compared",
            yellow=True,
        )


def _randomized(module: nn.Module, seed: int = 0, scale: float = 0.5) -> nn.Module:
    rng = np.random.default_rng(seed)
    for _, array in module.named_parameters():
        array[...] = rng.normal(size=array.shape) * scale
    return module


@pytest.fixture(scope="session")
def randomized() -> Callable[..., nn.Module]:
    """`randomized(module, seed=0, scale=0.5)` draws every parameter from a normal distribution, in place.

    Weights that no mistake can hide behind: norms are not ones, biases not zeros.
    """
    return _randomized


def _worst(ours: dict, theirs: dict, floor: float, rtol: float, where: str) -> float:
    """Compare tensor by tensor; the largest relative error."""
    assert list(ours) == list(theirs), f"{where}: {list(ours)} beside {list(theirs)}"
    worst = 0.0
    for name, reference in theirs.items():
        got, reference = np.asarray(ours[name]), np.asarray(reference)
        assert got.shape == reference.shape, f"{where} {name}: shape {got.shape}, oracle {reference.shape}"
        assert got.dtype == reference.dtype, f"{where} {name}: dtype {got.dtype}, oracle {reference.dtype}"
        error = float(np.linalg.norm((got - reference).ravel()))
        size = max(float(np.linalg.norm(reference.ravel())), floor)
        # Written so that NaN fails.
        assert error <= rtol * size, f"{where} {name}: error {error:.3e} of {size:.3e}, allowed {rtol:.0e} of it"
        worst = max(worst, error / size if size else 0.0)
    return worst


@pytest.fixture(scope="session")
def agree() -> Callable[..., float]:
    """Comparison of one object (an op, a component, a model) with its oracle: `agree(where, ours, theirs)`.

    Both are pairs of dicts of arrays, `(values, gradients)`. Each tensor's error is taken relative to its own norm;
    a gradient's also to 1e-4 of the largest gradient of the object, because the gradient of a key bias is zero and
    what either side computes there is rounding alone. Returns the largest relative error.
    """

    def compare(where: str, ours: tuple[dict, dict], theirs: tuple[dict, dict], rtol: float = 1e-10) -> float:
        largest = max((float(np.linalg.norm(np.ravel(g))) for g in theirs[1].values()), default=0.0)
        values = _worst(ours[0], theirs[0], 0.0, rtol, f"{where}: value")
        gradients = _worst(ours[1], theirs[1], 1e-4 * largest, rtol, f"{where}: gradient")
        return max(values, gradients)

    return compare
