"""numtx info: what a model is and what it needs, from the headers of its files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from numtx.cli.inspected import Inspected

# Each setting under the names that the families give it.
SETTINGS = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"),
    "decoder layers": ("num_decoder_layers", "decoder_layers"),
    "width": ("hidden_size", "n_embd", "dim", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"),
    "key and value heads": ("num_key_value_heads",),
    "head width": ("head_dim", "d_kv"),
    "feed-forward": ("intermediate_size", "n_inner", "hidden_dim", "d_ff", "encoder_ffn_dim"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "max_length"),
}
FLOATS = ("float64", "float32", "float16", "bfloat16")
WORKING = 4  # bytes of a number while it is worked with, float32
WRITING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSeq2SeqLM", "MTModel")


def info(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a run or a checkpoint, GGUF file, or name on the hub.", metavar="MODEL", show_default=False
        ),
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub name. Without it: main.", metavar="REV")
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch what numtx needs of a hub name, weights and tokenizer too.")
    ] = False,
) -> None:
    """Say what a model is: architecture, parameters, files, types on disk, and the memory it will need.

    The weights are not read. Those of a hub name are not even fetched without --fetch.
    """
    from numtx.cli.inspected import inspect
    from numtx.cli.opened import refuse_adapter
    from numtx.cli.screen import Screen

    refuse_adapter("info", model, "name that model instead")
    Screen().facts(facts(model, inspect(model, revision=revision, fetch=fetch)))


def facts(name: str, found: Inspected) -> list[tuple[str, str]]:
    """Return what is said of a model, line by line."""
    rows = [("model", name), ("architecture", architecture(found.config))]
    shape = settings(found.config)
    if shape:
        rows.append(("settings", ", ".join(f"{what} {value:,}" for what, value in shape.items())))
    if found.arrays is not None:
        rows += [("parameters", f"{parameters(found):,}"), ("on disk", types(found))]
    files = [f"{file}  {amount(size)}" for file, size in found.files.items()]
    rows += [("files" if k == 0 else "", file) for k, file in enumerate(files)]
    rows.append(("place", found.place if found.fetched else f"{found.place}, not fetched (--fetch does)"))
    if found.arrays is not None:
        rows += [("memory" if k == 0 else "", line) for k, line in enumerate(memory(found))]
    return rows


def architecture(config: Mapping[str, Any]) -> str:
    """Return the class that the config names, and the family.

    Examples
    --------
    >>> architecture({"architectures": ["BertModel"], "model_type": "bert"}), architecture({})
    ('BertModel (bert)', 'not said without the file')
    """
    kind, named = config.get("model_type"), config.get("architectures")
    classes = ", ".join(map(str, named)) if isinstance(named, list) and named else ""
    if classes and kind:
        return f"{classes} ({kind})"
    return classes or str(kind or ("not named in config.json" if config else "not said without the file"))


def settings(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes that a config names.

    Examples
    --------
    >>> settings({"n_embd": 768, "n_layer": 12, "n_inner": None})
    {'layers': 12, 'width': 768}
    """
    found = {}
    for what, names in SETTINGS.items():
        values = [config[name] for name in names if type(config.get(name)) is int]
        if values:
            found[what] = values[0]
    return found


def parameters(found: Inspected) -> int:
    """Return how many numbers are weights: all of float vectors and matrices, those of a tied weight once.

    Whole numbers (positions), single numbers and arrays of more axes (causal masks) are buffers in these families.
    """
    arrays = (found.arrays or {}).items()
    return sum(
        math.prod(held.shape)
        for name, held in arrays
        if name not in found.again and 1 <= len(held.shape) <= 2 and not held.dtype.startswith(("int", "uint", "bool"))
    )


def types(found: Inspected) -> str:
    """Return the types on disk, each with its numbers."""
    numbers: Counter[str] = Counter()
    for name, held in (found.arrays or {}).items():
        if name not in found.again:
            numbers[held.dtype] += math.prod(held.shape)
    counted = ", ".join(f"{dtype} {count:,}" for dtype, count in numbers.most_common())
    return f"{len(found.arrays or ())} arrays: {counted}"


def memory(found: Inspected) -> list[str]:
    """Return what it takes to run the model and to train it, in float32."""
    weights = WORKING * parameters(found)
    stored = {held.dtype for held in (found.arrays or {}).values() if held.dtype in FLOATS or held.dtype[0] == "Q"}
    how = "the file itself, mapped" if stored == {"float32"} else "turned into float32"
    lines = [f"inference  {amount(weights)} for the weights ({how})"]
    kept = cache_bytes(found.config)
    if kept:
        lines.append(f"           {amount(kept)} a token for keys and values, when it writes")
    lines.append(f"training   {amount(4 * weights)} with AdamW (weights, gradients, two moments), and the activations")
    return lines


def cache_bytes(config: Mapping[str, Any]) -> int:
    """Return the bytes of keys and values that a model which writes keeps of each token, 0 if it does not write.

    Examples
    --------
    >>> cache_bytes({"architectures": ["GPT2LMHeadModel"], "n_layer": 12, "n_embd": 768, "n_head": 12})
    73728
    """
    size, named = settings(config), config.get("architectures")
    writes = isinstance(named, list) and any(str(one).endswith(WRITING) for one in named)
    if not writes or not {"layers", "width", "heads"} <= set(size) or min(size.values()) < 1:
        return 0
    width = size.get("head width", size["width"] // size["heads"])
    layers = size.get("decoder layers", size["layers"])
    return 2 * layers * size.get("key and value heads", size["heads"]) * width * WORKING


def amount(size: int) -> str:
    """Return bytes with their unit, in steps of a thousand.

    Examples
    --------
    >>> amount(612), amount(90_900_000), amount(16_060_522_240)
    ('612 B', '90.9 MB', '16.1 GB')
    """
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= step:
            return f"{size / step:.3g} {unit}" if size < 999.5 * step else f"{size / step:,.0f} {unit}"
    return f"{size} B"
