"""How a model is opened: which settings count, whether a config fits its file, and whose memory the weights are."""

import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from numtx.checkpoints.adapter_folder import base_of, holds_adapter, is_adapter
from numtx.functional.door import WORKING
from numtx.models.adapter_files import read_adapter
from numtx.models.config import PretrainedConfig
from numtx.models.files import open_config, open_model
from numtx.models.tasks import SequenceClassification, TokenClassification

HUB = ("revision", "token", "cache_dir", "local_files_only")
# What a config may claim beyond its file, so that one that is a little off is told name by name what is wrong.
SPARE_LAYERS, SPARE_NUMBERS, TIMES = 128, 1 << 22, 4


def open_pretrained(
    class_of: Callable[[dict[str, Any]], Any], owner: str, name_or_folder, config, settings, *, dtype, rng
):
    """Open a model of the class that `class_of` finds for the entries of a `config.json`.

    Parameters
    ----------
    class_of : callable
    owner : str
        Of errors, while the class is not known.
    name_or_folder : str or path
    config : PretrainedConfig or None
        Instead of the file's.
    settings : dict
        Of the hub, and of the config.
    dtype, rng
        As in `PretrainedModel.from_pretrained`.
    """
    base, adapter = with_base(owner, name_or_folder)
    hub, changes = split_settings(settings)
    if changes:  # before the weights are fetched
        kind = class_of(open_config(base, **hub) if config is None else {"model_type": config.model_type})
        known_settings(kind.__name__, kind.config_class, changes)
    checkpoint, where = open_model(base, **hub)
    if config is None:
        kind = class_of(checkpoint.config)
        config = kind.config_class.from_dict(checkpoint.config)
        changes = classes_of(kind, config, adapter) | changes
    else:
        if not isinstance(config, PretrainedConfig):
            raise ValueError(f"{owner}: expected config to be a PretrainedConfig, got {type(config).__name__}")
        kind = class_of({"model_type": config.model_type})
        if not isinstance(config, kind.config_class):
            expected, got = kind.config_class.__name__, type(config).__name__
            raise ValueError(f"{kind.__name__}: expected config to be a {expected}, got {got}")
    config = config.changed(**changes)
    model = kind.from_arrays(config, checkpoint.arrays, dtype=dtype, rng=rng, where=where, filled_later=adapter)
    model.name_or_path = str(base)
    model.opened(checkpoint.files)
    return model.load_adapter(name_or_folder) if adapter else model


def with_base(owner: str, name_or_folder) -> tuple[Any, dict[str, np.ndarray]]:
    """Return what a model's own weights are opened from, and the arrays of the adapter that goes into it, if one does.

    Where a folder holds a whole model and an adapter, the model alone is opened, with a warning.
    """
    if is_adapter(name_or_folder):
        return base_of(owner, name_or_folder), read_adapter(name_or_folder)[1]
    if holds_adapter(name_or_folder):
        warnings.warn(
            f"{owner}: '{name_or_folder}' holds a whole model and an adapter; the model is opened without it: "
            "load_adapter puts it in",
            stacklevel=4,
        )
    return name_or_folder, {}


def classes_of(kind: Any, config: PretrainedConfig, adapter: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return {"num_labels": N} where an adapter holds the head of a classifier, of N classes; else nothing."""
    head = kind.names(config).checkpoint_name("head.out_proj.weight")
    if head not in adapter or not issubclass(kind, (SequenceClassification, TokenClassification)):
        return {}
    return {"num_labels": len(adapter[head])}


def split_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the hub, and the others."""
    hub = {name: settings[name] for name in HUB if name in settings}
    return hub, {name: value for name, value in settings.items() if name not in hub}


def known_settings(owner: str, config_class: type[PretrainedConfig], names: Iterable[str]) -> None:
    """Require settings that a config has."""
    known = config_class.settings()
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"{owner}: expected config, dtype, rng, {', '.join(HUB)}, or a setting of {config_class.__name__} "
            f"({', '.join(known)}), got {', '.join(unknown)}"
        )


def check_bounds(owner: str, config: PretrainedConfig, arrays: Mapping[str, Any], where: str) -> None:
    """Refuse a config of more layers or larger matrices than the arrays can fill, before anything is made of it."""
    shapes = shapes_of(arrays)
    most = max(len(shapes), SPARE_LAYERS)
    for name in config.layers:
        if getattr(config, name) > most:
            raise ValueError(
                f"{owner}: expected no more {name} than the {len(shapes)} arrays in {where} can fill, "
                f"got {getattr(config, name)}"
            )
    largest = max((_product(shape) for shape in shapes.values()), default=0)
    for names in config.matrices:
        sizes = [getattr(config, name) for name in names]
        if None not in sizes and _product(sizes) > max(TIMES * largest, SPARE_NUMBERS):
            raise ValueError(
                f"{owner}: expected {' x '.join(names)} to fit the arrays in {where}, the largest of {largest}, "
                f"got {' x '.join(map(str, sizes))}"
            )


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of arrays; those in a file are not read for it."""
    entries = getattr(arrays, "entries", arrays)
    return {name: tuple(getattr(entry, "shape", ())) for name, entry in entries.items()}


def working_dtype(owner: str, dtype) -> np.dtype:
    """Require a dtype that numtx computes in, and return it."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in WORKING:
        raise ValueError(f"{owner}: expected dtype float32 or float64, got {dtype if found is None else found}")
    return found


def cast(owner: str, name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return an array in a dtype that holds its numbers."""
    try:
        with np.errstate(over="raise"):
            return np.asarray(array, dtype)
    except FloatingPointError:
        largest = float(np.max(np.abs(array[np.isfinite(array)])))
        raise ValueError(f"{owner}: expected numbers that {dtype} holds in {name}, got {largest:.3g}") from None


class GivenOut:
    """The memory of the weights of one model, of which each has its own.

    Examples
    --------
    >>> given, array = GivenOut(), np.ones(4)
    >>> np.shares_memory(given.alone(array), array), np.shares_memory(given.alone(array[1:]), array)
    (True, False)
    """

    def __init__(self) -> None:
        self.begins: list[int] = []
        self.ends: list[int] = []

    def alone(self, array: np.ndarray) -> np.ndarray:
        """Return the array, or a copy if its memory is another's already, not to be written, or lent to itself."""
        stretched = any(stride == 0 and size > 1 for stride, size in zip(array.strides, array.shape, strict=True))
        if stretched or not array.flags.writeable or not self._take(array):
            array = array.copy(order="K")
            self._take(array)
        return array

    def _take(self, array: np.ndarray) -> bool:
        if not array.size:
            return True
        begin, end = np.lib.array_utils.byte_bounds(array)
        place = bisect_left(self.begins, begin)
        if (place and self.ends[place - 1] > begin) or (place < len(self.begins) and self.begins[place] < end):
            return False
        self.begins.insert(place, begin)
        self.ends.insert(place, end)
        return True


def _product(sizes: Iterable[int]) -> int:
    product = 1
    for size in sizes:  # whole numbers of Python, which do not overflow
        product *= int(size)
    return product
