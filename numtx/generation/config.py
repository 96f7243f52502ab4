"""The settings of generate, by Transformers' names: what was said, what a model's folder says, what holds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from numtx.checkpoints import open_checkpoint, read_json, resolve, write_json
from numtx.checkpoints.hub_files import Wanted
from numtx.functional.door import nearest
from numtx.generation.config_checks import NOT_HERE, check_together, check_value
from numtx.generation.warn import warn

FILE = "generation_config.json"
FILES = (Wanted(("config.json",), (FILE,)),)

# What holds where nobody says anything. How long a text grows depends on the prompt: `numtx.generation.plan`.
DEFAULTS: dict[str, Any] = {
    "min_length": 0,
    "early_stopping": False,
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "num_return_sequences": 1,
    "output_scores": False,
    "output_logits": False,
    "return_dict_in_generate": False,
}
# Entries of a file that say how it was written.
_OF_THE_FILE = ("_from_model_config", "_commit_hash")


@dataclass(init=False)
class GenerationConfig:
    """The settings of `generate`; None stands for what was not said.

    They may be changed later, and are checked then too.

    Parameters
    ----------
    max_length, max_new_tokens : int
        How long a row may grow, with its prompt or without; `max_new_tokens` goes first. Neither: 20 new tokens.
    min_length, min_new_tokens : int
        Before that no end token comes. The start token of an encoder-decoder counts in `min_length`.
    stop_strings : str or list of str
        A row ends with the token that completes one of them.
    max_time : float
        Seconds, after which no further token is begun.
    do_sample : bool
        Draw the next token instead of taking the likeliest.
    temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff : float or int
        What is drawn from; see `numtx.generation.warpers`.
    num_beams, length_penalty, early_stopping
        Beam search; see `numtx.generation.beams`.
    repetition_penalty, encoder_repetition_penalty : float
        Tokens that are there already, or in the source, become less likely, or more. The source of a decoder-only
        model is its prompt, padding included, here and in the next line.
    no_repeat_ngram_size, encoder_no_repeat_ngram_size : int
        No n tokens come twice, or come that stand in the source.
    bad_words_ids, sequence_bias, suppress_tokens, begin_suppress_tokens
        What must not come, or come less or more often; the last one only as the first new token.
    forced_bos_token_id, forced_eos_token_id : int, list of int
        What comes behind the start token, and at the full length.
    exponential_decay_length_penalty : (start, factor)
        From `start` new tokens on the end becomes likelier, by powers of a factor.
    renormalize_logits, remove_invalid_values : bool
        End in log-probabilities; replace NaN and infinities.
    num_return_sequences : int
        Rows for each prompt.
    return_dict_in_generate, output_scores, output_logits : bool
        Return a `GenerateOutput`, with the scores after and before processing.
    pad_token_id, bos_token_id, decoder_start_token_id : int
    eos_token_id : int or list of int
        () and [] mean none.
    use_cache : bool
        Accepted; what was computed is always kept, and the tokens do not depend on it.
    other : dict
        Entries of a file that are not known here; they are written again.

    Raises
    ------
    ValueError
        If a setting is unknown (the nearest name is told) or out of range.

    Examples
    --------
    >>> GenerationConfig(num_beams=4, length_penalty=0.8)
    GenerationConfig(num_beams=4, length_penalty=0.8)
    >>> GenerationConfig(num_beam=4)
    Traceback (most recent call last):
    ValueError: GenerationConfig: expected a setting of generate, got 'num_beam'; the nearest is 'num_beams'
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    early_stopping: bool | str | None = None
    stop_strings: str | list[str] | None = None
    max_time: float | None = None
    do_sample: bool | None = None
    num_beams: int | None = None
    use_cache: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    encoder_repetition_penalty: float | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    bad_words_ids: list[list[int]] | None = None
    sequence_bias: Any = None
    renormalize_logits: bool | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    remove_invalid_values: bool | None = None
    exponential_decay_length_penalty: Any = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    num_return_sequences: int | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    return_dict_in_generate: bool | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | tuple[int, ...] | None = None
    decoder_start_token_id: int | list[int] | None = None
    other: dict[str, Any] = field(default_factory=dict)
    said: frozenset[str] = field(default=frozenset(), compare=False)  # by the user, of the settings that hold

    def __init__(self, **settings: Any):
        self.other = dict(settings.pop("other", {}))
        self.said = frozenset(settings.pop("said", ()))
        for name, value in {**dict.fromkeys(SETTINGS), **settings}.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("other", "said"):
            if name not in SETTINGS:
                unknown = f"{name!r}{nearest(name, SETTINGS)}"
                raise ValueError(f"GenerationConfig: expected a setting of generate, got {unknown}")
            if value is not None:
                value = _plain(value)
                check_value("GenerationConfig", name, value)
                if name == "sequence_bias" and isinstance(value, dict):
                    value = [[list(words), bias] for words, bias in value.items()]  # as JSON can say it
        super().__setattr__(name, value)

    def __repr__(self):
        return f"GenerationConfig({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """Take the entries of a `generation_config.json`; those that are not known here are kept in `other`."""
        known = {name: value for name, value in entries.items() if name in SETTINGS}
        other = {name: value for name, value in entries.items() if name not in (*SETTINGS, *_OF_THE_FILE)}
        return cls(**known, other=other)

    @classmethod
    def from_model_config(cls, entries: Mapping[str, Any]) -> Self:
        """Take what the entries of a model's `config.json` say about generation, as older folders have it."""
        known = {name: value for name, value in entries.items() if name in SETTINGS and value is not None}
        if entries.get("force_bos_token_to_be_generated"):
            known["forced_bos_token_id"] = known.get("bos_token_id")
        return cls(**known)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], **hub: Any) -> Self:
        """Read the `generation_config.json` of a folder or a name on the hub, or what its `config.json` says instead.

        `hub` are the settings of `numtx.checkpoints.resolve`.
        """
        path = resolve(name_or_folder, files=FILES, **hub)
        if path.is_file():
            return cls.from_model_config(open_checkpoint(path).config)
        if (path / FILE).is_file():
            return cls.from_folder(path)
        return cls.from_model_config(read_json(path / "config.json", required=["model_type"]))

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read the `generation_config.json` that a folder has."""
        try:
            return cls.from_dict(read_json(folder / FILE))
        except ValueError as error:
            raise ValueError(f"{folder / FILE}: {error}" if FILE not in str(error) else str(error)) from None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write what was said as `generation_config.json`, which Transformers reads too."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / FILE, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return what was said, and the other entries of the file that it came from."""
        said = {name: getattr(self, name) for name in SETTINGS if getattr(self, name) is not None}
        return {**{name: value for name, value in self.other.items() if value is not None}, **said}

    def merged(self, base: "GenerationConfig | None" = None, settings: Mapping[str, Any] | None = None) -> Self:
        """Return what holds: `settings` over what was said here, over a model's `base`, over `DEFAULTS`.

        None among the settings switches off what base or defaults say (`top_k=None`, `eos_token_id=None`).

        Raises
        ------
        ValueError
            If settings contradict each other, or a file asks for what is not here.

        Examples
        --------
        >>> base = GenerationConfig(num_beams=2, min_length=5)
        >>> config = GenerationConfig(num_beams=4).merged(base, {"min_length": 7})
        >>> config.num_beams, config.min_length, config.top_k
        (4, 7, 50)
        """
        settings = dict(settings or {})
        values = dict(DEFAULTS)
        for config in (base, self):
            if config is not None:
                values |= {name: getattr(config, name) for name in SETTINGS if getattr(config, name) is not None}
        values |= settings
        for name, default in DEFAULTS.items():
            if values[name] is None and name != "top_k":
                values[name] = default  # which is what switched off means
        other = {**({} if base is None else base.other), **self.other}
        for name, neutral in NOT_HERE.items():
            if other.get(name) is not None and other[name] != neutral:
                raise ValueError(
                    f"GenerationConfig: expected {name} {neutral!r}, as it is not here, got {other[name]!r}"
                )
        own = {name for name in SETTINGS if getattr(self, name) is not None}
        said = own | {name for name, value in settings.items() if value is not None}
        holds = type(self)(**values, other=other, said=said)
        for warning in check_together("GenerationConfig", holds):
            warn(warning)
        return holds


SETTINGS = tuple(one.name for one in fields(GenerationConfig) if one.name not in ("other", "said"))


def _plain(value: Any) -> Any:
    """Return a value with Python's numbers and lists in place of NumPy's.

    Examples
    --------
    >>> _plain([np.int64(3), np.array([4, 5])])
    [3, [4, 5]]
    """
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return type(value)(_plain(one) for one in value)
    if isinstance(value, dict):
        return {_plain(name): _plain(one) for name, one in value.items()}
    return value
