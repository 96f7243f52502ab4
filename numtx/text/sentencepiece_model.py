"""A SentencePiece file: its pieces, through the `sentencepiece` package, and what the package keeps to itself."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numtx.checkpoints.extras import need

# Fields of sentencepiece_model.proto, of ModelProto and of the two specs in it.
_TRAINER_SPEC, _NORMALIZER_SPEC = 2, 3
_MODEL_TYPE, _CHARSMAP = 3, 2
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True)
class SentencePieceModel:
    """What a SentencePiece file holds.

    Parameters
    ----------
    processor : sentencepiece.SentencePieceProcessor
    kind : {"unigram", "bpe", "word", "char"}
    pieces : list of (str, float)
        Pieces with their scores, in the order of their ids.
    control, user_defined : list of str
        Pieces that no text gives (``</s>``), and pieces that always stand alone.
    unk_id : int
    charsmap : bytes
        The compiled table of the text's normal form; empty where there is none.
    """

    processor: Any
    kind: str
    pieces: list[tuple[str, float]]
    control: list[str]
    user_defined: list[str]
    unk_id: int
    charsmap: bytes


def load_processor(path: str | os.PathLike[str]) -> Any:
    """Return the `sentencepiece` package's processor of a file; ValueError if it is none."""
    sentencepiece = need("sentencepiece", extra="hub")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"sentencepiece: expected a readable file, got '{path}': {error.strerror}") from None
    try:
        if not content:  # which the package takes for "nothing to load yet"
            raise ValueError
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, OSError, ValueError, TypeError):
        raise ValueError(
            f"sentencepiece: expected a SentencePiece model in '{path}', got another or a broken file"
        ) from None


def read_sentencepiece(path: str | os.PathLike[str]) -> SentencePieceModel:
    """Read a ``.model`` or ``.spm`` file.

    Raises
    ------
    ValueError
        If it is no SentencePiece model, or a broken one.
    ImportError
        If the `sentencepiece` package is absent.
    """
    processor = load_processor(path)
    try:
        pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
        # The package does not tell what its loader reads from these; they are found by their numbers in the format.
        content = memoryview(processor.serialized_model_proto())
        kind = _number(_first(_first(content, _TRAINER_SPEC, b""), _MODEL_TYPE, 1))
        charsmap = bytes(_first(_first(content, _NORMALIZER_SPEC, b""), _CHARSMAP, b""))
        user_defined = _user_defined(content)
    except (UnicodeDecodeError, RuntimeError, TypeError, IndexError):
        raise ValueError(f"sentencepiece: expected whole pieces and settings in '{path}', got broken ones") from None
    if kind not in _KINDS:
        raise ValueError(f"sentencepiece: expected a model of type 1 to 4 in '{path}', got {kind}")
    control = [piece for i, (piece, _) in enumerate(pieces) if processor.is_control(i)]
    return SentencePieceModel(processor, _KINDS[kind], pieces, control, user_defined, processor.unk_id(), charsmap)


def _user_defined(content: memoryview) -> list[str]:
    found = []
    for number, piece in _fields(content):
        if number == 1 and isinstance(piece, memoryview) and _number(_first(piece, 3, 1)) == 4:
            found.append(bytes(_first(piece, 1, b"")).decode("utf-8"))
    return found


def _number(value: Any) -> int:
    return value if isinstance(value, int) else -1


def _first(message: Any, number: int, default: Any) -> Any:
    return next((value for field, value in _fields(memoryview(message)) if field == number), default)


def _fields(message: memoryview):
    """Yield (number, value) of a message of protocol buffers: an int, the bytes of what has a length, or None."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        width = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            width, place = _varint(message, place)
        if width is None or place + width > len(message):
            raise IndexError("a field beyond the end, or a group, which the format has none of")
        yield number, message[place : place + width] if wire == 2 else None
        place += width


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
