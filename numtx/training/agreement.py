"""What all ranks must hold alike, and how it is said where they do not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numtx._version import __version__
from numtx.training.prints import DIGITS, batches_print, frozen_print
from numtx.training.resume import fingerprint, run_settings
from numtx.training.step_batches import first_batches

if TYPE_CHECKING:
    from numtx.training.loop import TrainingLoop


def training_facts(loop: TrainingLoop, resume: Any) -> dict[str, Any]:
    """Return what decides a run's numbers: settings, model, texts and first weights, by the names users know.

    Where the text came from is not among it: the same text may lie elsewhere on another machine.
    """
    settings = run_settings(loop)
    facts = {"numtx": __version__, "resume": str(resume), "dtype": settings["dtype"]}
    facts |= {name: value for name, value in settings["training"].items() if name not in loop.plan.free}
    facts |= {f"model's {name}": value for name, value in settings["model"].items()}
    facts["training text"] = _data_print(loop.train_data)
    facts["held-out text"] = _data_print(loop.validation)
    facts["frozen weights"] = frozen_print(loop.model)
    if not resume:  # a resumed run gets rank 0's
        facts["weights"] = weights_print(loop)
    return facts


def weights_print(loop: TrainingLoop) -> str:
    """Return a hash of a loop's weights."""
    return hashlib.sha256(loop.optimizer.flat.buffer.data).hexdigest()[:DIGITS]


def differences(ranks: Sequence[Mapping[str, Any]]) -> str:
    """Say in which facts ranks differ; "" where they do not.

    Examples
    --------
    >>> differences([{"lr": 0.1, "seed": 0}, {"lr": 0.2, "seed": 0}, {"lr": 0.1, "seed": 0}])
    'lr 0.1 on ranks 0, 2 and 0.2 on rank 1'
    """
    names = dict.fromkeys(name for facts in ranks for name in facts)
    said = []
    for name in names:
        holders: dict[str, list[int]] = {}
        for rank, facts in enumerate(ranks):
            holders.setdefault(str(facts.get(name, "none")), []).append(rank)
        if len(holders) > 1:
            said.append(f"{name} " + " and ".join(f"{value} on {_named(held)}" for value, held in holders.items()))
    return "; ".join(said)


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _data_print(data: Any) -> str | None:
    """Return a short hash of tokens, of batches (the first, where they come from `at`), or None."""
    whole = fingerprint(data)
    if whole is not None:
        before, mark, digest = whole.partition("sha256 ")
        return before + mark + digest[:DIGITS]
    data = first_batches(data)
    if not isinstance(data, Sequence):
        return None
    return f"{len(data)} batches, sha256 {batches_print(data)}"
