"""numtx show: every line of the table, what it adds up to, and what it refuses."""

import io
import json
import re
import shutil
import subprocess
import sys
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import pytest
from rich.console import Console

from numtx import nn
from numtx.cli.architecture import Architecture, shape_of
from numtx.cli.screen import Screen
from numtx.cli.show import READY_MADE, _table, amount, forward, opened_model
from numtx.models import GPT2Config, GPT2LMHeadModel

SIZES = {"vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 3, "n_head": 2}


class Line(NamedTuple):
    """One line of the table that was written."""

    indent: int
    name: str
    kind: str
    output: str
    parameters: int
    share: float


def number(cell: str) -> float:
    return 0 if cell == "-" else float(cell.replace(",", "").rstrip("%"))


def table(out: str) -> list[Line]:
    """Read the columns by where the rule of the heading puts them."""
    head, rule, *rest = out.splitlines()
    assert head.split() == ["component", "kind", "output", "parameters", "FLOPs"]
    spans = [match.span() for match in re.finditer("-+", rule)]
    found = []
    for line in rest[: rest.index("")]:
        name, kind, output, parameters, share = (line[start:stop] for start, stop in spans)
        indent = len(name) - len(name.lstrip())
        found.append(
            Line(
                indent,
                name.strip(),
                kind.strip(),
                output.strip(),
                int(number(parameters.strip())),
                number(share.strip()),
            )
        )
    return found


@pytest.fixture
def checkpoint(tmp_path):
    GPT2LMHeadModel(GPT2Config(**SIZES), rng=0).save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def test_every_component_of_a_checkpoint(numtx, checkpoint):
    ran = numtx("show", checkpoint, "--batch", 2, "--length", 5)
    assert (ran.code, ran.err) == (0, "")
    lines = {(line.indent, line.name): line[2:] for line in table(ran.out)}
    # By hand: a layer has 24·10·64 + 4·10·5·8 = 16,960 FLOPs, the head 2·10·8·11 = 1,760: 52,640 in all.
    layer = 16 + 8 * 24 + 24 + 8 * 8 + 8 + 16 + 8 * 32 + 32 + 32 * 8 + 8
    assert lines[0, "model"] == ("GPT2LMHeadModel", "(2, 5, 11)", 88 + 128 + 3 * layer + 16, 100.0)
    assert lines[4, "embedding"] == ("Embedding", "(2, 5, 8)", 88, 0)
    assert lines[4, "stack"] == ("Decoder", "(2, 5, 8)", 3 * layer + 16, 96.7)
    assert lines[6, "layers.0-2"] == ("DecoderBlock x 3", "(2, 5, 8)", 3 * layer, 96.7)
    assert lines[8, "attention"] == ("PreNorm", "(2, 5, 8)", 3 * (16 + 216 + 72), round(300 * 6720 / 52640, 1))
    assert lines[10, "sublayer"][0] == "FeedForward"
    assert lines[12, "up"] == ("Linear", "(2, 5, 32)", 3 * 288, round(300 * 5120 / 52640, 1))
    assert lines[12, "out_proj"] == ("Linear", "(2, 5, 8)", 3 * 72, round(300 * 1280 / 52640, 1))
    assert lines[2, "head"] == ("TiedLMHead", "(2, 5, 11)", 0, 3.3)
    products = [line for line in table(ran.out) if not line.name]
    assert [line.kind for line in products] == ["linear", "scaled_dot_product_attention"]
    assert products[0][3:] == ("(2, 5, 24)", 3 * 216, round(300 * 3840 / 52640, 1))
    assert products[1][3:] == ("(2, 2, 5, 4)", 0, round(300 * 1600 / 52640, 1))
    assert "total: 2,848 parameters, 52.6 kFLOPs (one forward, 2 x 5 tokens)" in ran.out.splitlines()
    assert "causality" in ran.out


def test_a_run(numtx, finished):
    ran = numtx("show", finished)
    assert ran.code == 0
    first = table(ran.out)[0]
    assert (first.name, first.kind, first.share) == ("model", "GPT2LMHeadModel", 100.0)
    assert first.output.startswith("(1, 8, ")  # its context is 8
    assert " x " not in "".join(line.kind for line in table(ran.out))  # it has one layer
    assert "equal layers" not in ran.out


@pytest.mark.parametrize("name", READY_MADE)
def test_ready_made_models(numtx, name):
    ran = numtx("show", name)
    assert ran.code == 0
    lines = table(ran.out)
    assert lines[0].output == ("(1, 4)" if name == "encoder-only" else "(1, 128, 1000)")
    layers = [line for line in lines if line.name == "layers.0-5"]
    assert [line.kind.split()[-2:] for line in layers] == [["x", "6"]] * (2 if name == "encoder-decoder" else 1)
    assert ("cross_attention" in ran.out) == (name == "encoder-decoder")
    assert ("causality" in ran.out) == (name != "encoder-only")


@pytest.mark.parametrize("name", READY_MADE)
def test_what_stands_below_a_component_adds_up(name):
    """Parameters and FLOPs, exactly, on every level; so also over the layers that share a line."""
    model = opened_model(name)
    with nn.trace(model) as t:
        forward(model, 2, 5)
    rows = list(Architecture(model, t).rows())
    for k, row in enumerate(rows):
        inside = list(takewhile(lambda below, row=row: below.level > row.level, rows[k + 1 :]))
        parts = [below for below in inside if below.level == row.level + 1]
        for what in ("parameters", "flops") if parts else ():
            assert sum(getattr(part, what) for part in parts) == getattr(row, what), row
    assert rows[0].parameters == model.num_parameters()


def test_depth(numtx, checkpoint):
    def names(*options):
        return [(line.indent // 2, line.name) for line in table(numtx("show", checkpoint, *options).out)]

    everything = names()
    assert names("--depth", 0) == [(0, "model")]
    for depth in (1, 2, 3):
        shown = [(level, name) for level, name in everything if name and level <= depth]
        assert names("--depth", depth) == shown
    assert names("--depth", 9) == everything


def test_length_is_the_context_or_less(numtx, checkpoint):
    assert table(numtx("show", checkpoint).out)[0].output == "(1, 16, 11)"
    assert table(numtx("show", checkpoint, "--length", 1).out)[0].output == "(1, 1, 11)"
    assert table(numtx("show", "decoder-only", "--length", 256, "--depth", 0).out)[0].output == "(1, 256, 1000)"
    numtx("show", checkpoint, "--length", 17).refused(2, "--length", "at most 16", "got 17")


def test_layers_that_differ_stand_apart():
    """Another setting, another size, or a neighbour's place taken: three lines for four layers."""
    layers = [
        nn.FeedForward(4, 8, rng=0),
        nn.FeedForward(4, 8, rng=1),
        nn.FeedForward(4, 8, "relu"),
        nn.FeedForward(4, 6),
    ]
    stack = nn.Stack([Settled(layer) for layer in layers])
    with nn.trace(stack) as t:
        stack(np.ones((1, 2, 4), np.float32))
    rows = list(Architecture(stack, t).rows(depth=1))
    assert [(row.name, row.repeats) for row in rows] == [
        ("model", 1),
        ("layers.0-1", 2),
        ("layers.2", 1),
        ("layers.3", 1),
    ]
    assert [row.parameters for row in rows] == [76 * 3 + 58, 76 * 2, 76, 58]


class Settled(nn.Module):
    """A layer that takes what a stack gives."""

    def __init__(self, sublayer):
        self.sublayer = sublayer

    def forward(self, x, *, rng=None):
        return self.sublayer.forward(x, rng=rng)


def test_parts_in_the_order_of_calls_and_one_that_is_never_called():
    class Model(nn.Module):
        """Its parts are made in another order than they are called in, and one name begins like the other."""

        def __init__(self):
            self.idle, self.down, self.down_first = nn.Linear(5, 5), nn.Linear(3, 2), nn.Linear(4, 3)

        def forward(self, x):
            return self.down.forward(self.down_first(x))

    model = Model()
    with nn.trace(model) as t:
        model(np.ones((1, 4), np.float32))
    rows = list(Architecture(model, t).rows())
    assert [(row.name, row.shape, row.parameters, row.flops) for row in rows] == [
        ("model", "(1, 2)", 30 + 8 + 15, 24 + 12),
        ("down_first", "(1, 3)", 15, 24),
        ("down", "(1, 2)", 8, 12),
        ("idle", "", 30, 0),
    ]


def test_a_terminal_of_80_columns_folds_what_is_too_long():
    model = opened_model("encoder-decoder")
    with nn.trace(model) as t:
        forward(model, 1, 128)
    architecture, screen = Architecture(model, t), Screen()
    screen.console, screen.live = Console(width=80, file=io.StringIO(), force_terminal=True), True
    _table(list(architecture.rows()), architecture.flops, screen)
    written = re.sub(r"\x1b\[[\d;]*m", "", screen.console.file.getvalue()).splitlines()
    assert max(map(len, written)) <= 80
    assert "…" not in "".join(written)
    assert [line.split()[-1] for line in written if line.startswith("  transformer")] == ["96.3%"]


def test_shapes_of_whatever_is_returned():
    assert shape_of(np.float32(1)) == "()"
    assert shape_of((np.ones((2, 3)), (None, np.ones(1)))) == "(2, 3), (1,)"
    assert shape_of(None) == ""


def test_amounts():
    assert [amount(n) for n in (0, 999, 1000, 36_213_000_000, 2 * 10**12)] == [
        "0 FLOPs", "999 FLOPs", "1 kFLOPs", "36.2 GFLOPs", "2 TFLOPs",
    ]  # fmt: skip


def test_a_model_that_is_not_there(numtx, tmp_path):
    numtx("show", "nowhere").refused(1, "encoder-only", "'nowhere'", "does not exist")
    (tmp_path / "file").touch()
    numtx("show", "file").refused(1, "'file'", "which is a file")
    (tmp_path / "empty").mkdir()
    numtx("show", "empty").refused(1, "empty", "config.json")


def test_a_checkpoint_that_is_broken(numtx, checkpoint, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text(json.dumps({"model_type": "mamba"}))
    numtx("show", "other").refused(1, "gpt2", "'mamba'")
    shutil.copy(checkpoint / "config.json", tmp_path / "other/config.json")
    numtx("show", "other").refused(1, "model.safetensors")
    (checkpoint / "config.json").write_text("{")
    numtx("show", checkpoint).refused(1, "config.json")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "MODEL"),
        (["encoder-only", "--batch", "0"], "--batch"),
        (["encoder-only", "--length", "0"], "--length"),
        (["encoder-only", "--depth", "-1"], "--depth"),
    ],
)
def test_misuse(numtx, arguments, word):
    numtx("show", *arguments).refused(2, word)


def test_help(numtx):
    assert "│ show " in numtx("--help").out
    out = numtx("show", "--help").out
    assert all(option in out for option in ("--batch", "--length", "--depth", *READY_MADE))
    program = "import sys; from numtx.cli import main; main(['show', '-h']); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0
