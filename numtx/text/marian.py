"""Marian's tokenizer: two SentencePiece files to cut text, and one table (or two) that gives the pieces their ids."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numtx.checkpoints.config import read_json, write_json
from numtx.text.encoding import BatchEncoding
from numtx.text.lengths import EncodingOptions, Lengths, pad_encodings
from numtx.text.pretrained import PretrainedTokenizer
from numtx.text.pretrained_files import Settings, text_of
from numtx.text.sentencepiece_model import load_processor

_CODE = re.compile(r">>.*?<<", re.DOTALL)


class MarianTokenizer(PretrainedTokenizer):
    """The tokenizer of a Marian model, as Transformers carries it out.

    A text ends with ``</s>``; a code such as ``>>fr<<`` at its start names the language to write and is taken off
    before SentencePiece sees the text. A piece that the table lacks is the unknown token. ``text_target=`` uses the
    target's file, and its table where there are two.

    Parameters
    ----------
    folder : path
        With ``source.spm``, ``target.spm``, ``vocab.json``, and ``target_vocab.json`` if the vocabularies are separate.
    settings : Settings
    name_or_path : str
    """

    is_fast = False

    def __init__(self, folder: str | os.PathLike[str], settings: Settings, name_or_path: str = "") -> None:
        super().__init__(settings, name_or_path)
        self._folder = Path(folder)
        self._source, self._target = (load_processor(self._folder / name) for name in ("source.spm", "target.spm"))
        self.separate_vocabs = bool(settings.config.get("separate_vocabs"))
        self._vocab = _table(self._folder / "vocab.json", self._named)
        self._target_vocab = (
            _table(self._folder / "target_vocab.json", self._named) if self.separate_vocabs else self._vocab
        )
        self._added: dict[str, int] = {}
        self._add([*map(text_of, settings.added), *self.all_special_tokens], special=True)

    @property
    def supported_language_codes(self) -> list[str]:
        """The codes of the table, ``>>fr<<`` and the like; a model of one language pair has none."""
        return [token for token in self._vocab if _CODE.fullmatch(token)]

    # --- tokens

    @property
    def vocab_size(self) -> int:
        """Tokens of the source's table, without those that were added to it; ``len(tokenizer)`` counts these too."""
        return len(self._vocab)

    def __len__(self) -> int:
        return len({*self._vocab, *self._added})

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token of the source's side, added ones included."""
        return {**self._vocab, **self._added}

    def get_target_vocab(self) -> dict[str, int]:
        """Return the id of every token of the target's side, added ones included."""
        return {**self._target_vocab, **self._added}

    def get_added_vocab(self) -> dict[str, int]:
        """Return the ids of the tokens that text is searched for before all else: special ones and added ones."""
        return dict(self._added)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of `token`, or None where the source's table does not hold it."""
        return self._added.get(token, self._vocab.get(token))

    def id_to_token(self, index: int) -> str | None:
        """Return the token of id `index`: of the target's side where the two differ, since that is what is decoded."""
        return self._by_id.get(index)

    def _add(self, tokens: list[str], special: bool) -> int:
        before = len(self)
        for token in tokens:
            if token not in self._added:
                known = self._vocab.get(token)
                highest = max([*self._vocab.values(), *self._target_vocab.values(), *self._added.values()])
                self._added[token] = highest + 1 if known is None else known
        self._by_id = {index: token for token, index in [*self._target_vocab.items(), *self._added.items()]}
        # The longest first: the leftmost and longest match counts.
        whole = sorted(self._added, key=len, reverse=True)
        self._whole = re.compile(f"({'|'.join(map(re.escape, whole))})") if whole else None
        return len(self) - before

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return 1: ``</s>`` ends a text, and a pair as well."""
        return 1

    # --- text to ids

    def _pieces(self, text: str, target: bool) -> list[str]:
        pieces = []
        for part in self._whole.split(text) if self._whole else [text]:
            if part in self._added:
                pieces.append(part)
            elif part:
                code = _CODE.match(part)
                if code:
                    pieces.append(code[0])
                    part = part[code.end() :]
                pieces += (self._target if target else self._source).encode(part, out_type=str)
        return pieces

    def _ids(self, text: str | list[str], target: bool) -> list[int]:
        table = self._target_vocab if target else self._vocab
        unknown = table[self._named["unk_token"]]
        words = [text] if isinstance(text, str) else text
        pieces = [piece for word in words for piece in self._pieces(word, target)]
        return [self._added.get(piece, table.get(piece, unknown)) for piece in pieces]

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Return the pieces of a text, unknown ones as they stand in it."""
        pieces = self._pieces(text, target=False) + ([] if pair is None else self._pieces(pair, target=False))
        return pieces + [self._named["eos_token"]] * add_special_tokens

    def _encode_rows(self, rows: list[Any], options: EncodingOptions, lengths: Lengths, target: bool) -> BatchEncoding:
        for name in ("return_overflowing_tokens", "return_offsets_mapping"):
            if getattr(options, name):
                raise ValueError(f"MarianTokenizer: expected no {name}, which SentencePiece cannot give, got True")
        made = [self._row(row, options, lengths, target) for row in rows]
        encoded = {name: [row[name] for row in made] for name in made[0]}
        padded = pad_encodings(
            encoded,
            pad_token_id=self.pad_token_id,
            padding=lengths.padding or False,
            max_length=lengths.max_length,
            pad_to_multiple_of=options.pad_to_multiple_of,
            padding_side=options.padding_side or self.padding_side,
            attention_mask=self._wanted(options.return_attention_mask, "attention_mask"),
        )
        if options.return_length:
            padded["length"] = [len(ids) for ids in padded["input_ids"]]
        return padded

    def _wanted(self, asked: bool | None, name: str) -> bool:
        return name in self.model_input_names if asked is None else asked

    def _row(self, row: Any, options: EncodingOptions, lengths: Lengths, target: bool) -> dict[str, list[int]]:
        paired = isinstance(row, tuple)
        first = self._ids(row[0] if paired else row, target)
        second = self._ids(row[1], target) if paired else []
        end = [self.token_to_id(self._named["eos_token"]) or 0] if options.add_special_tokens else []
        if lengths.truncation is not None and lengths.max_length is not None:
            excess = len(first) + len(second) + len(end) - lengths.max_length
            if excess > 0:
                how = "only_first" if lengths.truncation == "longest_first" and not paired else lengths.truncation
                first, second = self._cut(first, second, excess, how)
        made = {"input_ids": first + second + end}
        if self._wanted(options.return_token_type_ids, "token_type_ids"):
            made["token_type_ids"] = [0] * len(first) + [1] * len(second) + [int(paired)] * len(end)
        if options.return_special_tokens_mask:
            made["special_tokens_mask"] = [0] * (len(first) + len(second)) + [1] * len(end)
        return made

    def _cut(self, first: list[int], second: list[int], excess: int, how: str) -> tuple[list[int], list[int]]:
        if how == "longest_first":
            # What one text is longer by goes first, then half of the rest from each.
            ahead = min(abs(len(first) - len(second)), excess)
            half = (excess - ahead) // 2
            gone = (ahead + half, excess - ahead - half) if len(first) > len(second) else (half, excess - half)
        else:
            gone = (excess, 0) if how == "only_first" else (0, excess)
        for name, ids, n in (("first", first, gone[0]), ("second", second, gone[1])):
            if n > len(ids):
                raise ValueError(
                    f"MarianTokenizer: expected a {name} text of at least {n} tokens to cut, got {len(ids)} "
                    "(another truncation, or a larger max_length)"
                )
        return self._without(first, gone[0]), self._without(second, gone[1])

    def _without(self, ids: list[int], n: int) -> list[int]:
        return ids[n:] if self.truncation_side == "left" else ids[: len(ids) - n]

    # --- ids to text

    def _decode_ids(self, ids: list[int], skip_special_tokens: bool) -> str:
        tokens = [token for token in map(self.id_to_token, ids) if token is not None]
        special = set(self.all_special_tokens) if skip_special_tokens else ()
        return self.convert_tokens_to_string([token for token in tokens if token not in special])

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Return the text that tokens stand for; special ones stand between spaces."""
        special = set(self.all_special_tokens)
        text = ""
        pieces: list[str] = []
        for token in tokens:
            if token in special:
                text += self._target.decode_pieces(pieces) + f"{token} "
                pieces = []
            else:
                pieces.append(token)
        text += self._target.decode_pieces(pieces)
        return text.replace("▁", " ").strip()

    # --- on disk

    def _save_vocabulary(self, folder: Path) -> dict[str, Any]:
        for name in ("source.spm", "target.spm"):
            if (self._folder / name).resolve() != (folder / name).resolve():
                shutil.copyfile(self._folder / name, folder / name)
        write_json(folder / "vocab.json", self._vocab)
        if self.separate_vocabs:
            write_json(folder / "target_vocab.json", self._target_vocab)
        new = {token: index for token, index in self._added.items() if token not in self._vocab}
        if new:
            write_json(folder / "added_tokens.json", new)
        return {"tokenizer_class": "MarianTokenizer", "separate_vocabs": self.separate_vocabs}


def _table(path: Path, named: dict[str, str]) -> dict[str, int]:
    table = read_json(path)
    if not all(isinstance(index, int) and index >= 0 for index in table.values()):
        raise ValueError(f"MarianTokenizer: expected a table of pieces and ids in '{path}', got something else")
    for name in ("unk_token", "eos_token"):
        if named.get(name) not in table:
            raise ValueError(
                f"MarianTokenizer: expected the {name} {named.get(name)!r} in '{path}', got a table without"
            )
    return table
