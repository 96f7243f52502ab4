"""The Python of the README runs, and prints what the README shows."""

import contextlib
import io
import pathlib
import re

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
CHECK, TRAINING = [text for text in PYTHON if "torch" not in text]


def printed(code):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {})
    return out.getvalue()


def _without_noise(text):
    """Errors of rounding differ between machines: keep that they are of rounding."""
    return re.sub(r"\d\.\de-(0[9]|1\d) ", "rounding", text)


def test_the_check_prints_what_is_shown():
    shown = [_without_noise(text) for language, text in BLOCKS if not language]
    assert _without_noise(printed(CHECK)) in shown


def test_the_training_example_learns():
    out = printed("import numpy as np\n" + TRAINING)
    assert float(out.split()[0]) < 2.6  # nats, from log 103 = 4.6
    assert "The " in out
