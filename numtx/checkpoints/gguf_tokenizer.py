"""The tokenizer inside a GGUF file, as the two JSON files that tokenizers are kept in elsewhere."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from numtx.checkpoints.gguf_format import read_gguf
from numtx.checkpoints.gguf_splits import pre_tokenizer, whole_words_first

_KEY = "tokenizer.ggml."
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # types of tokens; 1 is normal, 5 unused
_APART = (_UNKNOWN, _CONTROL, _BYTE)
_LONGEST_PIECE = 256  # characters; SentencePiece makes them of at most 16 unless told otherwise
_SPACE = "▁"  # SentencePiece's
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def gguf_tokenizer(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the tokenizer that a GGUF file carries.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    tokenizer, config : dict
        What ``tokenizer.json`` and ``tokenizer_config.json`` would hold. The first has the vocabulary, the special
        tokens under the ids that they have, the way of cutting text that the file names, and the tokens that the file
        wants before and after a text; the second names the special tokens, and has the chat template if there is one.

    Notes
    -----
    Two kinds are read: ``gpt2``, byte-level BPE with its merges, and ``llama``, SentencePiece's BPE, whose merges
    follow from the scores of its pieces: any two neighbours whose union is a piece may merge, the best score first.

    Two things Transformers 5 does otherwise in its own reader: it leaves out the space in front of a text of the second
    kind that begins with one (or stands behind a control token), and cuts texts of the kinds that put digits apart as
    GPT-2 does. Here both are as in llama.cpp, and in the tokenizers that these models were published with.

    Raises
    ------
    ValueError
        If the file is broken, has no tokenizer, one of another kind (named) or of an unknown way to cut text (named),
        or says things about it that cannot be.
    """
    file = read_gguf(path)
    try:
        return _Reader(file.settings).both()
    except _OddError as error:
        raise ValueError(f"gguf_tokenizer: expected a tokenizer that numtx reads in '{path}', got {error}") from None


class _OddError(ValueError):
    """What is odd about the tokenizer."""


