"""The settings of `numtx train`: one table for the command line, for the TOML file and for what a run remembers.

Every default of the command stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple

from numtx.cli.errors import UsageError


class TokenizerKind(StrEnum):
    """What a token is."""

    char = "char"
    byte = "byte"


class Precision(StrEnum):
    """The dtypes a model can be trained in."""

    float32 = "float32"
    float64 = "float64"


class About(NamedTuple):
    """How a setting is shown, and its smallest value."""

    panel: str
    help: str
    metavar: str | None = None
    least: float | None = None


def _shown(panel: str, help: str, metavar: str | None = None, least: float | None = None) -> dict[str, About]:
    return {"about": About(panel, help, metavar, least)}


TEXT, RUN, MODEL, TRAINING, COMPUTING = "Text", "Run", "Model", "Training", "Computing"


@dataclass(frozen=True)
class TrainSettings:
    """What `numtx train` can be asked."""

    data: str | None = field(
        default=None,
        metadata=_shown(
            TEXT,
            "File, folder of text files, or - for standard input; UTF-8. Without it: Python's help topics.",
            "PATH",
        ),
    )
    tokenizer: TokenizerKind = field(default=TokenizerKind.char, metadata=_shown(TEXT, "What a token is."))
    layers: int = field(default=3, metadata=_shown(MODEL, "Decoder blocks.", "N", 1))
    heads: int = field(default=5, metadata=_shown(MODEL, "Attention heads of a block; they divide the width.", "N", 1))
    width: int = field(default=160, metadata=_shown(MODEL, "Numbers that stand for a token inside the model.", "N", 1))
    context: int = field(default=64, metadata=_shown(MODEL, "Tokens the model sees at once.", "N", 1))
    dropout: float = field(
        default=0.0, metadata=_shown(MODEL, "Share of numbers dropped in training, from 0 to below 1.", "P", 0)
    )
    batch: int = field(default=12, metadata=_shown(TRAINING, "Rows of text, each of one context, in a step.", "N", 1))
    steps: int = field(default=2200, metadata=_shown(TRAINING, "Updates of the weights.", "N", 1))
    lr: float = field(
        default=3e-3, metadata=_shown(TRAINING, "Highest learning rate; it falls to a tenth along a cosine.", "RATE", 0)
    )
    eval_every: int | None = field(
        default=None,
        metadata=_shown(
            TRAINING, "Steps between evaluations, each with a save. Without it: an eighth of the steps.", "N", 1
        ),
    )
    seed: int = field(default=0, metadata=_shown(TRAINING, "Of first weights, order of the text, and dropout.", "N", 0))
    shards: int = field(
        default=2,
        metadata=_shown(
            COMPUTING, "Parts of a batch that can be computed side by side; they belong to the run.", "N", 1
        ),
    )
    threads: int | None = field(
        default=None,
        metadata=_shown(
            COMPUTING,
            "Threads (on Linux: processes) that compute them, of each rank under mpiexec; the run is the same. "
            "Without it: all processors.",
            "N",
            1,
        ),
    )
    dtype: Precision = field(default=Precision.float32, metadata=_shown(COMPUTING, "Type of the numbers."))
    out: str | None = field(
        default=None, metadata=_shown(RUN, "Folder of the run, new or empty. Without it: runs/1, runs/2, ...", "FOLDER")
    )

    @property
    def training(self) -> dict[str, Any]:
        """The settings as those of a `TrainingConfig`."""
        return {
            "steps": self.steps,
            "batch": self.batch,
            "context": self.context,
            "lr": self.lr,
            "min_lr": self.lr / 10,
            "warmup": min(100, self.steps // 20),
            "schedule": "cosine",
            "weight_decay": 0.1,
            "betas": (0.9, 0.99),
            "clip": 1.0,
            "seed": self.seed,
            "shards": self.shards,
            "threads": self.threads,
            "eval_every": self.eval_every or -(-self.steps // 8),
        }

    @property
    def model(self) -> dict[str, Any]:
        """The settings as those of a `GPT2Config`, all but the size of the vocabulary."""
        return {
            "n_positions": self.context,
            "n_embd": self.width,
            "n_layer": self.layers,
            "n_head": self.heads,
            "resid_pdrop": self.dropout,
            "embd_pdrop": self.dropout,
            "attn_pdrop": self.dropout,
        }


IN_TRAINING = ("context", "batch", "steps", "lr", "eval_every", "seed", "shards", "threads")
NAMES = tuple(one.name for one in fields(TrainSettings))
ABOUT: dict[str, About] = {one.name: one.metadata["about"] for one in fields(TrainSettings)}


def settled(given: dict[str, Any], ranks: int = 1) -> TrainSettings:
    """Return the settings for what was given by name, the rest by default: at least a shard for each rank.

    Raises
    ------
    UsageError
        If a number is below its smallest value.
    """
    for name, value in given.items():
        least = ABOUT[name].least
        if least is not None and value is not None and not value >= least:  # also refuses NaN
            raise UsageError(f"{flag(name)}: expected at least {least:g}, got {value}")
    settings = TrainSettings(**given)
    if "shards" not in given:
        settings = replace(settings, shards=min(settings.batch, max(settings.shards, ranks)))
    return settings


def remembered(config: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """Return the settings by name that a run began with.

    Parameters
    ----------
    config, training : dict
        The content of the run's config.json and training.json.
    """
    asked = training.get("training", {})
    return {
        "tokenizer": training.get("data", {}).get("tokenizer"),
        "layers": config.get("n_layer"),
        "heads": config.get("n_head"),
        "width": config.get("n_embd"),
        "dropout": config.get("resid_pdrop"),
        "dtype": training.get("dtype"),
        **{name: asked.get(name) for name in IN_TRAINING},
    }


def flag(name: str) -> str:
    """Return a setting as it is written on the command line.

    Examples
    --------
    >>> flag("eval_every")
    '--eval-every'
    """
    return "--" + name.replace("_", "-")
