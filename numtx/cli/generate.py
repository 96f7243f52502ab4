"""numtx generate: a run, or any causal language model, writes on after a prompt."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Annotated

import typer

SMALL = 20_000_000  # parameters: below, a second BLAS thread only gets in the way


def generate(
    run: Annotated[
        str,
        typer.Argument(
            help="Folder that numtx train left, or any causal language model: folder, GGUF file, name on the hub.",
            metavar="RUN",
            show_default=False,
        ),
    ],
    prompt: Annotated[
        str | None,
        typer.Option(help="Text to write on after; - reads standard input. Without it: a new line.", metavar="TEXT"),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens to write.", metavar="N", min=1)] = 300,
    temperature: Annotated[
        float, typer.Option(help="Below 1 plays safe, above 1 dares more; 0 is --greedy.", metavar="T")
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(help="Choose among the K likeliest tokens. Without it: all.", metavar="K", min=1)
    ] = None,
    top_p: Annotated[
        float, typer.Option(help="Choose among the likeliest tokens of this total probability.", metavar="P")
    ] = 1.0,
    seed: Annotated[
        int | None,
        typer.Option(help="The same seed writes the same. Without it: something else each time.", metavar="N", min=0),
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token, whatever else is set.")] = False,
) -> None:
    """Write on after a prompt with the model of a run, or with a pretrained one.

    The weights of a run are its best. Of a text longer than the context, the model sees the end.
    """
    from numtx.cli.errors import asked
    from numtx.cli.opened import opened_writer
    from numtx.cli.sample import default_prompt, written
    from numtx.cli.screen import Screen
    from numtx.generation import Sampler
    from numtx.training import Workers

    with asked():
        Sampler(not greedy, temperature, top_k, top_p)
    model, tokenizer = opened_writer(run)
    if prompt is None:
        prompt = default_prompt(tokenizer)
    elif prompt == "-":
        prompt = _standard_input()
    settings = {"do_sample": not greedy, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    pieces = written(model, tokenizer, prompt, tokens, **settings)
    screen, last = Screen(), ""
    small = model.num_parameters() < SMALL
    with Workers(1) if small else nullcontext():
        first = next(pieces)  # a prompt that cannot be read is refused before anything is written
        try:
            screen.write(prompt + first)
            for last in pieces:
                screen.write(last)
        except KeyboardInterrupt:
            screen.write("\n")  # so that the shell's prompt stands on a line of its own
            raise
    if not (last or first).endswith("\n"):
        screen.write("\n")


def _standard_input() -> str:
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--prompt: expected UTF-8 on standard input, got another byte at offset {error.start}"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")  # the line end that a shell adds
