"""GGUF files of Llama models: names, layouts, settings, and the scaling of rotary positions."""

import struct

import numpy as np
import pytest
from gguf_writer import Llama, gguf_bytes, pairs
from hypothesis import given
from hypothesis import strategies as st

from numtx import functional as F
from numtx.checkpoints import Checkpoint, open_gguf
from numtx.checkpoints.gguf_format import is_gguf, read_gguf
from numtx.checkpoints.gguf_rope import llama3_scaling

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": float(np.float32(1e-5)),
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
}


def half(array, kind):
    """What is left of float32 numbers in a file of half precision."""
    if kind == "float16":
        return array.astype(np.float16).astype(np.float32)
    return (array.view(np.uint32) >> 16 << 16).view(np.float32)


def same(arrays, weights):
    assert set(arrays) == set(weights)
    for name, weight in weights.items():
        assert arrays[name].dtype == np.float32
        np.testing.assert_array_equal(arrays[name], weight, err_msg=name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mlp_bias", [True, False])
def test_names_layouts_and_config(tmp_path, tied, bias, mlp_bias):
    model = Llama(tied=tied, bias=bias, mlp_bias=mlp_bias)
    checkpoint = open_gguf(model.write(tmp_path / "small.gguf"))
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.files == [tmp_path / "small.gguf"]
    assert checkpoint.config == CONFIG | {
        "tie_word_embeddings": tied,
        "attention_bias": bias,
        "mlp_bias": mlp_bias,
    }
    same(checkpoint.arrays, model.weights)


def test_sizes_that_all_differ(tmp_path):
    sizes = {"layers": 3, "hidden": 24, "heads": 6, "key_heads": 3, "width": 10, "inner": 40, "vocabulary": 17}
    model = Llama(**sizes)
    checkpoint = open_gguf(model.write(tmp_path / "small.gguf"))
    same(checkpoint.arrays, model.weights)
    assert checkpoint.config["head_dim"] == 10
    assert checkpoint.arrays["model.layers.2.self_attn.q_proj.weight"].shape == (60, 24)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(0, 99))
def test_rotary_positions_turn_the_same_pairs(tmp_path_factory, key_heads, groups, half_width, seed):
    """What llama.cpp computes from its rows is what the layout `half` computes from ours: the same scores."""
    heads, width = key_heads * groups, 2 * half_width
    model = Llama(seed, layers=1, hidden=5, heads=heads, key_heads=key_heads, width=width, inner=3, vocabulary=7)
    arrays = open_gguf(model.write(tmp_path_factory.mktemp("gguf") / "small.gguf")).arrays
    x = model.rng.normal(size=(4, 5)).astype(np.float32)

    def scores(projections, layout):
        query, key = (
            F.rotary((x @ rows.T).reshape(1, 4, count, width).transpose(0, 2, 1, 3), layout=layout)[0]
            for rows, count in zip(projections, (heads, key_heads), strict=True)
        )
        return query @ key.repeat(groups, axis=1).swapaxes(2, 3)

    ours = [arrays[f"model.layers.0.self_attn.{which}_proj.weight"] for which in "qk"]
    theirs = [pairs(rows, count) for rows, count in zip(ours, (heads, key_heads), strict=True)]
    np.testing.assert_allclose(scores(ours, "half"), scores(theirs, "interleaved"), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision(tmp_path, kind):
    model = Llama(bias=True)
    checkpoint = open_gguf(model.write(tmp_path / "small.gguf", kind))
    wanted = {name: half(array, kind) if array.ndim == 2 else array for name, array in model.weights.items()}
    same(checkpoint.arrays, wanted)
    entry = checkpoint.arrays.entries["model.embed_tokens.weight"]
    assert (entry.dtype, entry.shape, entry.nbytes) == (kind, (24, 32), 24 * 32 * 2)
    assert checkpoint.arrays.entries["model.norm.weight"].dtype == "float32"


def test_float32_is_the_mapped_file_and_writable(tmp_path):
    model = Llama()
    path = model.write(tmp_path / "small.gguf")
    before = path.read_bytes()
    arrays = open_gguf(path).arrays
    first, again = (arrays["model.layers.0.mlp.up_proj.weight"] for _ in range(2))
    assert np.shares_memory(first, again)
    first[:] = 0
    assert path.read_bytes() == before
    # Rows that stand in another order in the file cannot be a view of it.
    assert not np.shares_memory(*(arrays["model.layers.0.self_attn.q_proj.weight"] for _ in range(2)))


def test_version_2_and_other_alignments(tmp_path):
    model = Llama()
    for version, alignment in ((2, 32), (3, 8), (3, 256)):
        settings = model.settings | {"general.alignment": alignment}
        data = gguf_bytes(settings, model.tensors(), version=version, alignment=alignment)
        (tmp_path / "small.gguf").write_bytes(data)
        same(open_gguf(tmp_path / "small.gguf").arrays, model.weights)


def test_every_type_of_setting_is_read(tmp_path):
    given = {"a": True, "b": 7, "c": 0.5, "d": "é\n", "e": ["", "x"]}
    numbers = {"B": (0, 200), "b": (1, -3), "H": (2, 60000), "h": (3, -300), "i": (5, -70000)}
    numbers |= {"Q": (10, 2**63), "q": (11, -(2**62)), "d": (12, 0.1)}
    raw = {f"number {form}": struct.pack("<I" + form, *number) for form, number in numbers.items()}
    arrays = {"f": np.array([1, -2], np.int32), "g": np.array([True, False]), "j": np.array([0.5])}
    (tmp_path / "a.gguf").write_bytes(gguf_bytes(given | raw | arrays, {}))
    settings = read_gguf(tmp_path / "a.gguf").settings
    assert list(settings) == [*given, *raw, *arrays]
    assert {name: settings[name] for name in given} == given
    assert type(settings["a"]) is bool
    assert [settings[name] for name in raw] == [number for _, number in numbers.values()]
    for name, array in arrays.items():
        np.testing.assert_array_equal(settings[name], array)
        assert settings[name].dtype == array.dtype


def test_is_gguf(tmp_path):
    path = Llama().write(tmp_path / "named-otherwise")
    assert is_gguf(path)
    (tmp_path / "other").write_bytes(b"GGU")
    assert not is_gguf(tmp_path / "other")
    assert not is_gguf(tmp_path)
    assert not is_gguf(tmp_path / "absent")


def test_settings_that_may_be_absent(tmp_path):
    model = Llama()  # 32 wide with 4 heads: 8 wide, as the settings say too
    optional = (
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
        "rope.freq_base",
        "vocab_size",
    )
    for name in optional:
        del model.settings[f"llama.{name}"]
    assert open_gguf(model.write(tmp_path / "small.gguf")).config == CONFIG
    full = Llama(key_heads=4)
    del full.settings["llama.attention.head_count_kv"]
    assert open_gguf(full.write(tmp_path / "full.gguf")).config["num_key_value_heads"] == 4


def test_special_tokens(tmp_path):
    ids = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 23}
    config = open_gguf(Llama().write(tmp_path / "small.gguf", **ids)).config
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [1, 2, 23]