class _Reader:
    """The settings of the tokenizer, looked up with care."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.kind = self.get("model", str, "")
        if self.kind not in ("gpt2", "llama"):
            got = f"the kind {self.kind[:40]!r} (it reads 'gpt2' and 'llama')" if self.kind else "none at all"
            raise _OddError(got)
        self.tokens = self.texts("tokens")
        self.vocabulary = {token: number for number, token in enumerate(self.tokens)}
        if len(self.vocabulary) < len(self.tokens):
            raise _OddError(f"{len(self.tokens)} tokens of which {len(self.vocabulary)} differ")
        self.types = self.numbers("token_type")
        self.special = {f"{name}_token": self.token(f"{key}_token_id") for name, key in _SPECIAL.items()}
        self.cut = self.get("pre", str, "default")
        # Where the file does not say, as llama.cpp does.
        first = self.kind == "llama" or whole_words_first(self.cut)
        self.add_bos = self.get("add_bos_token", bool, first) and self.special["bos_token"] is not None
        self.add_eos = self.get("add_eos_token", bool, False) and self.special["eos_token"] is not None

    def get(self, name: str, kind: type, default: Any) -> Any:
        value = self.settings.get(_KEY + name, default)
        if not isinstance(value, kind):
            raise _OddError(f"{_KEY}{name} as {type(value).__name__}, not {kind.__name__}")
        return value

    def texts(self, name: str, default: Any = None) -> list[str]:
        value = self.settings.get(_KEY + name, default)
        if not isinstance(value, list):
            raise _OddError(f"no list of strings as {_KEY}{name}")
        return value

    def numbers(self, name: str) -> np.ndarray | None:
        value = self.settings.get(_KEY + name)
        if value is not None and (not isinstance(value, np.ndarray) or len(value) != len(self.tokens)):
            raise _OddError(f"{_KEY}{name} that is not one number for each of {len(self.tokens)} tokens")
        return value

    def token(self, name: str) -> str | None:
        number = self.settings.get(_KEY + name)
        if number is None:
            return None
        if type(number) is not int or not 0 <= number < len(self.tokens):
            raise _OddError(f"{_KEY}{name} = {str(number)[:40]!r} beside {len(self.tokens)} tokens")
        return self.tokens[number]

    def both(self) -> tuple[dict[str, Any], dict[str, Any]]:
        parts = self.byte_level() if self.kind == "gpt2" else self.sentencepiece()
        tokenizer = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self.added_tokens(),
            **parts,
        }
        return tokenizer, self.config()

    def byte_level(self) -> dict[str, Any]:
        try:
            pre = pre_tokenizer(self.cut)
        except KeyError:
            raise _OddError(f"the way {self.cut[:40]!r} of cutting text, which it does not know") from None
        return {
            "normalizer": None,
            "pre_tokenizer": pre,
            "post_processor": self.post_processor(),
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": self.model(self.merges(), ignore_merges=whole_words_first(self.cut)),
        }

    def merges(self) -> list[list[str]]:
        """The merges that the file lists, each two tokens of it."""
        merges = [merge.split(" ") for merge in self.texts("merges")]
        for merge in merges:
            if len(merge) != 2 or not {*merge, "".join(merge)} <= self.vocabulary.keys():
                raise _OddError(f"the merge {' '.join(merge)[:60]!r}, which are not two tokens and their union")
        return merges

    def sentencepiece(self) -> dict[str, Any]:
        prefix = self.get("add_space_prefix", bool, True)
        decoders: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if prefix:
            decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        # The space in front comes always, even before spaces and after a control token: as SentencePiece and llama.cpp.
        spaces: list[dict[str, Any]] = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
        spaces.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
        return {
            "normalizer": {"type": "Sequence", "normalizers": spaces},
            "pre_tokenizer": None,
            "post_processor": self.post_processor(),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": self.model(self.merges_by_score(), unk_token=self.unknown(), byte_fallback=True, fuse_unk=True),
        }

    def merges_by_score(self) -> list[list[str]]:
        """Every way to make a piece out of two, the piece with the best score first.

        Of the ways to make one piece, the one with the longer left part comes first, as in Transformers.
        """
        scores = self.numbers("scores")
        if scores is None or scores.dtype.kind != "f" or np.isnan(scores).any():
            raise _OddError("no scores of its pieces")
        # A text never becomes these, however its characters may merge.
        apart = set() if self.types is None else set(np.flatnonzero(np.isin(self.types, _APART)).tolist())
        merges: list[tuple[float, int, int, str, str]] = []
        for number, (piece, score) in enumerate(zip(self.tokens, scores.tolist(), strict=True)):
            if number in apart:
                continue
            if len(piece) > _LONGEST_PIECE:
                raise _OddError(f"a piece of {len(piece)} characters")
            for at in range(1, len(piece)):
                left, right = piece[:at], piece[at:]
                if left in self.vocabulary and right in self.vocabulary:
                    merges.append((-score, -len(left), -len(right), left, right))
        merges.sort(key=lambda merge: merge[:3])
        return [[left, right] for *_, left, right in merges]

    def unknown(self) -> str | None:
        """SentencePiece's unknown piece, by its id or by its type."""
        if self.special["unk_token"] is None and self.types is not None:
            found = np.flatnonzero(self.types == _UNKNOWN)
            return self.tokens[found[0]] if len(found) else None
        return self.special["unk_token"]

    def model(self, merges: list[list[str]], **settings: Any) -> dict[str, Any]:
        plain = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
        }
        return plain | settings | {"vocab": self.vocabulary, "merges": merges}

    def added_tokens(self) -> list[dict[str, Any]]:
        """Tokens that are found in a text as a whole: control tokens, the named ones, and what users defined."""
        special = set(self.special.values())
        if self.kind == "llama":
            special.add(self.unknown())
        types = self.types if self.types is not None else np.zeros(len(self.tokens), np.int32)
        special |= {self.tokens[i] for i in np.flatnonzero(types == _CONTROL)}
        whole = special | {self.tokens[i] for i in np.flatnonzero(types == _USER_DEFINED)}
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": number, "content": token, **plain, "special": token in special}
            for number, token in enumerate(self.tokens)
            if token and token in whole
        ]

    def post_processor(self) -> dict[str, Any] | None:
        """Put the first and the last token around each text of a pair."""
        first = self.special["bos_token"] if self.add_bos else None
        last = self.special["eos_token"] if self.add_eos else None
        if first is None and last is None:
            return None

        def around(text: str, number: int) -> list[dict[str, Any]]:
            bos, eos = ([{"SpecialToken": {"id": name, "type_id": number}}] if name else [] for name in (first, last))
            return [*bos, {"Sequence": {"id": text, "type_id": number}}, *eos]

        return {
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": around("A", 0) + around("B", 1),
            "special_tokens": {
                name: {"id": name, "ids": [self.vocabulary[name]], "tokens": [name]} for name in (first, last) if name
            },
        }

    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "add_bos_token": self.add_bos,
            "add_eos_token": self.add_eos,
            "model_input_names": ["input_ids", "attention_mask"],
        }
        config |= {name: token for name, token in self.special.items() if token is not None}
        architecture = self.settings.get("general.architecture")
        length = self.settings.get(f"{architecture}.context_length")
        if type(length) is int and length > 0:
            config["model_max_length"] = length
        template = self.settings.get("tokenizer.chat_template")
        if isinstance(template, str):
            config["chat_template"] = template
        return config
