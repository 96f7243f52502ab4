"""Tokenizers of characters and of bytes.

Both are kept in ``tokenizer.json`` in the format of the ``tokenizers`` package, written as plain JSON, so that
Transformers' ``AutoTokenizer`` opens the folder and encodes and decodes identically: nothing is normalised, no special
token is added, no space is cleaned up.
"""

import codecs
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from numtx.checkpoints.config import read_json, write_json

TokenIds = np.ndarray | Sequence[int]

# What Transformers is told besides: the generic class, because GPT-2's own would add <|endoftext|> to the vocabulary.
_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "add_prefix_space": False,
}


class TextDecoder(Protocol):
    """Turns ids that arrive piece by piece into text; like a decoder of Python's ``codecs``."""

    def decode(self, ids: TokenIds, final: bool = False) -> str:
        """Return the text that is whole by now; ``final=True`` also gives up what never became whole."""
        ...


class Tokenizer(Protocol):
    """What every tokenizer can do."""

    @property
    def vocab_size(self) -> int:
        """Number of different ids."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`, int64, shape (T,)."""
        ...

    def decode(self, ids: TokenIds) -> str:
        """Return the text of `ids`, shape (T,)."""
        ...

    def text_decoder(self) -> TextDecoder:
        """Return a fresh decoder for ids that arrive piece by piece."""
        ...

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` into `folder`."""
        ...


class CharTokenizer:
    """One id for each character (Unicode code point) of a fixed vocabulary.

    Parameters
    ----------
    characters : str
        The vocabulary; the id of a character is its place here.

    Raises
    ------
    ValueError
        If the vocabulary is empty, names a character twice, or holds a lone surrogate (which no UTF-8 file can hold).

    Examples
    --------
    >>> tokenizer = CharTokenizer.from_text("hello")
    >>> tokenizer.encode("hole"), tokenizer.decode([1, 0])
    (array([1, 3, 2, 0]), 'he')
    """

    def __init__(self, characters: str) -> None:
        points = _code_points(characters)
        if points.size == 0:
            raise ValueError("CharTokenizer: expected at least one character, got an empty vocabulary")
        if len(set(characters)) != points.size:
            twice = next(c for i, c in enumerate(characters) if c in characters[:i])
            raise ValueError(f"CharTokenizer: expected each character once, got {_named(twice)} again")
        surrogate = next((c for c in characters if _is_surrogate(c)), None)
        if surrogate is not None:
            raise ValueError(f"CharTokenizer: expected characters that UTF-8 can hold, got {_named(surrogate)}")
        self.characters = characters
        self._points = points
        # One entry for each code point up to the highest known one, and one last entry for all that lie above.
        self._id_of = np.full(int(points.max()) + 2, -1, dtype=np.int64)
        self._id_of[points] = np.arange(points.size)

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """Return a tokenizer of the characters of `text`, in the order of their code points.

        Examples
        --------
        >>> CharTokenizer.from_text("banana").characters
        'abn'
        """
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        """Number of different ids."""
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`, int64, shape (T,); ValueError names an unknown character and where it stands."""
        _check_text("CharTokenizer", text)
        points = _code_points(text)
        ids = self._id_of[np.minimum(points, self._id_of.size - 1)]
        if ids.size and ids.min() < 0:
            where = int(np.argmin(ids))
            raise ValueError(
                f"CharTokenizer: expected characters of its vocabulary of {self.vocab_size}, "
                f"got {_named(text[where])} at position {where}"
            )
        return ids

    def decode(self, ids: TokenIds) -> str:
        """Return the text of `ids`, shape (T,)."""
        checked = _check_ids("CharTokenizer", ids, self.vocab_size)
        return self._points[checked].tobytes().decode("utf-32-le")

    def text_decoder(self) -> TextDecoder:
        """Return a decoder for ids that arrive piece by piece: every id is a whole character."""
        return _CharDecoder(self)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` into `folder`, which is made if need be."""
        # A WordLevel model over single characters. Its unknown token is deliberately not in the vocabulary: the
        # tokenizers package then refuses an unknown character too, where a BPE model would drop it in silence.
        _save(
            folder,
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": r"[\s\S]"},
                "behavior": "Isolated",
                "invert": False,
            },
            decoder={"type": "Fuse"},
            model={
                "type": "WordLevel",
                "vocab": {character: i for i, character in enumerate(self.characters)},
                "unk_token": "<unk>",
            },
        )

    def __repr__(self) -> str:
        return f"CharTokenizer(vocab_size={self.vocab_size})"