# Rope scaling.


def llama3_factors(scaling, width, base):
    """One factor a frequency, as llama.cpp's converter computes them from a Llama 3 config."""
    factors = []
    for i in range(0, width, 2):
        wavelength = 2 * np.pi * base ** (i / width)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        context = scaling["original_max_position_embeddings"]
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(scaling["factor"])
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, np.float32)


def scaling_of(factor, low, high, context):
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return {"rope_type": "llama3", **dict(zip(names, (factor, low, high, context), strict=True))}


@pytest.mark.parametrize(
    ("width", "base", "scaling"),
    [
        (128, 500000.0, scaling_of(8.0, 1.0, 4.0, 8192)),
        (64, 500000.0, scaling_of(32.0, 1.0, 4.0, 8192)),
        (64, 10000.0, scaling_of(2.0, 1.0, 4.0, 256)),
        (8, 10000.0, scaling_of(8.0, 1.0, 4.0, 64)),
    ],
)
def test_llama3_scaling_comes_back(tmp_path, width, base, scaling):
    assert llama3_scaling(llama3_factors(scaling, width, base), base) == scaling
    model = Llama(width=width)
    model.settings["llama.rope.freq_base"] = base
    factors = llama3_factors(scaling, width, base)
    tensors = {"rope_freqs.weight": ("float32", factors.shape, factors.tobytes())} | model.tensors()
    (tmp_path / "small.gguf").write_bytes(gguf_bytes(model.settings, tensors))
    checkpoint = open_gguf(tmp_path / "small.gguf")
    assert checkpoint.config["rope_scaling"] == scaling
    assert set(checkpoint.arrays) == set(model.weights)


@given(
    st.sampled_from([16, 64, 128]),
    st.sampled_from([1e4, 5e5]),
    st.floats(1.5, 64),
    st.floats(0.5, 2),
    st.floats(2.5, 9),
    st.integers(200, 20000),
)
def test_other_llama3_scalings_give_the_same_frequencies(width, base, factor, low, high, context):
    scaling = scaling_of(factor, low, high, context)
    factors = llama3_factors(scaling, width, base)
    try:
        found = llama3_scaling(factors, base)
    except ValueError:  # a ramp that fewer than two frequencies stand on can be no line to be found
        ramp = (factors > 1.0001) & (factors < factors.max() * 0.9999)
        assert ramp.sum() < 2 or factors.max() < factor * 0.9999
        return
    got = F.rotary_frequencies(width, base=base, scaling=found, dtype=np.float64)
    plain = F.rotary_frequencies(width, base=base, dtype=np.float64)
    np.testing.assert_allclose(got, plain / factors, rtol=2e-5)


def test_factors_of_one_are_no_scaling():
    assert llama3_scaling(np.ones(4, np.float32), 10000.0) is None


@pytest.mark.parametrize("factors", [[1, 2, 1, 2], [8, 4, 2, 1], [1, 1, np.nan, 8], [1, -1, 8, 8], [0.5, 0.5, 1, 1]])
def test_factors_that_are_no_llama3_scaling(factors):
    with pytest.raises(ValueError, match="llama3_scaling: expected"):
        llama3_scaling(np.array(factors, np.float32), 10000.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scale_linear": 4.0},
    ],
)
def test_linear_scaling(tmp_path, settings):
    config = open_gguf(Llama().write(tmp_path / "small.gguf", **settings)).config
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    none = {"llama.rope.scaling.type": "none"}
    assert open_gguf(Llama().write(tmp_path / "none.gguf", **none)).config["rope_scaling"] is None
