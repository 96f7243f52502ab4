"""An adapter's folder, in PEFT's layout, and the model that it says it belongs to."""

import os
from pathlib import Path
from typing import Any

from numtx.checkpoints.config import read_json

ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", "config.json"


def is_adapter(name_or_folder: Any) -> bool:
    """Whether this is a folder that holds an adapter and no whole model."""
    return holds_adapter(name_or_folder) and not Path(name_or_folder, MODEL_CONFIG).is_file()


def holds_adapter(name_or_folder: Any) -> bool:
    """Whether this is a folder that holds an adapter, beside a whole model or not."""
    return isinstance(name_or_folder, (str, os.PathLike)) and Path(name_or_folder, ADAPTER_CONFIG).is_file()


def base_of(owner: str, name_or_folder: Any) -> Any:
    """Return the model that an adapter's folder says it belongs to; anything else is its own.

    Raises
    ------
    ValueError
        If an adapter names no model, or another adapter.
    """
    if not is_adapter(name_or_folder):
        return name_or_folder
    base = read_json(Path(name_or_folder, ADAPTER_CONFIG)).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{owner}: expected base_model_name_or_path in '{name_or_folder}', got none: open the model it is of"
        )
    if is_adapter(base):
        raise ValueError(f"{owner}: expected a whole model as the base of '{name_or_folder}', got the adapter '{base}'")
    return base
