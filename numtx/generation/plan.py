"""What is decided before the first token: how long rows may grow, what changes the scores, when a row ends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from numtx.generation import processors as P
from numtx.generation.config import GenerationConfig
from numtx.generation.config_checks import OF_SAMPLING
from numtx.generation.ngrams import NoEncoderNGrams, NoRepeatNGrams, SequenceBias
from numtx.generation.processors import Processor, Processors
from numtx.generation.stopping import Criterion, EndToken, MaxLength, MaxTime, Stopping, StopStrings
from numtx.generation.warn import warn
from numtx.generation.warpers import warpers

DEFAULT_NEW_TOKENS = 20  # where nobody said how long a text may grow


@dataclass(frozen=True)
class Plan:
    """Everything that a loop needs to write, but the model's step.

    Attributes
    ----------
    config : GenerationConfig
        With every setting decided; `max_length` and `min_length` count the prompt.
    ids : (B, T) int array
        The prompt; of an encoder-decoder what its decoder reads first. A row for each prompt, however many are written.
    end_ids : (E,) int array
    pad_id : int
        What a row gets behind its end, while others go on.
    processors : Processors
        Warpers and all.
    stopping : Stopping
    """

    config: GenerationConfig
    ids: np.ndarray
    end_ids: np.ndarray
    pad_id: int
    processors: Processors
    stopping: Stopping

    @property
    def prompt_length(self) -> int:
        """The tokens of each prompt, padding included."""
        return self.ids.shape[1]

    @property
    def max_length(self) -> int:
        """The tokens that a row may have, prompt included."""
        assert self.config.max_length is not None
        return self.config.max_length

    @property
    def num_beams(self) -> int:
        return self.config.num_beams or 1

    @property
    def num_return_sequences(self) -> int:
        return self.config.num_return_sequences or 1

    @property
    def do_sample(self) -> bool:
        return bool(self.config.do_sample)


@dataclass(frozen=True)
class Surroundings:
    """What a model knows beside the settings.

    Attributes
    ----------
    owner : str
        Who refuses what cannot be.
    vocab_size : int
        Of what is written.
    context : int or None
        The longest row that the model takes.
    source : (B, S) int array or None
        What an encoder has read; of a decoder-only model the prompt.
    starts : (B,) int array or None
        How much padding each prompt has in front.
    tokenizer : object with `decode` or None
        For stop strings.
    processors : sequence of Processor
        The user's own, behind those of the settings and before what a choice by chance goes through.
    stopping : sequence of Criterion
        The user's own.
    """

    owner: str
    vocab_size: int
    context: int | None = None
    source: np.ndarray | None = None
    starts: np.ndarray | None = None
    tokenizer: Any = None
    processors: Sequence[Processor] = ()
    stopping: Sequence[Criterion] = ()


def make_plan(config: GenerationConfig, ids: np.ndarray, around: Surroundings) -> Plan:
    """Decide, by settings that hold (`GenerationConfig.merged`), how to write on after prompts (B, T).

    Raises
    ------
    ValueError
        If a length leaves nothing to write or is over the context, a token is not of the vocabulary, nothing is left to
        choose from, or stop strings lack a tokenizer.

    Examples
    --------
    >>> config = GenerationConfig(eos_token_id=0, min_new_tokens=2).merged()
    >>> plan = make_plan(config, np.array([[3, 4]]), Surroundings("model", vocab_size=5))
    >>> plan.max_length, plan.config.min_length, len(plan.processors), plan.pad_id
    (22, 4, 2, 0)
    """
    config = _with_lengths(config, ids.shape[1], around)
    ends = end_ids(config)
    _check_tokens(config, around)
    _check_choice(config, ids.shape[1], ends, around)
    pad = pad_id(config)
    return Plan(
        config,
        ids,
        ends,
        0 if pad is None else pad,
        Processors([*_processors(config, ids.shape[1], ends, around), *around.processors, *_warpers(config, ends)]),
        _stopping(config, ends, around),
    )


def end_ids(config: GenerationConfig) -> np.ndarray:
    """Return the tokens that end a row, (E,).

    Examples
    --------
    >>> end_ids(GenerationConfig(eos_token_id=2)), end_ids(GenerationConfig()).size
    (array([2]), 0)
    """
    said = config.eos_token_id
    return np.atleast_1d(np.asarray(() if said is None else said, dtype=np.int64))


def pad_id(config: GenerationConfig) -> int | None:
    """Return the token of padding: the first end token if none was said, None if there is no such either.

    Examples
    --------
    >>> pad_id(GenerationConfig(eos_token_id=[2, 3]))
    2
    """
    if config.pad_token_id is not None and config.pad_token_id >= 0:
        return int(config.pad_token_id)
    ends = end_ids(config)
    return int(ends[0]) if ends.size else None


def _with_lengths(config: GenerationConfig, prompt: int, around: Surroundings) -> GenerationConfig:
    owner, context = around.owner, around.context
    if config.max_new_tokens is not None:
        most = prompt + config.max_new_tokens
    elif config.max_length is not None:
        most = config.max_length
    else:
        most = prompt + DEFAULT_NEW_TOKENS if context is None else min(prompt + DEFAULT_NEW_TOKENS, context)
    if context is not None and most > context:
        raise ValueError(
            f"{owner}: expected a length of at most {context} tokens, the model's context, got {most}, "
            f"{prompt} of the prompt among them: ask for less, or cut the prompt"
        )
    if most <= prompt:
        raise ValueError(f"{owner}: expected a max_length over the {prompt} tokens of the prompt, got {most}")
    least = config.min_length or 0
    if config.min_new_tokens is not None:
        least = prompt + config.min_new_tokens
    if least > most:
        name = "min_length" if config.min_new_tokens is None else "min_new_tokens"
        message = f"{owner}: expected a {name} that fits into {most} tokens, {prompt} of the prompt, got {least}"
        if name in config.said and config.said & {"max_length", "max_new_tokens"}:
            raise ValueError(message)
        warn(message + ": no row ends before")
    return replace(config, max_length=most, min_length=least)


def _check_tokens(config: GenerationConfig, around: Surroundings) -> None:
    """Refuse tokens that are none. Ends and padding may be: then no row ends, and none is padded."""
    for name in ("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"):
        tokens = getattr(config, name)
        if tokens is not None:
            _check_known(around, name, np.atleast_1d(tokens).tolist())
    for name in ("bad_words_ids", "sequence_bias"):
        said = getattr(config, name)
        words = said if name == "bad_words_ids" else dict(_pairs(said))
        for word in words or ():
            _check_known(around, name, word)
    if config.min_length and (beyond := [one for one in end_ids(config) if one >= around.vocab_size]):
        _check_known(around, "eos_token_id", beyond)


def _check_choice(config: GenerationConfig, prompt: int, ends: np.ndarray, around: Surroundings) -> None:
    """Refuse settings that leave nothing to choose from, and more end tokens than beams can go on beside."""
    owner, vocab_size = around.owner, around.vocab_size
    forbidden = {"suppress_tokens": list(config.suppress_tokens or ())}
    starts = prompt == 1 and config.forced_bos_token_id is not None  # then that one comes first, whatever is forbidden
    if not starts:
        forbidden["begin_suppress_tokens"] = list(config.begin_suppress_tokens or ())
    if not config.remove_invalid_values:  # which allows again what the following forbid
        singles = [word[0] for word in config.bad_words_ids or () if len(word) == 1]
        forbidden["bad_words_ids"] = [token for token in singles if token not in ends]
        biases = _pairs(config.sequence_bias)
        forbidden["sequence_bias"] = [words[0] for words, bias in biases if bias == -np.inf and len(words) == 1]
        if (config.min_length or 0) > prompt and not starts:
            forbidden["min_length"] = ends.tolist()
    if len(set().union(*forbidden.values())) >= vocab_size:
        names = " and ".join(name for name, tokens in forbidden.items() if tokens)
        raise ValueError(f"{owner}: expected a token that may come, got {names} that forbid all {vocab_size}")
    least = max(2, 1 + ends.size)
    if (config.num_beams or 1) > 1 and least > vocab_size:
        raise ValueError(
            f"{owner}: expected a vocabulary of at least {least} tokens for num_beams = {config.num_beams} beside "
            f"{ends.size} end tokens, got {vocab_size}"
        )


def _check_known(around, name, tokens):
    for token in tokens:
        if not 0 <= token < around.vocab_size:
            raise ValueError(f"{around.owner}: expected {name} in [0, {around.vocab_size}), got {token}")


def _pairs(said):
    """Sequences and their biases, out of a dict or a list of pairs."""
    pairs = said.items() if isinstance(said, dict) else said or ()
    return [(tuple(int(i) for i in np.atleast_1d(words)), float(bias)) for words, bias in pairs]


def _processors(config: GenerationConfig, prompt: int, ends: np.ndarray, around: Surroundings):
    """Yield the processors in Transformers' order, which matters: what is forced undoes what was forbidden."""
    if config.sequence_bias is not None:
        yield SequenceBias(dict(_pairs(config.sequence_bias)))
    source = around.source
    if source is not None and config.encoder_repetition_penalty not in (None, 1):
        yield P.EncoderRepetitionPenalty(config.encoder_repetition_penalty, source)
    if config.repetition_penalty not in (None, 1):
        yield P.RepetitionPenalty(config.repetition_penalty, around.starts)
    if config.no_repeat_ngram_size:
        yield NoRepeatNGrams(config.no_repeat_ngram_size)
    if source is not None and config.encoder_no_repeat_ngram_size:
        yield NoEncoderNGrams(config.encoder_no_repeat_ngram_size, source)
    bad = [tuple(word) for word in config.bad_words_ids or () if len(word) > 1 or word[0] not in ends]
    if bad:
        yield SequenceBias(dict.fromkeys(bad, -np.inf))
    if config.min_length and ends.size:
        yield P.MinLength(config.min_length, ends)
    if config.min_new_tokens and ends.size:
        yield P.MinLength(prompt + config.min_new_tokens, ends)
    if config.forced_bos_token_id is not None:
        yield P.ForcedTokens(1, np.atleast_1d(config.forced_bos_token_id))
    if config.forced_eos_token_id is not None:
        yield P.ForcedTokens((config.max_length or 0) - 1, np.atleast_1d(config.forced_eos_token_id))
    if config.remove_invalid_values:
        yield P.RemoveInvalid()
    if config.exponential_decay_length_penalty is not None and ends.size:
        start, factor = config.exponential_decay_length_penalty
        yield P.ExponentialDecay(prompt + start, factor, ends)
    if config.suppress_tokens is not None:
        yield P.SuppressTokens(np.asarray(config.suppress_tokens, np.int64))
    if config.begin_suppress_tokens is not None:
        forced = prompt == 1 and config.forced_bos_token_id is not None  # that one comes first
        yield P.SuppressTokens(np.asarray(config.begin_suppress_tokens, np.int64), prompt + forced)


def _warpers(config: GenerationConfig, ends: np.ndarray):
    """Yield what the choice by chance goes through, and what normalises in the end."""
    if config.do_sample:
        # A beam must be able to go on when all end tokens were chosen.
        keep = 1 if config.num_beams == 1 else 1 + max(ends.size, 1)
        yield from warpers(**{name: getattr(config, name) for name in OF_SAMPLING}, keep=keep)
    if config.renormalize_logits:
        yield P.Renormalize()


def _stopping(config: GenerationConfig, ends: np.ndarray, around: Surroundings) -> Stopping:
    stopping = Stopping([MaxLength(config.max_length), *around.stopping])  # type: ignore[arg-type]
    if config.max_time is not None:
        stopping.append(MaxTime(config.max_time))
    if config.stop_strings is not None:
        if not hasattr(around.tokenizer, "decode"):
            got = type(around.tokenizer).__name__
            raise ValueError(f"{around.owner}: expected tokenizer=, which stop_strings are read with, got {got}")
        stopping.append(StopStrings(config.stop_strings, around.tokenizer))
    if ends.size:
        stopping.append(EndToken(ends))
    return stopping
