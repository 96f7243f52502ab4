"""Curves drawn with characters."""

import pytest

from numtx.plotting import line_plot


def field(lines, height):
    return [line.split("│", 1)[1] for line in lines[:height]]


def test_a_falling_line_goes_from_corner_to_corner():
    rows = field(line_plot({"loss": [(0, 10), (9, 1)]}, width=10, height=10), 10)
    assert rows == [" " * k + "•" for k in range(10)]


def test_labels_are_the_extremes():
    lines = line_plot({"loss": [(5, 3.25), (40, 1.5)]}, width=20, height=5, x_label="step")
    assert lines[0].startswith("3.25 │•")
    assert lines[4].startswith("1.50 │")
    assert lines[4].endswith("•")
    assert lines[5] == "     └" + "─" * 20
    assert lines[6].split() == ["5", "40", "step"]
    assert len(lines[6].removesuffix("  step")) == len(lines[5])
    assert lines[7] == "• loss"


def test_two_curves_and_the_later_covers():
    lines = line_plot({"a": [(0, 0), (1, 0)], "b": [(0, 0), (1, 1)]}, width=4, height=4)
    rows = field(lines, 4)
    assert rows[0] == "   •"
    assert rows[3] == "•···"
    assert lines[-1] == "· a   • b"


def test_a_curve_covers_only_its_own_stretch():
    rows = field(line_plot({"all": [(0, 0), (10, 0)], "late": [(5, 1), (10, 1)]}, width=11, height=2), 2)
    assert rows == ["     ••••••", "···········"]


@pytest.mark.parametrize("points", [[(3, 2.0)], [(0, 2.0), (9, 2.0)], [(0, 2.0), (5, float("nan")), (9, 2.0)]])
def test_flat_single_and_not_finite(points):
    lines = line_plot({"loss": points}, width=10, height=3)
    assert "•" in lines[0]
    assert "2.00" in lines[0]


def test_ascii_alone():
    assert "".join(line_plot({"a": [(0, 1), (1, 2)], "b": [(0, 2), (1, 1)]}, unicode=False)).isascii()


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="line_plot: expected at least one finite point"):
        line_plot({"loss": [(0, float("inf"))]})
    with pytest.raises(ValueError, match="at most 3"):
        line_plot({str(k): [(0, 1)] for k in range(4)})
