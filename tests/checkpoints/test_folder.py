"""A model's folder: what is opened first, shards, and what is said where something lacks."""

import json
import shutil

import numpy as np
import pytest
from archives import GOLDEN, HELD

from numtx.checkpoints import open_checkpoint, save_arrays
from numtx.checkpoints.folder import read_index

SPLIT = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


@pytest.fixture
def folder(tmp_path):
    """A folder of a model without weights."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "bert"}')
    return path


def shards(folder, weight_map=SPLIT, **arrays):
    """Write an index as given, and the two shards with 'a' and 'b' and whatever else the second should hold."""
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    save_arrays(folder / SPLIT["a"], {"a": np.zeros(2, np.float32)})
    save_arrays(folder / SPLIT["b"], {"b": np.ones(3, np.float32), **arrays})


def test_one_safetensors_file(folder):
    save_arrays(folder / "model.safetensors", {"x": np.arange(3.0)})
    opened = open_checkpoint(str(folder))
    assert opened.config == {"model_type": "bert"}
    assert opened.arrays["x"].tolist() == [0.0, 1.0, 2.0]
    assert opened.files == [folder / "config.json", folder / "model.safetensors"]


def test_shards(folder):
    shards(folder)
    opened = open_checkpoint(folder)
    assert {name: array.tolist() for name, array in opened.arrays.items()} == {"a": [0.0] * 2, "b": [1.0] * 3}
    assert [path.name for path in opened.files[1:]] == ["model.safetensors.index.json", *SPLIT.values()]
    assert opened.arrays.nbytes == 20


def test_an_archive_and_its_shards(folder):
    shutil.copy(GOLDEN / "zip.bin", folder / "pytorch_model.bin")
    assert list(open_checkpoint(folder).arrays) == list(HELD)
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-1.bin")
    shutil.copy(GOLDEN / "legacy.bin", folder / "pytorch_model-2.bin")
    weight_map = {"whole": "pytorch_model-1.bin", "int8": "pytorch_model-2.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    opened = open_checkpoint(folder)
    np.testing.assert_array_equal(opened.arrays["whole"], HELD["whole"])
    np.testing.assert_array_equal(opened.arrays["int8"], HELD["int8"])


def test_the_order_in_which_weights_are_looked_for(folder):
    shutil.copy(GOLDEN / "zip.bin", folder / "pytorch_model.bin")
    shards(folder)
    assert list(open_checkpoint(folder).arrays) == ["a", "b"]
    save_arrays(folder / "model.safetensors", {"x": np.zeros(1)})
    assert list(open_checkpoint(folder).arrays) == ["x"]


def test_a_broken_first_choice_is_not_passed_over(folder):
    shutil.copy(GOLDEN / "zip.bin", folder / "pytorch_model.bin")
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"model\.safetensors' with 4 bytes"):
        open_checkpoint(folder)


def test_links_into_a_cache_are_followed(folder, tmp_path):
    save_arrays(tmp_path / "blob", {"x": np.zeros(1)})
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert list(open_checkpoint(folder).arrays) == ["x"]


def test_an_entry_that_the_index_forgot_is_there_and_one_in_two_files_is_the_indexs(folder):
    shards(folder, forgotten=np.full(1, 5.0), a=np.full(9, 9.0))
    arrays = open_checkpoint(folder).arrays
    assert arrays["forgotten"].tolist() == [5.0]
    assert arrays["a"].tolist() == [0.0, 0.0]


def test_a_missing_shard_is_named_at_once(folder):
    shards(folder)
    (folder / SPLIT["b"]).unlink()
    message = (
        r"expected the 2 files that '.*index\.json' names, got a folder without 'model-00002-of-00002\.safetensors'$"
    )
    with pytest.raises(ValueError, match=message):
        open_checkpoint(folder)


def test_an_index_that_names_what_no_file_has(folder):
    shards(folder, SPLIT | {"c": SPLIT["a"], "b": SPLIT["a"]})
    with pytest.raises(ValueError, match=r"expected the 3 arrays that .* in its files, got files without 'b', 'c'$"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../other.safetensors",
        "/etc/other.safetensors",
        "a/../../other.safetensors",
        "..\\other.safetensors",
        "C:\\other.safetensors",
        "C:other.safetensors",
        "\\\\host\\share\\other.safetensors",
        "other.bin",
        "other",
        "a\0.safetensors",
        "",
    ],
)
def test_an_index_that_leaves_its_folder_or_kind(folder, name):
    shards(folder, {"a": name})
    with pytest.raises(
        ValueError, match=r"^read_index: expected files \.safetensors in the folder of .*, got '"
    ) as raised:
        read_index(folder / "model.safetensors.index.json")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("weight_map", [[], {}, "a", {"a": 1}, {"a": None}, None])
def test_an_index_that_is_none(folder, weight_map):
    shards(folder, weight_map)
    with pytest.raises(ValueError, match=r"read_index: expected weight_map in .* to name a file for each array"):
        open_checkpoint(folder)


def test_an_index_without_its_table(folder):
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(ValueError, match="read_json: expected the keys weight_map"):
        open_checkpoint(folder)


def test_a_folder_in_a_folder_of_shards(folder):
    (folder / "parts").mkdir()
    save_arrays(folder / "parts" / "a.safetensors", {"a": np.zeros(2)})
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "parts/a.safetensors"}}')
    assert open_checkpoint(folder).arrays["a"].shape == (2,)


def test_nothing_there(tmp_path, folder):
    with pytest.raises(ValueError, match=r"a model's folder or a \.gguf file at '.*none', got nothing there"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(ValueError, match=r"a model's folder or a \.gguf file at '.*config\.json', got a file"):
        open_checkpoint(folder / "config.json")
    message = r"expected model\.safetensors or .* or pytorch_model\.bin\.index\.json in '.*', got a folder without$"
    with pytest.raises(ValueError, match=message):
        open_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"^open_checkpoint: expected config\.json in '.*', got a folder without$"):
        open_checkpoint(folder)


def test_what_lies_there_instead_is_said(folder):
    for name in ("tf_model.h5", "flax_model.msgpack", "model-q4.gguf"):
        (folder / name).touch()
    message = (
        r"got a folder with 'flax_model\.msgpack', 'model-q4\.gguf', 'tf_model\.h5' instead; a \.gguf file is opened"
    )
    with pytest.raises(ValueError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"a": 1'])
def test_a_broken_config(folder, content):
    save_arrays(folder / "model.safetensors", {"x": np.zeros(1)})
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"read_json: expected .*config\.json"):
        open_checkpoint(folder)
