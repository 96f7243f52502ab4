"""Quantised blocks of GGUF files beside their definition: the loop of ggml's own documentation, a number at a time."""

import importlib

import numpy as np
import pytest
from gguf_writer import SIZES, TYPES, Llama, gguf_bytes, pairs, stored

from numtx.checkpoints import open_gguf
from numtx.checkpoints.gguf_blocks import BLOCK_TYPES, numbers


def f16(data):
    return float(np.frombuffer(bytes(data), "<f2")[0])


def q8_0(b):
    return [f16(b[:2]) * np.int8(q) for q in np.frombuffer(bytes(b[2:]), np.int8)]


def q4_0(b):
    d, q = f16(b[:2]), b[2:]
    return [d * ((q[i] & 15) - 8) for i in range(16)] + [d * ((q[i] >> 4) - 8) for i in range(16)]


def q4_1(b):
    d, m, q = f16(b[:2]), f16(b[2:4]), b[4:]
    return [d * (q[i] & 15) + m for i in range(16)] + [d * (q[i] >> 4) + m for i in range(16)]


def q4_k(b):
    d, least, scales, q = f16(b[:2]), f16(b[2:4]), b[4:16], b[16:]

    def scale_and_minimum(j):
        if j < 4:
            return scales[j] & 63, scales[j + 4] & 63
        return (scales[j + 4] & 15) | (scales[j - 4] >> 6 << 4), (scales[j + 4] >> 4) | (scales[j] >> 6 << 4)

    y = []
    for j in range(8):
        scale, minimum = scale_and_minimum(j)
        for i in range(32):
            bits = q[j // 2 * 32 + i]
            y.append(d * scale * (bits & 15 if j % 2 == 0 else bits >> 4) - least * minimum)
    return y


def q6_k(b):
    low, high, scales, d = b[:128], b[128:192], np.frombuffer(bytes(b[192:208]), np.int8), f16(b[208:])
    y = [0.0] * 256
    for n in (0, 1):
        for i in range(32):
            a, c, h = low[64 * n + i], low[64 * n + 32 + i], high[32 * n + i]
            bits = (a & 15 | (h & 3) << 4, c & 15 | (h >> 2 & 3) << 4, a >> 4 | (h >> 4 & 3) << 4, c >> 4 | h >> 6 << 4)
            for part, q in enumerate(bits):
                y[128 * n + 32 * part + i] = d * scales[8 * n + 2 * part + i // 16] * (q - 32)
    return y


DEFINITIONS = {"Q8_0": q8_0, "Q4_0": q4_0, "Q4_1": q4_1, "Q4_K": q4_k, "Q6_K": q6_k}
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q6_K": [208]}  # where a block has float16


def random_blocks(rng, kind, rows, columns):
    size, nbytes = SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // size, nbytes), np.uint8)
    for at in HALVES[kind]:
        blocks[:, at : at + 2] = rng.normal(size=(len(blocks), 1)).astype("<f2").view(np.uint8)
    return blocks


def quantised(rng):
    """A writer of random blocks in place of a quantisation, which remembers what they mean."""

    def blocks_of(array, kind):
        blocks = random_blocks(rng, kind, *array.shape)
        array[:] = np.array([DEFINITIONS[kind](block.tolist()) for block in blocks]).reshape(array.shape)
        return blocks.tobytes()

    return blocks_of


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_blocks_mean_what_their_definition_says(kind):
    pytest.importorskip("gguf")
    rng = np.random.default_rng(3)
    columns = 2 * SIZES[kind][0]
    blocks = random_blocks(rng, kind, 5, columns)
    wanted = np.array([DEFINITIONS[kind](block.tolist()) for block in blocks]).reshape(5, columns)
    got = numbers(blocks.reshape(5, -1), BLOCK_TYPES[TYPES[kind]])
    assert got.dtype == np.float32
    # Two float32 roundings of what the definition computes in float64, each of the largest number in the block.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=4 * np.spacing(np.float32(np.abs(wanted).max())))


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_a_quantised_model(tmp_path, kind):
    pytest.importorskip("gguf")
    sizes = {"hidden": 256, "inner": 512, "heads": 4, "key_heads": 2, "width": 64, "vocabulary": 11, "layers": 1}
    model = Llama(**sizes)
    tensors = {}
    rng = np.random.default_rng(5)
    for inside, outside in model.names.items():
        array = model.weights[outside]
        own = kind if array.ndim == 2 else "float32"
        data = stored(array, own) if own == "float32" else quantised(rng)(array, kind)
        tensors[inside] = (own, array.shape, data)
        if ".attn_q." in inside or ".attn_k." in inside:  # the file's order, so the weight is what the pairs came from
            heads = model.heads if ".attn_q." in inside else model.key_heads
            order = pairs(np.arange(len(array))[:, None], heads)[:, 0]
            model.weights[outside] = array[np.argsort(order)]
    (tmp_path / "small.gguf").write_bytes(gguf_bytes(model.settings, tensors))
    checkpoint = open_gguf(tmp_path / "small.gguf")
    assert checkpoint.arrays.entries["model.embed_tokens.weight"].dtype == kind
    for name, wanted in model.weights.items():
        got = checkpoint.arrays[name]
        assert got.shape == wanted.shape
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max(), err_msg=name)


def test_sizes_of_blocks_are_the_packages():
    gguf = pytest.importorskip("gguf")
    for number, kind in BLOCK_TYPES.items():
        package = gguf.GGMLQuantizationType(number)
        names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
        assert names.get(package.name, package.name) == kind.name
        assert gguf.GGML_QUANT_SIZES[package] == (kind.size, kind.nbytes)


def test_rows_beyond_what_is_dequantised_at_once():
    pytest.importorskip("gguf")
    blocks = random_blocks(np.random.default_rng(0), "Q8_0", 700, 1024).reshape(700, -1)
    kind = BLOCK_TYPES[TYPES["Q8_0"]]
    whole = numbers(blocks, kind)
    np.testing.assert_array_equal(whole, np.concatenate([numbers(blocks[i : i + 7], kind) for i in range(0, 700, 7)]))


def test_blocks_without_the_package(tmp_path, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    model = Llama()
    path = model.write(tmp_path / "small.gguf", "Q8_0", lambda array, kind: bytes(array.size // 32 * 34))
    arrays = open_gguf(path).arrays
    np.testing.assert_array_equal(arrays["model.norm.weight"], model.weights["model.norm.weight"])
    with pytest.raises(ImportError, match=r"gguf, which is not installed: pip install 'numtx\[hub\]'"):
        arrays["model.embed_tokens.weight"]
