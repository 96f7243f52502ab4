"""How the byte-level tokenizers that GGUF files name cut a text into words, before any merge."""

from typing import Any

# Of the tokenizer.json of the models that each name stands for.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_CAPITAL, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITAL}*{_SMALL}+|[^\r\n\p{{L}}\p{{N}}]?{_CAPITAL}+{_SMALL}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_GPT2 = "GPT-2's own pattern, which the byte-level pre-tokenizer has built in"
_DIGITS = "the same, after every digit was put apart"

# By the name in the file. A file without one, and "default", is cut as GPT-2 does, as Transformers does it.
SPLITS = {
    **dict.fromkeys(("default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "granite-docling"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0", "lfm2"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
    "tekken": _TEKKEN,
}

_WHOLE_WORDS_FIRST = {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0", "lfm2", "tekken"}


def whole_words_first(name: str) -> bool:
    """Whether a word that is a token is taken as it is, without merges; these vocabularies also begin with bos."""
    return name in _WHOLE_WORDS_FIRST


def pre_tokenizer(name: str) -> dict[str, Any]:
    """Return the pre-tokenizer that a name stands for, as ``tokenizer.json`` says it; KeyError if it is unknown."""
    split = SPLITS[name]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": split in (_GPT2, _DIGITS),
    }
    if split == _GPT2:
        return byte_level
    if split == _DIGITS:
        before: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    else:
        before = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [before, byte_level]}
