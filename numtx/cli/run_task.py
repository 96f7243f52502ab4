"""numtx run: a task of a pipeline, from a text to its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from numtx.cli.set_options import read_settings

if TYPE_CHECKING:
    from numtx.cli.screen import Screen

OWN_PLACE = ("task", "model", "tokenizer", "batch_size")  # settings that the command takes elsewhere


def run_task(
    task: Annotated[
        str, typer.Argument(help="Such as text-classification or summarization.", metavar="TASK", show_default=False)
    ],
    text: Annotated[
        str | None,
        typer.Argument(help="Text, file, or - for standard input (the default).", metavar="TEXT", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder, GGUF file, or name on the hub. Without it: the task's own, from the hub.", metavar="M"
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or name of another tokenizer than the model's.", metavar="NAME")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="For question-answering; TEXT is what holds the answer.", metavar="TEXT")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="For zero-shot-classification: the classes, with commas.", metavar="A,B,...")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Take each line as a text of its own.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A setting of the task, as top_k=3 or truncation=true; may be repeated.", metavar="NAME=VALUE"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Texts at a time with --lines. Without it: 8.", metavar="N", min=1)
    ] = None,
    as_lines: Annotated[bool, typer.Option("--json", help="An answer a line, in JSON, for machines.")] = False,
) -> None:
    """Do a task with a pretrained model: classify, extract, fill in, answer, summarize, translate, write.

    Tasks and settings are those of the pipelines of Transformers 4.
    """
    from numtx.cli.errors import asked
    from numtx.cli.given_text import given_text, lines_of
    from numtx.cli.screen import Screen
    from numtx.pipelines import SettingError, pipeline
    from numtx.pipelines.registry import task_name

    with asked():
        kind, chosen = task_name(task), read_settings("run", settings or (), own_place=OWN_PLACE)
        if labels is not None:
            chosen["candidate_labels"] = labels
        _check_options(kind, question, chosen)
    closed = kind == "question-answering" and chosen.get("mode") == "closed"
    given = "" if closed and text is None else given_text(text, "TEXT")
    inputs = lines_of(given) if lines else [given]
    if not inputs:
        raise ValueError("run: expected a line of text, got none")
    with asked(SettingError):
        made = pipeline(task, model, tokenizer=tokenizer, batch_size=batch_size, **chosen)
    if kind == "question-answering":
        answers = _answers_to(made, question, inputs)
    else:
        answers = made(inputs) if len(inputs) > 1 else [made(inputs[0])]
    _show(kind, inputs if lines else None, answers, Screen(), as_lines)


def _check_options(kind: str, question: str | None, chosen: dict[str, Any]) -> None:
    if kind == "question-answering" and not question:
        raise ValueError("run: expected --question for question-answering, got none")
    if kind != "question-answering" and question is not None:
        raise ValueError(f"run: expected --question for question-answering alone, got it for {kind}")
    if kind == "zero-shot-classification" and "candidate_labels" not in chosen:
        raise ValueError("run: expected --labels for zero-shot-classification, got none")


def _answers_to(made: Any, question: str | None, contexts: Iterable[str]) -> list[Any]:
    return [made(question=question, **({"context": context} if context else {})) for context in contexts]


def _show(kind: str, inputs: Sequence[str] | None, answers: Iterable[Any], screen: Screen, as_lines: bool) -> None:
    from numtx.cli.answers import as_json, lines_of_answer, one_line
    from numtx.cli.screen import printable

    def say(line: str, style: str | None = None) -> None:
        screen.say(printable(line) if screen.live else line, style)

    for k, answer in enumerate(answers):
        if as_lines:
            say(as_json(answer))
            continue
        if inputs is not None:
            if k:
                say("")
            say(one_line(inputs[k], 72), "bold")
        for line in lines_of_answer(kind, answer):
            say(line)
