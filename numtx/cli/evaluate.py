"""numtx eval: what a run's predictions are worth on a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder that numtx train left.", metavar="RUN", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            help="File, folder of text files, or - for standard input; UTF-8. Without it: the run's held-out text.",
            metavar="PATH",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads. Without it: all processors.", metavar="N", min=1)
    ] = None,
) -> None:
    """Measure the model of a run on a text.

    Loss in nats per token, bits per byte of the text, and perplexity; every token but the first is predicted once.
    """
    from numtx.cli.job import named, run_text
    from numtx.cli.measures import loss_facts, predicted_bytes
    from numtx.cli.opened import opened_run, refuse_adapter
    from numtx.cli.screen import Screen
    from numtx.text import read_corpus, split_corpus
    from numtx.training import RunFolder, Workers, available_threads
    from numtx.training import evaluate as loss_over

    refuse_adapter("eval", run, "numtx evaluate perplexity --model measures it too")
    opened, tokenizer = opened_run(run)
    if data is None:
        text, source = run_text(RunFolder.open(run))
        text, source = split_corpus(text)[1], f"the held-out tenth of {named(source)}"
    else:
        text, source = read_corpus(data), named(data)
    ids = tokenizer.encode(text)
    with Workers(threads or available_threads()) as workers:
        found = loss_over(opened.model, ids, opened.model.config.n_positions, workers=workers)
    bytes_ = predicted_bytes(tokenizer, text)
    Screen().facts(
        [
            ("run", str(run)),
            ("text", f"{source}: {len(text):,} characters"),
            ("predicted", f"{found.tokens:,} tokens, {bytes_:,} bytes"),
            *loss_facts(found.loss, found.tokens, bytes_),
        ]
    )
