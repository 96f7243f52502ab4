"""numtx convert: what is written is what was there, whatever it was in, and nothing is left where it fails."""

import importlib.util
import json
import shutil
import weakref

import numpy as np
import pytest
from archives import BASE, GOLDEN, HELD, pickled, storage, tensor, text, write_zip
from gguf_writer import Llama
from hub_server import Client, Hub
from small_families import FAMILIES

from numtx.checkpoints import load_arrays, open_arrays, save_arrays, write_json
from numtx.checkpoints.streaming import Planned, stream_arrays
from numtx.models import GPT2LMHeadModel

SIZES = {"vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 3, "n_head": 2}
# Of a family that numtx has not: what is there is copied, whatever it is.
CONFIG = {"model_type": "mamba", "architectures": ["MambaModel"], "torch_dtype": "float32", "layer_norm_epsilon": 1e-5}
RNG = np.random.default_rng(0)
ARRAYS = {
    "embeddings.weight": RNG.normal(size=(5, 8)).astype(np.float32),
    "dense.bias": RNG.normal(size=8).astype(np.float32),
    "position_ids": np.arange(8)[None],
}


@pytest.fixture
def folder(tmp_path):
    """A small model with a tokenizer and files that are of no use to it."""
    write_json(tmp_path / "model/config.json", CONFIG)
    save_arrays(tmp_path / "model/model.safetensors", ARRAYS)
    for name in ("vocab.txt", "tokenizer_config.json", "generation_config.json", "README.md", "tf_model.h5"):
        (tmp_path / "model" / name).write_text(f'{{"{name}": "é"}}', encoding="utf-8")
    return tmp_path / "model"


def same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def done(ran):
    assert (ran.code, ran.err) == (0, ""), ran
    return {line.split()[0]: line for line in ran.out.splitlines()}


@pytest.mark.parametrize("inside", ["out", "x/y/out", "../model/out"])
def test_nothing_is_written_into_the_model(inside, numtx, folder):
    before = sorted(folder.rglob("*"))
    ran = numtx("convert", folder, folder / inside)
    assert ran.code == 2
    assert "convert: expected a folder outside of" in ran.err.replace("\n", " ")
    assert sorted(folder.rglob("*")) == before


def test_a_folder_is_copied_with_its_tokenizer(numtx, folder, tmp_path):
    said = done(numtx("convert", folder, tmp_path / "new/out"))
    out = tmp_path / "new/out"
    kept = {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json", "generation_config.json"}
    assert {path.name for path in out.iterdir()} == kept
    same(load_arrays(out / "model.safetensors"), ARRAYS)
    assert json.loads((out / "config.json").read_text()) == CONFIG
    for name in ("vocab.txt", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert "3 arrays, float32, int64, 256 B" in said["weights"]
    assert said["tokenizer"].endswith(" tokenizer_config.json, vocab.txt")
    assert list((tmp_path / "new").iterdir()) == [out]


def test_dtypes(numtx, folder, tmp_path):
    done(numtx("convert", folder, tmp_path / "half", "--dtype", "float16"))
    found = load_arrays(tmp_path / "half/model.safetensors")
    same(found, {name: a.astype(np.float16) if a.dtype == np.float32 else a for name, a in ARRAYS.items()})
    config = json.loads((tmp_path / "half/config.json").read_text())
    assert config == CONFIG | {"dtype": "float16", "torch_dtype": "float16"}
    done(numtx("convert", folder, tmp_path / "brain", "--dtype", "bfloat16"))
    brain = open_arrays(tmp_path / "brain/model.safetensors")
    assert {name: entry.dtype for name, entry in brain.entries.items()} == {
        "embeddings.weight": "bfloat16",
        "dense.bias": "bfloat16",
        "position_ids": "int64",
    }
    for name in ("embeddings.weight", "dense.bias"):
        np.testing.assert_allclose(brain[name], ARRAYS[name], rtol=2**-8, atol=0)
    done(numtx("convert", tmp_path / "brain", tmp_path / "kept"))
    assert (tmp_path / "kept/model.safetensors").read_bytes() == (tmp_path / "brain/model.safetensors").read_bytes()
    done(numtx("convert", tmp_path / "half", tmp_path / "wide", "--dtype", "float32"))
    expected = {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in found.items()}
    same(load_arrays(tmp_path / "wide/model.safetensors"), expected)


def test_double_precision_stays_unless_asked(numtx, folder, tmp_path):
    save_arrays(folder / "model.safetensors", {"w": np.array([1 / 3])})
    done(numtx("convert", folder, tmp_path / "out"))
    same(load_arrays(tmp_path / "out/model.safetensors"), {"w": np.array([1 / 3])})
    done(numtx("convert", folder, tmp_path / "single", "--dtype", "float32"))
    same(load_arrays(tmp_path / "single/model.safetensors"), {"w": np.array([1 / 3], np.float32)})


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_archives(numtx, folder, tmp_path, form):
    (folder / "model.safetensors").unlink()
    shutil.copy(GOLDEN / f"{form}.bin", folder / "pytorch_model.bin")
    done(numtx("convert", folder, tmp_path / "out"))
    found = open_arrays(tmp_path / "out/model.safetensors")
    same(found, HELD)
    assert {name: found.entries[name].dtype for name in ("bfloat16", "float16", "float64", "bool")} == {
        name: name for name in ("bfloat16", "float16", "float64", "bool")
    }


def test_a_tied_weight_is_written_once(numtx, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    names = ["lm_head.weight", "decoder.embed_tokens.weight", "shared.weight", "encoder.embed_tokens.weight"]
    whole, part = storage(numel=24), tensor(shape=(2, 6), strides=(6, 1), of=storage(numel=24))
    body = b"".join(text(name) + tensor(shape=(4, 6), strides=(6, 1), of=whole) for name in names)
    body += text("lm_head.bias") + part  # of the same storage, but no other's numbers
    write_zip(folder / "pytorch_model.bin", pickled(b"}(" + body + b"u"), {"0": BASE.tobytes()})
    done(numtx("convert", folder, tmp_path / "out"))
    same(load_arrays(tmp_path / "out/model.safetensors"), {"shared.weight": BASE, "lm_head.bias": BASE[:2]})


def test_storages_of_two_shards_are_not_taken_for_one(numtx, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    where = {"shared.weight": "a.bin", "lm_head.weight": "b.bin"}
    for k, (name, shard) in enumerate(where.items()):
        body = text(name) + tensor(shape=(4, 6), strides=(6, 1), of=storage(numel=24))
        write_zip(folder / shard, pickled(b"}(" + body + b"u"), {"0": (BASE + k).tobytes()})
    write_json(folder / "pytorch_model.bin.index.json", {"weight_map": where})
    done(numtx("convert", folder, tmp_path / "out"))
    same(load_arrays(tmp_path / "out/model.safetensors"), {"shared.weight": BASE, "lm_head.weight": BASE + 1})


def test_equal_weights_that_are_not_tied_are_both_written(numtx, folder, tmp_path):
    arrays = {"model.embed_tokens.weight": BASE, "lm_head.weight": BASE.copy()}
    save_arrays(folder / "model.safetensors", arrays)
    done(numtx("convert", folder, tmp_path / "out"))
    same(load_arrays(tmp_path / "out/model.safetensors"), arrays)


def test_shards_become_one_file(numtx, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    where = {}
    for k, (name, array) in enumerate(ARRAYS.items()):
        where[name] = f"model-{k}.safetensors"
        save_arrays(folder / where[name], {name: array})
    write_json(folder / "model.safetensors.index.json", {"weight_map": where})
    done(numtx("convert", folder, tmp_path / "out"))
    same(load_arrays(tmp_path / "out/model.safetensors"), ARRAYS)
    assert not (tmp_path / "out/model.safetensors.index.json").exists()


def test_a_gguf_with_its_tokenizer(numtx, tmp_path):
    model = Llama(tied=False)
    tokens = ["<s>", "</s>", *(chr(ord("a") + k) for k in range(22))]
    changes = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.token_type": np.array([3, 3] + [1] * 22, np.int32),
    }
    model.settings |= changes
    done(numtx("convert", model.write(tmp_path / "small.gguf"), tmp_path / "out"))
    same(load_arrays(tmp_path / "out/model.safetensors"), model.weights)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["num_key_value_heads"]) == ("llama", 2)
    assert json.loads((tmp_path / "out/tokenizer.json").read_text())["model"]["vocab"]["a"] == 2
    assert (tmp_path / "out/tokenizer_config.json").is_file()


def test_a_gguf_without_a_tokenizer(numtx, tmp_path):
    said = done(numtx("convert", Llama().write(tmp_path / "small.gguf"), tmp_path / "out"))
    assert said["tokenizer"].split()[1] == "none:"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}


def test_a_run(numtx, finished, tmp_path):
    done(numtx("convert", finished, tmp_path / "out"))
    same(load_arrays(tmp_path / "out/model.safetensors"), load_arrays(finished / "model.safetensors"))
    kept = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == kept
    ours, theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "out"), GPT2LMHeadModel.from_pretrained(finished)
    ids = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(ours(ids).logits, theirs(ids).logits)


class TestRefusals:
    def test_a_place_that_is_taken(self, numtx, folder, tmp_path):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        numtx("convert", folder, folder).refused(2, "new or empty folder", "other files")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        (tmp_path / "file").write_text("precious")
        numtx("convert", folder, tmp_path / "file").refused(2, "file")
        assert (tmp_path / "file").read_text() == "precious"
        (tmp_path / "empty").mkdir()
        done(numtx("convert", folder, tmp_path / "empty"))

    def test_numbers_that_the_type_cannot_hold(self, numtx, folder, tmp_path):
        save_arrays(
            folder / "model.safetensors", {"fine": np.ones(3, np.float32), "large": np.array([1e6], np.float32)}
        )
        ran = numtx("convert", folder, tmp_path / "out", "--dtype", "float16")
        ran.refused(1, "float16", "'large'", "1e+06")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]

    def test_a_dtype_that_is_none(self, numtx, folder, tmp_path):
        numtx("convert", folder, tmp_path / "out", "--dtype", "int8").refused(2, "--dtype", "bfloat16")

    def test_models_that_transformers_does_not_know(self, numtx, folder, tmp_path):
        for kind in (None, 3, "numtx-encoder-only"):
            write_json(folder / "config.json", CONFIG | {"model_type": kind})
            numtx("convert", folder, tmp_path / "out").refused(1, "model_type that Transformers knows", repr(kind))
        assert not (tmp_path / "out").exists()

    def test_weights_packed_by_another_library(self, numtx, folder, tmp_path):
        write_json(folder / "config.json", CONFIG | {"quantization_config": {"quant_method": "gptq"}})
        numtx("convert", folder, tmp_path / "out").refused(1, "plain weights", "'gptq'")

    def test_a_model_that_is_not_there(self, numtx, tmp_path):
        numtx("convert", tmp_path / "gone", tmp_path / "out").refused(1, "gone", "does not exist")
        numtx("convert", tmp_path).refused(2, "OUT")

    def test_broken_weights(self, numtx, folder, tmp_path):
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
        numtx("convert", folder, tmp_path / "out").refused(1, "model.safetensors")
        assert not (tmp_path / "out").exists()


def test_one_array_at_a_time(folder, tmp_path):
    """Each is let go before the next is read."""
    alive = []

    def read(name):
        assert not [reference for reference in alive if reference() is not None], name
        array = np.ones((1000, 10), np.float32) * len(alive)
        alive.append(weakref.ref(array))
        return array

    stream_arrays(tmp_path / "a", dict.fromkeys("abc", Planned("bfloat16", (1000, 10))), read)
    assert len(alive) == 3


@pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="needs pip install 'numtx[hub]'")
def test_a_name_on_the_hub(folder, tmp_path):
    hub = Hub()
    try:
        hub.add("owner/bert", {path.name: path.read_bytes() for path in folder.iterdir()})
        (tmp_path / "home").mkdir()
        ran = Client(hub, tmp_path / "home").numtx("convert", "owner/bert", tmp_path / "out")
        assert (ran.returncode, ran.stderr) == (0, "")
        same(load_arrays(tmp_path / "out/model.safetensors"), ARRAYS)
        assert (tmp_path / "out/vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
        assert not [one for one in hub.asked if one.path.endswith((".h5", ".md"))]
        assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    finally:
        hub.close()


class TestOfAFamilyThatIsHere:
    """Names, shapes and settings are held against the family's before anything is written."""

    @pytest.fixture(params=sorted(FAMILIES))
    def model(self, request, tmp_path):
        kind, config = FAMILIES[request.param]
        kind(config, rng=0).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    def test_whole_it_is_converted(self, numtx, model, tmp_path):
        done(numtx("convert", model, tmp_path / "out", "--dtype", "bfloat16"))
        assert set(open_arrays(tmp_path / "out/model.safetensors")) == set(load_arrays(model / "model.safetensors"))
        done(numtx("convert", tmp_path / "out", tmp_path / "again"))

    @pytest.mark.parametrize("damage", ["missing", "unexpected", "of another shape", "not of floating-point numbers"])
    def test_damaged_it_is_refused_by_name(self, numtx, model, tmp_path, damage):
        arrays = {name: np.array(array) for name, array in load_arrays(model / "model.safetensors").items()}
        name = next(name for name in sorted(arrays) if arrays[name].ndim == 2 and ".0." in name)
        if damage == "missing":
            del arrays[name]
        elif damage == "unexpected":
            name, arrays["layer.99.weight"] = "layer.99.weight", arrays[name]
        elif damage == "of another shape":
            arrays[name] = arrays[name][1:]
        else:
            arrays[name] = np.ones(arrays[name].shape, np.int64)
        save_arrays(model / "model.safetensors", arrays)
        numtx("convert", model, tmp_path / "out").refused(1, f"{damage}: ", name, "model'")
        assert not (tmp_path / "out").exists()

    def test_settings_that_cannot_be(self, numtx, model, tmp_path):
        entries = json.loads((model / "config.json").read_text())
        write_json(model / "config.json", entries | {"pad_token_id": "x"})
        numtx("convert", model, tmp_path / "out").refused(1, "pad_token_id", "'x'")

    def test_a_head_that_is_not_here_is_copied(self, numtx, model, tmp_path):
        entries = json.loads((model / "config.json").read_text())
        write_json(model / "config.json", entries | {"architectures": ["ForSomethingElse"]})
        done(numtx("convert", model, tmp_path / "out"))
