"""numtx check: the battery over every op, component and model."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from numtx.cli.screen import Screen
    from numtx.testing import Report, Row, Spec


def check(
    name: Annotated[
        str | None,
        typer.Argument(help="An op, component or model, such as layer_norm. Without it: all.", show_default=False),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(help="Random cases of each. Without it: more of an op, fewer of a model.", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random cases.", min=0)] = 0,
) -> None:
    """Check every gradient, here and now.

    Each stands beside finite differences in float64, each result beside an independent definition. The exit code is 1
    if anything is off.
    """
    from numtx.cli.errors import FAILED, asked
    from numtx.cli.screen import Screen, clock
    from numtx.testing import SPECS, Report, find_spec
    from numtx.training import Workers

    with asked():
        specs = list(SPECS.values()) if name is None else [find_spec(name)]
    screen, began = Screen(), time.perf_counter()
    with Workers(1):  # arrays are tiny here: a second BLAS thread only gets in the way
        report = Report(tuple(_checked(specs, draws, seed, screen)))
    _show(report, screen)
    failed = sum(not row.ok for row in report)
    verdict = f"{failed} of {len(report.rows)} rows FAILED" if failed else f"all {len(report.rows)} rows are right"
    things = specs[0].name if len(specs) == 1 else f"{len(specs)} ops, components and models"
    screen.say()
    screen.say(
        f"{things}, {clock(time.perf_counter() - began)}: {verdict}", style="bold red" if failed else "bold green"
    )
    if not report:
        raise typer.Exit(FAILED)


def _checked(specs: list[Spec], draws: int | None, seed: int, screen: Screen) -> Iterable[Row]:
    """Yield the rows of each spec; on a terminal a bar says which one is at work."""
    from rich.progress import BarColumn, Progress, TextColumn

    from numtx.testing import check_spec

    columns = BarColumn(22), TextColumn("{task.completed}/{task.total}  {task.description}")
    with Progress(*columns, console=screen.console, transient=True, disable=not screen.live) as bar:
        task = bar.add_task("", total=len(specs))
        for spec in specs:
            bar.update(task, description=spec.name)
            yield from check_spec(spec, count=draws, seed=seed)
            bar.advance(task)


def _show(report: Report, screen: Screen) -> None:
    """Write the table, and below it what was seen where something fails."""
    from numtx.testing.report import HEADER, table

    if screen.live:
        _show_grouped(report, screen)
    else:  # every line whole, for grep and spreadsheets
        for line in table([HEADER, *(row.cells() for row in report)]):
            screen.say(line)
    for row in report:
        if row.note:
            screen.say(f"{row.what}, {row.gradient}: {row.note}", style="red")


def _show_grouped(report: Report, screen: Screen) -> None:
    """Write the table so that it fits a terminal: what is checked on a line of its own, its gradients below."""
    from numtx.testing.report import HEADER

    width = max(len(HEADER[0]), *(2 + len(row.gradient) for row in report))
    screen.say(f"{'what':<{width}}  worst relative", style="dim")
    screen.say(f"{'  gradient':<{width}}  {'error':<14}  cases  verdict", style="dim")
    what = None
    for row in report:
        if row.what != what:
            what = row.what
            screen.say(what, style="bold")
        _, gradient, error, cases, verdict = row.cells()
        line = f"  {gradient:<{width - 2}}  {error:<14}  {cases:>5}  {verdict}"
        screen.say(line, style=None if row.ok else "red")
