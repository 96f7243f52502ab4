"""The command as a whole: help, version, its speed, and how errors end."""

import subprocess
import sys

import pytest

import numtx as package
from numtx.cli.settings import NAMES

COMMANDS = ("train", "generate", "run", "chat", "eval", "check", "show", "info", "convert")


def test_help_lists_the_commands(numtx):
    for arguments in ([], ["--help"], ["-h"]):
        ran = numtx(*arguments)
        assert ran.code == 0
        assert all(f"│ {name} " in ran.out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(numtx, command):
    ran = numtx(command, "--help")
    assert ran.code == 0
    assert f"numtx {command}" in ran.out
    assert "\x1b" not in ran.out


def test_help_of_train_groups_the_options_and_shows_defaults(numtx):
    out = numtx("train", "--help").out
    panels = [out.index(f"╭─ {name} ─") for name in ("Text", "Model", "Training", "Computing", "Run")]
    assert panels == sorted(panels)
    for name in (*NAMES, "config", "resume"):
        assert f"--{name.replace('_', '-')} " in out
    for name, default in (("layers", 3), ("steps", 2200), ("lr", 0.003), ("tokenizer", "char"), ("dtype", "float32")):
        after = out[out.index(f"--{name} ") :]
        assert f"[default: {default}]" in after[: after.index("--", 3)], name


def test_version(numtx):
    ran = numtx("--version")
    assert (ran.code, ran.out) == (0, f"numtx {package.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_no_numpy(arguments):
    program = (
        f"import sys; from numtx.cli import main; code = main({arguments!r}); "
        "sys.exit(code or 'numpy' in sys.modules or 'rich.progress' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_module_is_the_command(start, tmp_path):
    ran = start("--version", cwd=tmp_path)
    assert ran.communicate() == (f"numtx {package.__version__}\n", "")
    assert ran.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], ["frobnicate"]),
        (["train", "--layerz", "3"], ["--layerz", "--layers"]),
        (["train", "--layers", "three"], ["--layers"]),
        (["train", "--tokenizer", "word"], ["--tokenizer", "char", "byte"]),
        (["generate"], ["RUN"]),
        (["check", "--draws", "0"], ["--draws"]),
    ],
)
def test_misuse_is_one_line_and_exit_code_two(numtx, arguments, words):
    numtx(*arguments).refused(2, *words)


def test_a_fault_of_ours_is_not_hidden(numtx, monkeypatch):
    monkeypatch.setattr("numtx.cli.opened.opened_writer", lambda name: 1 + None)
    with pytest.raises(TypeError):
        numtx("generate", "run")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_output_that_cannot_be_written_is_one_line(start, finished, tmp_path):
    with open("/dev/full", "w") as full:
        ran = start("generate", finished, "--tokens", 5, cwd=tmp_path, stdout=full)
        _, err = ran.communicate()
    assert ran.returncode == 1
    assert err == "error: No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe ends otherwise there")
def test_a_reader_that_has_seen_enough(start, finished, tmp_path):
    ran = start("generate", finished, "--tokens", 100_000, cwd=tmp_path)
    assert ran.stdout.read(20)
    ran.stdout.close()
    assert ran.stderr.read() == ""
    assert ran.wait() == 1
