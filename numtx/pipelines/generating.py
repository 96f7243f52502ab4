"""What the pipelines that write share: whose settings count, prompts in batches, and the text of what was written."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from numtx.functional.door import nearest
from numtx.generation import GenerationConfig
from numtx.generation.choose import generator
from numtx.generation.config import SETTINGS
from numtx.generation.config_checks import OF_BEAMS, OF_SAMPLING, check_lengths
from numtx.generation.plan import end_ids, pad_id
from numtx.models.generating import GeneratesOn
from numtx.pipelines.base import Pipeline

GLOBAL_MAX_LENGTH = 20  # the max_length of those who say none: it does not go before a pipeline's max_new_tokens
OF_A_CALL = ("generation_config", "seed", "rng", "streamer")  # what else `generate` takes and a pipeline hands on
_RETURNED = ("return_dict_in_generate", "output_scores", "output_logits")


@dataclass(frozen=True)
class Writing:
    """How a call writes: every setting of `generate` decided, and what goes beside them.

    Attributes
    ----------
    config : GenerationConfig
    said : frozenset of str
        The settings that the user said.
    rng : np.random.Generator
        One for all batches of a call, so that no two draw the same. What each draws depends on the batches.
    streamer : object or None
    """

    config: GenerationConfig
    said: frozenset[str]
    rng: np.random.Generator
    streamer: Any = None


class GeneratingPipeline(Pipeline):
    """A pipeline whose model writes.

    Every setting of `generate` is one of these pipelines: of the pipeline when it is made, or of a call. Where several
    say one, a call counts before the pipeline, this before the config's `task_specific_params` for the task, these
    before `generation_defaults`, and these before the model's own `generation_config`.

    Notes
    -----
    Lengths follow Transformers 4: where the user says no `max_new_tokens`, 256 are the most, unless the model's
    `generation_config` or the pipeline, when it is made, has another `max_length` than 20. A `max_length` of
    `task_specific_params` or of a call does not go before the 256, and the latter warns of it: say `max_new_tokens`.
    Where the model's context leaves less than 256, that is the most. What differs: there `task_specific_params` go
    before the settings that the pipeline is made with, and of these ``num_beams=1`` and its like, which are what
    `generate` would do anyway, do not count before the model's `generation_config`.
    """

    generation_defaults: ClassVar[Mapping[str, Any]]

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        task: str | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
        **settings: Any,
    ) -> None:
        self._made_with = {name: value for name, value in settings.items() if name in SETTINGS}
        others = {name: value for name, value in settings.items() if name not in SETTINGS}
        super().__init__(model, tokenizer, task=task, batch_size=batch_size, progress=progress, **others)

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """What holds where a call says nothing; it may be changed."""
        model, made = self.model.generation_config, self._made_with
        values = {name: getattr(model, name) for name in SETTINGS if getattr(model, name) is not None}
        values |= {**self.generation_defaults, **made}
        long = values.get("max_length")
        if "max_new_tokens" not in made and ("max_length" in made or long not in (None, GLOBAL_MAX_LENGTH)):
            values["max_new_tokens"] = None
        values |= {name: value for name, value in self.task_params.items() if name in SETTINGS and name not in made}
        if values.get("pad_token_id") is None:
            values["pad_token_id"] = self.tokenizer.pad_token_id
        return GenerationConfig(**values)

    @property
    def task_params(self) -> Mapping[str, Any]:
        """What the model's config says about this task."""
        params = self.model.config.other.get("task_specific_params") or {}
        return params.get(self.task) or {}

    @property
    def own_prefix(self) -> str:
        """What stands before each prompt, by the model's config."""
        return self.task_params.get("prefix", self.model.config.other.get("prefix")) or ""

    def writing(self, settings: Mapping[str, Any], own: Iterable[str]) -> Writing:
        """Return how to write under the settings of a call.

        Parameters
        ----------
        settings : dict
            What the call says and is not among `own`.
        own : iterable of str
            The pipeline's other settings, for the message about one that there is not.

        Raises
        ------
        ValueError
            If there is no such setting, its value cannot be, or it asks for more than text.
        """
        owner = type(self).__name__
        self._refuse_unknown(settings, own)
        given = {name: settings[name] for name in OF_A_CALL if name in settings}
        said = {name: value for name, value in settings.items() if name in SETTINGS}
        for name in _RETURNED:
            if {**self._made_with, **said}.get(name):
                raise ValueError(
                    f"{owner}: expected no {name} (an answer is text; model.generate gives more), got True"
                )
        base = self.generation_config
        config = given.get("generation_config")
        if config is not None:
            if not isinstance(config, GenerationConfig):
                raise ValueError(f"{owner}: expected a numtx GenerationConfig, got {type(config).__name__}")
            said = {name: getattr(config, name) for name in SETTINGS if getattr(config, name) is not None} | said
            base = self.model.generation_config
        holds = self._with_one_length(GenerationConfig().merged(base, said | dict.fromkeys(_RETURNED, False)), said)
        by_user = frozenset({*said, *self._made_with})
        check_lengths(owner, holds, by_user)
        chance = generator(owner, given.get("seed"), given.get("rng"))
        return Writing(holds, by_user, chance, given.get("streamer"))

    def _with_one_length(self, config: GenerationConfig, said: Mapping[str, Any]) -> GenerationConfig:
        """Return settings without the max_length that max_new_tokens goes before."""
        if config.max_new_tokens is not None and config.max_length is not None:
            if "max_length" in said and "max_new_tokens" not in said:
                warnings.warn(
                    f"{type(self).__name__}: max_new_tokens = {config.max_new_tokens} of the pipeline goes before"
                    f" max_length = {config.max_length}; say max_new_tokens",
                    stacklevel=6,
                )
            config.max_length = None
        return config

    def _refuse_unknown(self, settings: Mapping[str, Any], own: Iterable[str]) -> None:
        known = [*own, *OF_A_CALL, *SETTINGS]
        for name in settings:
            if name not in known:
                names, near = ", ".join(own), nearest(name, known)
                raise ValueError(
                    f"{type(self).__name__}: expected settings of {names} or of generate, got {name!r}{near}"
                )

    # --- writing

    @property
    def goes_on(self) -> bool:
        """Whether the model goes on after its prompt; else it answers a source."""
        return isinstance(self.model, GeneratesOn)

    def can_pad(self) -> bool:
        return True  # what cannot be padded is written row by row of one length

    def write(self, rows: Sequence[Mapping[str, Any]], writing: Writing) -> list[np.ndarray]:
        """Return what is written for each row: the ids (num_return_sequences, T), those of its prompt included.

        A row gets what it would get alone: where padding would bear on it, only rows of one length go together. Only
        chance is another: one generator serves all rows, and what each draws depends on the batches.
        """
        written: list[Any] = [None] * len(rows)
        for group in self._groups(rows, writing.config):
            answers = self._write_group([rows[row] for row in group], writing)
            for row, answer in zip(group, answers, strict=True):
                written[row] = answer
        return written

    def _groups(self, rows: Sequence[Mapping[str, Any]], config: GenerationConfig) -> Iterator[list[int]]:
        lengths = [len(row["input_ids"]) for row in rows]
        context = self.model.config.context
        penalty = config.encoder_repetition_penalty
        # What is read counts its padding too, whether it is a source or a prompt.
        padded = bool(config.encoder_no_repeat_ngram_size) or (penalty is not None and penalty != 1)
        if self.goes_on:
            # Lengths count the padding before a prompt.
            padded |= config.max_new_tokens is None or bool(config.min_length) or bool(config.no_repeat_ngram_size)
            if config.max_new_tokens is not None and context is not None:
                padded |= max(lengths) + config.max_new_tokens > context
        if not padded and min(lengths) and self.tokenizer.pad_token_id is not None:
            yield list(range(len(rows)))
            return
        for length in sorted(set(lengths), reverse=True):
            yield [row for row in range(len(rows)) if lengths[row] == length]

    def _write_group(self, rows: list[Mapping[str, Any]], writing: Writing) -> list[np.ndarray]:
        read = [{name: row[name] for name in ("input_ids", "attention_mask") if name in row} for row in rows]
        inputs = self.padded(read, "left" if self.goes_on else "right")
        ids = inputs["input_ids"].astype(np.int64)  # (B, T)
        empty = ids.shape[1] == 0
        if empty and not self.goes_on:
            raise ValueError(f"{type(self).__name__}: expected a text with at least one token, got one without")
        begun = max(ids.shape[1], 1) if self.goes_on else 1
        sequences = self.model.generate(
            ids,
            attention_mask=None if empty else inputs.get("attention_mask"),
            tokenizer=self.tokenizer,
            streamer=writing.streamer,
            rng=writing.rng,
            **self._settings(writing, begun),
        )
        answers = _each(sequences, len(rows), begun, writing.config)  # (n, begun + new) each
        if not self.goes_on or empty:
            return answers
        own = [np.broadcast_to(row["input_ids"], (len(answers[0]), len(row["input_ids"]))) for row in rows]
        return [np.concatenate([mine, one[:, begun:]], axis=1) for mine, one in zip(own, answers, strict=True)]

    def _settings(self, writing: Writing, begun: int) -> dict[str, Any]:
        """Return the settings for `generate`, of which None switches off, for prompts of a length."""
        config = writing.config
        values = {name: getattr(config, name) for name in SETTINGS}
        idle = [*([] if config.do_sample else OF_SAMPLING), *([] if (config.num_beams or 1) > 1 else OF_BEAMS)]
        values |= dict.fromkeys(idle)
        new, context = config.max_new_tokens, self.model.config.context
        if new is not None and context is not None and "max_new_tokens" not in writing.said:
            new = values["max_new_tokens"] = max(min(new, context - begun), 1)
        most = config.max_length if new is None else begun + new
        if most is not None and config.min_length is not None and "min_length" not in writing.said:
            # The model's own is for longer answers than may be asked for.
            values["min_length"] = min(config.min_length, most)
        return values

    def text_of(self, ids: Any, *, skip_special_tokens: bool = True, clean: bool = False) -> str:
        """Return the text of ids; `clean` takes out spaces before punctuation, as Transformers 4 does for any model."""
        text = self.tokenizer.decode(ids, skip_special_tokens, clean_up_tokenization_spaces=False)
        return self.tokenizer.clean_up_tokenization(text) if clean else text


def _each(sequences: np.ndarray, rows: int, begun: int, config: GenerationConfig) -> list[np.ndarray]:
    """Return the ids of each row, (n, T), without what only other rows of the batch needed.

    Examples
    --------
    >>> _each(np.array([[7, 3, 2, 0], [7, 3, 4, 2]]), 2, 1, GenerationConfig(eos_token_id=2, pad_token_id=0))
    [array([[7, 3, 2]]), array([[7, 3, 4, 2]])]
    """
    blocks = sequences.reshape(rows, -1, sequences.shape[1])  # (B, n, T)
    ends, pad = end_ids(config), pad_id(config)
    is_end = np.isin(blocks[:, :, begun:], ends)
    ended = np.where(is_end.any(axis=2), begun + 1 + is_end.argmax(axis=2), blocks.shape[2])
    if config.stop_strings is not None:
        # Where a stop string ended a row, nothing but the padding behind it says so.
        real = blocks != (-1 if pad is None else pad)
        last = blocks.shape[2] - real[:, :, ::-1].argmax(axis=2)
        ended = np.minimum(ended, np.maximum(last, begun + 1))
    return [block[:, : length.max()] for block, length in zip(blocks, ended, strict=True)]
