"""Arguments of Transformers that say where and how a model runs: taken where they say what numtx does anyway."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from numtx.functional.door import count

_CPU = "numtx computes on the CPU alone"
_TEXT = "there are tasks of text alone"
# An argument -> the values that change nothing, and why there are no others.
_NOTHING_ELSE: dict[str, tuple[tuple[Any, ...], str]] = {
    "device": ((None, -1, "cpu"), _CPU),
    "device_map": ((None, "auto", "cpu"), _CPU),
    "framework": ((None, "pt", "np"), "numtx computes with NumPy"),
    "use_fast": ((None, True, False), "there is one tokenizer of a model"),
    "trust_remote_code": ((None, False), "numtx runs no code that comes with a model"),
    "model_kwargs": ((None, {}), "numtx opens a model one way; dtype has its own argument"),
    "pipeline_class": ((None,), "the task says the class"),
    "feature_extractor": ((None,), _TEXT),
    "image_processor": ((None,), _TEXT),
    "processor": ((None,), _TEXT),
}


class SettingError(ValueError):
    """A setting of a pipeline is unknown or wrong, whatever the model and the texts are."""


@contextmanager
def checking_settings() -> Iterator[None]:
    """Say of a ValueError inside the block that a setting caused it.

    Examples
    --------
    >>> with checking_settings():
    ...     check_workers("pipeline", -1)
    Traceback (most recent call last):
    numtx.pipelines.accepted.SettingError: pipeline: expected num_workers as a whole number of at least 0, got -1
    """
    try:
        yield
    except ValueError as error:
        raise SettingError(str(error)).with_traceback(error.__traceback__) from None


def others(owner: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that say where and how a model runs, after checking that these change nothing.

    Raises
    ------
    ValueError
        If one asks for something else; the message says why there is nothing else.

    Examples
    --------
    >>> others("pipeline", {"device": -1, "framework": "pt", "top_k": 3})
    {'top_k': 3}
    """
    left = {}
    for name, value in settings.items():
        if name == "num_workers":
            check_workers(owner, value)
        elif name in _NOTHING_ELSE:
            allowed, why = _NOTHING_ELSE[name]
            if not any(value is one or str(value) == str(one) for one in allowed):
                values = " or ".join(map(repr, allowed))
                raise ValueError(f"{owner}: expected {name} {values} ({why}), got {value!r}")
        else:
            left[name] = value
    return left


def check_workers(owner: str, num_workers: Any) -> None:
    """Require a number of workers, which has nothing to do: texts are read where the model computes."""
    if num_workers is not None:
        count(owner, 0, num_workers=num_workers)


def working(dtype: Any, torch_dtype: Any = None) -> Any:
    """Return np.float32 or np.float64 for what was said: a type of NumPy or PyTorch, its name, "auto" or None.

    Examples
    --------
    >>> working("auto").__name__, working(None, "torch.float64").__name__
    ('float32', 'float64')
    """
    if torch_dtype is not None and dtype is not None:
        raise ValueError(
            f"pipeline: expected dtype or torch_dtype, its older name, got both: {dtype!r}, {torch_dtype!r}"
        )
    said = torch_dtype if dtype is None else dtype
    if said is None or (isinstance(said, str) and said == "auto"):
        return np.float32
    name = str(said).removeprefix("torch.")
    try:
        found = np.dtype(name if isinstance(said, str) or str(said).startswith("torch.") else said)
    except TypeError:
        found = None
    for kind in (np.float32, np.float64):
        if found == kind:
            return kind
    raise ValueError(
        f"pipeline: expected dtype 'auto', float32 or float64 (numtx computes in these alone), got {said!r}"
    )
