"""The folder of a model: `config.json` and `model.safetensors`."""

from pathlib import Path

from numtx.checkpoints import load_arrays, read_json, save_arrays, write_json


def save_folder(folder, config, arrays) -> None:
    """Write a model's settings and its arrays into a folder, which is made if there is none."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config.to_dict())
    save_arrays(folder / "model.safetensors", arrays)


def open_folder(folder, config_class):
    """Return the settings and the arrays that a folder holds."""
    folder = Path(folder)
    config = config_class.from_dict(read_json(folder / "config.json", required=["model_type"]))
    return config, load_arrays(folder / "model.safetensors")
