"""numtx finetune: from a pretrained model, a task and a file of rows to a fine-tuned model and its report."""

from __future__ import annotations

import shlex
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from numtx.cli.errors import STOPPED, UsageError, asked, described

if TYPE_CHECKING:
    from numtx.cli.finetune_job import FineTuneJob
    from numtx.cli.screen import Screen

FINETUNE_EPILOG = "Ctrl-C saves; numtx finetune --resume FOLDER goes on exactly where it stopped."
DATA, MODEL, TRAINING, RUN = "Data", "Model", "Training", "Run"
TASK_NAMES = (
    "text-classification, regression, token-classification, question-answering, summarization, translation, "
    "language-modeling or fill-mask"
)


def _option(panel: str, help: str, metavar: str | None = None, *names: str, default: bool = False) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, show_default=default)


def finetune(
    invocation: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="Folder, GGUF file, or name on the hub.", metavar="MODEL", show_default=False),
    ] = None,
    task: Annotated[str | None, _option(RUN, f"What it is to learn: {TASK_NAMES}.", "TASK")] = None,
    data: Annotated[str | None, _option(DATA, "CSV, JSON lines, JSON or text to train on.", "FILE")] = None,
    eval_data: Annotated[
        str | None, _option(DATA, "The same to judge by. Without it: a share of --data, drawn by the seed.", "FILE")
    ] = None,
    eval_share: Annotated[float, _option(DATA, "That share.", "P", default=True)] = 0.1,
    columns: Annotated[
        list[str] | None,
        _option(
            DATA,
            "What a column is for, as text=tweet or label=grade, where it is not called as usual; may be repeated.",
            "ROLE=NAME",
            "--column",
        ),
    ] = None,
    encoding: Annotated[str, _option(DATA, "Of the files.", "NAME", default=True)] = "utf-8",
    max_length: Annotated[
        int | None, _option(DATA, "Tokens of a row; the rest is cut. Without it: 512, or what the model takes.", "N")
    ] = None,
    max_target_length: Annotated[
        int | None, _option(DATA, "Tokens of a summary or translation. Without it: 128.", "N")
    ] = None,
    prefix: Annotated[
        str | None, _option(DATA, "Before each source that is summarized or translated, as T5 wants it.", "TEXT")
    ] = None,
    freeze: Annotated[
        list[str] | None,
        _option(MODEL, "Parameters that stay as they are, by name, as 'body.*'; may be repeated.", "PATTERN"),
    ] = None,
    lora: Annotated[
        int | None, _option(MODEL, "Train low-rank adapters of this rank (and the head) instead of the model.", "R")
    ] = None,
    epochs: Annotated[float, _option(TRAINING, "Passes over the training rows.", "N", default=True)] = 3.0,
    steps: Annotated[int | None, _option(TRAINING, "Updates of the weights, instead of epochs.", "N")] = None,
    lr: Annotated[
        float | None, _option(TRAINING, "Highest learning rate. Without it: 5e-5, with --lora 3e-4.", "RATE")
    ] = None,
    batch: Annotated[int, _option(TRAINING, "Rows of a step.", "N", default=True)] = 16,
    accumulation: Annotated[int, _option(TRAINING, "Batches of a step.", "N", default=True)] = 1,
    eval_every: Annotated[
        int | None,
        _option(TRAINING, "Steps between evaluations, each with a save. Without it: an eighth of all.", "N"),
    ] = None,
    patience: Annotated[
        int | None, _option(TRAINING, "Evaluations without a better one after which it ends early.", "N")
    ] = None,
    seed: Annotated[
        int, _option(TRAINING, "Of a new head, order of the rows, dropout, and what is held out.", "N", default=True)
    ] = 0,
    settings: Annotated[
        list[str] | None,
        _option(
            TRAINING,
            "Any other training argument by its name, as weight_decay=0.1 or lr_scheduler_type=cosine; may be "
            "repeated.",
            "NAME=VALUE",
            "--set",
        ),
    ] = None,
    shards: Annotated[int, _option(RUN, "Parts of a batch that can be computed side by side.", "N", default=True)] = 2,
    threads: Annotated[
        int | None, _option(RUN, "Threads that compute them; the run is the same. Without it: all processors.", "N")
    ] = None,
    out: Annotated[str | None, _option(RUN, "Folder of the fine-tuned model, new or empty.", "FOLDER")] = None,
    resume: Annotated[
        Path | None,
        _option(RUN, "Go on with the run in this folder, bit for bit. Nothing else has to be said again.", "FOLDER"),
    ] = None,
) -> None:
    """Fine-tune a pretrained model: to classify texts or words, to answer, summarize, translate, or write.

    The folder has the model that did best on held-out rows, which Transformers opens too, its measures in metrics.json,
    and a report with curves and samples.

    numtx finetune sentence-transformers/all-MiniLM-L6-v2 --task text-classification --data tweets.csv --out tweets
    """
    from numtx.cli.screen import Screen

    options = dict(invocation.params)
    with asked():
        given = _given(invocation, options)
    job = _job(given, resume)
    if job is None:
        Screen().say(f"{resume} is finished: its report is {resume}/report.md")
        return
    screen = Screen()
    _show(job, screen)
    try:
        _train(job, screen, resume is not None)
    except ValueError:
        if resume is None and not _begun(job):
            _forget(job)
        raise
    _finish(job, screen)


