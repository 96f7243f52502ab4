"""A conversation with an instruct model: what was said, as the model reads it, and its answer as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes
    ----------
    text : str
    tokens : int
        The end token included.
    seconds : float
        From the first token to the last.
    whole : bool
        Whether it was not stopped.
    """

    text: str
    tokens: int
    seconds: float
    whole: bool = True


@dataclass
class Conversation:
    """A model, its tokenizer, and what was said so far.

    Attributes
    ----------
    system : str or None
        What stands before all that is said; None leaves that to the chat template.
    tokens : int
        The longest answer.
    settings : dict
        Those of the model's `generate`.
    messages : list of {"role", "content"}
        Of the user and the assistant in turn.
    """

    model: Any
    tokenizer: Any
    system: str | None = None
    tokens: int = 512
    settings: Mapping[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, text: str, write: Callable[[str], None], stop_is_an_end: bool = False) -> Answer:
        """Say something to the model, and write its answer as it comes. Both are remembered.

        Of a conversation that outgrows the model's context the oldest questions and answers are forgotten.

        Parameters
        ----------
        text : str
        write : callable of a piece of the answer
        stop_is_an_end : bool
            Whether Ctrl-C ends the answer, not the conversation.

        Raises
        ------
        ValueError
            If the chat template refuses the messages, or the text alone leaves no room for an answer. Then nothing is
            remembered.
        """
        kept = list(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            answer = self._answer(self._prompt(), write, stop_is_an_end)
        except BaseException:
            self.messages = kept
            raise
        self.messages.append({"role": "assistant", "content": answer.text})
        return answer

    def forget(self) -> None:
        """Begin anew, under the same `system`."""
        self.messages.clear()

    def _prompt(self) -> np.ndarray:
        """Return what was said as ids (1, T), and forget what there is no room for."""
        context = self.model.config.context
        while True:
            ids = rendered(self.tokenizer, self.system, self.messages)
            if context is None or ids.shape[1] + self.tokens <= context:
                return ids
            if len(self.messages) == 1:
                break
            del self.messages[:2]
        if ids.shape[1] >= context:
            raise ValueError(
                f"chat: expected a message that fits into the context of {context} tokens, got {ids.shape[1]} tokens"
            )
        return ids

    def _answer(self, ids: np.ndarray, write: Callable[[str], None], stop_is_an_end: bool) -> Answer:
        context, decoder = self.model.config.context, self.tokenizer.text_decoder()
        most = self.tokens if context is None else min(self.tokens, context - ids.shape[1])
        pieces: list[str] = []
        times: list[float] = []

        def say(piece: str) -> None:
            if piece:
                pieces.append(piece)
                write(piece)

        def new(chosen: np.ndarray) -> None:
            times.append(time.perf_counter())
            say(decoder.decode(chosen))

        whole = True
        try:
            settings = {"max_new_tokens": most, "num_beams": 1, "num_return_sequences": 1, **self.settings}
            # Chats hold tokens that mean padding elsewhere, such as the end of a message: the mask says that none is.
            self.model.generate(ids, attention_mask=np.ones_like(ids), streamer=new, **settings)
        except KeyboardInterrupt:
            if not stop_is_an_end:
                raise
            whole = False
        say(decoder.decode([], final=True))
        return Answer("".join(pieces), len(times), times[-1] - times[0] if times else 0.0, whole)


def rendered(tokenizer: Any, system: str | None, messages: list[dict[str, str]]) -> np.ndarray:
    """Return a conversation as the model was trained to see it, up to where its answer begins: ids (1, T)."""
    before = [] if system is None else [{"role": "system", "content": system}]
    ids = tokenizer.apply_chat_template([*before, *messages], add_generation_prompt=True, return_dict=False)
    return np.array([ids])
