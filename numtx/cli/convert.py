"""numtx convert: any checkpoint that numtx opens, as a folder that Transformers opens."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from numtx.cli.inspected import aliases

if TYPE_CHECKING:
    import numpy as np

    from numtx.checkpoints import Checkpoint, StoredArray
    from numtx.checkpoints.streaming import Planned

INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")


class DType(StrEnum):
    """Types of weights on disk."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def convert(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a run or a checkpoint, GGUF file, or name on the hub.", metavar="MODEL", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to make.", metavar="OUT", show_default=False)],
    dtype: Annotated[
        DType | None,
        typer.Option(
            help="Type of the weights. Without it: as they are; float32 for quantised ones.", show_default=False
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub name. Without it: main.", metavar="REV")
    ] = None,
) -> None:
    """Write a model as a safetensors folder that Transformers opens, with its tokenizer if it has one.

    Safetensors and PyTorch archives, whole or in shards, and GGUF files are read. One array at a time is in memory.
    """
    from numtx.checkpoints import atomic_folder, open_checkpoint
    from numtx.checkpoints.hub import ALL_FILES, resolve
    from numtx.cli.errors import UsageError
    from numtx.cli.info import amount
    from numtx.cli.opened import refuse_adapter
    from numtx.cli.screen import Screen

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"convert: expected a new or empty folder, got '{out}', which holds other files")
    refuse_adapter("convert", model, "in Python, from_pretrained, merge_and_unload and save_pretrained make it one")
    path = resolve(model, revision=revision, files=ALL_FILES)
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"convert: expected a folder outside of '{path}', which is read, got '{out}'")
    checkpoint = open_checkpoint(path)
    config = converted_config(checkpoint, dtype)
    plan = planned(checkpoint, dtype)
    check_family(checkpoint, f"'{model}'")
    screen = Screen()
    with atomic_folder(out) as folder:
        write_model(folder, checkpoint, config, plan)
        tokenizer = write_tokenizer(path, folder)
    said = sorted({one.dtype for one in plan.values()}, key=lambda one: not one.startswith(("float", "bfloat")))
    rows = [
        ("model", model),
        ("weights", f"{len(plan)} arrays, {', '.join(said)}, {amount(sum(one.nbytes for one in plan.values()))}"),
        ("tokenizer", tokenizer),
        ("kept in", str(out)),
    ]
    screen.facts(rows)


def converted_config(checkpoint: Checkpoint, dtype: str | None) -> dict[str, Any]:
    """Return the entries of the new config.json.

    Raises
    ------
    ValueError
        If Transformers has no such model, or the weights are packed in a way that only their own library reads.
    """
    config = dict(checkpoint.config)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind.startswith("numtx"):
        raise ValueError(f"convert: expected a model_type that Transformers knows in config.json, got {kind!r}")
    if config.get("quantization_config"):
        method = config["quantization_config"]
        method = method.get("quant_method", "another") if isinstance(method, dict) else method
        raise ValueError(f"convert: expected plain weights, got weights packed for {method!r:.40}")
    if dtype is not None:
        old = config.pop("torch_dtype", None)  # the name before Transformers 4.56; both may stand there
        config["dtype"] = str(dtype)
        if old is not None:
            config["torch_dtype"] = str(dtype)
    return config


def check_family(checkpoint: Checkpoint, where: str) -> None:
    """Refuse a checkpoint of a family that is here whose settings are none, or whose arrays are not the model's.

    Only names, types and shapes are looked at. A head that numtx has not, or another family, is copied as it is.

    Raises
    ------
    ValueError
        With all that is missing, unexpected, or of another shape.
    """
    from numtx.models.auto import FAMILIES, AutoConfig, named_class

    if checkpoint.config["model_type"] not in FAMILIES:
        return
    config = AutoConfig.from_dict(checkpoint.config)
    kind = named_class(checkpoint.config)
    if kind is not None:
        again, entries = aliases(checkpoint.arrays), checkpoint.arrays.entries
        kind.fitted(config, {name: shape_only(entries[name]) for name in entries if name not in again}, where=where)


def shape_only(entry: StoredArray) -> np.ndarray:
    """Return an array of the shape and the kind of one in a file, whose numbers are all the same zero."""
    import numpy as np

    return np.broadcast_to(np.zeros((), entry.dtype if entry.dtype in INTEGERS else np.float32), entry.shape)


def planned(checkpoint: Checkpoint, dtype: str | None) -> dict[str, Planned]:
    """Return name, type and shape of what is written: a tied weight once, whole numbers as they are."""
    from numtx.checkpoints.streaming import CODES, Planned

    entries, again, plan = checkpoint.arrays.entries, aliases(checkpoint.arrays), {}
    for name, entry in entries.items():
        if name in again:
            continue
        kind = entry.dtype if entry.dtype in CODES else "float32"  # blocks of a GGUF
        if dtype is not None and kind.startswith(("float", "bfloat")):
            kind = str(dtype)
        plan[name] = Planned(kind, entry.shape)
    return plan


def write_model(folder: Path, checkpoint: Checkpoint, config: dict[str, Any], plan: dict[str, Planned]) -> None:
    """Write weights and settings."""
    from numtx.checkpoints import write_json
    from numtx.checkpoints.streaming import stream_arrays

    write_json(folder / "config.json", config)
    stream_arrays(folder / "model.safetensors", plan, checkpoint.arrays.__getitem__)


def write_tokenizer(path: Path, folder: Path) -> str:
    """Write the tokenizer and the settings of generation, and return what was written of the tokenizer."""
    from numtx.checkpoints import gguf_tokenizer, write_json
    from numtx.checkpoints.hub import TOKENIZER_FILES
    from numtx.cli.inspected import names_of

    if path.is_file():
        try:
            tokenizer, settings = gguf_tokenizer(path)
        except ValueError as error:
            return f"none: {error}"
        write_json(folder / "tokenizer.json", tokenizer)
        write_json(folder / "tokenizer_config.json", settings)
        return "tokenizer.json, tokenizer_config.json"
    copied = []
    for file in ("generation_config.json", *names_of(TOKENIZER_FILES)):
        if (path / file).is_file() and file != "config.json":
            shutil.copyfile(path / file, folder / file)
            copied.append(file)
    return ", ".join(file for file in copied if file != "generation_config.json") or "none"
