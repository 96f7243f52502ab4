"""What every tokenizer of a pretrained model can do, whatever does its work: Transformers' calls, names and results."""

import os
import threading
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from numtx.checkpoints.config import write_json
from numtx.text.chat_templates import ChatTemplates
from numtx.text.encoding import BatchEncoding
from numtx.text.growing_text import GrowingText
from numtx.text.lengths import NO_LIMIT, SIDES, EncodingOptions, Lengths, decide_lengths, pad_encodings
from numtx.text.pretrained_files import Settings, text_of
from numtx.text.rows import checked_ids, rows_of
from numtx.text.tokenizers import TextDecoder

Ids = int | Sequence[int] | Sequence[Sequence[int]] | np.ndarray
_CLEANED = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class PretrainedTokenizer(ChatTemplates):
    """A pretrained model's tokenizer. `AutoTokenizer.from_pretrained` makes it.

    Parameters
    ----------
    settings : Settings
        What stood in the files beside the vocabulary.
    name_or_path : str

    Attributes
    ----------
    model_max_length : int
        Tokens that the model takes; 10³⁰ where no limit is known.
    padding_side, truncation_side : {"right", "left"}
    model_input_names : list of str
        What a call returns by default.
    chat_template : str or dict, optional
    clean_up_tokenization_spaces : bool
    name_or_path : str
    """

    def __init__(self, settings: Settings, name_or_path: str = "") -> None:
        config, defaults = settings.config, settings.defaults
        super().__init__({name: text_of(token) for name, token in settings.special.items()}, [])
        self._extra = list(dict.fromkeys(text_of(token) for token in settings.extra))
        self.name_or_path = name_or_path
        self.family = settings.family
        self.model_max_length = self._limit(config, defaults.model_max_length)
        self.padding_side = self._side(config, "padding_side", defaults.padding_side)
        self.truncation_side = self._side(config, "truncation_side", "right")
        self.model_input_names = list(config.get("model_input_names") or defaults.model_input_names)
        self.clean_up_tokenization_spaces = bool(config.get("clean_up_tokenization_spaces"))
        self.chat_template = settings.chat_template
        self._config = dict(config)
        self._warned_of_length = False
        # The backends keep the settings of a call in the object that carries it out.
        self._lock = threading.Lock()

    def _limit(self, config: Mapping[str, Any], default: int | None) -> int:
        limit = config.get("model_max_length", config.get("max_len"))
        if limit is None:
            limit = default if default is not None else int(1e30)
        if not isinstance(limit, (int, float)) or not limit >= 1:
            raise ValueError(f"{type(self).__name__}: expected model_max_length of at least 1, got {limit!r}")
        return int(min(limit, 1e30))

    def _side(self, config: Mapping[str, Any], name: str, default: str) -> str:
        side = config.get(name) or default
        if side not in SIDES:
            raise ValueError(f"{type(self).__name__}: expected {name} to be right or left, got {side!r}")
        return side

    # --- what a backend gives

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without those that were added to it; ``len(tokenizer)`` counts these too."""

    @abstractmethod
    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token, added ones included."""

    @abstractmethod
    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens a call puts around one text, or around a pair."""

    @abstractmethod
    def _encode_rows(self, rows: list[Any], options: EncodingOptions, lengths: Lengths, target: bool) -> BatchEncoding:
        """Return the encoding of texts, or pairs of texts, as lists of lists."""

    @abstractmethod
    def _decode_ids(self, ids: list[int], skip_special_tokens: bool) -> str:
        """Return the text of ids that were checked."""

    @abstractmethod
    def _add(self, tokens: list[str], special: bool) -> int:
        """Add tokens that the vocabulary does not hold, and say how many there were."""

    @abstractmethod
    def _save_vocabulary(self, folder: Path) -> dict[str, Any]:
        """Write the vocabulary's files and return further entries of ``tokenizer_config.json``."""

    # --- text to ids

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        **options: Any,
    ) -> BatchEncoding:
        """Return the ids of a text, a pair, or a batch of either.

        Parameters
        ----------
        text : str or list of str, or list of pairs; with ``is_split_into_words=True`` lists of words
        text_pair : like `text`, optional
        text_target : like `text`, optional
            What a model shall write: its ids come as ``labels``, or as ``input_ids`` where there is no `text`. Marian
            reads it with the target's vocabulary.
        **options
            Fields of `EncodingOptions`: ``padding, truncation, max_length, stride, return_tensors`` ...

        Returns
        -------
        BatchEncoding
            Lists, or arrays of shape (B, T) with ``return_tensors="np"``.

        Raises
        ------
        ValueError
            If something that is no text comes, an option is unknown, or the options cannot be met.
        """
        chosen = EncodingOptions.of(type(self).__name__, options)
        if text is None and text_target is None:
            raise ValueError(f"{type(self).__name__}: expected text or text_target, got neither")
        encoded = None if text is None else self._encode(text, text_pair, chosen, target=False)
        if text_target is None:
            assert encoded is not None
            return encoded
        labels = self._encode(text_target, text_pair if text is None else None, chosen, target=True)
        if encoded is None:
            return labels
        encoded["labels"] = labels["input_ids"]
        return encoded

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Return the ids alone: a list, or an array of shape (1, T) with ``return_tensors="np"``."""
        return self(text, text_pair, **options)["input_ids"]

    @abstractmethod
    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Return the tokens of a text, unknown ones as they stand in it; special ones only if asked for."""

    def _encode(self, text: Any, pair: Any, options: EncodingOptions, target: bool) -> BatchEncoding:
        component = type(self).__name__
        rows, batched = rows_of(component, text, pair, options.is_split_into_words)
        paired = any(isinstance(row, tuple) for row in rows)
        lengths = decide_lengths(
            component,
            options,
            model_max_length=self.model_max_length,
            can_pad=self.pad_token_id is not None,
            special=self.num_special_tokens_to_add(paired) if options.add_special_tokens else 0,
        )
        with self._lock:
            encoded = self._encode_rows(rows, options, lengths, target)
        if options.verbose and lengths.max_length is None:
            self._warn_of_length(max(len(row) for row in encoded["input_ids"]))
        if options.return_tensors == "np":
            return encoded.to_arrays()
        if not batched and not options.return_overflowing_tokens:
            first = {k: v[0] if v and isinstance(v[0], list) else v for k, v in encoded.items()}
            return BatchEncoding(first, encoded.encodings)
        return encoded

    def _warn_of_length(self, longest: int) -> None:
        if longest > self.model_max_length and self.model_max_length < NO_LIMIT and not self._warned_of_length:
            self._warned_of_length = True
            warnings.warn(
                f"{type(self).__name__}: the model takes at most {self.model_max_length} tokens, got {longest} "
                "(truncation=True cuts what is too long)",
                stacklevel=4,
            )

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad what was encoded already, one dict a row or a dict of rows, to one length: a collator for batches."""
        if padding == "max_length" and max_length is None:
            max_length = self.model_max_length if self.model_max_length < NO_LIMIT else None
            padding = padding if max_length else False
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        padded = pad_encodings(
            encoded_inputs,
            pad_token_id=self.pad_token_id,
            padding=padding,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side or self.padding_side,
            attention_mask=return_attention_mask,
            component=type(self).__name__,
        )
        return padded.to_arrays() if return_tensors == "np" else padded

    # --- ids to text

    def decode(
        self, token_ids: Ids, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """Return the text of ids, or a list of texts for a batch of rows.

        Parameters
        ----------
        token_ids : int, list or int array, of shape (T,) or (B, T)
            Ids that no token has, as a model with spare rows may write, give nothing.
        skip_special_tokens : bool
        clean_up_tokenization_spaces : bool, optional
            Take out spaces before punctuation and English contractions, as made sense for WordPiece; default is the
            tokenizer's own setting. It would destroy the text of a BPE, where it is not done.
        """
        ids = token_ids.tolist() if isinstance(token_ids, (np.ndarray, np.generic)) else token_ids
        if isinstance(ids, (list, tuple)) and ids and isinstance(ids[0], (list, tuple, np.ndarray)):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        text = self._decode_ids(checked_ids(type(self).__name__, ids), skip_special_tokens)
        clean = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        return self.clean_up_tokenization(text) if clean and self._may_clean() else text

    def batch_decode(
        self,
        sequences: Sequence[Any] | np.ndarray,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """Return the texts of rows of ids."""
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in sequences]

    def text_decoder(self, skip_special_tokens: bool = True) -> TextDecoder:
        """Return a decoder for ids that arrive piece by piece: it holds back what later ids may still change."""
        cleaned = _CLEANED if self.clean_up_tokenization_spaces and self._may_clean() else ()
        return GrowingText(self, skip_special_tokens, cleaned)

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Return `text` without the spaces that splitting put before punctuation and contractions."""
        for spaced, joined in _CLEANED:
            text = text.replace(spaced, joined)
        return text

    def _may_clean(self) -> bool:
        return True

    # --- tokens

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Return the id of a token, or the ids of several; the unknown token's for one that is not there."""
        if isinstance(tokens, str):
            index = self.token_to_id(tokens)
            return self.unk_token_id if index is None else index
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the tokens of several; None for an id that there is not."""
        if isinstance(ids, (int, np.integer)):
            return self.id_to_token(int(ids))
        left_out = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.id_to_token(int(index)) for index in ids if int(index) not in left_out]

    @abstractmethod
    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Return the text that tokens stand for."""

    @abstractmethod
    def get_added_vocab(self) -> dict[str, int]:
        """Return the ids of the tokens that text is searched for before all else: special ones and added ones."""

    def add_tokens(self, new_tokens: str | Sequence[str], special_tokens: bool = False) -> int:
        """Add tokens to the vocabulary and return how many were new; the model's embedding must grow with it."""
        tokens = [new_tokens] if isinstance(new_tokens, str) else list(new_tokens)
        return self._add(tokens, special_tokens)

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any]) -> int:
        """Name special tokens, ``{"pad_token": "[PAD]"}``, adding those that are new; return how many were."""
        new = 0
        for name, value in special_tokens_dict.items():
            tokens = [value] if isinstance(value, str) else list(value)
            new += self._add(tokens, special=True)
            if isinstance(value, str):
                self._named[name] = value
            else:
                self._extra = list(dict.fromkeys([*self._extra, *tokens]))
        return new

    # --- on disk

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write a folder that Transformers and `AutoTokenizer` open again, and return its files."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        config = {key: value for key, value in self._config.items() if key not in _NOT_SAVED}
        config |= self.special_tokens_map
        config |= {
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "model_input_names": self.model_input_names,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
        }
        special: dict[str, Any] = dict(self.special_tokens_map)
        if self._extra:
            config["additional_special_tokens"] = special["additional_special_tokens"] = self._extra
        if isinstance(self.chat_template, dict):
            named = self.chat_template.items()
            config["chat_template"] = [{"name": name, "template": template} for name, template in named]
        elif self.chat_template is not None:
            config["chat_template"] = self.chat_template
        config |= self._save_vocabulary(folder)
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "special_tokens_map.json", special)
        return tuple(str(path) for path in sorted(folder.iterdir()) if path.is_file())

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Do what `save_pretrained` does, under the name that numtx's own tokenizers have for it."""
        self.save_pretrained(folder)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"special_tokens={self.special_tokens_map})"
        )


# Read once, and written again from what the tokenizer now is; or true of the files it came from alone.
_NOT_SAVED = (
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "chat_template",
    "name_or_path",
    "special_tokens_map_file",
    "tokenizer_file",
    "auto_map",
    "add_bos_token",
    "add_eos_token",
    "max_len",
)
