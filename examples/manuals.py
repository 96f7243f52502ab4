"""Docstrings of Python, NumPy and SciPy as they are installed: what the examples read that need text about code.

The files are parsed, not run. Another version of a package has other docstrings, and so slightly other figures.
"""

import ast
import re
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ELSEWHERE = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages"}
NO_PROSE = re.compile(r"^\s|^\.\. |^[-=]{3}|>>>|::$|:math:", re.MULTILINE)  # listings, sections, directives, formulas


class Documented(NamedTuple):
    """A function or class with its docstring."""

    module: str
    name: str
    text: str  # the whole
    summary: str  # the first paragraph
    paragraphs: list[str]  # of prose, behind it


def documented(*packages):
    """Return all that has a docstring in some packages, "python" for its library, in the order of the files."""
    found = []
    for package in packages:
        library = package == "python"
        root = Path(sysconfig.get_path("stdlib") if library else find_spec(package).submodule_search_locations[0])
        for path in sorted(root.rglob("*.py")):
            place = path.relative_to(root)
            if not ELSEWHERE & {*place.parts}:
                module = ".".join([*([] if library else [package]), *place.with_suffix("").parts])
                found += _of_file(path, module.removesuffix(".__init__"))
    return found


def _of_file(path, module):
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # files that exist to be wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            text = ast.get_docstring(node) or ""
            parts = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
            prose = [" ".join(part.split()) for part in parts[1:] if not NO_PROSE.search(part)]
            if parts:
                yield Documented(module, node.name, text, " ".join(parts[0].split()), prose)


def arguments_of(*packages):
    """Yield (name, [(argument, type, meaning)]) of the functions that say something of two arguments or more.

    It is the section "Parameters" of a docstring as NumPy and SciPy write it: a line ``name : type``, then further in
    what it means.
    """
    for entry in documented(*packages):
        section = re.search(r"^Parameters\n-+\n(.*?)(?=\n\S[^\n]*\n-{3,}|\Z)", entry.text, re.MULTILINE | re.DOTALL)
        found = re.findall(r"^(\w+) : (\S[^\n]*)\n((?:[ ]+[^\n]*\n?)+)", section[1] if section else "", re.MULTILINE)
        arguments = [(name, kind.strip(), " ".join(meaning.split())) for name, kind, meaning in found]
        if len(arguments) >= 2:
            yield f"{entry.module}.{entry.name}", arguments
