"""From the table of settings to options of a command, and to what a TOML file may hold."""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from numtx.cli.errors import UsageError
from numtx.cli.settings import ABOUT, NAMES, TrainSettings, flag

KINDS = get_type_hints(TrainSettings)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes `**options` an option for each setting.

    typer reads the signature of a function, so the table becomes one.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    added = []
    for one in fields(TrainSettings):
        about = ABOUT[one.name]
        option = typer.Option(
            flag(one.name),
            help=about.help,
            metavar=about.metavar,
            rich_help_panel=about.panel,
            show_default=one.default is not None,
        )
        added.append(
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default,
                annotation=Annotated[KINDS[one.name], option],
            )
        )
    context = [one for one in own if one.annotation is typer.Context]
    others = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own if one not in context]
    command.__signature__ = signature.replace(parameters=[*context, *added, *others])  # type: ignore[attr-defined]
    return command


def given_options(invocation: typer.Context, options: dict[str, Any], config: Path | None) -> dict[str, Any]:
    """Return the settings by name that were given: those of the file, and over them those of the command line."""
    typed = {}
    for name, value in options.items():
        source = invocation.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            typed[name] = value
    return (read_config(config) if config else {}) | typed


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings by name that stand in a TOML file.

    Raises
    ------
    UsageError
        In one line: there is no such file, it is not TOML, or an entry has an unknown name or a wrong type.
    """
    try:
        entries = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"--config: expected a TOML file, got '{path}': {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config: expected TOML, got '{path}': {error}") from None
    found = {}
    for key, value in entries.items():
        name = key.replace("-", "_")
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f" (is it {near[0]}?)" if near else ""
            known = ", ".join(NAMES)
            raise UsageError(f"--config: expected the names {known} in '{path}', got {key!r}{hint}")
        found[name] = _typed(path, key, value, KINDS[name])
    return found


def _typed(path: Path, key: str, value: Any, kind: Any) -> Any:
    """Return a value of a TOML file as its setting's type."""
    kind = next((one for one in get_args(kind) if one is not type(None)), kind)  # of `int | None`: int
    if issubclass(kind, StrEnum):
        if value in list(kind):
            return kind(value)
        expected = " or ".join(f'"{one}"' for one in kind)
    else:
        expected = {int: "a whole number", float: "a number", str: "a text"}[kind]
        accepted = (int, float) if kind is float else kind
        if isinstance(value, accepted) and not isinstance(value, bool):
            return kind(value)
    raise UsageError(f"--config: expected {expected} for {key} in '{path}', got {value!r}")
