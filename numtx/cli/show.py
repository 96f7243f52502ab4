"""numtx show: the architecture of a model as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from numtx.cli.architecture import Architecture, Row
    from numtx.cli.screen import Screen

HEADER = ("component", "kind", "output", "parameters", "FLOPs")
READY_MADE = ("encoder-only", "decoder-only", "encoder-decoder")
SHOWN_LENGTH = 128  # tokens, where the context allows it


def show(
    model: Annotated[
        str,
        typer.Argument(
            help=f"Folder of a run or a checkpoint, or one of {', '.join(READY_MADE)}.",
            metavar="MODEL",
            show_default=False,
        ),
    ],
    batch: Annotated[int, typer.Option(help="Sequences of the forward that is shown.", metavar="N", min=1)] = 1,
    length: Annotated[
        int | None,
        typer.Option(
            help=f"Tokens of each sequence. Without it: {SHOWN_LENGTH}, or the context if it is shorter.",
            metavar="N",
            min=1,
        ),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Levels below the model. Without it: all.", metavar="N", min=0)
    ] = None,
) -> None:
    """Show the architecture of a model: what its components give, hold and cost.

    One forward is run, and the shapes are those that were seen. Equal layers stand on one line.
    """
    from numtx.cli.architecture import Architecture
    from numtx.cli.errors import asked
    from numtx.cli.screen import Screen
    from numtx.nn import trace
    from numtx.training import Workers

    shown = opened_model(model)
    context = context_of(shown)
    with asked():
        if length is not None and length > context:
            raise ValueError(f"--length: expected at most {context}, the context of the model, got {length}")
    length = min(SHOWN_LENGTH, context) if length is None else length
    with Workers(1), trace(shown) as seen:
        forward(shown, batch, length)
    architecture, screen = Architecture(shown, seen), Screen()
    rows = list(architecture.rows(depth))
    (_table if screen.live else _lines)(rows, architecture.flops, screen)
    for line in footnotes(rows, architecture, batch, length):
        screen.say(line)


def opened_model(name: str) -> Any:
    """Return a ready-made model, or the one in a folder.

    Raises
    ------
    ValueError
        In one line: there is no such model, or the folder holds none that numtx opens.
    """
    from numtx.checkpoints import read_json

    if name in READY_MADE:
        return _ready_made(name)
    folder, names = Path(name), ", ".join(READY_MADE)
    if not folder.is_dir():
        why = "which is a file" if folder.exists() else "which does not exist"
        raise ValueError(f"show: expected the folder of a run or a checkpoint, or one of {names}, got '{name}', {why}")
    kind = read_json(folder / "config.json", required=["model_type"])["model_type"]
    families = _families()
    if kind not in families:
        raise ValueError(f"show: expected a model_type of {', '.join(families)} in '{name}', got {kind!r}")
    return families[kind].from_pretrained(folder)


def _families() -> dict[str, Any]:
    """The models that numtx opens, by the model_type of their config.json."""
    from numtx import models

    ready_made = (models.EncoderOnlyTransformer, models.DecoderOnlyTransformer, models.EncoderDecoderTransformer)
    return {"gpt2": models.GPT2LMHeadModel} | {one.config_class.model_type: one for one in ready_made}


def _ready_made(name: str) -> Any:
    """A ready-made model of a size that is drawn in no time: six layers, 128 wide."""
    from numtx import models

    size = {"d_model": 128, "nhead": 4, "dim_feedforward": 512, "rng": 0}
    if name == "encoder-only":
        return models.EncoderOnlyTransformer(vocab_size=1000, num_classes=4, num_layers=6, **size)
    if name == "decoder-only":
        return models.DecoderOnlyTransformer(vocab_size=1000, num_layers=6, **size)
    return models.EncoderDecoderTransformer(src_vocab_size=1000, num_encoder_layers=6, num_decoder_layers=6, **size)


def context_of(model: Any) -> int:
    """Return the longest sequence that a model takes."""
    config = model.config
    return config.n_positions if hasattr(config, "n_positions") else config.max_length


def forward(model: Any, batch: int, length: int) -> Any:
    """Run one forward without dropout; source and target of an encoder-decoder are equally long."""
    import numpy as np

    ids = np.zeros((batch, length), dtype=np.int64)
    targets = [ids] if hasattr(model, "tgt_embedding") else []
    return model(ids, *targets, attention_mask=np.ones_like(ids))  # no id is padding here, whatever the config says


# --- what is written -------------------------------------------------------------------------------------------------


def cells(row: Row, total: int) -> tuple[str, str, str, str, str]:
    """Return the five columns as text, "-" for nothing."""
    kind = row.kind if row.repeats == 1 else f"{row.kind} x {row.repeats}"
    parameters = f"{row.parameters:,}" if row.parameters else "-"
    share = f"{100 * row.flops / total:.1f}%" if row.flops else "-"
    return "  " * row.level + row.name, kind, row.shape or "-", parameters, share


def footnotes(rows: Sequence[Row], architecture: Architecture, batch: int, length: int) -> list[str]:
    """Return the total, and what the columns count."""
    parameters, flops = architecture.model.num_parameters(), amount(architecture.flops)
    notes = [f"total: {parameters:,} parameters, {flops} (one forward, {batch} x {length} tokens)"]
    if any(row.repeats > 1 for row in rows):
        notes.append("x N: N equal layers; numbers there and below are those of all N together")
    notes.append("FLOPs: 2 for each multiply-add of the matrix products, nothing else counted")
    if architecture.causal:
        notes.append("attention counts in full, with the pairs (nearly half) that causality hides")
    return notes


def amount(flops: int) -> str:
    """Return a number of operations with its unit.

    Examples
    --------
    >>> amount(740), amount(36_213_000_000)
    ('740 FLOPs', '36.2 GFLOPs')
    """
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}FLOPs"
    return f"{flops} FLOPs"


def _lines(rows: Sequence[Row], total: int, screen: Screen) -> None:
    """Write every line whole, for files and pipes."""
    lines = [HEADER, *(cells(row, total) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    for k, line in enumerate(lines):
        left = [cell.ljust(width) for cell, width in zip(line[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(line[3:], widths[3:], strict=True)]
        screen.say("  ".join([*left, *right]))
        if k == 0:
            screen.say("  ".join("-" * width for width in widths))
    screen.say()


def _table(rows: Sequence[Row], total: int, screen: Screen) -> None:
    """Write a table that fits the terminal; long cells are folded."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column, name in enumerate(HEADER):
        table.add_column(name, justify="left" if column < 3 else "right", overflow="fold")
    for row in rows:
        table.add_row(*cells(row, total), style="bold" if not row.level else None if row.name else "dim")
    screen.console.print(table)
    screen.say()
