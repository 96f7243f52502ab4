"""Question answering by models that write: with a context, open, or from what the model knows, closed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from numtx.pipelines.base import Piece
from numtx.pipelines.generating import GeneratingPipeline, Writing
from numtx.pipelines.question_answering import CLOSED, OPEN, QuestionAnsweringPipeline, check_mode

_FROM_CONTEXT = "Answer the question from the context, in a few words."
# What a model reads, by what it is and the mode. That of a text-to-text model is T5's for SQuAD.
PROMPTS = {
    ("text-to-text", OPEN): "question: {question} context: {context}",
    ("text-to-text", CLOSED): "question: {question}",
    ("causal", OPEN): "Context: {context}\n\nQuestion: {question}\nAnswer:",
    ("causal", CLOSED): "Question: {question}\nAnswer:",
    ("chat", OPEN): f"{_FROM_CONTEXT}\n\nContext: {{context}}\n\nQuestion: {{question}}",
    ("chat", CLOSED): "Answer the question in a few words.\n\nQuestion: {question}",
}
PLACES = re.compile(r"\{(question|context)\}")


@dataclass(frozen=True)
class Chosen:
    """The settings of a call: the prompt with its places, whether as a message, whether a context may be cut."""

    prompt: str
    chat: bool
    with_context: bool
    truncation: bool
    writing: Writing


class GenerativeQuestionAnswering(GeneratingPipeline, QuestionAnsweringPipeline):
    """Writes answers: ``{"answer": ...}``, or a list of such where `num_return_sequences` is above 1.

    Parameters
    ----------
    mode : "open" or "closed"
        With a context, or the question alone.
    prompt : str, optional
        What the model reads, with ``{question}`` and, in open mode, ``{context}``. Default: for a text-to-text model
        T5's ``question: ... context: ...``; for a causal one with a chat template a message of the user; for any other
        ``Context: ... Question: ... Answer:``, and the answer is the line that follows.
    truncation : bool
        Cut a context whose prompt is too long, at its end, until the prompt fits; default False, which is an error.
    seed, rng, streamer, generation_config, **settings
        As in the model's `generate`. The likeliest tokens, at most 64, if nobody says otherwise. Where chance decides,
        a seed gives the same answers for the same list and `batch_size` alone.
    """

    heads = ("seq2seq-lm", "causal-lm")
    modes = (OPEN, CLOSED)
    own_options: ClassVar[tuple[str, ...]] = ("mode", "prompt", "truncation")
    generation_defaults: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 64, "do_sample": False}

    def reads_context(self, settings: Mapping[str, Any]) -> bool:
        return settings.get("mode") != CLOSED

    def decide(
        self, *, mode: str = OPEN, prompt: str | None = None, truncation: bool = False, **settings: Any
    ) -> Chosen:
        owner = type(self).__name__
        check_mode(owner, mode, self.modes)
        kind = "text-to-text"
        if self.goes_on:
            kind = "causal" if self.tokenizer.chat_template is None else "chat"
        if prompt is not None:
            needed = {"question", "context"} if mode == OPEN else {"question"}
            if not isinstance(prompt, str) or set(PLACES.findall(prompt)) != needed:
                names = " and ".join(f"{{{name}}}" for name in sorted(needed))
                raise ValueError(f"{owner}: expected a prompt with {names} for mode {mode!r}, got {prompt!r}")
        elif kind == "causal":
            settings.setdefault("stop_strings", ["\n"])
        writing = self.writing(settings, self.own_options)
        return Chosen(
            PROMPTS[kind, mode] if prompt is None else prompt,
            kind == "chat" and prompt is None,
            mode == OPEN,
            bool(truncation),
            writing,
        )

    def preprocess(self, asked: Any, chosen: Chosen) -> list[Piece]:
        asked = self.checked(asked, chosen.with_context)
        inputs = self._encoded(asked, chosen)
        limit = self._limit(chosen)
        tokens = len(inputs["input_ids"])
        if limit is not None and tokens > limit:
            if not (chosen.truncation and chosen.with_context):
                advice = " (truncation=True cuts the context)" if chosen.with_context else ""
                raise ValueError(
                    f"{type(self).__name__}: expected a prompt of at most {limit} tokens, got {tokens}{advice}"
                )
            inputs = self._cut(asked, chosen, limit)
        return [Piece(inputs)]

    def _encoded(self, asked: Mapping[str, str], chosen: Chosen) -> dict[str, list[int]]:
        text = PLACES.sub(lambda place: asked[place[1]], chosen.prompt)
        if chosen.chat:
            encoded = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, tokenizer_kwargs={"verbose": False}
            )
        else:
            encoded = self.tokenizer(text, verbose=False)
        return {name: encoded[name] for name in ("input_ids", "attention_mask") if name in encoded}

    def _limit(self, chosen: Chosen) -> int | None:
        """Return how many tokens a prompt may have."""
        context = self.model.config.context
        if context is None:
            # Nothing fails beyond it, but who wants a context cut means the length that the model was trained on.
            return self.tokenizer.model_max_length if chosen.truncation else None
        if not self.goes_on:
            return context
        new = chosen.writing.config.max_new_tokens
        own = "max_new_tokens" not in chosen.writing.said and not chosen.truncation
        return context - (1 if new is None or own else new)

    def _cut(self, asked: Mapping[str, str], chosen: Chosen, limit: int) -> dict[str, list[int]]:
        """Return the prompt with as many characters of the context as fit, by bisection."""
        fits, too_many = 0, len(asked["context"])
        best = self._encoded({**asked, "context": ""}, chosen)
        if len(best["input_ids"]) > limit:
            raise ValueError(
                f"{type(self).__name__}: expected a question that leaves room to a context in {limit} tokens, got one"
                f" whose prompt has {len(best['input_ids'])}"
            )
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            tried = self._encoded({**asked, "context": asked["context"][:middle]}, chosen)
            if len(tried["input_ids"]) <= limit:
                fits, best = middle, tried
            else:
                too_many = middle
        return best

    def forward(self, rows: Sequence[Mapping[str, Any]], chosen: Chosen) -> list[np.ndarray]:
        return self.write(rows, chosen.writing)

    def postprocess(self, pieces: Sequence[Piece], results: Sequence[np.ndarray], chosen: Chosen) -> Any:
        answers = [{"answer": self._answer(pieces[0], ids.tolist(), chosen)} for ids in results[0]]
        return answers[0] if len(answers) == 1 else answers

    def _answer(self, piece: Piece, ids: list[int], chosen: Chosen) -> str:
        text = self.text_of(ids)
        if self.goes_on:
            text = text[len(self.text_of(piece.inputs["input_ids"])) :]
        stops = chosen.writing.config.stop_strings or []
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.partition(stop)[0]
        return text.strip()
