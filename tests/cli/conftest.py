"""Running the command: inside the test's process, or as a process of its own."""

import io
import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from numtx.cli import main

TEXT = "".join(f"{n} bottles of beer on the wall, take one down, pass it around.\n" for n in range(60, 0, -1))
TINY = shlex.split("--layers 1 --heads 2 --width 8 --context 8 --batch 4 --steps 8 --eval-every 4 --threads 1")


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *words: str) -> None:
        """Assert that it ended with this code and one line on standard error that holds the words."""
        assert self.code == code, self
        assert re.fullmatch(r"error: [^\n]+\n", self.err), self.err
        for word in words:
            assert word in self.err


@pytest.fixture
def numtx(capsys, monkeypatch, tmp_path):
    """Run `numtx` here: numtx("train", "--steps", 3, stdin=b"...") -> Ran. The working folder is empty at first."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main([str(one) for one in arguments])
        return Ran(code, *capsys.readouterr())

    return run


def process(*arguments, cwd: Path, program=("-m", "numtx"), **settings) -> subprocess.Popen:
    """Start `numtx`, or another program of Python, as a process of its own, its output in pipes."""
    command = [sys.executable, *program, *map(str, arguments)]
    hidden = ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "PYTHONUNBUFFERED")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, text=True, env=environment, **(pipes | settings))


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """A text of 3,900 characters."""
    path = tmp_path_factory.mktemp("text") / "beer.txt"
    path.write_text(TEXT, newline="")
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory, text_file) -> Path:
    """A run of eight steps that is done. Only to be read."""
    path = tmp_path_factory.mktemp("runs") / "done"
    assert main(["train", "--data", str(text_file), "--out", str(path), *TINY]) == 0
    return path


@pytest.fixture
def tiny(text_file) -> list[str]:
    """Options of a run of eight steps."""
    return ["--data", str(text_file), *TINY]


@pytest.fixture
def start():
    """Start `numtx` as a process: start("train", cwd=folder) -> Popen. None outlives its test."""
    with ExitStack() as open_pipes:

        def run(*arguments, **settings) -> subprocess.Popen:
            ran = open_pipes.enter_context(process(*arguments, **settings))
            open_pipes.callback(ran.kill)  # before the wait that the `with` ends in; harmless where it ended
            return ran

        yield run
