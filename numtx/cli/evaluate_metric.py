"""numtx evaluate: what predictions in a file are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from numtx.metrics import Metric


def evaluate_metric(
    metric: Annotated[
        str, typer.Argument(help="Such as f1, squad, rouge, sacrebleu.", metavar="METRIC", show_default=False)
    ],
    predictions: Annotated[
        Path,
        typer.Option(
            help="Text with one a line, JSON lines, or JSON; - for standard input.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    references: Annotated[
        list[Path] | None,
        typer.Option(help="The same. Several files, the option repeated: several references for each.", metavar="FILE"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="For perplexity: run, folder, GGUF file, or name on the hub.", metavar="M")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the metric, as average=macro; may be repeated.", metavar="NAME=VALUE"),
    ] = None,
    bootstrap: Annotated[
        int | None, typer.Option(help="Resamplings of the examples for confidence intervals.", metavar="N", min=1)
    ] = None,
    confidence: Annotated[float, typer.Option(help="What an interval holds.", metavar="C")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the resampling.", metavar="N", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, for machines.")] = False,
) -> None:
    """Measure predictions: accuracy, F1, BLEU, chrF, ROUGE, METEOR, SQuAD, perplexity.

    Names, inputs and results are those of the package evaluate. For perplexity, a file of text is one text, and a line
    of JSON lines each.
    """
    from numtx.cli.errors import UsageError, asked
    from numtx.cli.metric_files import read_examples, result_as_json, result_rows
    from numtx.cli.screen import Screen
    from numtx.cli.set_options import read_settings
    from numtx.metrics import load

    with asked():
        measure = load(metric)
        chosen = read_settings("evaluate", settings or (), own_place=("model", "tokenizer"))
        _check_options(measure, references, model, chosen)
    if str(predictions) == "-" and any(str(one) == "-" for one in references or ()):
        raise UsageError("evaluate: expected standard input for predictions or references, got it for both")
    examples = read_examples(measure, predictions, references or [])
    if model is not None:
        from numtx.cli.opened import opened_writer

        chosen["model"], chosen["tokenizer"] = opened_writer(model)
    result = measure.compute(**examples, bootstrap=bootstrap or 0, confidence=confidence, seed=seed, **chosen)
    if as_json:
        Screen().say(result_as_json(result))
    else:
        Screen().facts(result_rows(result))


def _check_options(metric: Metric, references: Any, model: str | None, chosen: dict[str, Any]) -> None:
    if metric.needs_references and not references:
        raise ValueError(f"evaluate: expected --references for {metric.name}, got none")
    if not metric.needs_references and references:
        raise ValueError(f"evaluate: expected {metric.name} without --references, got them")
    if ("model" in metric.settings) != (model is not None):
        wanted = "--model" if model is None else "no --model"
        raise ValueError(f"evaluate: expected {wanted} for {metric.name}, got {'none' if model is None else model!r}")
    if unknown := sorted(set(chosen) - set(metric.settings)):
        known = ", ".join(one for one in metric.settings if one not in ("model", "tokenizer")) or "nothing"
        raise ValueError(f"evaluate: expected {known} with --set for {metric.name}, got {', '.join(unknown)}")
