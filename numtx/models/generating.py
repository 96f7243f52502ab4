"""generate() of pretrained models: prompts and masks checked, and each family kind's decoding step."""

from typing import Any

import numpy as np

from numtx import generation
from numtx.generation import GenerateOutput, GenerationConfig, Surroundings
from numtx.generation.choose import generator
from numtx.generation.config import FILE
from numtx.generation.loop import streaming
from numtx.generation.plan import end_ids, pad_id
from numtx.generation.warn import warn
from numtx.models.batch import as_array, known_ids


class Generates:
    """What the models that write have beside their forward: `generate`, and the settings it starts from.

    A subclass says with `_prompt` what is written on after, and with what step.
    """

    config: Any
    _generation_config: GenerationConfig | None = None

    @property
    def generation_config(self) -> GenerationConfig:
        """The settings that hold where `generate` is not told otherwise: those of the model's folder."""
        if self._generation_config is None:  # kept from here on: it may be changed
            self._generation_config = self._of_the_config()
        return self._generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        if not isinstance(config, GenerationConfig):
            got = type(config).__name__
            raise ValueError(
                f"{type(self).__name__}: expected a numtx GenerationConfig as generation_config, got {got}"
            )
        self._generation_config = config

    def _of_the_config(self) -> GenerationConfig:
        return GenerationConfig.from_model_config(self.config.to_dict())

    def opened(self, files) -> None:
        """Take what lies beside the weights: `generation_config.json`."""
        super().opened(files)  # type: ignore[misc]
        folder = files[0].parent if files else None
        if folder is not None and (folder / FILE).is_file():
            self.generation_config = GenerationConfig.from_folder(folder)

    def save_pretrained(self, folder) -> None:
        """Write `config.json`, `model.safetensors` and `generation_config.json`, which Transformers opens too."""
        config = self._generation_config or self._of_the_config()
        if config.to_dict():  # first: what cannot be written leaves no folder without its settings
            config.save_pretrained(folder)
        super().save_pretrained(folder)  # type: ignore[misc]

    def generate(
        self,
        input_ids=None,
        *,
        attention_mask=None,
        generation_config: GenerationConfig | None = None,
        streamer: Any = None,
        tokenizer: Any = None,
        seed: int | np.random.Generator | None = None,
        rng: np.random.Generator | None = None,
        decoder_input_ids=None,
        inputs=None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        **settings: Any,
    ) -> np.ndarray | GenerateOutput:
        """Write: a decoder-only model goes on after its prompt, an encoder-decoder answers its source.

        Parameters
        ----------
        input_ids : (B, T) integer array or None
            The prompt, or the source. None, or no token: a decoder-only model starts from `bos_token_id`.
        attention_mask : (B, T) array of 1 for a token and 0 for padding, or None
            Prompts are padded on the left, sources on either side. None: a prompt's padding is where its `pad_token_id`
            stands, unless that is an end token, or all that is there; a row of nothing else beside others is refused. A
            source has none.
        generation_config : GenerationConfig or None
            Settings that go before the model's own `generation_config`.
        streamer : object with `put` and `end`, a callable, or None
            Is given the prompts (B, T) and then each new id (B,); a callable the new ids alone. Not with beams.
        tokenizer : tokenizer or None
            For `stop_strings`.
        seed, rng : int, np.random.Generator or None
            For `do_sample`; one of the two.
        decoder_input_ids : (B, T) integer array or None
            What an encoder-decoder's answer begins with; the start token is put in front if it is not there.
        inputs : (B, T) integer array or None
            Another name of `input_ids`.
        logits_processor, stopping_criteria : list of callables or None
            Your own (`numtx.generation.Processor`, `numtx.generation.Criterion`): a processor takes ids (R, t) and
            scores (R, V) and returns new scores, behind the settings' own and before what a choice by chance goes
            through; a criterion takes ids and returns (R,) booleans, which rows are done.
        **settings
            Those of `numtx.generation.GenerationConfig`, which go before all others: `max_new_tokens`, `num_beams`,
            `do_sample`, `top_p`, ... None switches off what the model's own say.

        Returns
        -------
        (B · num_return_sequences, T + new) int64 array
            Prompt or start token included, padding behind the end of a row. Or a `numtx.generation.GenerateOutput`, if
            `return_dict_in_generate`. With beams a row may come without a new token, and with a score of about -1e9,
            where fewer ended than `num_return_sequences`.

        Raises
        ------
        ValueError
            Before the first token: if a setting is unknown, out of range or contradicts another, the ids or the mask do
            not fit, there is nothing to start from, or the length asked for is over the model's context.
        """
        owner = f"{type(self).__name__}.generate"
        said = GenerationConfig() if generation_config is None else generation_config
        if not isinstance(said, GenerationConfig):
            raise ValueError(f"{owner}: expected a numtx GenerationConfig, got {type(said).__name__}")
        config = said.merged(self._generation_config or self._of_the_config(), settings)
        if streamer is not None and config.num_beams != 1:
            raise ValueError(f"{owner}: expected no streamer where {config.num_beams} beams decide at the end, got one")
        streaming(owner, streamer)  # refuses what is none
        chance = generator(owner, seed, rng)
        if inputs is not None and input_ids is not None:
            raise ValueError(f"{owner}: expected inputs or input_ids, two names of one thing, got both")
        input_ids = inputs if input_ids is None else input_ids
        step, ids, around = self._prompt(owner, config, input_ids, attention_mask, decoder_input_ids)
        around["processors"] = _own(owner, "logits_processor", logits_processor)
        around["stopping"] = _own(owner, "stopping_criteria", stopping_criteria)
        plan = generation.make_plan(config, ids, Surroundings(owner, tokenizer=tokenizer, **around))
        written = generation.write(step, plan, rng=chance, streamer=streamer)
        return written if config.return_dict_in_generate else written.sequences

    def _prompt(self, owner, config, input_ids, attention_mask, decoder_input_ids):
        """Return a step that has read nothing, the ids (B, T) that are written on after, and what surrounds them."""
        raise TypeError(f"{type(self).__name__} does not write")


