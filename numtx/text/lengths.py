"""How long a row becomes: the options of a call, what they come down to, and padding."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from numtx.text.encoding import BatchEncoding

# Above this, `model_max_length` is Transformers' way of saying "no limit is known".
NO_LIMIT = int(1e20)
SIDES = ("right", "left")
_PADDING = {True: "longest", False: None, "longest": "longest", "max_length": "max_length", "do_not_pad": None}
_TRUNCATION = {
    True: "longest_first",
    False: None,
    None: None,
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
    "do_not_truncate": None,
}


@dataclass(frozen=True)
class EncodingOptions:
    """The keyword arguments of a tokenizer's call; names, defaults and meanings are those of Transformers.

    Parameters
    ----------
    add_special_tokens : bool
    padding : bool or {"longest", "max_length", "do_not_pad"}
        True is "longest": to the longest row of the batch.
    truncation : bool or {"longest_first", "only_first", "only_second", "do_not_truncate"}
        True is "longest_first": of a pair, the longer text loses tokens first. None counts as True where `max_length`
        is given and nothing is padded.
    max_length : int, optional
        Tokens a row, special ones included: no fewer than these, where something is cut (Transformers gives fewer of
        them then). Default: the model's own limit.
    stride : int
        How many tokens neighbouring windows of one text share when the overflow is returned.
    is_split_into_words : bool
        Texts come as lists of words.
    pad_to_multiple_of : int, optional
    padding_side : {"right", "left"}, optional
    return_tensors : {None, "np"}
        Lists, or int64 arrays.
    return_token_type_ids, return_attention_mask : bool, optional
        Default: what the model takes (`model_input_names`).
    return_overflowing_tokens : bool
        What truncation cuts off comes as further rows; `overflow_to_sample_mapping` says of which text each row is.
    return_special_tokens_mask, return_offsets_mapping, return_length : bool
    verbose : bool
        False silences the warning about a text that is longer than the model takes.
    """

    add_special_tokens: bool = True
    padding: bool | str = False
    truncation: bool | str | None = None
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    verbose: bool = True

    @classmethod
    def of(cls, component: str, options: Mapping[str, Any]) -> "EncodingOptions":
        """Return the options of a call; ValueError names one that there is not, or a value that cannot be."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise ValueError(f"{component}: expected options among {', '.join(known)}, got {name}")
        made = cls(**options)
        _check_choice(component, "padding", made.padding, list(_PADDING))
        _check_choice(component, "truncation", made.truncation, list(_TRUNCATION))
        _check_choice(component, "return_tensors", made.return_tensors, [None, "np"])
        _check_choice(component, "padding_side", made.padding_side, [None, *SIDES])
        for name in ("max_length", "pad_to_multiple_of"):
            value = getattr(made, name)
            if value is not None and (not isinstance(value, (int, np.integer)) or value < 1):
                raise ValueError(f"{component}: expected {name} of at least 1, got {value!r}")
        if not isinstance(made.stride, (int, np.integer)) or made.stride < 0:
            raise ValueError(f"{component}: expected stride of at least 0, got {made.stride!r}")
        return made


@dataclass(frozen=True)
class Lengths:
    """What the options come down to: pad how, truncate how, to which length."""

    padding: str | None
    truncation: str | None
    max_length: int | None


def decide_lengths(
    component: str, options: EncodingOptions, *, model_max_length: int, can_pad: bool, special: int
) -> Lengths:
    """Return what `options` come down to for a tokenizer.

    Parameters
    ----------
    component : str
        Who asks, for messages.
    options : EncodingOptions
    model_max_length : int
        The tokenizer's limit; above `NO_LIMIT` there is none, and "max_length" without a length does nothing.
    can_pad : bool
        Whether the tokenizer has a padding token.
    special : int
        Special tokens that a row will have.

    Raises
    ------
    ValueError
        If there is no padding token to pad with, no room beside the special tokens, or a length that is no multiple.
    """
    padding, truncation, max_length = _PADDING[options.padding], _TRUNCATION[options.truncation], options.max_length
    if options.truncation is None and options.padding is False and max_length is not None:
        truncation = "longest_first"
    if options.padding is True and max_length is not None and truncation is None and options.verbose:
        warnings.warn(
            f"{component}: max_length is not used with padding=True and no truncation; padding='max_length' pads to it",
            stacklevel=4,
        )
    if max_length is None and "max_length" in (padding, "max_length" if truncation else None):
        if model_max_length > NO_LIMIT:
            padding, truncation = (None if padding == "max_length" else padding), None
        else:
            max_length = model_max_length
    if padding is not None and not can_pad:
        raise ValueError(
            f"{component}: expected a padding token to pad with, got a tokenizer without one "
            "(tokenizer.pad_token = tokenizer.eos_token, for one)"
        )
    if truncation is not None and max_length is not None:
        multiple = options.pad_to_multiple_of
        if padding is not None and multiple is not None and max_length % multiple:
            raise ValueError(
                f"{component}: expected max_length to be a multiple of pad_to_multiple_of {multiple}, got {max_length}"
            )
        _check_room(component, max_length, special, options.stride)
    return Lengths(padding, truncation, None if max_length is None else int(max_length))


