"""How far a run has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Since:
    """Sums over the steps since the last evaluation."""

    steps: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, loss: float, grad_norm: float, tokens: int, seconds: float) -> None:
        """Count one step."""
        self.steps += 1
        self.loss += loss
        self.grad_norm += grad_norm
        self.tokens += tokens
        self.seconds += seconds


@dataclass
class Progress:
    """What a resumed run must know besides weights and moments. All random numbers follow from seed and step."""

    step: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_value: float | None = None
    since: Since = field(default_factory=Since)
    state: dict[str, Any] = field(default_factory=dict)  # of those who listen, in JSON's types

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """Read what `dataclasses.asdict` made; floats survive JSON to the last bit.

        Raises
        ------
        ValueError
            In one line, if it is something else.
        """
        try:
            names = {"best_loss": "best_value"}  # as runs were written before a measure could decide
            state = {names.get(name, name): value for name, value in state.items()}
            progress = cls(**{**state, "since": Since(**state["since"])})
            for part in (progress, progress.since):
                for name, start in vars(type(part)()).items():
                    _check(name, getattr(part, name), start)
        except (TypeError, KeyError) as error:
            raise ValueError(f"Progress: expected the state of a training, got another: {error}") from None
        return progress


def _check(name: str, value: Any, start: Any) -> None:
    """Require a value like the one a training starts from."""
    wanted: Any = {int: int, float: (int, float), Since: Since, dict: dict}.get(type(start), (int, float, type(None)))
    if isinstance(value, bool) or not isinstance(value, wanted) or (isinstance(start, int) and value < 0):
        raise TypeError(f"{name} {value!r}")
