"""What the settings of generate may be, each by itself and together."""

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int | np.integer) and not isinstance(x, bool) and bool(x >= least)


def _number(x: Any) -> bool:
    return isinstance(x, int | float | np.number) and not isinstance(x, bool) and math.isfinite(x)


def _ids(x: Any) -> bool:
    return isinstance(x, list | tuple | np.ndarray) and all(map(_whole(0), x))


def _flag(x: Any) -> bool:
    return isinstance(x, bool | np.bool_)


def _words(x: Any) -> bool:
    return isinstance(x, list | tuple) and all(_ids(word) and len(word) for word in x) and len(x) > 0


def _biases(x: Any) -> bool:
    pairs = list(x.items()) if isinstance(x, dict) else x
    if not isinstance(pairs, list | tuple) or not pairs:
        return False
    return all(len(pair) == 2 and _words([pair[0]]) and _is_bias(pair[1]) for pair in pairs)


def _is_bias(x: Any) -> bool:
    return isinstance(x, int | float | np.number) and not math.isnan(x)


def _decay(x: Any) -> bool:
    return isinstance(x, list | tuple) and len(x) == 2 and _whole(0)(x[0]) and _number(x[1]) and x[1] > 0


def _strings(x: Any) -> bool:
    some = [x] if isinstance(x, str) else x
    return isinstance(some, list | tuple) and bool(some) and all(isinstance(one, str) and one for one in some)


# What a value is -> whether it is, and what the settings of that kind are called.
KINDS: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    "a whole number of at least 1": (
        _whole(1),
        ("max_length", "max_new_tokens", "num_beams", "num_return_sequences"),
    ),
    "a whole number of at least 0": (
        _whole(0),
        ("min_length", "min_new_tokens", "top_k", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    ),
    "a token id": (_whole(0), ("bos_token_id", "forced_bos_token_id")),
    "a token id or None": (lambda x: _whole(-1)(x), ("pad_token_id",)),  # files say -1 for none
    "a token id or several": (
        lambda x: _whole(0)(x) or _ids(x),
        ("eos_token_id", "forced_eos_token_id", "decoder_start_token_id"),
    ),
    "a list of token ids": (_ids, ("suppress_tokens", "begin_suppress_tokens")),
    "a list of lists of token ids, none of them empty": (_words, ("bad_words_ids",)),
    "pairs of token ids and a number": (_biases, ("sequence_bias",)),
    "a number above 0": (
        lambda x: _number(x) and x > 0,
        ("repetition_penalty", "encoder_repetition_penalty", "max_time"),
    ),
    "a number of at least 0": (lambda x: _number(x) and x >= 0, ("temperature",)),
    "a finite number": (_number, ("length_penalty",)),
    "a number in (0, 1]": (lambda x: _number(x) and 0 < x <= 1, ("top_p", "typical_p")),
    "a number in [0, 1]": (lambda x: _number(x) and 0 <= x <= 1, ("min_p",)),
    "a number in [0, 1)": (lambda x: _number(x) and 0 <= x < 1, ("epsilon_cutoff", "eta_cutoff")),
    "(a whole number of at least 0, a number above 0)": (_decay, ("exponential_decay_length_penalty",)),
    "a string or several, none of them empty": (_strings, ("stop_strings",)),
    "True, False or 'never'": (lambda x: _flag(x) or x == "never", ("early_stopping",)),
    "True or False": (
        _flag,
        (
            "do_sample",
            "use_cache",
            "renormalize_logits",
            "remove_invalid_values",
            "output_scores",
            "output_logits",
            "return_dict_in_generate",
        ),
    ),
}
RULES = {name: (kind, holds) for kind, (holds, names) in KINDS.items() for name in names}

# What else a file may ask for that changes the tokens: it is not here, and refused unless it says this.
NOT_HERE: dict[str, Any] = {
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": 0.0,
    "guidance_scale": 1.0,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "top_h": None,
    "watermarking_config": None,
    "token_healing": False,
}

# Settings that only count under another one, and what they are when they say nothing.
OF_SAMPLING: dict[str, float | None] = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
OF_BEAMS: dict[str, float | None] = {"length_penalty": 1.0, "early_stopping": False}


def check_value(owner: str, name: str, value: Any) -> None:
    """Refuse a value that the setting cannot have.

    Examples
    --------
    >>> check_value("GenerationConfig", "top_p", 0)
    Traceback (most recent call last):
    ValueError: GenerationConfig: expected top_p as a number in (0, 1], got 0
    """
    kind, holds = RULES[name]
    if not holds(value):
        raise ValueError(f"{owner}: expected {name} as {kind}, got {value!r}")


def check_together(owner: str, config: Any) -> Iterator[str]:
    """Refuse settings that contradict each other; yield a warning for each that says something without effect."""
    rows, beams = config.num_return_sequences, config.num_beams
    if rows > 1 and beams == 1 and not config.do_sample:
        raise ValueError(
            f"{owner}: expected num_return_sequences 1 where neither beams nor chance make several, got {rows}"
        )
    if rows > beams > 1:
        raise ValueError(f"{owner}: expected num_return_sequences of at most num_beams = {beams}, got {rows}")
    if config.do_sample and config.temperature == 0:
        raise ValueError(f"{owner}: expected a temperature above 0 to sample with (do_sample=False is greedy), got 0")
    check_lengths(owner, config, config.said)
    suppressed = set(config.suppress_tokens or ())
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = getattr(config, name)
        if forced is not None and suppressed.issuperset(np.atleast_1d(forced).tolist()):
            raise ValueError(f"{owner}: expected {name} outside of suppress_tokens, got {forced!r}")
    for counts, neutral, asked in (
        (config.do_sample, OF_SAMPLING, "do_sample=True"),
        (beams > 1, OF_BEAMS, "num_beams above 1"),
    ):
        for name in sorted(config.said & neutral.keys()):
            if not counts and getattr(config, name) != neutral[name]:
                yield f"{owner}: {name} = {getattr(config, name)!r} has no effect without {asked}"
    for name in ("output_scores", "output_logits"):
        if getattr(config, name) and not config.return_dict_in_generate:
            yield f"{owner}: {name} has no effect without return_dict_in_generate=True"
    if {"max_length", "max_new_tokens"} <= config.said:
        yield f"{owner}: max_new_tokens = {config.max_new_tokens} goes before max_length = {config.max_length}"


def check_lengths(owner: str, config: Any, said: Collection[str]) -> None:
    """Refuse a least length over the most, if the same person said both."""
    for pair in (("min_length", "max_length"), ("min_new_tokens", "max_new_tokens")):
        least, most = (getattr(config, name) for name in pair)
        if set(pair) <= set(said) and None not in (least, most) and least > most:
            raise ValueError(f"{owner}: expected {pair[0]} of at most {pair[1]} = {most}, got {least}")
