"""numtx train: a small GPT on any text."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from numtx.cli.errors import FAILED, MISUSED, STOPPED, UsageError, described
from numtx.cli.options import given_options, with_options
from numtx.cli.settings import flag

if TYPE_CHECKING:
    from numtx.cli.job import Job
    from numtx.cli.screen import Screen
    from numtx.training import TrainingResult
    from numtx.training.mpi import Alone

TRAIN_EPILOG = "Losses are in nats per token. Ctrl-C saves; numtx train --resume RUN goes on exactly where it stopped."
SAMPLE_TOKENS, SAMPLE_TEMPERATURE = 300, 0.8


@with_options
def train(
    invocation: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file with any of these options by name; the command line wins over it.",
            metavar="FILE",
            rich_help_panel="Run",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            help="Go on with the run in this folder, bit for bit. Of the other options only --threads may differ.",
            metavar="RUN",
            rich_help_panel="Run",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Train a small GPT on a text, and keep it in a folder.

    Without options: on the help topics that every Python carries, offline, in under two minutes on two cores.

    Under mpiexec (pip install 'numtx\\[mpi]') processes share each step: mpiexec -n 4 numtx train. The run is the same.
    """
    given = given_options(invocation, options, config)
    ranks = _ranks()
    with _one_voice(ranks):
        _train(given, resume, ranks)


def _train(given: dict[str, Any], resume: Path | None, ranks: Alone) -> None:
    from numtx.cli.job import FREE, abandon, new_job, resumed_job
    from numtx.cli.screen import Screen

    screen = Screen()
    with ranks.guard():
        asked = {flag(name): str(value) for name, value in given.items() if name not in FREE}
        ranks.agree("train", asked if resume is None else asked | {"--resume": str(resume)})
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            job = new_job(given, ranks) if resume is None else resumed_job(resume, given, ranks)
    for one in said:
        screen.say(f"warning: {one.message}")
    if job.resume and job.finished:
        screen.say(f"{resume} is finished: all {job.config.steps} steps are done")
        return
    try:
        result = _trained(job, screen)
    finally:
        abandon(job)
    if result.stopped:
        screen.say(f"stopped after step {result.step} of {job.config.steps}; all of it is saved")
        screen.say(f"to go on: {_resume_command(job)}")
        raise typer.Exit(STOPPED)
    if ranks.first:
        _report(job, result, screen)


def _ranks() -> Alone:
    """Return the ranks this command was started among."""
    from numtx.training.mpi import found_ranks, launched

    try:
        return found_ranks()
    except (ImportError, ValueError):
        rank, _ = launched() or (0, 1)
        if rank:  # all meet the same, and cannot tell each other: one says it
            raise typer.Exit(FAILED) from None
        raise


@contextmanager
def _one_voice(ranks: Alone) -> Iterator[None]:
    """Let rank 0 alone write to standard output, and the first rank that failed alone say its error."""
    from numtx.training.mpi import RankError

    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        try:
            if ranks.first:
                yield
            else:
                with redirect_stdout(nowhere):
                    yield
        except RankError as error:
            raise typer.Exit(MISUSED if isinstance(error.error, UsageError) else FAILED) from None
        except (ValueError, OSError, ArithmeticError, MemoryError, ImportError) as error:
            misused = isinstance(error, UsageError)
            if ranks.blamed is None or (ranks.alike and ranks.first):
                raise
            if ranks.rank != ranks.blamed:
                raise typer.Exit(MISUSED if misused else FAILED) from None
            kind = UsageError if misused else ValueError
            raise kind(f"rank {ranks.rank}: {described(error)}") from error


def _trained(job: Job, screen: Screen) -> TrainingResult:
    """Train while the screen shows it; the first Ctrl-C, SIGTERM or SIGHUP saves."""
    from numtx.cli.training_screen import TrainingScreen
    from numtx.training.interrupt import stopping

    loop, shown = job.loop, TrainingScreen(screen)
    loop.callbacks.append(shown)
    screen.facts(_description(job))
    screen.say()

    def stop() -> None:
        loop.stop()
        shown.stopping()

    try:
        with _even_if_killed(job), shown, stopping(stop):
            return loop.train(resume=job.resume or False)
    except KeyboardInterrupt:
        screen.say(f"stopped at once; to go on from the last save: {_resume_command(job)}")
        raise typer.Exit(STOPPED) from None
    except BrokenPipeError:
        raise ValueError(f"train: expected standard output to stay open, got it closed{_way_on(job)}") from None
    except (OSError, MemoryError) as error:  # a worker was killed, or the system gives no more of something
        raise ValueError(f"train: {described(error)}{_way_on(job)}") from None


