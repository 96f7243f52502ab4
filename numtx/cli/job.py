"""What `numtx train` is to do: a training loop with its text, begun or taken up again."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from numtx.checkpoints import read_json
from numtx.cli.errors import UsageError, asked
from numtx.cli.settings import TokenizerKind, flag, remembered, settled
from numtx.models.gpt2 import GPT2Config, GPT2LMHeadModel
from numtx.text import ByteTokenizer, CharTokenizer, Tokenizer, load_tokenizer, python_topics, read_corpus, split_corpus
from numtx.training import RunFolder, TrainingConfig, TrainingLoop, refuse_changes
from numtx.training.mpi import Alone

TOPICS = "python topics"  # stands in training.json where the text is Python's own
FREE = ("threads", "data", "out")  # the text is compared by its content, the folder is the run itself

# The third word of the key that draws the first weights: without it they are the numbers of the first step's dropout.
WEIGHTS = 0x3E1


@dataclass
class Job:
    """A training loop, ready to go, and what is said about it.

    Attributes
    ----------
    source : str, where the text came from
    held_out : str, the text it is judged by
    resume : Path or None, the checkpoint from which a run is taken up again
    reserved : bool, whether its folder was made for it, still empty
    done : int, steps made before
    """

    loop: TrainingLoop
    config: TrainingConfig
    folder: Path
    tokenizer: Tokenizer
    source: str
    text: str
    held_out: str
    resume: Path | None = None
    reserved: bool = False
    done: int = 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done >= self.config.steps

    @property
    def bytes(self) -> bool:
        """Whether tokens are bytes."""
        return isinstance(self.tokenizer, ByteTokenizer)


def new_job(given: dict[str, Any], ranks: Alone) -> Job:
    """Return the job of a new run."""
    settings = settled(given, ranks.size)
    with asked():
        config = TrainingConfig(**settings.training)
        GPT2Config(vocab_size=1, **settings.model)  # the rest of it must hold before text is read
    _refuse_full(settings.out)
    source = _source(settings.data)
    text = _read(source, ranks)
    tokenizer = ByteTokenizer() if settings.tokenizer is TokenizerKind.byte else CharTokenizer.from_text(text)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=tokenizer.vocab_size, **settings.model),
        rng=[settings.seed, 0, WEIGHTS],
        dtype=np.dtype(settings.dtype),
    )
    train, held_out = split_corpus(text)
    loop = TrainingLoop(
        model,
        *_long_enough(tokenizer.encode(train), tokenizer.encode(held_out), settings.context),
        config,
        tokenizer=tokenizer,
        data={"source": source, "tokenizer": settings.tokenizer.value},
        text=text if source == "-" else None,
        ranks=ranks,
    )
    ranks.gather("ready", None)  # before anything is made or shown, all have come so far
    if settings.out is not None:
        folder = Path(settings.out)
    else:
        folder = ranks.at_first("folder", _numbered_folder)
    loop.folder = folder
    reserved = settings.out is None and ranks.first
    return Job(loop, config, folder, tokenizer, source, text, held_out, reserved=reserved)


def resumed_job(folder: Path, given: dict[str, Any], ranks: Alone) -> Job:
    """Return the job of a run that goes on.

    Raises
    ------
    UsageError
        If an option would change the run.
    """
    run = RunFolder.open(folder)
    config = read_json(run.path / "config.json")
    _refuse_other(given, remembered(config, run.settings), run.path)
    training = run.config(**({"threads": given["threads"]} if given.get("threads") else {}))
    tokenizer = load_tokenizer(run.path)
    text, source = run_text(run, given.get("data"), ranks)
    train, held_out = split_corpus(text)
    model = GPT2LMHeadModel(GPT2Config.from_dict(config), rng=training.seed, dtype=run.dtype)
    data = run.settings.get("data", {})
    try:
        ids = tokenizer.encode(train), tokenizer.encode(held_out)
        loop = TrainingLoop(model, *ids, training, run.path, tokenizer=tokenizer, data=data, ranks=ranks)
    except ValueError as error:
        raise ValueError(f"resume: expected the text of the run, got another: {error}") from None
    newest = run.newest_checkpoint()
    ranks.gather("ready", None)
    return Job(
        loop, training, run.path, tokenizer, source, text, held_out, resume=newest.path, done=newest.progress.step
    )


def run_text(run: RunFolder, data: str | None = None, ranks: Alone | None = None) -> tuple[str, str]:
    """Return the text of a run, and where it was read: kept in it, or where it came from, or `data`."""
    if data is not None:
        source = _source(data)
        return _read(source, ranks), source
    kept = run.text()
    if kept is not None:
        return kept, f"{run.path}/text.txt"
    source = run.settings.get("data", {}).get("source")
    if not isinstance(source, str):
        raise ValueError(f"run: expected the source of its text in '{run.path}', got none; name the text with --data")
    return _read(source), source


def named(source: str) -> str:
    """Return a source of text as it is shown."""
    return {"-": "standard input", TOPICS: "Python's help topics"}.get(source, source)


def abandon(job: Job) -> None:
    """Take away the folder that was made for the run if nothing was saved in it."""
    if job.reserved:
        with suppress(OSError):  # rmdir refuses where there is anything inside
            job.folder.rmdir()
            job.folder.parent.rmdir()


def _source(data: str | None) -> str:
    if data is None:
        return TOPICS
    return data if data == "-" else os.path.abspath(data)


def _long_enough(train: np.ndarray, held_out: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    if train.size <= context or held_out.size < 2:
        raise ValueError(
            f"train: expected a text of at least context + 1 = {context + 1} tokens to train on and 2 held out, "
            f"got {train.size} and {held_out.size}"
        )
    return train, held_out


def _read(source: str, ranks: Alone | None = None) -> str:
    if source == "-" and ranks is not None:  # mpiexec gives its standard input to rank 0
        return ranks.at_first("standard input", lambda: read_corpus(source))
    return python_topics() if source == TOPICS else read_corpus(source)


def _refuse_full(out: str | None) -> None:
    """Refuse a folder that has content, before any text is read."""
    if out is None:
        return
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out: expected a folder, got the file '{out}'")
    if path.is_dir() and any(path.iterdir()):
        if (path / "training.json").exists():
            ways = f"go on with it by --resume {shlex.quote(out)}, or choose another --out"
            raise UsageError(f"--out: expected a new or empty folder, got '{out}' with a run; {ways}")
        raise UsageError(f"--out: expected a new or empty folder, got '{out}' with other files; choose another --out")


def _numbered_folder() -> Path:
    """Make the first runs/N that is free, so that it stays ours, and return it."""
    number = 1
    while True:
        path = Path("runs", str(number))
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.parent.is_dir():
                raise UsageError(
                    "--out: expected a folder 'runs' to begin a run in, got a file; choose --out"
                ) from None
            number += 1
        else:
            return path


def _refuse_other(given: dict[str, Any], saved: dict[str, Any], folder: Path) -> None:
    """Refuse options that would change a run that goes on."""
    if given.get("out") is not None and Path(given["out"]).resolve() != folder.resolve():
        raise UsageError(
            f"--out: expected the folder of the run to resume, '{folder}', or nothing, got '{given['out']}'"
        )
    wanted = {flag(name): value for name, value in given.items() if name not in FREE}
    with asked():
        refuse_changes({flag(name): value for name, value in saved.items()}, wanted, free=("--threads",))