def _given(invocation: typer.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that were given, by name."""
    from numtx.cli.set_options import read_settings

    given = {}
    for name, value in options.items():
        source = invocation.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT" and name != "resume":
            given[name] = value
    if "settings" in given:
        given["others"] = read_settings("finetune", given.pop("settings"))
    if "columns" in given:
        given["columns"] = _pairs(given["columns"])
    return given


def _pairs(said: list[str]) -> dict[str, str]:
    found = {}
    for one in said:
        role, equals, name = one.partition("=")
        if not equals or not role or not name:
            raise ValueError(f"--column: expected ROLE=NAME, got {one!r}")
        found[role.strip()] = name
    return found


def _job(given: dict[str, Any], resume: Path | None) -> FineTuneJob | None:
    """Return the job of a new run or of one that goes on; None if that is done."""
    from numtx.cli.finetune_job import job_of, refuse_full
    from numtx.cli.finetune_settings import FILE, FineTuneSettings, checked, remember, remembered

    if resume is not None:
        if (resume / FILE).is_file() and (resume / "report.md").exists():
            return None
        return job_of(remembered(resume, given))
    for name, said in (("model", "MODEL"), ("task", "--task"), ("data", "--data"), ("out", "--out")):
        if name not in given:
            raise UsageError(f"finetune: expected {said}, or --resume FOLDER, got none")
    settings = checked(FineTuneSettings(**given))
    refuse_full(settings.out)
    job = job_of(settings)
    remember(settings)
    return job


def _show(job: FineTuneJob, screen: Screen) -> None:
    screen.facts(facts(job))
    screen.say()


def facts(job: FineTuneJob) -> list[tuple[str, str]]:
    """Return what is said of a job."""
    settings, model, arguments = job.settings, job.model, job.trainer.args
    trained, every = model.num_parameters(only_trainable=True), model.num_parameters()
    of = f"{every:,} parameters" + ("" if trained == every else f", of which {trained:,} are trained")
    new = [("new", "; ".join(job.new))] if job.new else []
    judged = settings.eval_data or f"a share of {settings.eval_share:g} of it"
    columns = ", ".join(role if role == name else f"{role}: {name}" for role, name in job.task.columns.items())
    length = f"{settings.epochs:g} epochs, " if settings.steps is None else ""
    rows, unit = settings.batch * settings.accumulation, "blocks" if job.task.whole_text else "rows"
    warmup = arguments.get_warmup_steps(job.steps)
    rate = f"{settings.rate:g} {arguments.lr_scheduler_type}, warm-up {warmup} steps"
    return [
        ("task", settings.task),
        ("model", f"{settings.model}, {type(model).__name__}, {of}"),
        *new,
        ("data", f"{settings.data}, {job.train.num_rows:,} {unit}; {columns}"),
        ("held out", f"{judged}, {job.held_out.num_rows:,} {unit}"),
        ("training", f"{length}{job.steps} steps of {rows} {unit}, learning rate {rate}"),
        ("run", str(job.folder)),
    ]


def _train(job: FineTuneJob, screen: Screen, resume: bool) -> None:
    """Train while the screen shows it; the first Ctrl-C or SIGTERM saves."""
    from numtx.cli.finetune_screen import FineTuneScreen

    shown = FineTuneScreen(screen, job.task.metric)
    job.trainer.add_callback(shown)
    try:
        with shown:
            begun = resume and _begun(job)
            job.trainer.args.overwrite_output_dir = resume and not begun  # killed before its first save: it begins anew
            job.trainer.train(resume_from_checkpoint=begun)
        job.trainer.remove_callback(shown)
    except (KeyboardInterrupt, SystemExit):
        state = job.trainer.state
        if (job.folder / f"checkpoint-{state.global_step}").is_dir():
            screen.say(f"stopped after step {state.global_step} of {state.max_steps}; all of it is saved")
            screen.say(f"to go on: {_resume_command(job)}")
        else:
            screen.say(f"stopped at once{_way_on(job)}")
        raise typer.Exit(STOPPED) from None
    except BrokenPipeError:
        raise ValueError(f"finetune: expected standard output to stay open, got it closed{_way_on(job)}") from None
    except (OSError, MemoryError) as error:
        raise ValueError(f"finetune: {described(error)}{_way_on(job)}") from None


def _forget(job: FineTuneJob) -> None:
    """Take away what a run of which nothing was saved has in its folder, so that it can be asked for anew."""
    from numtx.cli.finetune_settings import FILE
    from numtx.training.run_folder import LOG, SETTINGS

    with suppress(OSError):
        with TemporaryDirectory() as other:
            written = [Path(path).name for path in job.tokenizer.save_pretrained(other)]
        for name in (FILE, SETTINGS, LOG, *written):
            (job.folder / name).unlink(missing_ok=True)
        shutil.rmtree(job.folder / "runs", ignore_errors=True)
        job.folder.rmdir()


def _begun(job: FineTuneJob) -> bool:
    """Whether there is a checkpoint to go on from."""
    return any(job.folder.glob("checkpoint-*"))


def _way_on(job: FineTuneJob) -> str:
    return f"; to go on from the last save: {_resume_command(job)}" if _begun(job) else "; nothing was saved"


def _resume_command(job: FineTuneJob) -> str:
    return f"numtx finetune --resume {shlex.quote(str(job.folder))}"


def _finish(job: FineTuneJob, screen: Screen) -> None:
    """Judge the model that did best, write it and its report, and say so."""
    from numtx.cli.finetune_report import finish

    metrics, baseline, written = finish(job, facts(job))
    screen.say()
    best = job.trainer.state.best_global_step
    screen.say(f"on held-out rows, the weights of step {best} (the best, and kept):", style="bold")
    screen.facts([(f"  {name}", _beside(value, baseline.get(name))) for name, value in metrics.items()])
    screen.say()
    kept = ", ".join(["model", "tokenizer", "metrics.json", *written])
    screen.facts([("kept in", f"{job.folder}: {kept}"), ("to use", _use(job))])


def _beside(value: float, baseline: float | None) -> str:
    return f"{value:.4f}" if baseline is None else f"{value:.4f}  (baseline {baseline:.4f})"


def _use(job: FineTuneJob) -> str:
    """Return a command that uses the model."""
    folder, task = shlex.quote(str(job.folder)), job.settings.task
    if task == "language-modeling":
        return f"numtx generate {folder} --prompt ..."
    pipeline = "text-classification" if task == "regression" else task
    asked = " --question ..." if task == "question-answering" else ""
    return f"numtx run {pipeline} TEXT --model {folder}{asked}"