class GeneratesOn(Generates):
    """`generate` of decoder-only models: they go on after a prompt."""

    body: Any
    head: Any
    _lent: Any

    def _prompt(self, owner, config, input_ids, attention_mask, decoder_input_ids):
        if decoder_input_ids is not None:
            raise ValueError(f"{owner}: expected no decoder_input_ids, which only encoder-decoders have, got some")
        vocab_size, context = self.config.vocabulary, self.config.context
        if input_ids is not None:
            input_ids = as_array(owner, "input_ids", input_ids)
        if input_ids is None or (input_ids.ndim == 2 and input_ids.shape[1] == 0):
            if config.bos_token_id is None:
                raise ValueError(f"{owner}: expected a prompt, or a bos_token_id to start from, got neither")
            rows = 1 if input_ids is None else max(len(input_ids), 1)
            if attention_mask is not None and np.size(attention_mask):
                raise ValueError(f"{owner}: expected no attention_mask without input_ids, got one")
            input_ids, attention_mask = np.full((rows, 1), config.bos_token_id), None
        ids = known_ids(owner, "input_ids", input_ids, vocab_size)
        mask = _prompt_mask(owner, config, ids, attention_mask)
        around = {"vocab_size": vocab_size, "context": context, "source": ids}
        if mask is not None:
            around["starts"] = mask.argmax(axis=1)
        return PromptStep(self, mask), ids, around


class PromptStep:
    """The decoding step of a decoder-only model: a cache of keys and values, and the padding in front of prompts."""

    def __init__(self, model, mask: np.ndarray | None = None):
        self.model, self.mask = model, mask
        self.kv_cache = model.body.new_cache()
        self.position: np.ndarray | None = None  # (R,) of the newest token, where prompts are padded
        self.row_step: Any = None

    def __call__(self, ids):
        if ids.shape == (1, 1) and self.mask is None and len(self.kv_cache[0]):
            self.row_step = self.row_step or self.model.row_step(self.kv_cache)
            if self.row_step is not None:
                return self.row_step(int(ids[0, 0]))
        settings = {} if self.mask is None else self._padded(self.mask, *ids.shape)
        hidden, _ = self.model.body.forward(ids, kv_cache=self.kv_cache, keep=None, **settings)
        return self.model.head(hidden.last_hidden_state[:, -1], self.model._lent())  # (R, V): of a prompt only the last

    def _padded(self, mask, rows, new):
        if self.position is None:
            positions = np.where(mask, mask.cumsum(axis=1) - 1, 0)  # the first real token is at 0
        else:
            positions = self.position[:, None] + np.arange(1, new + 1)
            mask = np.concatenate([mask, np.ones((rows, new), mask.dtype)], axis=1)
        self.mask, self.position = mask, positions[:, -1]
        return {"attention_mask": mask, "position_ids": positions}

    def reorder(self, rows):
        """Go on with these rows, in this order: beams are chosen anew at each step."""
        for cache in self.kv_cache:
            cache.reorder(rows)
        if self.mask is not None:
            self.mask = self.mask[rows]
        if self.position is not None:
            self.position = self.position[rows]


