"""numtx train: a small GPT on any text."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from numtx.cli.errors import STOPPED, described
from numtx.cli.options import given_options, with_options

if TYPE_CHECKING:
    from numtx.cli.job import Job
    from numtx.cli.screen import Screen
    from numtx.training import TrainingResult

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
    """
    given = given_options(invocation, options, config)
    from numtx.cli.job import abandon, new_job, resumed_job
    from numtx.cli.screen import Screen

    screen = Screen()
    if resume is None:
        job = new_job(given)
    else:
        job = resumed_job(resume, given)
        if job.finished:
            screen.say(f"{resume} is finished: all {job.trainer.config.steps} steps are done")
            return
    try:
        result = _trained(job, screen)
    finally:
        abandon(job)
    if result.stopped:
        screen.say(f"stopped after step {result.step} of {job.trainer.config.steps}; all of it is saved")
        screen.say(f"to go on: {_resume_command(job)}")
        raise typer.Exit(STOPPED)
    _report(job, result, screen)


def _trained(job: Job, screen: Screen) -> TrainingResult:
    """Train while the screen shows it; the first Ctrl-C, SIGTERM or SIGHUP saves."""
    from numtx.cli.interrupt import stopping
    from numtx.cli.training_screen import TrainingScreen

    trainer, shown = job.trainer, TrainingScreen(screen)
    trainer.callbacks.append(shown)
    screen.facts(_description(job))
    screen.say()

    def stop() -> None:
        trainer.stop()
        shown.stopping()

    try:
        with shown, stopping(stop):
            return trainer.train(resume=job.begun)
    except KeyboardInterrupt:
        screen.say(f"stopped at once; to go on from the last save: {_resume_command(job)}")
        raise typer.Exit(STOPPED) from None
    except BrokenPipeError:
        raise ValueError(f"train: expected standard output to stay open, got it closed{_way_on(job)}") from None
    except (OSError, MemoryError) as error:  # a worker was killed, or the system gives no more of something
        raise ValueError(f"train: {described(error)}{_way_on(job)}") from None


def _description(job: Job) -> list[tuple[str, str]]:
    from numtx.cli.job import named

    config, model = job.trainer.config, job.trainer.model
    shape = model.config
    again = f"; on from step {job.done}" if job.begun else ""
    tokens = config.batch * config.context * config.accumulation
    return [
        (
            "model",
            f"GPT-2, layers {shape.n_layer}, heads {shape.n_head}, width {shape.n_embd}, context {config.context}",
        ),
        ("size", f"{model.num_parameters():,} parameters in {model.dtype}"),
        ("text", f"{named(job.source)}, {len(job.text):,} characters; the last tenth is held out"),
        ("tokens", f"{job.tokenizer.vocab_size} {'bytes' if job.bytes else 'characters'}"),
        ("run", f"{job.folder}, {config.steps} steps of {tokens} tokens, threads: {config.worker_threads}{again}"),
    ]


def _report(job: Job, result: TrainingResult, screen: Screen) -> None:
    """Show how a finished training came out."""
    from numtx.cli.measures import loss_facts, predicted_bytes
    from numtx.plotting import line_plot

    log = job.trainer.log
    if len(log) > 1:
        curves = {
            "training": [(row["step"], row["loss"]) for row in log],
            "held-out": [(row["step"], row["eval_loss"]) for row in log],
        }
        screen.say()
        for line in line_plot(curves, x_label="step", unicode=screen.unicode):
            screen.say(line)
    screen.say()
    assert result.best_loss is not None
    tokens, bytes_ = job.trainer.validation.size - 1, predicted_bytes(job.tokenizer, job.held_out)
    screen.say(f"on held-out text, the weights of step {result.best_step} (the best, and kept):", style="bold")
    screen.facts([(f"  {name}", value) for name, value in loss_facts(result.best_loss, tokens, bytes_)])
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
                seed=job.trainer.config.seed,
            )
        )
    for line in printable("".join([prompt, *pieces])).strip("\n").split("\n"):
        screen.say(f"  {line}".rstrip())


def _drawn(job: Job, screen: Screen) -> str:
    """Draw the loss curve into the run where that is possible."""
    from numtx.plotting import save_loss_curve

    try:
        save_loss_curve(job.folder / "loss.png", job.trainer.log)
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
    saves = job.trainer.run.checkpoints() if job.trainer.run else []
    return f"; the last save is '{saves[-1]}'; to go on: {_resume_command(job)}" if saves else "; nothing was saved"


def _resume_command(job: Job) -> str:
    return f"numtx train --resume {shlex.quote(str(job.folder))}"
