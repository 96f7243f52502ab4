"""What a fine-tuning came to: metrics.json, report.md and its pictures."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from numtx._version import __version__
from numtx.checkpoints import atomic_write, write_json
from numtx.plotting import line_plot, save_confusion, save_curves

if TYPE_CHECKING:
    from numtx.training.tasks import Findings

PACKAGES = ("numpy", "scipy", "tokenizers", "safetensors")
LONGEST = 160  # characters of a cell


def write_metrics(folder: Path, metrics: Mapping[str, Any], baseline: Mapping[str, Any], best_step: int | None) -> None:
    """Write metrics.json: the measures of the model that was kept, and beside them those of the baseline."""
    entries = dict(metrics) | {"best_step": best_step}
    if baseline:
        entries["baseline"] = dict(baseline)
    write_json(folder / "metrics.json", {name: _plain(value) for name, value in entries.items()})


def write_report(
    folder: Path,
    title: str,
    facts: Sequence[tuple[str, str]],
    metrics: Mapping[str, float],
    findings: Findings,
    log: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    names: Sequence[str] = (),
) -> list[str]:
    """Write report.md and the pictures that it shows, and return their names.

    Parameters
    ----------
    folder : path
    title : str
    facts : list of (name, value)
    metrics : dict
        Of the model that was kept, on held-out rows.
    findings : Findings
    log : list of dict
        Rows with `step`, `loss`, `eval_loss` ...
    settings : dict
    names : sequence of str
        Of the classes, for the picture of the confusion.
    """
    written, curves = ["report.md"], _curves(log)
    parts = [f"# {title}", _table(("", ""), facts), "## On held-out rows", _measures(metrics, findings)]
    if any(len(points) > 1 for points in curves.values()):
        parts += [
            "## Curves",
            _picture(folder, "curves.png", lambda path: save_curves(path, curves), _plotted(curves), written),
        ]
        parts += [_rows_of(log)]
    for table in findings.tables:
        parts += [f"## {table.title}", *([table.note] if table.note else []), _table(table.columns, table.rows)]
        if table.title == "Confusion" and findings.confusion is not None:
            picture = _picture(
                folder, "confusion.png", lambda path: save_confusion(path, findings.confusion, names), "", written
            )
            parts += [picture] if picture else []
    parts += ["## Settings", _table(("setting", "value"), [(name, _shown(value)) for name, value in settings.items()])]
    parts += ["## Versions", _table(("package", "version"), _versions())]
    atomic_write(folder / "report.md", ("\n\n".join(parts) + "\n").encode())
    return written


def _picture(folder: Path, name: str, draw: Any, instead: str, written: list[str]) -> str:
    """Draw a picture where matplotlib is installed, and return what shows it."""
    try:
        draw(folder / name)
    except ImportError:
        return instead
    written.append(name)
    return f"![{name.partition('.')[0]}]({name})"


def _curves(log: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    names = {"loss": "training", "eval_loss": "held-out"}
    return {
        said: [
            (row["step"], row[key]) for row in log if isinstance(row.get(key), (int, float)) and np.isfinite(row[key])
        ]
        for key, said in names.items()
    }


def _plotted(curves: Mapping[str, list[tuple[float, float]]]) -> str:
    """The curves as text in a block of code."""
    lines = line_plot({name: points for name, points in curves.items() if points}, x_label="step")
    return "\n".join(["```text", *lines, "```"])


def _rows_of(log: Sequence[Mapping[str, Any]]) -> str:
    """The evaluations as a table."""
    steps: dict[int, dict[str, Any]] = {}
    for row in log:
        steps.setdefault(row["step"], {}).update(row)
    rows = [row for row in steps.values() if "eval_loss" in row]
    hidden = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    measures = list(
        dict.fromkeys(name for row in rows for name in row if name.startswith("eval_") and name not in hidden)
    )
    columns = ["step", "loss", *measures]
    return _table(
        [name.removeprefix("eval_") if name != "eval_loss" else "held-out loss" for name in columns],
        [[_shown(row.get(name, "")) for name in columns] for row in rows],
    )


def _measures(metrics: Mapping[str, float], findings: Findings) -> str:
    baseline = findings.baseline
    columns = ("measure", "value", *(("baseline",) if baseline else ()))
    rows = [
        (name, _shown(value), *((_shown(baseline.get(name, "")),) if baseline else ()))
        for name, value in metrics.items()
    ]
    note = f"\n\nThe baseline says {findings.baseline_is}." if baseline else ""
    return _table(columns, rows) + note


def _versions() -> list[tuple[str, str]]:
    found = [("numtx", __version__), ("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _table(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown.

    Examples
    --------
    >>> print(_table(("name", "value"), [("a|b", 1)]))
    | name | value |
    | --- | --- |
    | a\\|b | 1 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(one) for one in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """Return a value as a cell: one line, not too long, without what Markdown or HTML would read."""
    text = " ".join(str(value).split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    for sign, instead in (
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("<", "&lt;"),
        ("`", "\\`"),
        ("[", "\\["),
        ("*", "\\*"),
    ):
        text = text.replace(sign, instead)
    return text


def _shown(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_shown(one)}" for name, one in value.items())
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
