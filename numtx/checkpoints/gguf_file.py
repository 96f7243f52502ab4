"""A model of the Llama family in a GGUF file, as the checkpoint that Transformers would have of it."""

import os
from typing import Any

import numpy as np

from numtx.checkpoints.gguf_blocks import numbers
from numtx.checkpoints.gguf_format import GGUFFile, GGUFTensor, read_gguf
from numtx.checkpoints.gguf_rope import llama3_scaling
from numtx.checkpoints.stored import Checkpoint, StoredArray, StoredArrays

ARCHITECTURE = "llama"

# GGUF's names and Transformers', with each one's shape in terms of the config.
_MODEL = {
    "token_embd": ("model.embed_tokens", "vocab_size", "hidden_size"),
    "output_norm": ("model.norm", "hidden_size"),
    "output": ("lm_head", "vocab_size", "hidden_size"),
}
_LAYER = {
    "attn_norm": ("input_layernorm", "hidden_size"),
    "attn_q": ("self_attn.q_proj", "query_width", "hidden_size"),
    "attn_k": ("self_attn.k_proj", "key_width", "hidden_size"),
    "attn_v": ("self_attn.v_proj", "key_width", "hidden_size"),
    "attn_output": ("self_attn.o_proj", "hidden_size", "query_width"),
    "ffn_norm": ("post_attention_layernorm", "hidden_size"),
    "ffn_gate": ("mlp.gate_proj", "intermediate_size", "hidden_size"),
    "ffn_up": ("mlp.up_proj", "intermediate_size", "hidden_size"),
    "ffn_down": ("mlp.down_proj", "hidden_size", "intermediate_size"),
}
_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
_FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")
_TURNED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
_ROPE = "rope_freqs.weight"