def _even_if_killed(job: Job) -> AbstractContextManager[None]:
    """Say how to go on if mpiexec kills the ranks, because one was killed."""
    from numtx.cli.last_words import last_words
    from numtx.training import RunFolder

    def words() -> str:
        saves = RunFolder(job.folder, {}).checkpoints()
        ended = "train: expected all ranks to go on, got one killed, which ends the others"
        return f"{ended}; the last save is '{saves[-1]}'; to go on: {_resume_command(job)}" if saves else ended

    return last_words(words) if job.loop.ranks.size > 1 and job.loop.ranks.first else nullcontext()


def _description(job: Job) -> list[tuple[str, str]]:
    from numtx.cli.job import named

    config, model = job.config, job.loop.model
    shape = model.config
    again = f"; on from step {job.done}" if job.resume else ""
    tokens = config.batch * config.context * config.accumulation
    return [
        (
            "model",
            f"GPT-2, layers {shape.n_layer}, heads {shape.n_head}, width {shape.n_embd}, context {config.context}",
        ),
        ("size", f"{model.num_parameters():,} parameters in {model.dtype}"),
        ("text", f"{named(job.source)}, {len(job.text):,} characters; the last tenth is held out"),
        ("tokens", f"{job.tokenizer.vocab_size} {'bytes' if job.bytes else 'characters'}"),
        ("run", f"{job.folder}, {config.steps} steps of {tokens} tokens, {_workers(job)}{again}"),
    ]


def _workers(job: Job) -> str:
    ranks, config = job.loop.ranks, job.config
    if ranks.size == 1:
        return f"threads: {ranks.threads(config)}"
    idle = max(0, ranks.size - config.shards)
    return f"{ranks.size} ranks, threads: {ranks.threads(config)} each" + (f", {idle} without a shard" if idle else "")


def _report(job: Job, result: TrainingResult, screen: Screen) -> None:
    """Show how a finished training came out."""
    from numtx.cli.measures import loss_facts, predicted_bytes
    from numtx.plotting import line_plot

    log = job.loop.log
    if len(log) > 1:
        curves = {
            "training": [(row["step"], row["loss"]) for row in log],
            "held-out": [(row["step"], row["eval_loss"]) for row in log],
        }
        screen.say()
        for line in line_plot(curves, x_label="step", unicode=screen.unicode):
            screen.say(line)
    screen.say()
    assert result.best_value is not None
    tokens, bytes_ = job.loop.validation.size - 1, predicted_bytes(job.tokenizer, job.held_out)
    screen.say(f"on held-out text, the weights of step {result.best_step} (the best, and kept):", style="bold")
    screen.facts([(f"  {name}", value) for name, value in loss_facts(result.best_value, tokens, bytes_)])
    screen.say()
    _show_sample(job, screen)
    screen.say()
    drawn = _drawn(job, screen)
    screen.facts([("kept in", f"{job.folder}: model, tokenizer, log{drawn}"), ("to write", _generate(job, screen))])


def _show_sample(job: Job, screen: Screen) -> None:
    from numtx.cli.sample import default_prompt, written
    from numtx.cli.screen import printable
    from numtx.training import Workers, load_run

    model, prompt = load_run(job.folder).model, default_prompt(job.tokenizer)
    screen.say("a sample:", style="bold")
    with Workers(1):
        pieces = list(
            written(
                model,
                job.tokenizer,
                prompt,
                SAMPLE_TOKENS,
                do_sample=True,
                temperature=SAMPLE_TEMPERATURE,
                seed=job.config.seed,
            )
        )
    for line in printable("".join([prompt, *pieces])).strip("\n").split("\n"):
        screen.say(f"  {line}".rstrip())


def _drawn(job: Job, screen: Screen) -> str:
    """Draw the loss curve into the run where that is possible."""
    from numtx.plotting import save_loss_curve

    try:
        save_loss_curve(job.folder / "loss.png", job.loop.log)
    except ImportError:
        return " (and a picture of the loss, had you pip install 'numtx[plots]')"
    return ", loss.png"


def _generate(job: Job, screen: Screen) -> str:
    """Return a command that writes with the run."""
    from numtx.cli.sample import own_prompt

    command, prompt = f"numtx generate {shlex.quote(str(job.folder))}", own_prompt(job.held_out)
    return f"{command} --prompt {shlex.quote(prompt)}" if prompt is not None and screen.has(prompt) else command


def _way_on(job: Job) -> str:
    """Say after an error what was saved, and how to go on from there."""
    if not job.loop.ranks.first:
        return f"; to go on from the last save: {_resume_command(job)}"
    saves = job.loop.run.checkpoints() if job.loop.run else []
    return f"; the last save is '{saves[-1]}'; to go on: {_resume_command(job)}" if saves else "; nothing was saved"


def _resume_command(job: Job) -> str:
    ranks = job.loop.ranks.size
    return ("" if ranks == 1 else f"mpiexec -n {ranks} ") + f"numtx train --resume {shlex.quote(str(job.folder))}"
