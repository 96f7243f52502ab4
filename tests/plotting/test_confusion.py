"""The picture of a confusion of classes."""

import numpy as np
import pytest

from numtx.plotting import save_confusion

pytest.importorskip("matplotlib")


def test_a_picture(tmp_path):
    save_confusion(tmp_path / "a.png", np.array([[5, 0], [2, 3]]), ["good", "$bad"])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    save_confusion(tmp_path / "b.png", np.array([[0, 5], [2, 3]]), ["good", "$bad"])
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_many_classes_and_an_empty_row(tmp_path):
    save_confusion(tmp_path / "a.svg", np.zeros((30, 30), int), [f"class {k}" for k in range(30)])
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def test_a_name_for_each_class(tmp_path):
    with pytest.raises(ValueError, match=r"expected counts \(2, 2\), got \(3, 3\)"):
        save_confusion(tmp_path / "a.png", np.zeros((3, 3)), ["a", "b"])
