"""The folder of a model: `config.json` and `model.safetensors`; and whatever else a model can be opened from."""

from pathlib import Path

from numtx.checkpoints import load_arrays, read_json, write_json
from numtx.checkpoints.adapter_folder import ADAPTER_CONFIG, base_of, holds_adapter
from numtx.checkpoints.atomic import atomic_file
from numtx.checkpoints.folder import open_checkpoint
from numtx.checkpoints.hub import CONFIG_FILES, resolve
from numtx.checkpoints.streaming import Planned, stream_arrays


def save_folder(folder, entries, arrays) -> None:
    """Write a model's settings and its arrays into a folder, which is made if there is none.

    Raises
    ------
    ValueError
        If it is a file, or holds an adapter, which Transformers would put into this model too.
    """
    folder = Path(folder)
    if holds_adapter(folder):
        raise ValueError(f"save_pretrained: expected a folder without an adapter, got '{folder}' with {ADAPTER_CONFIG}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"save_pretrained: expected a folder, or a new name, got '{folder}', which is a file")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", entries)
    # The order of the safetensors package: the wider first, so that each array lies at a multiple of its size.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    plan = {name: Planned(str(arrays[name].dtype), arrays[name].shape) for name in names}
    with atomic_file(folder / "model.safetensors") as path:  # one array at a time is brought into C order
        stream_arrays(path, plan, arrays.__getitem__)


def open_folder(folder, config_class):
    """Return the settings and the arrays that a folder holds."""
    folder = Path(folder)
    config = config_class.from_dict(read_json(folder / "config.json", required=["model_type"]))
    return config, load_arrays(folder / "model.safetensors")


def open_model(name_or_folder, **hub):
    """Return the checkpoint of a folder, a GGUF file or a name on the hub, and what an error calls it.

    `hub` are the settings of `numtx.checkpoints.hub.resolve`.
    """
    return open_checkpoint(resolve(name_or_folder, **hub)), f"'{name_or_folder}'"


def open_config(name_or_folder, **hub):
    """Return the entries of the `config.json` of a folder or a name on the hub, or what a GGUF file says instead.

    Those of an adapter's folder are its base's.
    """
    name_or_folder = base_of("open_config", name_or_folder)
    path = resolve(name_or_folder, files=CONFIG_FILES, **hub)
    return open_checkpoint(path).config if path.is_file() else read_json(path / "config.json", required=["model_type"])
