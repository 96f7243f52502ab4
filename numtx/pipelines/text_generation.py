"""Text generation: a prompt, or a conversation, goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from numtx.pipelines.base import Piece, tokenizer_options
from numtx.pipelines.generating import GeneratingPipeline, Writing

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """The settings of a call beside those of `generate`, with their defaults."""

    return_full_text: bool | None = None
    return_tensors: bool | None = None
    return_text: bool | None = None
    clean_up_tokenization_spaces: bool = True
    skip_special_tokens: bool | None = None
    prefix: str | None = None
    handle_long_generation: str | None = None
    stop_sequence: str | None = None
    add_special_tokens: bool | None = None
    truncation: bool | str | None = None
    continue_final_message: bool | None = None
    tokenizer_encode_kwargs: Mapping[str, Any] | None = None


OPTIONS = tuple(one.name for one in fields(Options))


@dataclass(frozen=True)
class Chosen:
    """What a call asks for: how to write, what comes before each prompt, how the tokenizer is called."""

    options: Options
    writing: Writing
    prefix: str
    tokenizer: Mapping[str, Any]


class TextGenerationPipeline(GeneratingPipeline):
    """Goes on after a prompt, ``[{"generated_text": prompt and what follows}]``, or in a conversation.

    A conversation is a list of ``{"role": ..., "content": ...}``; its answer is the conversation with one message more.
    A list of prompts, or of conversations, has a list of such lists.

    Parameters
    ----------
    return_full_text : bool
        With the prompt (the default), or only what was added.
    return_tensors : bool
        The ids, prompt included, as ``generated_token_ids`` instead of text.
    clean_up_tokenization_spaces, skip_special_tokens : bool
        As in the tokenizer's `decode`; both True by default.
    prefix : str
        Stands before each prompt and is not given back; it does not count in `max_length`.
    handle_long_generation : "hole", optional
        Cut the prompt on the left, so that what is written fits into the tokenizer's `model_max_length`.
    stop_sequence : str
        Each of its tokens ends a row, as in Transformers; for a string that ends it see `stop_strings`.
    add_special_tokens, truncation, tokenizer_encode_kwargs
        For the tokenizer's call, or for its `apply_chat_template`.
    continue_final_message : bool
        Go on inside the last message of a conversation. Default: if it is the assistant's.
    seed, rng, streamer, generation_config, **settings
        As in the model's `generate`. Sampling at temperature 0.7 for 256 new tokens, if nobody says otherwise. One
        generator draws for a whole list, batch after batch: a seed gives the same texts for the same list and
        `batch_size` alone.
    """

    name = "text-generation"
    heads = ("causal-lm",)
    generation_defaults: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}

    def is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, str) or _is_chat(inputs)

    def decide(self, **settings: Any) -> Chosen:
        owner = type(self).__name__
        options = Options(**{name: settings.pop(name) for name in OPTIONS if name in settings})
        if options.return_full_text is not None and (options.return_text, options.return_tensors) != (None, None):
            raise ValueError(f"{owner}: expected return_full_text, return_text or return_tensors, got two of them")
        if options.return_tensors and options.return_text is not None:
            raise ValueError(f"{owner}: expected return_text or return_tensors, got both")
        if options.handle_long_generation not in (None, "hole"):
            got = options.handle_long_generation
            raise ValueError(f"{owner}: expected handle_long_generation None or 'hole', got {got!r}")
        tokenizer = {"truncation": options.truncation, "max_length": settings.get("max_length")}
        tokenizer |= {"add_special_tokens": options.add_special_tokens}
        tokenizer = {name: value for name, value in tokenizer.items() if value is not None}
        if options.stop_sequence is not None:
            settings["eos_token_id"] = self.tokenizer.encode(options.stop_sequence, add_special_tokens=False)
        prefix = self.own_prefix if options.prefix is None else options.prefix
        writing = self.writing(settings, OPTIONS)
        if prefix and writing.config.max_new_tokens is None and writing.config.max_length is not None:
            special = bool(options.add_special_tokens)
            longer = len(self.tokenizer(prefix, add_special_tokens=special)["input_ids"])
            writing.config.max_length += longer
            if "min_length" in settings:
                writing.config.min_length = (writing.config.min_length or 0) + longer
        more = tokenizer_options(owner, "tokenizer_encode_kwargs", options.tokenizer_encode_kwargs)
        return Chosen(options, writing, prefix, {**tokenizer, **more})

    def preprocess(self, text: Any, chosen: Chosen) -> list[Piece]:
        if isinstance(text, str):
            encoded = self.tokenizer(chosen.prefix + text, **{**self.quiet, **chosen.tokenizer})
        elif _is_chat(text):
            text = _checked_chat(type(self).__name__, text)
            goes_on = _goes_on(text, chosen.options)
            encoded = self.tokenizer.apply_chat_template(
                text,
                add_generation_prompt=not goes_on,
                continue_final_message=goes_on,
                **{name: value for name, value in chosen.tokenizer.items() if name != "add_special_tokens"},
            )
        else:
            raise ValueError(
                f"{type(self).__name__}: expected a text, or a conversation as a list of messages, got"
                f" {type(text).__name__}"
            )
        inputs = {name: list(encoded[name]) for name in ("input_ids", "attention_mask") if name in encoded}
        if chosen.options.handle_long_generation == "hole":
            keep = self._room(len(inputs["input_ids"]), chosen.writing)
            inputs = {name: values[-keep:] for name, values in inputs.items()}
        return [Piece(inputs, {"prompt": text})]

    def _room(self, tokens: int, writing: Writing) -> int:
        """Return how many of a prompt's tokens may stay, so that what is written fits behind them."""
        most = self.tokenizer.model_max_length
        new = writing.config.max_new_tokens
        if new is None:
            new = (writing.config.max_length or 0) - tokens
        if new < 0 or new >= most:
            raise ValueError(
                f"{type(self).__name__}: expected new tokens from 0 to below {most}, the longest row, got {new}"
            )
        return min(tokens, most - new) or 1

    def forward(self, rows: Sequence[Mapping[str, Any]], chosen: Chosen) -> list[np.ndarray]:
        return self.write(rows, chosen.writing)

    def postprocess(self, pieces: Sequence[Piece], results: Sequence[np.ndarray], chosen: Chosen) -> list[dict]:
        return [self._record(pieces[0], ids.tolist(), chosen.options) for ids in results[0]]

    def _record(self, piece: Piece, ids: list[int], options: Options) -> dict[str, Any]:
        if options.return_tensors:
            return {"generated_token_ids": ids}
        how = {
            "skip_special_tokens": options.skip_special_tokens is not False,
            "clean": options.clean_up_tokenization_spaces,
        }
        prompt, read = piece.more["prompt"], piece.inputs["input_ids"]
        # Both are decoded, and not only the new ids: how a token reads may depend on those before it.
        added = self.text_of(ids, **how)[len(self.text_of(read, **how)) if read else 0 :]
        if options.return_full_text is False:
            return {"generated_text": added}
        if isinstance(prompt, str):
            return {"generated_text": prompt + added}
        messages = list(prompt)
        if _goes_on(prompt, options):
            last = messages.pop()
            return {"generated_text": [*messages, {"role": last["role"], "content": last["content"] + added}]}
        return {"generated_text": [*messages, {"role": "assistant", "content": added}]}


def _is_chat(inputs: Any) -> bool:
    return isinstance(inputs, (list, tuple)) and bool(inputs) and isinstance(inputs[0], Mapping)


def _checked_chat(owner: str, messages: Sequence[Message]) -> list[Message]:
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            got = sorted(message) if isinstance(message, Mapping) else type(message).__name__
            raise ValueError(f"{owner}: expected messages with role and content, got {got}")
        if not isinstance(message["content"], str):
            kind = type(message["content"]).__name__
            raise ValueError(f"{owner}: expected the content of a message as a text, got {kind}")
    return list(messages)


def _goes_on(messages: Sequence[Message], options: Options) -> bool:
    """Return whether the last message goes on, instead of a new one being begun."""
    if options.continue_final_message is None:
        return messages[-1]["role"] == "assistant"
    return options.continue_final_message
