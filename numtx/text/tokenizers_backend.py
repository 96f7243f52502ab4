"""Tokenizers that the `tokenizers` package carries out: WordPiece, byte-level BPE, unigrams, whatever the file says."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numtx.checkpoints.atomic import atomic_write
from numtx.checkpoints.extras import need
from numtx.text.encoding import BatchEncoding
from numtx.text.guarded import guarded
from numtx.text.lengths import EncodingOptions, Lengths, kept_of_a_pair
from numtx.text.pretrained import PretrainedTokenizer
from numtx.text.pretrained_files import Settings, Token, flags_of, text_of


class TokenizersBackend(PretrainedTokenizer):
    """A tokenizer around a ``tokenizers.Tokenizer``.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Changed: the tokens that `settings` names and it lacks are added.
    settings : Settings
    name_or_path : str
    from_file : bool
        Whether the backend is a folder's ``tokenizer.json``, whose class may then stand in the file that is saved.

    Attributes
    ----------
    backend_tokenizer : tokenizers.Tokenizer
    """

    is_fast = True

    def __init__(self, backend: Any, settings: Settings, name_or_path: str = "", *, from_file: bool = True) -> None:
        super().__init__(settings, name_or_path)
        self.backend_tokenizer = backend
        self._from_file = from_file
        self._take_over(settings)
        known = self.get_added_vocab()
        special = {text_of(token) for token in [*settings.special.values(), *settings.extra]}
        lacking: dict[str, Token] = {}
        named = [settings.special[name] for name in self.special_tokens_map]
        for token in [*settings.added, *named, *settings.extra]:
            if text_of(token) not in known:
                lacking.setdefault(text_of(token), token)
        self._add_detailed([(token, text in special) for text, token in lacking.items()])

    def _take_over(self, settings: Settings) -> None:
        """Take the padding token and the sides that ``tokenizer.json`` names, and then its lengths out of the way."""
        padding, truncation = self.backend_tokenizer.padding, self.backend_tokenizer.truncation
        if padding is not None:
            if "pad_token" not in self._named:
                self._named["pad_token"] = settings.special["pad_token"] = padding["pad_token"]
            if not settings.config.get("padding_side"):
                self.padding_side = padding["direction"]
        if truncation is not None and not settings.config.get("truncation_side"):
            self.truncation_side = truncation["direction"]
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()

    def get_added_vocab(self) -> dict[str, int]:
        """Return the ids of the tokens that text is searched for before all else: special ones and added ones."""
        decoder = self.backend_tokenizer.get_added_tokens_decoder()
        return {token.content: index for index, token in sorted(decoder.items())}

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The ``tokenizers.AddedToken`` of each id of `get_added_vocab`."""
        return dict(sorted(self.backend_tokenizer.get_added_tokens_decoder().items()))

    def _add_detailed(self, tokens: list[tuple[Token, bool]]) -> None:
        added_token = need("tokenizers", extra="hub").AddedToken
        made = []
        for token, special in tokens:
            flags = flags_of(token)
            flags["special"] = special or flags.get("special", False)
            flags.setdefault("normalized", not flags["special"])
            made.append(added_token(text_of(token), **flags))
        # In their order, which gives the ids; an older package marks as special only what comes through its own door.
        for special, group in itertools.groupby(made, key=lambda token: token.special):
            backend = self.backend_tokenizer
            (backend.add_special_tokens if special else backend.add_tokens)(list(group))

    def _add(self, tokens: list[str], special: bool) -> int:
        before = len(self)
        self._add_detailed([(token, special) for token in tokens])
        return len(self) - before

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without those that were added to it; ``len(tokenizer)`` counts these too."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token, added ones included."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of `token`, or None where the vocabulary does not hold it."""
        return self.backend_tokenizer.token_to_id(token)

    def id_to_token(self, index: int) -> str | None:
        """Return the token of id `index`, or None where there is none."""
        return self.backend_tokenizer.id_to_token(index) if 0 <= index < 2**32 else None

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Return the text that tokens stand for."""
        decoder = self.backend_tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens a call puts around one text, or around a pair."""
        return self.backend_tokenizer.num_special_tokens_to_add(pair)

    def _encode_rows(self, rows: list[Any], options: EncodingOptions, lengths: Lengths, target: bool) -> BatchEncoding:
        if options.stride and lengths.truncation is not None:
            self._check_windows(rows, options, lengths)
        self._set_lengths(options, lengths)
        encodings = guarded(
            f"{type(self).__name__}: expected texts that these options can encode",
            lambda: self.backend_tokenizer.encode_batch(
                rows, is_pretokenized=options.is_split_into_words, add_special_tokens=options.add_special_tokens
            ),
        )
        samples = []
        flat = []
        for i, encoding in enumerate(encodings):
            parts = [encoding, *encoding.overflowing] if options.return_overflowing_tokens else [encoding]
            flat += parts
            samples += [i] * len(parts)
        return BatchEncoding(self._entries(flat, samples, options), flat)

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Return the tokens of a text, unknown ones as they stand in it; special ones only if asked for."""
        encoded = self([text], None if pair is None else [pair], add_special_tokens=add_special_tokens, verbose=False)
        return encoded.tokens(0)

    def _set_lengths(self, options: EncodingOptions, lengths: Lengths) -> None:
        backend = self.backend_tokenizer
        if lengths.truncation is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(
                lengths.max_length,
                stride=options.stride,
                strategy=lengths.truncation,
                direction=self.truncation_side,
            )
        if lengths.padding is None:
            backend.no_padding()
        else:
            backend.enable_padding(
                direction=options.padding_side or self.padding_side,
                pad_id=self.pad_token_id,
                pad_token=self.pad_token,
                pad_type_id=0,
                length=lengths.max_length if lengths.padding == "max_length" else None,
                pad_to_multiple_of=options.pad_to_multiple_of,
            )

    def _check_windows(self, rows: list[Any], options: EncodingOptions, lengths: Lengths) -> None:
        """Refuse a pair of which a text that is cut keeps no more than the stride: the package would panic."""
        pairs = [row for row in rows if isinstance(row, tuple)]
        if not pairs or lengths.max_length is None:
            return
        special = self.num_special_tokens_to_add(True) if options.add_special_tokens else 0
        room, how = lengths.max_length - special, lengths.truncation
        if how == "longest_first" and options.stride < room // 2:
            return  # a text that is cut keeps half of the room or more
        for pair in pairs:
            if how == "longest_first":
                first, second = self._counts(list(pair), options)
                left = kept_of_a_pair(first, second, room)
                kept = [after for before, after in zip((first, second), left, strict=True) if after < before]
            else:
                (other,) = self._counts([pair[how == "only_first"]], options)
                kept = [room - other]
            if any(0 < after <= options.stride for after in kept):
                raise ValueError(
                    f"{type(self).__name__}: expected stride below {min(kept)}, the tokens that max_length "
                    f"{lengths.max_length} and {how} leave of a text of a pair, got {options.stride}"
                )

    def _counts(self, texts: list[Any], options: EncodingOptions) -> list[int]:
        """Return how many tokens texts have by themselves."""
        backend = self.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        words = options.is_split_into_words
        found = backend.encode_batch(texts, is_pretokenized=words, add_special_tokens=False)
        return [len(encoding.ids) for encoding in found]

    def _entries(self, encodings: list[Any], samples: list[int], options: EncodingOptions) -> dict[str, list]:
        def wanted(asked: bool | None, name: str) -> bool:
            return name in self.model_input_names if asked is None else asked

        entries = {"input_ids": [encoding.ids for encoding in encodings]}
        if wanted(options.return_token_type_ids, "token_type_ids"):
            entries["token_type_ids"] = [encoding.type_ids for encoding in encodings]
        if wanted(options.return_attention_mask, "attention_mask"):
            entries["attention_mask"] = [encoding.attention_mask for encoding in encodings]
        if options.return_special_tokens_mask:
            entries["special_tokens_mask"] = [encoding.special_tokens_mask for encoding in encodings]
        if options.return_offsets_mapping:
            entries["offset_mapping"] = [encoding.offsets for encoding in encodings]
        if options.return_length:
            entries["length"] = [len(encoding.ids) for encoding in encodings]
        if options.return_overflowing_tokens:
            entries["overflow_to_sample_mapping"] = samples
        return entries

    def _decode_ids(self, ids: list[int], skip_special_tokens: bool) -> str:
        return self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def _may_clean(self) -> bool:
        return type(self.backend_tokenizer.model).__name__ != "BPE"

    def _save_vocabulary(self, folder: Path) -> dict[str, Any]:
        with self._lock:
            # The lengths of the last call are no part of the tokenizer.
            self.backend_tokenizer.no_padding()
            self.backend_tokenizer.no_truncation()
            atomic_write(folder / "tokenizer.json", self.backend_tokenizer.to_str(pretty=True))
        named = self._config.get("tokenizer_class") if self._from_file else None
        return {"tokenizer_class": named or "PreTrainedTokenizerFast"}


