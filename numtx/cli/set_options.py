"""What `--set NAME=VALUE` says."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any


def read_settings(command: str, said: Sequence[str], *, own_place: Collection[str] = ()) -> dict[str, Any]:
    """Return settings by name; values are JSON, or else text. Names with a place of their own are refused.

    Examples
    --------
    >>> read_settings("run", ["top_k=3", "aggregation_strategy=simple", "multi_label=true", "labels=[0, 2]"])
    {'top_k': 3, 'aggregation_strategy': 'simple', 'multi_label': True, 'labels': [0, 2]}
    """
    found: dict[str, Any] = {}
    for one in said:
        name, equals, value = one.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise ValueError(f"{command}: expected --set NAME=VALUE, got {one!r}")
        if name in own_place:
            raise ValueError(f"{command}: expected a setting with --set, got {name}, which has its own place")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