class GeneratesFrom(Generates):
    """`generate` of encoder-decoders: they answer a source."""

    encode: Any

    def _prompt(self, owner, config, input_ids, attention_mask, decoder_input_ids):
        if input_ids is None:
            raise ValueError(f"{owner}: expected input_ids (B, S), the source, got None")
        source = known_ids(owner, "input_ids", input_ids, self.config.vocab_size)
        mask = None if attention_mask is None else _checked_mask(owner, attention_mask, source.shape)
        ids = _started(owner, config, decoder_input_ids, len(source), self.config.vocabulary)
        step = AnswerStep(self, source, mask)
        around = {"vocab_size": self.config.vocabulary, "context": self.config.context, "source": source}
        return step, ids, around


class AnswerStep:
    """The decoding step of an encoder-decoder: the source is read at the first step, and its keys are computed once."""

    def __init__(self, model, source: np.ndarray, mask: np.ndarray | None = None):
        self.model, self.source, self.mask = model, source, mask
        self.memory: np.ndarray | None = None
        self.kv_cache = model.new_cache()

    def __call__(self, ids):
        if self.memory is None:
            self.memory = self.model.encode(self.source, self.mask)
        return self.model.decode(ids, self.memory, attention_mask=self.mask, kv_cache=self.kv_cache)[:, -1]

    def reorder(self, rows):
        """Go on with these rows, in this order: beams are chosen anew at each step."""
        for cache in self.kv_cache:
            cache.reorder(rows)
        if self.mask is not None:
            self.mask = self.mask[rows]


def _checked_mask(owner, attention_mask, shape, beside=""):
    """Return a mask (B, T) of 0 and 1 with a token in each row; `beside` tells what else there is."""
    mask = as_array(owner, "attention_mask", attention_mask)
    if mask.shape != shape or not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{owner}: expected attention_mask {shape} of 0 and 1, got {mask.dtype} {mask.shape}")
    if not mask.any(axis=1).all():
        row = int(np.argmin(mask.any(axis=1)))
        raise ValueError(f"{owner}: expected a token{beside} in each row, got none in row {row}")
    return mask.astype(np.int64)


def _prompt_mask(owner, config, ids, attention_mask):
    """Return which tokens of prompts are padding, (B, T), or None where none is."""
    pad = pad_id(config)
    if attention_mask is not None:
        mask = _checked_mask(owner, attention_mask, ids.shape)
    elif pad is None or pad in end_ids(config) or (ids == pad).all():  # a start token may be that of padding
        return None
    else:
        mask = _checked_mask(owner, ids != pad, ids.shape, f" beside pad_token_id = {pad}")
    if mask.all():
        return None
    if not mask[:, -1].all():
        warn(
            f"{owner}: expected prompts padded on the left (padding_side='left'), got padding on the right: "
            "the answers suffer"
        )
    return mask


def _own(owner, name, given):
    """Return the user's own functions, as a list."""
    own = [] if given is None else given
    if not isinstance(own, list | tuple) or not all(map(callable, own)):
        raise ValueError(f"{owner}: expected {name} as a list of callables, got {type(given).__name__}")
    return own


def _started(owner, config, decoder_input_ids, rows, vocab_size):
    """Return what the decoder reads first, (B, T): the start token, and what it was given."""
    start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
    if start is None:
        raise ValueError(f"{owner}: expected a decoder_start_token_id or a bos_token_id to start from, got neither")
    if np.ndim(start) and len(start) != rows:
        raise ValueError(f"{owner}: expected a decoder_start_token_id for each of the {rows} rows, got {len(start)}")
    starts = known_ids(owner, "decoder_start_token_id", np.broadcast_to(start, rows)[:, None], vocab_size)
    if decoder_input_ids is None:
        return starts
    ids = known_ids(owner, "decoder_input_ids", decoder_input_ids, vocab_size)
    if len(ids) != rows:
        raise ValueError(f"{owner}: expected decoder_input_ids of {rows} rows, got {ids.shape}")
    return ids if (ids[:, 0] == starts[:, 0]).any() else np.concatenate([starts, ids], axis=1)