def read_backend(path: Path) -> Any:
    """Return the ``tokenizers.Tokenizer`` of a ``tokenizer.json``; ValueError if it is none."""
    tokenizers = need("tokenizers", extra="hub")
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"AutoTokenizer: expected UTF-8 text in '{path}', got: {error}") from None
    expected = f"AutoTokenizer: expected a tokenizer of the tokenizers package in '{path}'"
    return guarded(expected, lambda: tokenizers.Tokenizer.from_str(text))


def with_prefix_space(backend: Any, wanted: Any) -> Any:
    """Return a backend that puts a space before a text or a word that has none, or does not, if it is a byte-level BPE.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
    wanted : bool or None
        None: as it is.
    """
    if wanted is None:
        return backend
    content, changed = json.loads(backend.to_str()), False
    for part in ("pre_tokenizer", "post_processor"):  # the second takes the space out of the places in the text
        step = content.get(part) or {}
        if step.get("type") in ("ByteLevel", "RobertaProcessing") and step.get("add_prefix_space") is not bool(wanted):
            step["add_prefix_space"], changed = bool(wanted), True
    return backend_of_json(content, "memory") if changed else backend


def backend_of_json(content: dict[str, Any], where: str) -> Any:
    """Return the ``tokenizers.Tokenizer`` of a ``tokenizer.json``'s content."""
    tokenizers = need("tokenizers", extra="hub")
    expected = f"AutoTokenizer: expected a tokenizer of the tokenizers package in {where}"
    return guarded(expected, lambda: tokenizers.Tokenizer.from_str(json.dumps(content)))
