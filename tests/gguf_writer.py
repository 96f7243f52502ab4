"""Writes GGUF files for tests, from the description of the format and without the package that does it elsewhere."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"float32": 0, "float16": 1, "bfloat16": 30}
TYPES |= {"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8}
TYPES |= {"Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
SIZES = {"float32": (1, 4), "float16": (1, 2), "bfloat16": (1, 2)}
SIZES |= {"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34)}
SIZES |= {"Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}


def string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def value(content: Any) -> bytes:
    """A typed value: bool, whole number (32 bits), float (32 bits), text, list of texts, array of numbers; or bytes."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, bool):
        return struct.pack("<I?", 7, content)
    if isinstance(content, int):
        return struct.pack("<II", 4, content)
    if isinstance(content, float):
        return struct.pack("<If", 6, content)
    if isinstance(content, str):
        return struct.pack("<I", 8) + string(content)
    if isinstance(content, list):
        return struct.pack("<IIQ", 9, 8, len(content)) + b"".join(map(string, content))
    number = {"float32": 6, "int32": 5, "uint32": 4, "bool": 7, "float64": 12}[content.dtype.name]
    return struct.pack("<IIQ", 9, number, len(content)) + content.tobytes()


def stored(array: np.ndarray, kind: str) -> bytes:
    """The bytes of float numbers in a plain type; blocks are made elsewhere."""
    if kind == "bfloat16":
        return (np.asarray(array, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return np.asarray(array).astype({"float32": "<f4", "float16": "<f2"}[kind]).tobytes()


def gguf_bytes(
    settings: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]],
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A whole file: settings, then tensors as (type, shape with the outermost axis first, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(settings))
    head += b"".join(string(key) + value(content) for key, content in settings.items())
    body = b""
    for name, (kind, shape, data) in tensors.items():
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += string(name) + axes + struct.pack("<IQ", TYPES[kind], len(body))
        body += data + b"\0" * (-len(data) % alignment)
    return head + b"\0" * (-len(head) % alignment) + body


def pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of a query's or key's rows: of each head 0, D/2, 1, D/2 + 1, ..., one row at a time."""
    width = len(rows) // heads
    order = [
        head * width + half * (width // 2) + i for head in range(heads) for i in range(width // 2) for half in (0, 1)
    ]
    return rows[order]


class Llama:
    """A small model with random weights: its settings, its weights under Transformers' names, and its file."""

    layers, hidden, heads, key_heads, width, inner, vocabulary = 2, 32, 4, 2, 8, 64, 24

    def __init__(self, seed: int = 0, *, tied: bool = True, bias: bool = False, mlp_bias: bool = False, **sizes: int):
        for name, size in sizes.items():
            setattr(self, name, size)
        self.rng = np.random.default_rng(seed)
        self.settings: dict[str, Any] = {
            "general.architecture": "llama",
            "general.name": "small",
            "llama.block_count": self.layers,
            "llama.context_length": 64,
            "llama.embedding_length": self.hidden,
            "llama.feed_forward_length": self.inner,
            "llama.attention.head_count": self.heads,
            "llama.attention.head_count_kv": self.key_heads,
            "llama.attention.key_length": self.width,
            "llama.attention.value_length": self.width,
            "llama.rope.dimension_count": self.width,
            "llama.rope.freq_base": 10000.0,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.vocab_size": self.vocabulary,
        }
        self.names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        if not tied:
            self.names["output.weight"] = "lm_head.weight"
            shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        queries, keys = self.heads * self.width, self.key_heads * self.width
        for i in range(self.layers):
            for inside, outside, shape in (
                ("attn_norm", "input_layernorm", (self.hidden,)),
                ("attn_q", "self_attn.q_proj", (queries, self.hidden)),
                ("attn_k", "self_attn.k_proj", (keys, self.hidden)),
                ("attn_v", "self_attn.v_proj", (keys, self.hidden)),
                ("attn_output", "self_attn.o_proj", (self.hidden, queries)),
                ("ffn_norm", "post_attention_layernorm", (self.hidden,)),
                ("ffn_gate", "mlp.gate_proj", (self.inner, self.hidden)),
                ("ffn_up", "mlp.up_proj", (self.inner, self.hidden)),
                ("ffn_down", "mlp.down_proj", (self.hidden, self.inner)),
            ):
                self.names[f"blk.{i}.{inside}.weight"] = f"model.layers.{i}.{outside}.weight"
                shapes[f"model.layers.{i}.{outside}.weight"] = shape
                if (bias and "self_attn" in outside) or (mlp_bias and "mlp" in outside):
                    self.names[f"blk.{i}.{inside}.bias"] = f"model.layers.{i}.{outside}.bias"
                    shapes[f"model.layers.{i}.{outside}.bias"] = shape[:1]
        self.weights = {name: self.rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    def tensors(self, kind: str = "float32", quantise: Any = None) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
        """Matrices in one type (blocks through `quantise`), vectors in float32, as llama.cpp's converter does it."""
        tensors = {}
        for inside, outside in self.names.items():
            array = self.weights[outside]
            if ".attn_q." in inside or ".attn_k." in inside:
                array = pairs(array, self.heads if ".attn_q." in inside else self.key_heads)
            own = kind if array.ndim == 2 else "float32"
            data = stored(array, own) if SIZES[own][0] == 1 else quantise(array, own)
            tensors[inside] = (own, array.shape, data)
        return tensors

    def write(self, path: Path, kind: str = "float32", quantise: Any = None, **changes: Any) -> Path:
        path.write_bytes(gguf_bytes(self.settings | changes, self.tensors(kind, quantise)))
        return path
