"""GGUF files that are broken, lie about themselves, or are of something else: one clean error, in bounded time."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from gguf_writer import Llama, gguf_bytes, string

from numtx.checkpoints import gguf_tokenizer, open_gguf
from numtx.checkpoints.gguf_format import read_gguf

TOKENS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrst", "ab"]
TOKENIZER = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.scores": -np.arange(24, dtype=np.float32),
    "tokenizer.ggml.token_type": np.array([2, 3, 3] + [1] * 21, np.int32),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


def refused(path, message, read=open_gguf):
    with pytest.raises(ValueError, match=message) as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def written(tmp_path, data):
    (tmp_path / "bad.gguf").write_bytes(data)
    return tmp_path / "bad.gguf"


def test_nothing_there(tmp_path):
    refused(tmp_path / "absent.gguf", "read_gguf: expected a GGUF file, got '.*absent.gguf', which is not a file")
    refused(tmp_path, "which is not a file")
    refused(written(tmp_path, b""), "which is empty")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GG", "it ends inside its first four bytes, at byte 2"),
        (b"ggml" + bytes(60), "it begins with b'ggml', not with b'GGUF'"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "it is written in big-endian byte order"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "it is of version 1, and numtx reads 2 and 3"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
            "the number of settings counts 1152921504606846976, more than fit",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "the number of tensors is 1152921504606846976, more than fit"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**40) + bytes(9), "a key counts 1099511627776, more than fit"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("é")[:-1] + b"\0" * 9, "a key is not UTF-8"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IQ", 99, 0),
            "the setting a is of type 99",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IIQ", 9, 9, 1),
            "the setting a is of type 9, which",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IIQ", 9, 4, 2**62),
            "it ends inside the setting a",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IIQ", 9, 8, 2**62),
            "the setting a counts 4611686018427387904, more than fit",
        ),
    ],
)
def test_broken_heads(tmp_path, data, message):
    refused(written(tmp_path, data), f"read_gguf: expected a whole GGUF file, got '.*': .*{message}")


def changed(name, kind=None, shape=None, offset=None):
    """The small model's file, with one tensor's row of the table changed."""
    model = Llama()
    data = bytearray(gguf_bytes(model.settings, model.tensors()))
    at = data.index(string(name)) + len(string(name))
    axes = struct.unpack_from("<I", data, at)[0]
    if shape is not None:
        struct.pack_into(f"<{len(shape)}Q", data, at + 4, *shape[::-1])
    if kind is not None:
        struct.pack_into("<I", data, at + 4 + 8 * axes, kind)
    if offset is not None:
        struct.pack_into("<Q", data, at + 8 + 8 * axes, offset)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            changed("blk.0.attn_q.weight", kind=22),
            "blk.0.attn_q.weight is stored as IQ2_S, and numtx reads float32, .*Q4_K",
        ),
        (changed("blk.0.attn_q.weight", kind=777), "blk.0.attn_q.weight is stored as type 777"),
        (changed("blk.0.attn_q.weight", kind=12), r"has the shape \(32, 32\), which Q4_K in blocks of 256 cannot have"),
        (changed("blk.0.attn_q.weight", shape=(0, 32)), "cannot have"),
        (changed("blk.0.attn_q.weight", shape=(2**62, 2**62)), "cut short, it seems"),
        (changed("blk.0.attn_q.weight", offset=0), "is said to be at offset 0, and the one before ends at"),
        (changed("blk.0.attn_q.weight", offset=2**63), "is said to be at offset 9223372036854775808"),
        (changed("token_embd.weight", shape=(24, 24)), "is said to be at offset 3072, and the one before ends at 2304"),
    ],
)
def test_a_table_that_lies(tmp_path, data, message):
    refused(written(tmp_path, data), f"read_gguf: .*{message}")


def test_duplicates(tmp_path):
    model = Llama()
    data = gguf_bytes(model.settings, model.tensors())
    refused(written(tmp_path, data.replace(b"blk.1.attn_q", b"blk.0.attn_q")), "blk.0.attn_q.weight stands there twice")
    twice = gguf_bytes({"same": 1, "sane": 2}, {}).replace(b"sane", b"same")
    refused(written(tmp_path, twice), "the setting same stands there twice")


@pytest.mark.parametrize("alignment", [0, 4, 24, "32", True])
def test_alignment(tmp_path, alignment):
    data = gguf_bytes({"general.alignment": alignment}, {})
    refused(written(tmp_path, data), "general.alignment is .*, not a power of two from 8 on")


def test_cut_anywhere(tmp_path):
    model = Llama(layers=1)
    data = gguf_bytes(model.settings | TOKENIZER, model.tensors())
    # The last tensor is a multiple of the alignment: every byte counts.
    for end in [*range(0, 2500, 7), *range(2500, len(data), 211), len(data) - 1]:
        refused(written(tmp_path, data[:end]), "read_gguf: expected a")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"general.architecture": "qwen2"}, "expected the architecture 'llama' in '.*', got 'qwen2'"),
        ({"general.architecture": 3}, "expected the architecture 'llama' in '.*', got 3"),
        ({"llama.expert_count": 8}, "expected llama.expert_count to be 0 or absent in '.*', got 8"),
        ({"llama.attention.causal": False}, "expected llama.attention.causal to be True or absent"),
        ({"llama.block_count": 0}, "expected llama.block_count as a whole number above 0 in '.*', got 0"),
        ({"llama.block_count": True}, "expected llama.block_count as a whole number above 0"),
        (
            {"llama.feed_forward_length": np.array([64, 64], np.int32)},
            r"feed_forward_length as a whole number above 0 in '.*', got array\(\[64, 64\]",
        ),
        ({"llama.attention.head_count": 3}, "expected attention.head_count_kv to divide attention.head_count"),
        ({"llama.rope.dimension_count": 4}, "expected queries, keys and values of one even width, .* got key_length 8"),
        ({"llama.attention.value_length": 4}, "expected queries, keys and values of one even width"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_epsilon as a finite number above 0"),
        ({"llama.rope.freq_base": -1.0}, "llama.rope.freq_base as a finite number above 0"),
        ({"llama.rope.scaling.type": "yarn"}, "expected rope scaling of the kinds none, linear, .* got 'yarn'"),
        ({"llama.rope.scaling.type": "linear"}, "rope.scaling.factor as a finite number .* got a file without it"),
        ({"tokenizer.ggml.bos_token_id": 24}, "bos_token_id within the vocabulary of 24 in '.*', got 24"),
        ({"llama.block_count": 3}, "missing: blk.2.attn_norm.weight, .*, blk.2.ffn_down.weight"),
        ({"llama.block_count": 1}, "unexpected: blk.1.attn_norm.weight, .*, blk.1.ffn_down.weight"),
        (
            {"llama.block_count": 2**31},
            "expected tensors for llama.block_count = 2147483648 layers in '.*', got 20 tensors",
        ),
        (
            {"llama.vocab_size": 25, "llama.feed_forward_length": 63},
            r"mis-shaped: token_embd.weight \(24, 32\) for \(25, 32\), blk.0.ffn_gate.weight \(64, 32\) for \(63, 32\)",
        ),
        ({"llama.attention.head_count": 2}, r"mis-shaped: blk.0.attn_q.weight \(32, 32\) for \(16, 32\)"),
    ],
)
def test_other_models(tmp_path, settings, message):
    path = Llama().write(tmp_path / "other.gguf", **settings)
    refused(path, f"open_gguf: .*{message}")


def test_lacking_settings(tmp_path):
    model = Llama()
    for key in ("block_count", "embedding_length", "context_length", "attention.layer_norm_rms_epsilon"):
        rest = {name: setting for name, setting in model.settings.items() if name != f"llama.{key}"}
        data = gguf_bytes(rest, model.tensors())
        refused(written(tmp_path, data), f"expected llama.{key} as a .* got a file without it")


def test_a_vector_in_blocks(tmp_path):
    model = Llama(bias=True)
    tensors = model.tensors() | {"blk.0.attn_q.bias": ("Q8_0", (32,), bytes(34))}
    refused(written(tmp_path, gguf_bytes(model.settings, tensors)), "got vectors in blocks: blk.0.attn_q.bias")


def test_names_that_would_break_the_line(tmp_path):
    refused(written(tmp_path, gguf_bytes({"a\nb": 1}, {})), r"a key is 'a\\nb', which cannot be one")
    model = Llama()
    tensors = model.tensors() | {"x\n" * 200: ("float32", (1,), bytes(4))}
    refused(written(tmp_path, gguf_bytes(model.settings, tensors)), "a tensor's name is .*, which cannot be one")


def test_factors_that_no_scaling_explains(tmp_path):
    model = Llama()
    for factors, message in (
        (np.ones(3, np.float32), r"expected rope_freqs.weight of shape \(4,\) in '.*', got \(3,\)"),
        (np.array([1, 3, 1, 3], np.float32), "llama3_scaling: expected one factor"),
    ):
        tensors = model.tensors() | {"rope_freqs.weight": ("float32", factors.shape, factors.tobytes())}
        refused(written(tmp_path, gguf_bytes(model.settings, tensors)), message)


# Mutated files.


def mutated(rng, data):
    """A file with some bytes flipped, a part cut out, two parts swapped, or a number made large."""
    data = bytearray(data)
    head = 3000 if rng.random() < 0.8 else len(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, min(head, len(data) - 16)))
        what = rng.integers(0, 5)
        if what == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif what == 1:
            data[at] = int(rng.integers(0, 256))
        elif what == 2:
            del data[at : at + int(rng.integers(1, 64))]
        elif what == 3:
            other, size = int(rng.integers(0, min(head, len(data) - 16))), int(rng.integers(1, 16))
            data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
        else:
            data[at : at + 8] = struct.pack("<Q", int(rng.integers(0, 2**63)) >> int(rng.integers(0, 63)))
    return bytes(data[: int(rng.integers(16, len(data)))]) if rng.random() < 0.1 else bytes(data)


@pytest.fixture
def bounded_memory():
    """No more than 400 MB of new memory: a length that a file makes up must not be believed."""
    usage = Path("/proc/self/statm")
    if not usage.exists():  # no Linux: the time alone is measured
        yield
        return
    import resource

    pages = int(usage.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages + 400_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(read, path):
    try:
        return read(path), ""
    except ValueError as error:
        return None, str(error)


def test_mutated_files_open_or_say_why_not(tmp_path, bounded_memory):
    model = Llama(layers=1)
    factors = np.array([1, 1, 8, 8], np.float32)
    tensors = {"rope_freqs.weight": ("float32", factors.shape, factors.tobytes())} | model.tensors("float16")
    whole = gguf_bytes(model.settings | TOKENIZER, tensors)
    rng = np.random.default_rng(17)
    path = tmp_path / "mutated.gguf"
    opened, started = 0, time.perf_counter()
    for trial in range(1500):
        path.unlink(missing_ok=True)  # the file before may still be mapped
        path.write_bytes(mutated(rng, whole))
        for read in (open_gguf, gguf_tokenizer):
            result, error = outcome(read, path)
            assert "\n" not in error, f"trial {trial}: {error}"
            assert len(error) < 3000, f"trial {trial}: {error}"
            opened += not error
            if read is open_gguf and not error:
                assert all(np.size(result.arrays[name]) for name in result.arrays)
    assert 200 < opened < 2800  # both ways are taken
    assert time.perf_counter() - started < 60


def test_a_long_piece_takes_no_time(tmp_path):
    tokens = [*TOKENS[:-1], "a" * 200_000]
    path = Llama().write(tmp_path / "long.gguf", **TOKENIZER | {"tokenizer.ggml.tokens": tokens})
    refused(path, "got a piece of 200000 characters", gguf_tokenizer)


def test_reading_reads_the_head_alone(tmp_path):
    model = Llama(vocabulary=200_000)
    path = model.write(tmp_path / "large.gguf", "float16")
    started = time.perf_counter()
    file = read_gguf(path)
    assert time.perf_counter() - started < 1
    assert file.tensors["token_embd.weight"].stored.base is not None
