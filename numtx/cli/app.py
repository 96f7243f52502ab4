"""The commands put together, and what becomes of their errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from numtx._version import __version__
from numtx.cli.chat import chat
from numtx.cli.check import check
from numtx.cli.convert import convert
from numtx.cli.errors import FAILED, MISUSED, STOPPED, UsageError, complain, described, let_go_of_stdout
from numtx.cli.evaluate import evaluate
from numtx.cli.evaluate_metric import evaluate_metric
from numtx.cli.finetune import FINETUNE_EPILOG, finetune
from numtx.cli.generate import generate
from numtx.cli.info import info
from numtx.cli.run_task import run_task
from numtx.cli.show import show
from numtx.cli.train import TRAIN_EPILOG, train

app = typer.Typer(
    name="numtx",
    help="The transformer you can check: train, sample and check models written in plain NumPy.",
    epilog="Start with: numtx train",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", epilog=TRAIN_EPILOG)(train)
app.command("finetune", epilog=FINETUNE_EPILOG)(finetune)
app.command("generate")(generate)
app.command("run")(run_task)
app.command("chat")(chat)
app.command("eval")(evaluate)
app.command("evaluate")(evaluate_metric)
app.command("show")(show)
app.command("check")(check)
app.command("info")(info)
app.command("convert")(convert)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"numtx {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code; see `numtx.cli.main`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that lacks a character shows "?" and goes on
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="numtx", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except UsageError as error:
        complain(str(error))
        return MISUSED
    except BrokenPipeError:  # whoever read our output has seen enough
        return FAILED
    except (ValueError, OSError, ArithmeticError, MemoryError, ImportError) as error:
        complain(described(error))
        return FAILED
    except (typer.Abort, KeyboardInterrupt):
        return STOPPED
    except Exception as error:
        if not hasattr(error, "format_message"):  # what the parser raises has it, whichever typer brought the parser
            raise
        complain(error.format_message())
        return MISUSED
    finally:
        let_go_of_stdout()