def _check_room(component: str, max_length: int, special: int, stride: int) -> None:
    if max_length < special:
        raise ValueError(
            f"{component}: expected max_length of at least {special}, the special tokens of a row, got {max_length}"
        )
    if stride and stride >= max_length - special:
        raise ValueError(
            f"{component}: expected stride below {max_length - special}, the tokens that max_length {max_length} "
            f"leaves beside {special} special ones, got {stride}"
        )


def kept_of_a_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens "longest_first" leaves of two texts of so many.

    Examples
    --------
    >>> kept_of_a_pair(3, 20, 12), kept_of_a_pair(20, 20, 13)
    ((3, 9), (6, 7))
    """
    if first + second <= room:
        return first, second
    short = min(first, second)
    kept = (short, room - short) if 2 * short <= room else (room // 2, room - room // 2)
    return kept if first <= second else (kept[1], kept[0])


def pad_encodings(
    encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int | None,
    padding: bool | str = True,
    max_length: int | None = None,
    pad_to_multiple_of: int | None = None,
    padding_side: str = "right",
    attention_mask: bool = True,
    component: str = "pad",
) -> BatchEncoding:
    """Pad rows that are encoded already, a list of dicts or a dict of lists, and return a dict of lists.

    ``input_ids`` are padded with the padding token, ``attention_mask`` and ``token_type_ids`` with 0,
    ``special_tokens_mask`` with 1; other entries stay as they are.
    """
    _check_choice(component, "padding", padding, list(_PADDING))
    _check_choice(component, "padding_side", padding_side, list(SIDES))
    rows, alone = _rows(component, encoded)
    how = _PADDING[padding]
    longest = max((len(row["input_ids"]) for row in rows), default=0)
    target = max_length if how == "max_length" else longest if how == "longest" else None
    if target is not None:
        if pad_token_id is None:
            raise ValueError(f"{component}: expected a padding token to pad with, got a tokenizer without one")
        if pad_to_multiple_of:
            target = -(-target // pad_to_multiple_of) * pad_to_multiple_of
    fill = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
    padded: dict[str, list] = {}
    for row in rows:
        length = len(row["input_ids"])
        if attention_mask and "attention_mask" not in row:
            row["attention_mask"] = [1] * length
        for name, value in row.items():
            if name in fill and target is not None:
                more = [fill[name]] * (target - length)
                value = list(value) + more if padding_side == "right" else more + list(value)
            padded.setdefault(name, []).append(value)
    return BatchEncoding({name: values[0] for name, values in padded.items()} if alone else padded)


def _rows(component: str, encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[list[dict], bool]:
    """Return one dict of lists a row, and whether it came alone."""
    if isinstance(encoded, Mapping):
        if "input_ids" not in encoded:
            raise ValueError(f"{component}: expected input_ids, got {', '.join(encoded) or 'nothing'}")
        table = {name: _listed(value) for name, value in encoded.items()}
        ids = table["input_ids"]
        if not ids or not isinstance(ids[0], list):
            return [table], True
        unequal = [name for name, value in table.items() if len(value) != len(ids)]
        if unequal:
            raise ValueError(f"{component}: expected {len(ids)} rows of {unequal[0]}, got {len(table[unequal[0]])}")
        return [{name: value[i] for name, value in table.items()} for i in range(len(ids))], False
    rows = [{name: _listed(value) for name, value in row.items()} for row in encoded]
    if not rows or any("input_ids" not in row for row in rows):
        raise ValueError(f"{component}: expected rows with input_ids, got {'none' if not rows else 'one without'}")
    return rows, False


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_listed(item) if isinstance(item, (np.ndarray, np.generic, list, tuple)) else item for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _check_choice(component: str, name: str, value: Any, choices: list) -> None:
    # `1 in [True]` holds, but 1 is no choice: types count.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        named = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{component}: expected {name} to be one of {named}, got {value!r}")
