"""Safetensors files written array by array: their bytes, and how numbers are rounded."""

import json
from fractions import Fraction

import numpy as np
import pytest
from safetensors import safe_open

from numtx.checkpoints import load_arrays, open_arrays, streaming
from numtx.checkpoints.streaming import Planned, bfloat16, stream_arrays

ARRAYS = {
    "b": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a": np.array(-7, np.int64),
    "flags": np.array([True, False, True]),
    "none": np.zeros((0, 4), np.float32),
    "deep": np.arange(8, dtype=np.float64).reshape(2, 2, 2).T,
    "half": np.array([0.1, 65504, -0.0], np.float16),
}


def plan_of(arrays):
    return {name: Planned(array.dtype.name, array.shape) for name, array in arrays.items()}


@pytest.mark.parametrize("block", [1, 3, 5, 1 << 20])
def test_what_is_written_is_read(tmp_path, monkeypatch, block):
    monkeypatch.setattr(streaming, "BLOCK", block)
    read = []
    stream_arrays(tmp_path / "a.safetensors", plan_of(ARRAYS), lambda name: read.append(name) or ARRAYS[name])
    assert read == list(ARRAYS)
    found = load_arrays(tmp_path / "a.safetensors")  # by the library of the format
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert list(open_arrays(tmp_path / "a.safetensors")) == list(ARRAYS)
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_numbers_begin_at_a_multiple_of_eight(tmp_path):
    for width in range(9):
        path = tmp_path / f"{width}.safetensors"
        stream_arrays(path, {"x" * width: Planned("float32", (2,))}, lambda name: np.ones(2, np.float32))
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        assert length % 8 == 0
        assert json.loads(data[8 : 8 + length])["x" * width]["data_offsets"] == [0, 8]
        assert len(data) == 8 + length + 8


def rounded(number: float) -> float:
    """The definition: the nearest number of 8 significant bits, the even one of two that are as near."""
    bits = int(np.float32(number).view(np.uint32))
    below = bits & 0xFFFF0000
    low, high = (Fraction(float(np.uint32(one).view(np.float32))) for one in (below, below + 0x10000))
    here = Fraction(float(np.float32(number)))
    to_low, to_high = abs(here - low), abs(high - here)
    even_is_low = (below >> 16) % 2 == 0
    return float(low if to_low < to_high or (to_low == to_high and even_is_low) else high)


def test_bfloat16_is_the_nearest_number():
    rng = np.random.default_rng(0)
    exponents = rng.integers(1, 250, 3000).astype(np.uint32) << 23
    mantissas = rng.integers(0, 1 << 23, 3000).astype(np.uint32)
    mantissas[::3] = (mantissas[::3] & 0x7F0000) | 0x8000  # halfway
    mantissas[1::9] = (mantissas[1::9] & 0x7F0000) | 0x7FFF
    mantissas[4::9] = (mantissas[4::9] & 0x7F0000) | 0x8001
    numbers = (exponents | mantissas | (rng.integers(0, 2, 3000).astype(np.uint32) << 31)).view(np.float32)
    got = (bfloat16(numbers).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(got, np.array([rounded(float(number)) for number in numbers], np.float32))


def test_bfloat16_of_what_is_special():
    given = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45], np.float32)
    assert [hex(one) for one in bfloat16(given)] == ["0x0", "0x8000", "0x7f80", "0xff80", "0x7fc0", "0x0"]
    signalling = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)  # truncated, they would be infinite
    assert np.isnan((bfloat16(signalling).astype(np.uint32) << 16).view(np.float32)).all()


@pytest.mark.parametrize(("dtype", "number"), [("float16", 65520.0), ("bfloat16", 3.4e38), ("float32", 1e39)])
def test_a_number_too_large_is_not_made_infinite(tmp_path, dtype, number):
    array = np.array([1, -number], np.float64 if dtype == "float32" else np.float32)
    with pytest.raises(ValueError, match=rf"stream_arrays: expected numbers that {dtype} holds in 'w', got ") as raised:
        stream_arrays(tmp_path / "a", {"w": Planned(dtype, (2,))}, lambda name: array)
    assert f"{number:.3g}" in str(raised.value)
    infinite = np.array([np.inf, np.nan], array.dtype)  # what was infinite before stays
    stream_arrays(tmp_path / "a.safetensors", {"w": Planned(dtype, (2,))}, lambda name: infinite)
    np.testing.assert_array_equal(open_arrays(tmp_path / "a.safetensors")["w"], infinite)


def test_another_shape_than_was_planned(tmp_path):
    with pytest.raises(ValueError, match=r"expected 'w' of shape \(2, 3\), got \(3, 2\)"):
        stream_arrays(tmp_path / "a", {"w": Planned("float32", (2, 3))}, lambda name: np.ones((3, 2), np.float32))
