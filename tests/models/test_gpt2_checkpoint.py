"""GPT-2 on disk: what is written comes back bit for bit, and a file that does not fit is named."""

import json

import numpy as np
import pytest

from numtx.checkpoints import load_arrays, save_arrays
from numtx.models import GPT2Config, GPT2LMHeadModel

SIZES = {"vocab_size": 7, "n_positions": 6, "n_embd": 4, "n_layer": 2, "n_head": 2}


def model_of(randomized, dtype=np.float32, **settings):
    return randomized(GPT2LMHeadModel(GPT2Config(**SIZES, **settings), rng=0, dtype=dtype))


def assert_same_model(got, expected):
    assert got.config == expected.config
    assert list(got.state_dict()) == list(expected.state_dict())
    for name, array in expected.named_parameters():
        assert got.get_parameter(name).dtype == array.dtype
        np.testing.assert_array_equal(got.get_parameter(name), array, err_msg=name)
    ids = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(got(ids).logits, expected(ids).logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_comes_back_bit_for_bit(tied, dtype, tmp_path, randomized):
    settings = {"n_inner": 5, "layer_norm_epsilon": 1e-3, "activation_function": "relu", "eos_token_id": 3}
    model = model_of(randomized, dtype, tie_word_embeddings=tied, **settings)
    model.save_pretrained(tmp_path / "new" / "folder")
    assert_same_model(GPT2LMHeadModel.from_pretrained(tmp_path / "new" / "folder", dtype=dtype), model)


def test_it_comes_back_in_the_dtype_that_is_asked_for(tmp_path, randomized):
    model = model_of(randomized)
    model.save_pretrained(str(tmp_path))
    wide = GPT2LMHeadModel.from_pretrained(str(tmp_path), dtype=np.float64)
    assert wide.dtype == np.float64
    assert_same_model(wide.astype(np.float32), model)


def test_saving_again_writes_the_same_bytes(tmp_path, randomized):
    model = model_of(randomized)
    model.save_pretrained(tmp_path / "a")
    GPT2LMHeadModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_failed_write_leaves_the_old_weights(tmp_path, randomized, monkeypatch):
    model = model_of(randomized)
    model.save_pretrained(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        model_of(lambda m: randomized(m, seed=9)).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert_same_model(GPT2LMHeadModel.from_pretrained(tmp_path), model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_the_file_has_the_names_and_layouts_of_transformers(tmp_path, randomized):
    model = model_of(randomized, tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    arrays = load_arrays(tmp_path / "model.safetensors")
    block = {
        "ln_1.weight": (4,), "ln_1.bias": (4,), "attn.c_attn.weight": (4, 12), "attn.c_attn.bias": (12,),
        "attn.c_proj.weight": (4, 4), "attn.c_proj.bias": (4,), "ln_2.weight": (4,), "ln_2.bias": (4,),
        "mlp.c_fc.weight": (4, 16), "mlp.c_fc.bias": (16,), "mlp.c_proj.weight": (16, 4), "mlp.c_proj.bias": (4,),
    }  # fmt: skip
    assert {name: array.shape for name, array in arrays.items()} == {
        "transformer.wte.weight": (7, 4),
        "transformer.wpe.weight": (6, 4),
        **{f"transformer.h.{i}.{name}": shape for i in range(2) for name, shape in block.items()},
        "transformer.ln_f.weight": (4,),
        "transformer.ln_f.bias": (4,),
        "lm_head.weight": (7, 4),
    }
    np.testing.assert_array_equal(arrays["lm_head.weight"], model.decoder)
    up = model.get_parameter("body.stack.layers.1.feed_forward.sublayer.up.weight")
    np.testing.assert_array_equal(arrays["transformer.h.1.mlp.c_fc.weight"], up)
    model_of(randomized).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_arrays(tmp_path / "model.safetensors")


def test_files_of_the_bare_model_with_buffers_and_a_copy_of_the_head_open_too(tmp_path, randomized):
    model = model_of(randomized)
    model.save_pretrained(tmp_path)
    arrays = load_arrays(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): array for name, array in arrays.items()}
    bare["lm_head.weight"] = model.body.embedding.weight
    for i in range(2):
        bare[f"h.{i}.attn.bias"] = np.ones((1, 1, 6, 6), np.float32)
        bare[f"h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)
    save_arrays(tmp_path / "model.safetensors", bare)
    assert_same_model(GPT2LMHeadModel.from_pretrained(tmp_path), model)


SPOILT = {
    "missing": (lambda a: a.pop("transformer.h.1.ln_2.bias"), r"missing: transformer\.h\.1\.ln_2\.bias"),
    "unexpected": (lambda a: a.update({"transformer.h.2.ln_1.bias": np.ones(4)}), r"unexpected: transformer\.h\.2"),
    "foreign": (lambda a: a.update({"extra.weight": np.ones(4)}), r"unexpected: extra\.weight"),
    "turned": (
        lambda a: a.update({"transformer.h.0.mlp.c_fc.weight": np.ones((16, 4))}),
        r"another shape: transformer\.h\.0\.mlp\.c_fc\.weight \(16, 4\) for \(4, 16\)",
    ),
    "twice": (lambda a: a.update({"ln_f.bias": np.ones(4)}), r"twice: (transformer\.)?ln_f\.bias"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_arrays_that_do_not_fit_are_named_in_one_line(spoil, message, tmp_path, randomized):
    model_of(randomized).save_pretrained(tmp_path)
    arrays = load_arrays(tmp_path / "model.safetensors")
    spoil(arrays)
    save_arrays(tmp_path / "model.safetensors", arrays)
    expected = rf"^GPT2LMHeadModel: expected the 28 arrays of the model in [^\n]*{message}[^\n]*$"
    with pytest.raises(ValueError, match=expected):
        GPT2LMHeadModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_half_written_file_of_weights_is_refused(left, tmp_path, randomized):
    model_of(randomized).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"^open_arrays: expected a (whole )?safetensors file, got [^\n]*$"):
        GPT2LMHeadModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(name, tmp_path, randomized):
    model_of(randomized).save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=rf"^\w+: expected [^\n]*{name}[^\n]*$"):
        GPT2LMHeadModel.from_pretrained(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^hub: expected a folder[^\n]*nowhere[^\n]*$"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "nowhere")


def test_a_half_written_config_is_refused(tmp_path, randomized):
    model_of(randomized).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"^read_json: expected whole JSON [^\n]*$"):
        GPT2LMHeadModel.from_pretrained(tmp_path)


# Config -----------------------------------------------------------------------------------------------------------


def test_a_config_comes_back():
    config = GPT2Config(
        **SIZES, n_inner=9, activation_function="silu", resid_pdrop=0.0, embd_pdrop=0.2, attn_pdrop=0.3,
        layer_norm_epsilon=1e-6, initializer_range=0.1, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    entries = json.loads(json.dumps(config.to_dict()))
    assert entries["model_type"] == "gpt2"
    assert GPT2Config.from_dict(entries) == config


def test_entries_of_transformers_that_do_not_bear_on_the_computation_are_passed_over():
    entries = {**GPT2Config(**SIZES).to_dict(), "summary_type": "cls_index", "transformers_version": "5.0.0",
               "use_cache": True, "scale_attn_weights": True, "task_specific_params": {}}  # fmt: skip
    assert GPT2Config.from_dict(entries) == GPT2Config(**SIZES)


ENTRIES = {
    "another model": ({"model_type": "llama"}, "model_type 'gpt2', got 'llama'"),
    "no model": ({"model_type": None}, "model_type 'gpt2', got None"),
    "heads that do not divide": ({"n_head": 3}, "heads that divide the width 4, got 3"),
    "no layer": ({"n_layer": 0}, "n_layer .*got 0"),
    "no context": ({"n_positions": -1}, "n_positions .*got -1"),
    "text for a number": ({"n_embd": "4"}, "n_embd .*got '4'"),
    "a fraction": ({"n_embd": 4.0}, r"n_embd .*got 4\.0"),
    "null": ({"vocab_size": None}, "vocab_size, .*got none of vocab_size"),
    "no hidden": ({"n_inner": 0}, "(n_inner|hidden) .*got 0"),
    "activation": ({"activation_function": "swiglu"}, "activation_function to be one of .*got 'swiglu'"),
    "several activations": ({"activation_function": ["relu"]}, r"activation_function to be one of .*got \['relu'\]"),
    "rate": ({"attn_pdrop": 1.0}, r"attn_pdrop .*got 1\.0"),
    "over a memory": ({"add_cross_attention": True}, "add_cross_attention False, got True"),
}


@pytest.mark.parametrize(("changes", "message"), ENTRIES.values(), ids=ENTRIES)
def test_a_config_that_cannot_be_is_refused_in_one_line(changes, message, tmp_path, randomized):
    model_of(randomized).save_pretrained(tmp_path)
    entries = {**json.loads((tmp_path / "config.json").read_text()), **changes}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=rf"^(GPT2Config|FeedForward): expected [^\n]*{message}$"):
        GPT2LMHeadModel.from_pretrained(tmp_path)
