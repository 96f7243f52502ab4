"""A mapped safetensors file: the numbers that safetensors reads, as views; headers that lie are refused."""

import gc
import json
import sys

import numpy as np
import pytest
import safetensors.numpy
from archives import resident
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from numtx.checkpoints import load_arrays, open_arrays, save_arrays

VIEWED = [np.float64, np.float32, np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8]
arrays_of_any_kind = st.sampled_from([*VIEWED, np.bool_]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name != "__metadata__")


def write(path, header, body=b""):
    """Write a file with a header as it is given, an object or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@given(st.dictionaries(names, arrays_of_any_kind, max_size=4))
def test_what_was_saved_comes_back(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("saved") / "a.safetensors"
    save_arrays(path, arrays)
    opened = open_arrays(path)
    assert set(opened) == set(arrays)
    assert opened.nbytes == sum(array.nbytes for array in arrays.values())
    for name, array in arrays.items():
        got = opened[name]
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert (opened.entries[name].dtype, opened.entries[name].shape) == (array.dtype.name, array.shape)
        assert type(got) is np.ndarray
        assert got.flags.c_contiguous
        assert got.flags.aligned


def test_an_array_is_a_view_that_every_look_up_shares_and_the_file_never_sees(tmp_path):
    path = tmp_path / "a"
    save_arrays(path, {"x": np.zeros(4, np.float32), "y": np.ones(4, np.float32)})
    before = path.read_bytes()
    opened = open_arrays(path)
    opened["x"][:] = 5
    assert not opened["x"].flags.owndata
    assert opened["x"].tolist() == [5.0] * 4
    assert opened["y"].tolist() == [1.0] * 4
    assert path.read_bytes() == before
    assert open_arrays(path)["x"].tolist() == [0.0] * 4


def test_arrays_outlive_what_opened_them(tmp_path):
    save_arrays(tmp_path / "a", {"x": np.arange(4.0)})
    x = open_arrays(tmp_path / "a")["x"]
    gc.collect()
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_file_that_is_replaced_does_not_change_what_was_opened(tmp_path):
    save_arrays(tmp_path / "a", {"x": np.arange(4.0)})
    opened = open_arrays(tmp_path / "a")
    save_arrays(tmp_path / "a", {"x": np.zeros(4)})
    assert opened["x"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_asking_whether_a_name_is_there_reads_nothing(tmp_path):
    save_arrays(tmp_path / "a", {"x": np.arange(4.0)})
    opened = open_arrays(tmp_path / "a")
    opened.entries["x"] = opened.entries["x"]._replace(read=lambda: pytest.fail("read"))
    assert "x" in opened
    assert "y" not in opened
    assert len(opened) == 1
    assert repr(opened) == "StoredArrays of 1 names, 32 bytes on disk"


def test_every_bfloat16_is_the_float32_whose_upper_half_it_is(tmp_path):
    bits = np.arange(2**16, dtype=np.uint16)
    opened = open_arrays(write(tmp_path / "b", {"x": entry("BF16", (256, 256), (0, 2**17))}, bits.tobytes()))
    got = opened["x"]
    assert got.dtype == np.float32
    assert got.shape == (256, 256)
    assert got.flags.writeable
    assert got.view(np.uint32).ravel().tolist() == (bits.astype(np.int64) * 65536).tolist()
    assert opened.entries["x"].dtype == "bfloat16"
    assert opened["x"] is not got
    assert got[0x3F, 0x80] == 1.0


def test_every_float16_is_a_float32(tmp_path):
    bits = np.arange(2**16, dtype=np.uint16)
    opened = open_arrays(write(tmp_path / "b", {"x": entry("F16", (2**16,), (0, 2**17))}, bits.tobytes()))
    got = opened["x"]
    sign = np.where(bits >> 15, -1.0, 1.0)
    exponent, fraction = (bits >> 10 & 31).astype(np.float64), (bits & 1023) / 1024
    value = sign * np.where(exponent == 0, 2.0**-14 * fraction, 2.0 ** (exponent - 15) * (1 + fraction))
    finite = exponent < 31
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[finite], value[finite])
    np.testing.assert_array_equal(got[~finite], np.where(fraction == 0, sign * np.inf, np.nan)[~finite])
    assert opened.entries["x"].dtype == "float16"


def test_half_a_width_is_read_again_after_its_pages_were_let_go(tmp_path):
    bits = np.random.default_rng(0).integers(0x3F00, 0x4100, 50_000).astype(np.uint16)
    opened = open_arrays(write(tmp_path / "b", {"x": entry("BF16", (50_000,), (0, 100_000))}, bits.tobytes()))
    first = opened["x"]
    assert opened["x"].tobytes() == first.tobytes() == (bits.astype(np.uint32) << 16).tobytes()


def test_releasing_pages_keeps_what_was_written_beside_them(tmp_path):
    count = 20_000
    header = {
        "a": entry("F32", (2,), (0, 8)),
        "half": entry("BF16", (count,), (8, 8 + 2 * count)),
        "z": entry("F32", (2,), (8 + 2 * count, 16 + 2 * count)),
    }
    opened = open_arrays(write(tmp_path / "b", json.dumps(header).ljust(400).encode(), bytes(16 + 2 * count)))
    opened["a"][:], opened["z"][:] = 1, 2
    assert not opened["half"].any()
    assert (opened["a"].tolist(), opened["z"].tolist()) == ([1.0, 1.0], [2.0, 2.0])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is in memory")
@pytest.mark.parametrize(("dtype", "held"), [("BF16", False), ("F32", True)])
def test_a_copied_array_does_not_stay_in_memory_twice(tmp_path, dtype, held):
    size = 4_000_000
    shape = (size // (2 if dtype == "BF16" else 4),)
    header = json.dumps({"x": entry(dtype, shape, (0, size))}).encode().ljust(96)  # so that the numbers lie aligned
    opened = open_arrays(write(tmp_path / "mapped", header, bytes(size)))
    assert opened["x"].sum() == 0
    assert resident(tmp_path / "mapped") > 0.9 * size if held else resident(tmp_path / "mapped") < 0.1 * size


def test_numbers_at_odd_places_come_aligned(tmp_path):
    header = {"b": entry("U8", (1,), (0, 1)), "x": entry("F32", (3,), (1, 13)), "y": entry("F64", (2,), (13, 29))}
    for pad in range(8):
        text = json.dumps(header).encode() + b" " * pad
        body = b"\x07" + np.array([1.5, -2, 3], "<f4").tobytes() + np.array([0.1, 2], "<f8").tobytes()
        opened = open_arrays(write(tmp_path / "b", text, body))
        assert opened["b"].tolist() == [7]
        assert opened["x"].tolist() == [1.5, -2.0, 3.0]
        assert opened["y"].tolist() == [0.1, 2.0]
        assert opened["x"].flags.aligned
        assert opened["y"].flags.aligned


def test_the_order_of_names_need_not_be_that_of_the_numbers(tmp_path):
    header = {"b": entry(offsets=(8, 16)), "__metadata__": {"format": "pt"}, "a": entry(offsets=(0, 8))}
    opened = open_arrays(write(tmp_path / "b", header, np.arange(4, dtype="<f4").tobytes()))
    assert (opened["a"].tolist(), opened["b"].tolist()) == ([0.0, 1.0], [2.0, 3.0])
    assert list(opened) == ["b", "a"]


BODY = bytes(16)
LIES = {
    "not JSON": (b"{", BODY, "a header that is not JSON"),
    "not UTF-8": (b'{"\xff": 1}', BODY, "a header that is not JSON"),
    "nested without end": (b"[" * 100_000, BODY, "a header that is not JSON"),
    "not an object": ([1], BODY, "JSON of type list"),
    "a name twice": (b'{"a": {}, "a": {}}', BODY, "names 'a' twice"),
    "metadata": ({"__metadata__": {"a": 1}}, b"", "__metadata__ that is not text"),
    "no entry": ({"a": 3}, BODY, "an entry 'a' that is not dtype"),
    "a key too few": ({"a": {"dtype": "F32", "shape": [2]}}, BODY, "an entry 'a' that is not dtype"),
    "a key too many": ({"a": entry() | {"more": 1}}, BODY, "an entry 'a' that is not dtype"),
    "an unknown type": ({"a": entry("F8_E4M3")}, BODY, "'a' of a type 'F8_E4M3', which is not among F64, F32"),
    "a type that is no text": ({"a": entry(["F32"])}, BODY, "'a' of a type 'that is no text'"),
    "a type that cannot be printed": (
        b'{"a": {"dtype": ' + b"[" * 900 + b"]" * 900 + b', "shape": [2], "data_offsets": [0, 8]}}',
        BODY,
        "'a' of a type 'that is no text'",
    ),
    "a negative size": ({"a": entry(shape=(-2,))}, BODY, "a shape that no array has"),
    "a size that is no integer": ({"a": entry(shape=(2.0,))}, BODY, "a shape that no array has"),
    "a size that is a boolean": ({"a": entry(shape=(True, 2))}, BODY, "a shape that no array has"),
    "sizes beyond memory": ({"a": entry(shape=(2**40, 2**40))}, BODY, "a shape that no array has"),
    "nothing of sizes beyond memory": ({"a": entry("F32", (0, 2**62), (0, 0))}, b"", "a shape that no array has"),
    "too many axes": ({"a": entry(shape=(1,) * 40)}, BODY, "a shape that no array has"),
    "offsets of three": ({"a": entry(offsets=(0, 8, 16))}, BODY, "data_offsets that are not two"),
    "offsets that are negative": ({"a": entry(offsets=(-8, 0))}, BODY, "data_offsets that are not two"),
    "offsets backwards": ({"a": entry(offsets=(8, 0))}, BODY, "with the -8 bytes from 8 to 0"),
    "offsets of another size": ({"a": entry(offsets=(0, 16))}, BODY, r"'a' float32 \(2,\) with the 16 bytes"),
    "offsets beyond the file": ({"a": entry(shape=(4,), offsets=(8, 24))}, BODY, "'a' at byte 8"),
    "an overlap": ({"a": entry(), "b": entry(shape=(3,), offsets=(4, 16))}, BODY, "'b' at byte 4 .* ends at 8"),
    "the same place twice": ({"a": entry(), "b": entry()}, bytes(8), "'b' at byte 0 .* ends at 8"),
    "a hole": ({"a": entry(), "b": entry(shape=(1,), offsets=(12, 16))}, BODY, "'b' at byte 12 .* ends at 8"),
    "bytes left over": ({"a": entry()}, BODY, "16 bytes of numbers where the header says 8"),
    "bytes too few": ({"a": entry(shape=(5,), offsets=(0, 20))}, BODY, "16 bytes of numbers where the header says 20"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(tmp_path, lie):
    header, body, message = LIES[lie]
    path = write(tmp_path / "a.safetensors", header, body)
    with pytest.raises(ValueError, match=rf"^open_arrays: expected a whole .*a\.safetensors' .*{message}") as raised:
        open_arrays(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 200_000_001, 17])
def test_a_header_longer_than_the_file(tmp_path, length):
    (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(14))
    with pytest.raises(ValueError, match=f"a header of {length} bytes in a file of 24"):
        open_arrays(tmp_path / "a")


@pytest.mark.parametrize("size", range(1, 106, 7))
def test_a_half_written_file_is_named(tmp_path, size):
    save_arrays(tmp_path / "whole", {"weight": np.arange(10, dtype=np.float32)})
    content = (tmp_path / "whole").read_bytes()
    assert size < len(content)
    (tmp_path / "half").write_bytes(content[:size])
    with pytest.raises(ValueError, match=r"expected a whole safetensors file, got '.*half'"):
        open_arrays(tmp_path / "half")


def test_what_is_not_a_file_or_empty_or_a_pointer(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(
            ValueError, match=r"open_arrays: expected a safetensors file, got '.*', which is not a file"
        ):
            open_arrays(path)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty', which is empty"):
        open_arrays(tmp_path / "empty")
    (tmp_path / "pointer").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(ValueError, match=r"pointer', a Git LFS pointer .*`git lfs pull`"):
        open_arrays(tmp_path / "pointer")


def test_it_accepts_what_safetensors_accepts(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{n}.weight": rng.normal(size=(n, 3)).astype(np.float32) for n in range(9)}
    safetensors.numpy.save_file(arrays, tmp_path / "a", metadata={"format": "pt"})
    opened, loaded = open_arrays(tmp_path / "a"), load_arrays(tmp_path / "a")
    assert set(opened) == set(loaded)
    assert all(opened[name].tobytes() == loaded[name].tobytes() for name in loaded)