def open_gguf(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a GGUF file of a Llama model.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    Checkpoint
        Its config is what a ``config.json`` of Transformers' Llama says; its arrays stand under Transformers' names, in
        its layouts, and are read when looked up: float32 is the mapped file itself, everything else (half precision,
        quantised blocks) a fresh float32 array at each look-up.

    Notes
    -----
    llama.cpp stores the rows of a head's query and key so that the two numbers which rotary positions turn together
    stand side by side; Transformers wants the first of all pairs, then the second. The rows are put back here, as they
    stand in the file, before they are dequantised.

    Rope scaling of Llama 3 is stored as one factor a frequency (``rope_freqs.weight``); the config gets numbers that
    give these factors again. Transformers' own reader leaves them out.

    Raises
    ------
    ValueError
        If the file is broken (as `read_gguf`), of another architecture or with parts that Llama has not (named), or if
        its tensors do not fit its settings (all of them listed).
    ImportError
        At the look-up of quantised blocks, if the package ``gguf`` is not installed.
    """
    file = read_gguf(path)
    architecture = file.settings.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise _refused(file, f"the architecture {ARCHITECTURE!r}", _short(architecture))
    config = _config(file)
    names = _checkpoint_names(file, config)
    entries = {name: _entry(file.tensors[inside], inside, config) for inside, name in names.items()}
    return Checkpoint(config=config, arrays=StoredArrays(entries), files=[file.path])


def _refused(file: GGUFFile, expected: str, got: str) -> ValueError:
    return ValueError(f"open_gguf: expected {expected} in '{file.path}', got {got}")


def _config(file: GGUFFile) -> dict[str, Any]:
    """Return the entries that Transformers' `LlamaConfig` has for this model."""
    _no_foreign_parts(file)
    hidden, heads = _whole(file, "embedding_length"), _whole(file, "attention.head_count")
    key_heads = _whole(file, "attention.head_count_kv", heads)
    turned = _whole(file, "rope.dimension_count", _whole(file, "attention.key_length", max(1, hidden // heads)))
    width = _whole(file, "attention.key_length", turned)
    if _whole(file, "attention.value_length", width) != width or turned != width or width % 2:
        raise _refused(
            file,
            "queries, keys and values of one even width, and rotary positions over all of it",
            f"key_length {width}, value_length {_whole(file, 'attention.value_length', width)}, "
            f"rope.dimension_count {turned}",
        )
    if heads % key_heads:
        raise _refused(file, "attention.head_count_kv to divide attention.head_count", f"{key_heads} and {heads}")
    base = _above_zero(file, "rope.freq_base", 10000.0)
    tensors = file.tensors
    vocabulary = tensors["token_embd.weight"].shape[0] if "token_embd.weight" in tensors else None
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _whole(file, "vocab_size", vocabulary),
        "hidden_size": hidden,
        "intermediate_size": _whole(file, "feed_forward_length"),
        "num_hidden_layers": _whole(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": width,
        "hidden_act": "silu",
        "max_position_embeddings": _whole(file, "context_length"),
        "rms_norm_eps": _above_zero(file, "attention.layer_norm_rms_epsilon"),
        "rope_theta": base,
        "rope_scaling": _rope_scaling(file, base, width),
        "attention_bias": any(f"blk.0.{part}.bias" in tensors for part in _ATTENTION),
        "mlp_bias": any(f"blk.0.{part}.bias" in tensors for part in _FEED_FORWARD),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    for name in ("bos", "eos", "pad"):
        key = f"tokenizer.ggml.{'padding' if name == 'pad' else name}_token_id"
        value = file.settings.get(key)
        if value is not None and (type(value) is not int or not 0 <= value < config["vocab_size"]):
            raise _refused(file, f"{key} within the vocabulary of {config['vocab_size']}", _short(value))
        if value is not None:  # else the family's own
            config[f"{name}_token_id"] = value
    return config


def _no_foreign_parts(file: GGUFFile) -> None:
    """Refuse what other models under the same name have, and what would make this one compute something else."""
    for key, plain in (("expert_count", 0), ("attention.causal", True), ("use_parallel_residual", False)):
        got = file.settings.get(f"{ARCHITECTURE}.{key}", plain)
        if got != plain:
            raise _refused(file, f"{ARCHITECTURE}.{key} to be {plain} or absent", _short(got))


def _whole(file: GGUFFile, key: str, default: int | None = None) -> int:
    value = file.settings.get(f"{ARCHITECTURE}.{key}", default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refused(file, f"{ARCHITECTURE}.{key} as a whole number above 0", _short(value))
    return value


def _above_zero(file: GGUFFile, key: str, default: float | None = None) -> float:
    value = file.settings.get(f"{ARCHITECTURE}.{key}", default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < np.inf:
        raise _refused(file, f"{ARCHITECTURE}.{key} as a finite number above 0", _short(value))
    return float(value)


def _short(value: Any) -> str:
    if value is None:
        return "a file without it"
    return repr(value)[:60].replace("\n", " ")


def _rope_scaling(file: GGUFFile, base: float, width: int) -> dict[str, Any] | None:
    settings = file.settings
    kind = settings.get(f"{ARCHITECTURE}.rope.scaling.type", "none")
    # Before there were types, one number said it.
    if kind == "none" and f"{ARCHITECTURE}.rope.scale_linear" in settings:
        kind, key = "linear", "rope.scale_linear"
    else:
        key = "rope.scaling.factor"
    if kind not in ("none", "linear"):
        raise _refused(file, "rope scaling of the kinds none, linear, or Llama 3's", _short(kind))
    tensor = file.tensors.get(_ROPE)
    by_frequency = None
    if tensor is not None:
        if tensor.shape != (width // 2,):
            raise _refused(file, f"{_ROPE} of shape ({width // 2},)", str(tensor.shape))
        try:
            by_frequency = llama3_scaling(numbers(tensor.stored, tensor.kind)[0], base)
        except ValueError as error:
            raise ValueError(f"{error}; in '{file.path}'") from None
    factor = _above_zero(file, key) if kind == "linear" else 1.0
    if by_frequency is not None and factor != 1.0:
        raise _refused(file, "one kind of rope scaling", f"{key} {factor} beside {_ROPE}")
    return by_frequency or (None if factor == 1.0 else {"rope_type": "linear", "factor": factor})


def _checkpoint_names(file: GGUFFile, config: dict[str, Any]) -> dict[str, str]:
    """Return Transformers' name for each tensor of the file, having compared all of them with the config."""
    sizes = config | {
        "query_width": config["num_attention_heads"] * config["head_dim"],
        "key_width": config["num_key_value_heads"] * config["head_dim"],
    }
    layers = config["num_hidden_layers"]
    # The file cannot name more layers than it has tensors, whatever it counts.
    if layers > len(file.tensors):
        raise _refused(
            file, f"tensors for {ARCHITECTURE}.block_count = {layers} layers", f"{len(file.tensors)} tensors"
        )
    parts = {name: row for name, row in _MODEL.items() if name != "output" or not config["tie_word_embeddings"]}
    for i in range(layers):
        parts |= {f"blk.{i}.{name}": (f"model.layers.{i}.{row[0]}", *row[1:]) for name, row in _LAYER.items()}
    names: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for part, (name, *axes) in parts.items():
        shape = tuple(sizes[axis] for axis in axes)
        names[f"{part}.weight"], shapes[f"{part}.weight"] = f"{name}.weight", shape
        last = part.rpartition(".")[2]
        if (config["attention_bias"] and last in _ATTENTION) or (config["mlp_bias"] and last in _FEED_FORWARD):
            names[f"{part}.bias"], shapes[f"{part}.bias"] = f"{name}.bias", shape[:1]
    _compare(file, shapes)
    return names


def _compare(file: GGUFFile, shapes: dict[str, tuple[int, ...]]) -> None:
    ignored = {_ROPE}  # already in the config
    faults = {
        "missing": [name for name in shapes if name not in file.tensors],
        "unexpected": [name for name in file.tensors if name not in shapes and name not in ignored],
        "mis-shaped": [
            f"{name} {file.tensors[name].shape} for {shape}"
            for name, shape in shapes.items()
            if name in file.tensors and file.tensors[name].shape != shape
        ],
        "vectors in blocks": [name for name, one in file.tensors.items() if len(one.shape) == 1 and one.kind.size > 1],
    }
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
        raise _refused(file, "the tensors that its settings ask for", listed)


def _entry(tensor: GGUFTensor, name: str, config: dict[str, Any]) -> StoredArray:
    heads = config.get(_TURNED.get(name.split(".")[-2], ""))

    def read() -> np.ndarray:
        stored = tensor.stored if len(tensor.shape) > 1 or heads is None else tensor.stored.reshape(tensor.shape[0], -1)
        if heads is not None:
            stored = _halves(stored, heads)
        return numbers(stored, tensor.kind).reshape(tensor.shape)

    return StoredArray(tensor.kind.name, tensor.shape, tensor.stored.nbytes, read)


def _halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Put the rows of each head from pairs (0, 1), (2, 3), ... into halves: 0, 2, ..., then 1, 3, ..."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])  # (H, D/2, 2, row)
    return pairs.swapaxes(1, 2).reshape(rows.shape)
