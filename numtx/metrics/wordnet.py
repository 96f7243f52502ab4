"""Synonyms from WordNet's database files, as nltk finds them: enough for METEOR, and from any folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PARTS = ("noun", "verb", "adj", "adv")
NEEDED = tuple(f"{kind}.{part}" for kind in ("data", "index") for part in PARTS)
_VERSION = re.compile(rb"Word[nN]et (\d+(?:\.\d+)?\+?) Copyright")
_MARK = re.compile(r"\((?:a|p|ip)\)$")  # where an adjective may stand

# Endings that lead back to a word, of morphy(7WN), in the version of nltk.
_ENDINGS = {
    "noun": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
    "verb": "s: ies:y es:e es: ed:e ed: ing:e ing:",
    "adj": "er: est: er:e est:e",
    "adv": "",
}
ENDINGS = {part: [tuple(one.split(":")) for one in rules.split()] for part, rules in _ENDINGS.items()}


class Lemma(NamedTuple):
    """A word in a set of synonyms."""

    word: str

    def name(self) -> str:
        """Return the word; an underscore stands for a space in it."""
        return self.word


class Synset(NamedTuple):
    """A set of synonyms."""

    words: tuple[str, ...]

    def lemmas(self) -> list[Lemma]:
        """Return its words."""
        return [Lemma(word) for word in self.words]


class NoWordNet:
    """Knows no word: with it, METEOR's stage of synonyms matches nothing."""

    def synsets(self, word: str) -> list[Synset]:
        """Return nothing."""
        return []


class WordNet:
    """The sets of synonyms of words, from a folder with data.noun, index.noun and so on.

    Packages differ in which files they hold. Without the lists of exceptions (noun.exc, ...) irregular forms such as
    "geese" are not led back to their word.

    Attributes
    ----------
    label : str
        The version, and what the folder lacks.

    Raises
    ------
    ValueError
        If the folder lacks a file of data or index, or they are not WordNet's.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / NEEDED[0]).exists() and (folder / "dict").is_dir():
            folder = folder / "dict"
        if missing := [name for name in NEEDED if not (folder / name).is_file()]:
            raise ValueError(f"meteor: expected the files of WordNet in '{folder}', got no {', '.join(missing)}")
        self.folder = folder
        self._data = {part: (folder / f"data.{part}").read_bytes() for part in PARTS}
        self._index = {part: dict(self._lines(f"index.{part}")) for part in PARTS}
        self._exceptions = {
            part: {form: words.split() for form, words in self._lines(f"{part}.exc")}
            if (folder / f"{part}.exc").is_file()
            else {}
            for part in PARTS
        }
        version = _VERSION.search(self._data["adj"])
        if version is None:
            raise ValueError(f"meteor: expected the files of WordNet in '{folder}', got some without its version")
        complete = all((folder / f"{part}.exc").is_file() for part in PARTS)
        self.label = version[1].decode() + ("" if complete else " without exceptions")

    def synsets(self, word: str) -> list[Synset]:
        """Return the sets of synonyms that a word, or what it is a form of, belongs to."""
        return [
            self._synset(part, offset)
            for part in PARTS
            for form in self._forms(word.lower(), part)
            for offset in self._offsets(part, form)
        ]

    def _forms(self, word: str, part: str) -> list[str]:
        """Return the entries that a word may be a form of, itself first."""
        forms = self._exceptions[part].get(word)
        if forms is None:
            forms = [word.removesuffix(old) + new for old, new in ENDINGS[part] if word.endswith(old)]
        return [form for form in dict.fromkeys([word, *forms]) if form in self._index[part]]

    def _offsets(self, part: str, form: str) -> list[int]:
        fields = self._index[part][form].split()
        try:
            return [int(offset) for offset in fields[-int(fields[1]) :]]
        except (ValueError, IndexError):
            raise self._broken(f"index.{part}") from None

    def _synset(self, part: str, offset: int) -> Synset:
        data = self._data[part]
        fields = data[offset : data.find(b"\n", offset)].decode("utf-8", "replace").split(" ")
        try:
            if int(fields[0]) != offset:
                raise ValueError
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        except (ValueError, IndexError):
            raise self._broken(f"data.{part}") from None
        return Synset(tuple(_MARK.sub("", one) if part == "adj" else one for one in words))

    def _lines(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield the first word of each line, and the rest; lines of the licence begin with a space."""
        try:
            text = (self.folder / name).read_text("utf-8")
        except UnicodeDecodeError:
            raise self._broken(name) from None
        for line in text.split("\n"):
            if line and not line.startswith(" "):
                first, _, rest = line.partition(" ")
                yield first, rest

    def _broken(self, name: str) -> ValueError:
        return ValueError(f"meteor: expected the files of WordNet in '{self.folder}', got a broken {name}")
