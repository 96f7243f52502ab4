"""What a folder says of its tokenizer besides the vocabulary: settings, special and added tokens, chat templates."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numtx.checkpoints.config import read_json
from numtx.text.families import FAMILIES, Family, family_name
from numtx.text.special_tokens import NAMES

# A token in these files is its text, or a dict of the text and how it matches.
Token = str | dict[str, Any]
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass
class Settings:
    """A tokenizer's settings, wherever they stood.

    Parameters
    ----------
    config : dict
        Entries of ``tokenizer_config.json``, with the family's defaults where it has none.
    family : str or None
    special : dict
        Named special tokens: text or dict.
    extra : list
        Special tokens without a name.
    added : list
        Tokens outside the vocabulary file, in the order of their ids.
    chat_template : str or dict, optional
        One template, or several by name.
    """

    config: dict[str, Any]
    family: str | None = None
    special: dict[str, Token] = field(default_factory=dict)
    extra: list[Token] = field(default_factory=list)
    added: list[Token] = field(default_factory=list)
    chat_template: str | dict[str, str] | None = None

    @property
    def defaults(self) -> Family:
        """What the family takes for granted."""
        return FAMILIES.get(self.family or "", Family())

    def adopt(self, family: str) -> None:
        """Take `family`, and its special tokens where the files named none."""
        self.family = family
        named = {name: self.special.get(name) for name in NAMES if name in self.config or name in self.special}
        special = {**self.defaults.special, **named}
        self.special = {name: token for name, token in special.items() if token is not None}

    def setting(self, name: str) -> Any:
        """Return an entry of the config, or the family's default."""
        value = self.config.get(name)
        return self.defaults.settings.get(name) if value is None else value


def read_settings(folder: Path, given: dict[str, Any] | None = None) -> Settings:
    """Read ``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json``, chat templates, all optional.

    What is `given` counts before what stands in the files.

    Raises
    ------
    ValueError
        If a file is broken, or an entry is not what it must be.
    """
    given = given or {}
    config = {**_optional(folder / "tokenizer_config.json"), **given}
    model = _optional(folder / "config.json")
    named = config.get("tokenizer_class") or model.get("tokenizer_class")
    settings = make_settings(config, family_name(named, model.get("model_type")), where=f"'{folder}'")
    if "added_tokens_decoder" not in config:
        _read_older_files(folder, settings, given)
    if given.get("chat_template") is None:
        settings.chat_template = _chat_template(folder, config)
    return settings


def make_settings(config: dict[str, Any], family: str | None, where: str) -> Settings:
    """Return the settings that the entries of a ``tokenizer_config.json`` give."""
    settings = Settings(config, family)
    settings.special = dict(settings.defaults.special)
    for name in NAMES:
        if name in config:
            settings.special.pop(name, None)  # an explicit null takes a default away
            _name(settings, name, config[name], where)
    for key in ("extra_special_tokens", "additional_special_tokens"):
        value = config.get(key) or []
        if isinstance(value, dict):  # names of a model's own
            for name, token in value.items():
                _name(settings, name, token, where)
        else:
            settings.extra = [_token(token, where, key) for token in value] or settings.extra
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(str(index).isdigit() for index in decoder):
        raise ValueError(
            f"AutoTokenizer: expected added_tokens_decoder as a table of ids in {where}, got something else"
        )
    known = {int(index): _token(token, where, "added_tokens_decoder") for index, token in decoder.items()}
    settings.added = [known[index] for index in sorted(known)]
    # The table says how a token matches; the entry that names it may be text alone.
    detailed = {text_of(token): token for token in settings.added}
    settings.special = {name: detailed.get(text_of(token), token) for name, token in settings.special.items()}
    settings.extra = [detailed.get(text_of(token), token) for token in settings.extra]
    settings.chat_template = _several(config.get("chat_template"))
    return settings


def text_of(token: Token) -> str:
    """Return a token's text."""
    return token if isinstance(token, str) else token["content"]


def flags_of(token: Token) -> dict[str, bool]:
    """Return how a token matches, as far as the file says it."""
    return {} if isinstance(token, str) else {flag: bool(token[flag]) for flag in _FLAGS if flag in token}


def _read_older_files(folder: Path, settings: Settings, given: dict[str, Any]) -> None:
    where = f"'{folder / 'special_tokens_map.json'}'"
    for name, token in _optional(folder / "special_tokens_map.json").items():
        if name in ("additional_special_tokens", "extra_special_tokens") and isinstance(token, list):
            texts = [text_of(known) for known in settings.extra]
            tokens = [_token(each, where, name) for each in token]
            settings.extra += [each for each in tokens if text_of(each) not in texts]
        elif not isinstance(token, list) and name not in given:
            _name(settings, name, token, where)
    added = _optional(folder / "added_tokens.json")
    if not all(isinstance(index, int) for index in added.values()):
        raise ValueError(f"AutoTokenizer: expected ids in '{folder / 'added_tokens.json'}', got something else")
    special = {text_of(token) for token in [*settings.special.values(), *settings.extra]}
    settings.added += [
        {"content": text, "special": text in special, "normalized": text not in special}
        for text in sorted(added, key=added.__getitem__)
    ]


def _name(settings: Settings, name: str, token: Any, where: str) -> None:
    if token is not None:
        settings.special[name] = _token(token, where, name)


def _token(token: Any, where: str, name: str) -> Token:
    if isinstance(token, str):
        return token
    if isinstance(token, dict) and isinstance(token.get("content"), str):
        return token
    raise ValueError(f"AutoTokenizer: expected {name} as text or a token with content in {where}, got {token!r}")


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _chat_template(folder: Path, config: dict[str, Any]) -> str | dict[str, str] | None:
    """Return the templates of files of their own, which count before the config's entry."""
    found = {}
    main = folder / "chat_template.jinja"
    if main.is_file():
        found["default"] = _text(main)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = _text(path)
    if list(found) == ["default"]:
        return found["default"]
    return found or _several(config.get("chat_template"))


def _several(entry: Any) -> str | dict[str, str] | None:
    if isinstance(entry, list):
        entry = {each.get("name"): each.get("template") for each in entry if isinstance(each, dict)}
    good = entry is None or isinstance(entry, str)
    if isinstance(entry, dict):
        good = all(isinstance(part, str) for pair in entry.items() for part in pair)
    if not good:
        raise ValueError(f"AutoTokenizer: expected chat_template as text, got {json.dumps(entry)[:60]}")
    return entry


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"AutoTokenizer: expected UTF-8 text in '{path}', got: {error}") from None
