"""An adapter's folder in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`."""

from pathlib import Path

import numpy as np

from numtx.checkpoints import open_arrays, open_pytorch_archive, read_json, save_arrays, write_json
from numtx.checkpoints.adapter_folder import ADAPTER_CONFIG, MODEL_CONFIG
from numtx.models.lora_config import LoraConfig

WEIGHTS, OLD_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."


def write_adapter(folder, config: LoraConfig, arrays: dict[str, np.ndarray], **changes) -> None:
    """Write an adapter's settings and its arrays, which go by the names of Transformers' modules.

    Raises
    ------
    ValueError
        If the folder holds a whole model, which would be opened instead.
    """
    folder = Path(folder)
    if (folder / MODEL_CONFIG).exists():
        raise ValueError(f"save_adapter: expected a folder without a whole model, got '{folder}' with {MODEL_CONFIG}")
    folder.mkdir(parents=True, exist_ok=True)
    save_arrays(folder / WEIGHTS, {PREFIX + name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_json(folder / ADAPTER_CONFIG, config.to_dict(**changes))


def read_adapter(folder) -> tuple[LoraConfig, dict[str, np.ndarray]]:
    """Read what PEFT or `write_adapter` wrote.

    Raises
    ------
    ValueError
        If a file is missing or broken, or an array has another name than PEFT's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"load_adapter: expected an adapter's folder at '{folder}', got nothing there")
    config = LoraConfig.from_dict(read_json(folder / ADAPTER_CONFIG))
    file = folder / WEIGHTS
    stored = open_pytorch_archive(folder / OLD_WEIGHTS) if _is_old(folder) else open_arrays(file)
    if strange := [name for name in stored if not name.startswith(PREFIX)]:
        raise ValueError(f"load_adapter: expected names that begin with {PREFIX} in '{folder}', got {strange[0]!r:.80}")
    return config, {name.removeprefix(PREFIX): stored[name] for name in stored}


def _is_old(folder):
    return not (folder / WEIGHTS).is_file() and (folder / OLD_WEIGHTS).is_file()
