"""The Python of the README runs, and prints what the README shows."""

import contextlib
import io
import pathlib
import re

from numtx.testing import MISTAKES, check_pair

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


def test_its_mistake_is_known():
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(CHECK, "README.md", "exec"), names)

    def forward(x, weight, bias=None, eps=1e-5):
        y, cache = names["layer_norm"](x.reshape(-1, len(weight)), weight, 0 if bias is None else bias, eps)
        return y.reshape(x.shape), (cache, bias is not None)

    def backward(dy, cache):
        cache, has_bias = cache
        dx, dweight, dbias = names["layer_norm_backward"](dy.reshape(-1, dy.shape[-1]), cache)
        return dx.reshape(dy.shape), dweight, dbias if has_bias else None

    (said,) = re.findall(r"says of this one: \*(.*?)\*", README)
    assert said in check_pair("layer_norm", forward, backward).hint
    (number,) = re.findall(r"over (\d+) classic mistakes", README)
    assert int(number) < len(MISTAKES) < int(number) + 100


def test_the_training_example_learns():
    out = printed(TRAINING)
    assert float(out.split()[0]) < 2.6  # nats, from log 103 = 4.6
    assert "The " in out