class ByteTokenizer:
    """One id for each byte of the text's UTF-8 form: 256 ids, and no text is unknown.

    Examples
    --------
    >>> ByteTokenizer().encode("né")
    array([110, 195, 169])
    >>> ByteTokenizer().decode([110, 195])
    'n�'
    """

    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        """Return the bytes of `text` as ids, int64, shape (T,); ValueError on a lone surrogate."""
        _check_text("ByteTokenizer", text)
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                "ByteTokenizer: expected text that UTF-8 can hold, "
                f"got {_named(text[error.start])} at position {error.start}"
            ) from None
        return np.frombuffer(data, dtype=np.uint8).astype(np.int64)

    def decode(self, ids: TokenIds) -> str:
        """Return the text of `ids`, shape (T,); bytes that are not UTF-8 become U+FFFD."""
        return self.text_decoder().decode(ids, final=True)

    def text_decoder(self) -> TextDecoder:
        """Return a decoder for ids that arrive piece by piece: it holds back bytes until their character is whole.

        Examples
        --------
        >>> decoder = ByteTokenizer().text_decoder()
        >>> decoder.decode([110, 195]), decoder.decode([169])
        ('n', 'é')
        """
        return _ByteDecoder()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` into `folder`, which is made if need be."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        _save(
            folder,
            pre_tokenizer=byte_level,
            decoder=byte_level,
            model={
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": _byte_vocabulary(),
                "merges": [],
            },
        )

    def __repr__(self) -> str:
        return "ByteTokenizer()"


class _CharDecoder:
    def __init__(self, tokenizer: CharTokenizer) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: TokenIds, final: bool = False) -> str:
        return self._tokenizer.decode(ids)


class _ByteDecoder:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def decode(self, ids: TokenIds, final: bool = False) -> str:
        checked = _check_ids("ByteTokenizer", ids, ByteTokenizer.vocab_size)
        return self._decoder.decode(checked.astype(np.uint8).tobytes(), final)


def load_tokenizer(folder: str | os.PathLike[str]) -> CharTokenizer | ByteTokenizer:
    """Read back the tokenizer that `save` wrote into `folder`.

    Raises
    ------
    ValueError
        If ``tokenizer.json`` is missing, broken, or of a kind that is neither characters nor bytes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     CharTokenizer("abc").save(folder)
    ...     print(load_tokenizer(folder))
    CharTokenizer(vocab_size=3)
    """
    path = Path(folder) / "tokenizer.json"
    content = read_json(path, required=("model",))
    model = content["model"]
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict) and _adds_nothing(content):
        if model.get("type") == "BPE" and not model.get("merges") and vocabulary == _byte_vocabulary():
            return ByteTokenizer()
        characters = _characters(vocabulary)
        if model.get("type") == "WordLevel" and characters:
            return CharTokenizer(characters)
    raise ValueError(f"load_tokenizer: expected a tokenizer of characters or bytes, got another kind in '{path}'")


def _save(folder: str | os.PathLike[str], *, pre_tokenizer: Any, decoder: Any, model: Any) -> None:
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
    write_json(Path(folder) / "tokenizer.json", content)
    write_json(Path(folder) / "tokenizer_config.json", _TOKENIZER_CONFIG)


def _adds_nothing(content: dict[str, Any]) -> bool:
    # Transformers 5 saves the file again with a post-processor that is a template without special tokens.
    post_processor = content.get("post_processor") or {"type": "TemplateProcessing"}
    if not isinstance(post_processor, dict) or post_processor.get("type") != "TemplateProcessing":
        return False
    return not (post_processor.get("special_tokens") or content.get("normalizer") or content.get("added_tokens"))


def _characters(vocabulary: dict[str, Any]) -> str | None:
    """Return the characters in the order of their ids, or None if these are not 0, 1, 2 ... of single characters."""
    character_of = {i: character for character, i in vocabulary.items() if len(character) == 1 and isinstance(i, int)}
    if len(character_of) != len(vocabulary) or set(character_of) != set(range(len(vocabulary))):
        return None
    return "".join(character_of[i] for i in range(len(vocabulary)))


def _byte_vocabulary() -> dict[str, int]:
    """Return GPT-2's printable stand-in of each byte: itself where Latin-1 shows it, else one from U+0100 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte) if byte in shown else chr(0x100 + hidden.index(byte)): byte for byte in range(256)}


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")


def _is_surrogate(character: str) -> bool:
    return 0xD800 <= ord(character) <= 0xDFFF


def _named(character: str) -> str:
    code = f"U+{ord(character):04X}"
    return f"the lone surrogate {code}" if _is_surrogate(character) else f"{character!r} ({code})"


def _check_text(component: str, text: str) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{component}: expected a str, got {type(text).__name__}")


def _check_ids(component: str, ids: TokenIds, vocab_size: int) -> np.ndarray:
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"{component}: expected ids of shape (T,), got shape {array.shape}")
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{component}: expected integer ids, got dtype {array.dtype}")
    if array.min() < 0 or array.max() >= vocab_size:
        wrong = array[(array < 0) | (array >= vocab_size)][0]
        raise ValueError(f"{component}: expected ids from 0 to {vocab_size - 1}, got {wrong}")
    return array
