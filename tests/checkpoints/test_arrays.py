"""Arrays on disk: what comes back is what was given, whatever its memory order; broken files are named."""

import errno
import os

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from numtx.checkpoints import load_arrays, load_metadata, save_arrays

DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.uint64, np.bool_]
arrays_of_any_kind = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), arrays_of_any_kind, max_size=4))
def test_round_trip(tmp_path_factory, arrays):
    arrays.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("saved") / "a.safetensors"
    save_arrays(path, arrays)
    loaded = load_arrays(path)
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()
        assert loaded[name].flags.c_contiguous
        assert loaded[name].flags.writeable


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: np.asfortranarray(a),
        lambda a: a[::2],
        lambda a: a[:, 1:3],
        lambda a: a[::-1, ::-1],
        lambda a: np.broadcast_to(a[0], (3, 6)),
        lambda a: a[1, 2],
        lambda a: a.astype(">f4"),
    ],
)
def test_memory_order_does_not_matter(tmp_path, view):
    given_array = view(np.arange(24, dtype=np.float32).reshape(4, 6))
    before = given_array.copy()
    save_arrays(tmp_path / "a", {"x": given_array})
    loaded = load_arrays(tmp_path / "a")["x"]
    np.testing.assert_array_equal(loaded, before)
    assert loaded.shape == before.shape
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(given_array, before)


def test_special_numbers_keep_their_bits(tmp_path):
    numbers = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324])
    save_arrays(tmp_path / "a", {"x": numbers})
    assert load_arrays(tmp_path / "a")["x"].tobytes() == numbers.tobytes()


def test_the_file_is_plain_safetensors(tmp_path):
    save_arrays(tmp_path / "a", {"x": np.eye(3).T, "y": np.arange(4)})
    theirs = safetensors.numpy.load_file(tmp_path / "a")
    np.testing.assert_array_equal(theirs["x"], np.eye(3))
    np.testing.assert_array_equal(theirs["y"], np.arange(4))


def test_the_same_arrays_give_the_same_file(tmp_path):
    arrays = {name: np.random.default_rng(0).normal(size=(3, 2)) for name in "cab"}
    save_arrays(tmp_path / "a", arrays)
    save_arrays(tmp_path / "b", dict(reversed(arrays.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_loaded_arrays_are_not_the_file(tmp_path):
    save_arrays(tmp_path / "a", {"x": np.zeros(4), "y": np.zeros(4)})
    loaded = load_arrays(tmp_path / "a")
    loaded["x"][:] = 1
    save_arrays(tmp_path / "a", {"x": np.full(4, 2.0)})
    assert loaded["x"].tolist() == [1.0] * 4
    assert loaded["y"].tolist() == [0.0] * 4
    assert load_arrays(tmp_path / "a")["x"].tolist() == [2.0] * 4


def test_metadata(tmp_path):
    save_arrays(tmp_path / "a", {"x": np.zeros(1)})
    assert load_metadata(tmp_path / "a") == {"format": "pt"}
    save_arrays(tmp_path / "a", {"x": np.zeros(1)}, metadata={"step": "12", "é": "ü"})
    assert load_metadata(tmp_path / "a") == {"step": "12", "é": "ü"}
    save_arrays(tmp_path / "a", {}, metadata={})
    assert load_metadata(tmp_path / "a") == {}
    assert load_arrays(tmp_path / "a") == {}


@pytest.mark.parametrize("metadata", [{"step": 12}, {1: "a"}])
def test_metadata_that_is_not_text(tmp_path, metadata):
    with pytest.raises(ValueError, match="save_arrays: expected metadata of str to str"):
        save_arrays(tmp_path / "a", {"x": np.zeros(1)}, metadata=metadata)


@pytest.mark.parametrize(
    ("value", "got"),
    [([1.0], "list"), (1.0, "float"), (None, "NoneType"), (np.array(["a"]), "<U1"), (np.array([None]), "object")],
)
def test_what_the_format_cannot_hold(tmp_path, value, got):
    with pytest.raises(ValueError, match=f"save_arrays: expected 'bad' to be an array .*, got {got}"):
        save_arrays(tmp_path / "a", {"good": np.zeros(1), "bad": value})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("load", [load_arrays, load_metadata])
@pytest.mark.parametrize("size", [0, 5, 8, 40, -1])
def test_a_half_written_file_is_named(tmp_path, load, size):
    save_arrays(tmp_path / "whole", {"weight": np.arange(10.0)})
    path = tmp_path / "half.safetensors"
    path.write_bytes((tmp_path / "whole").read_bytes()[:size])
    with pytest.raises(ValueError, match=r"expected a whole safetensors file, got '.*half\.safetensors'") as raised:
        load(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("load", [load_arrays, load_metadata])
def test_no_file(tmp_path, load):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=f"{load.__name__}: expected a safetensors file, got '.*not a file"):
            load(path)


def test_junk_is_named(tmp_path):
    (tmp_path / "junk").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(ValueError, match="junk"):
        load_arrays(tmp_path / "junk")


def test_a_type_that_numpy_lacks_is_named(tmp_path):
    header = b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    (tmp_path / "b").write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f")
    with pytest.raises(ValueError, match=r"load_arrays: expected types that NumPy has, got .*bfloat16"):
        load_arrays(tmp_path / "b")


def test_a_full_disk_keeps_the_old_arrays(tmp_path, monkeypatch):
    save_arrays(tmp_path / "a", {"x": np.zeros(3)})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_arrays(tmp_path / "a", {"x": np.ones(3)})
    assert load_arrays(tmp_path / "a")["x"].tolist() == [0.0] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
