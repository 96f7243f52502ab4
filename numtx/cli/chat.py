"""numtx chat: talk with an instruct model."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from numtx.cli.conversation import Answer, Conversation
    from numtx.cli.screen import Screen

COMMANDS = {"/quit": "leave, as Ctrl-D does", "/reset": "forget what was said", "/help": "say this"}


def chat(
    model: Annotated[
        str,
        typer.Argument(help="Folder, GGUF file, or name on the hub.", metavar="MODEL", show_default=False),
    ],
    system: Annotated[
        str | None,
        typer.Option(
            help="What the model is told before all else. Without it: as its template has it.", metavar="TEXT"
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Longest answer.", metavar="N", min=1)] = 512,
    temperature: Annotated[
        float | None, typer.Option(help="Below 1 plays safe, above 1 dares more; 0 is --greedy.", metavar="T", min=0)
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Choose among the K likeliest tokens.", metavar="K", min=1)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the likeliest tokens of this total probability.", metavar="P")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed chooses the same. Without it: something else.", metavar="N", min=0)
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token, whatever else is set.")] = False,
) -> None:
    """Talk with an instruct model; its answers come word by word.

    Without settings the model chooses its words as its own generation_config.json says, else the likeliest. /reset
    forgets what was said, /quit leaves, Ctrl-C stops an answer. From a pipe each line is a message, and the answers
    alone are written.
    """
    import numpy as np

    from numtx.cli.conversation import Conversation, rendered
    from numtx.cli.errors import asked
    from numtx.cli.screen import Screen
    from numtx.generation import GenerationConfig
    from numtx.models.auto import AutoModelForCausalLM
    from numtx.text import AutoTokenizer

    said = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    said = {name: value for name, value in said.items() if value is not None}
    with asked():
        GenerationConfig(**said)
    settings = _settings(greedy, said)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rendered(tokenizer, system, [{"role": "user", "content": "Hello"}])  # a template that refuses does so before a load
    opened = AutoModelForCausalLM.from_pretrained(model)
    screen = Screen()
    live = typing_person(screen)
    if seed is not None:
        settings["rng"] = np.random.default_rng(seed)
    talk = Conversation(opened, tokenizer, system, tokens, settings)
    if live:
        screen.say(f"{model}, {opened.num_parameters():,} parameters; /help says what else can be typed", style="dim")
    for line in _typed(live, screen):
        if line.startswith("/"):
            if line.split()[0] == "/quit":
                break
            _obey(line, talk, screen, live)
        elif line:
            _reply(talk, line, screen, live)


def typing_person(screen: Screen) -> bool:
    """Whether somebody types at a terminal and reads there."""
    return screen.live and sys.stdin.isatty()


def _settings(greedy: bool, said: dict[str, Any]) -> dict[str, Any]:
    """Return what was said about the choice of words as settings of `generate`."""
    if greedy or said.get("temperature") == 0:
        return {"do_sample": False}
    return {"do_sample": True, **said} if said else {}


def _typed(live: bool, screen: Screen) -> Iterator[str]:
    """Yield what is typed, or comes through a pipe, a line at a time, until Ctrl-D or the end."""
    if not live:
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                yield line.decode("utf-8").strip()
            except UnicodeDecodeError:
                raise ValueError(f"chat: expected UTF-8 on standard input, got line {number}") from None
        return
    with suppress(ImportError):  # Windows' console has its own
        importlib.import_module("readline")  # input() then has arrow keys and a history
    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            screen.say()
            return


def _obey(line: str, talk: Conversation, screen: Screen, live: bool) -> None:
    from numtx.cli.errors import UsageError, complain

    word = line.split()[0]
    if word == "/reset":
        talk.forget()
    elif word == "/help":
        screen.facts(list(COMMANDS.items()))
    else:
        message = f"chat: expected one of {', '.join(COMMANDS)}, got {word!r}"
        if not live:
            raise UsageError(message)
        complain(message)


def _reply(talk: Conversation, line: str, screen: Screen, live: bool) -> None:
    """Write the answer to a line; on a terminal an error leaves the conversation as it was."""
    from numtx.cli.errors import complain

    try:
        answer = talk.ask(line, screen.write, stop_is_an_end=live)
    except ValueError as error:
        if not live:
            raise
        complain(str(error))
        return
    except KeyboardInterrupt:
        screen.write("\n")
        raise
    if not answer.text.endswith("\n"):
        screen.write("\n")
    if live:
        screen.say(_figures(answer), style="dim")


def _figures(answer: Answer) -> str:
    """How long an answer was, and how fast it came after its first token."""
    speed = f", {(answer.tokens - 1) / answer.seconds:.1f} tokens/s" if answer.seconds > 0 else ""
    return f"{answer.tokens} tokens{speed}{'' if answer.whole else ', stopped'}"
