"""Special tokens under their names: `cls_token`, `pad_token` and the like, their ids, and all of them together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from numtx.text.rows import checked_ids

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class _Token:
    """An attribute such as ``pad_token``: the token as text, or None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: "SpecialTokens | None", owner: type | None = None) -> "str | _Token | None":
        if tokenizer is None:
            return self
        return tokenizer._named.get(self.name)

    def __set__(self, tokenizer: "SpecialTokens", token: str | None) -> None:
        if token is None:
            tokenizer._named.pop(self.name, None)
            return
        if tokenizer.token_to_id(token) is None:
            raise ValueError(
                f"{self.name}: expected a token of the vocabulary, got {token!r} "
                f"(add_special_tokens({{{self.name!r}: {token!r}}}) adds a new one)"
            )
        tokenizer._named[self.name] = token


class _TokenId:
    """An attribute such as ``pad_token_id``: the id of the token of that name, or None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: "SpecialTokens | None", owner: type | None = None) -> "int | _TokenId | None":
        if tokenizer is None:
            return self
        token = tokenizer._named.get(self.name)
        return None if token is None else tokenizer.token_to_id(token)

    def __set__(self, tokenizer: "SpecialTokens", index: int | None) -> None:
        token = None if index is None else tokenizer.id_to_token(index)
        if index is not None and token is None:
            raise ValueError(f"{self.name}_id: expected an id below {len(tokenizer)}, got {index}")
        setattr(tokenizer, self.name, token)


class SpecialTokens:
    """What a tokenizer knows of its special tokens; the names are those of Transformers."""

    if TYPE_CHECKING:
        bos_token: str | None
        eos_token: str | None
        unk_token: str | None
        sep_token: str | None
        pad_token: str | None
        cls_token: str | None
        mask_token: str | None
        bos_token_id: int | None
        eos_token_id: int | None
        unk_token_id: int | None
        sep_token_id: int | None
        pad_token_id: int | None
        cls_token_id: int | None
        mask_token_id: int | None
    else:
        bos_token, bos_token_id = _Token(), _TokenId()
        eos_token, eos_token_id = _Token(), _TokenId()
        unk_token, unk_token_id = _Token(), _TokenId()
        sep_token, sep_token_id = _Token(), _TokenId()
        pad_token, pad_token_id = _Token(), _TokenId()
        cls_token, cls_token_id = _Token(), _TokenId()
        mask_token, mask_token_id = _Token(), _TokenId()

    def __init__(self, named: dict[str, str], extra: list[str]) -> None:
        self._named = dict(named)
        self._extra = list(extra)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The named special tokens that there are, ``{"cls_token": "[CLS]", ...}``."""
        known = [*NAMES, *(name for name in self._named if name not in NAMES)]
        return {name: self._named[name] for name in known if name in self._named}

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a name of their own, such as T5's ``<extra_id_0>``."""
        return list(self._extra)

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once: the named ones, then the others."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        ids = (self.token_to_id(token) for token in self.all_special_tokens)
        return [index for index in ids if index is not None]

    @property
    def pad_token_type_id(self) -> int:
        """What `token_type_ids` are padded with: 0."""
        return 0

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 for each special token of ids, and 0 for the others, as collators ask for them.

        As in Transformers 5 this is for ids that have their special tokens; a call gives the same beside the ids of a
        text, with ``return_special_tokens_mask=True``.
        """
        if token_ids_1 is not None or not already_has_special_tokens:
            raise ValueError(
                f"{type(self).__name__}: expected ids with already_has_special_tokens=True, and no second ids, got "
                "others (a call with return_special_tokens_mask=True says it of a text)"
            )
        special = set(self.all_special_ids)
        return [int(index in special) for index in checked_ids(type(self).__name__, token_ids_0)]

    def token_to_id(self, token: str) -> int | None:
        """Return the id of `token`, or None where the vocabulary does not hold it."""
        raise TypeError(f"{type(self).__name__}: a tokenizer says which id a token has")

    def id_to_token(self, index: int) -> str | None:
        """Return the token of id `index`, or None where there is none."""
        raise TypeError(f"{type(self).__name__}: a tokenizer says which token an id has")

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__}: a tokenizer says how many tokens it has")
