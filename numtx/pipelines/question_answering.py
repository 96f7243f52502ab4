"""Question answering in three modes: the answer is a span of the context, or written, with a context or without."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from numtx.functional.door import count
from numtx.pipelines.base import Piece, Pipeline
from numtx.pipelines.spans import Span, best_spans, characters, merged

EXTRACTIVE, OPEN, CLOSED = MODES = ("extractive", "open", "closed")
LONGEST_WINDOW, LONGEST_STRIDE = 384, 128


class QuestionAnsweringPipeline(Pipeline):
    """Answers questions.

    ``mode="extractive"``, the default, finds the answer in a context: `ExtractiveQuestionAnswering`. In the other two
    modes a text-to-text or causal model writes it: ``"open"`` reads a context, ``"closed"`` knows the answer or does
    not: `GenerativeQuestionAnswering`. The mode is chosen when the pipeline is made; a class of its own does each.

    A call takes ``question=..., context=...``, each a text or a list of texts, where one context may serve all
    questions; or dicts of the two, one, a list, or a generator. As in Transformers, a list of one question is answered
    without the list.
    """

    name = "question-answering"
    heads: ClassVar[tuple[str, ...]] = ("question-answering",)
    modes: ClassVar[tuple[str, ...]] = MODES

    def __new__(cls, *arguments: Any, **settings: Any) -> "QuestionAnsweringPipeline":
        return super().__new__(_class_of(settings) if cls is QuestionAnsweringPipeline else cls)

    @classmethod
    def heads_for(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return (_class_of(settings) if cls is QuestionAnsweringPipeline else cls).heads

    def __call__(self, *inputs: Any, question: Any = None, context: Any = None, **settings: Any) -> Any:
        """Answer a question, or many.

        Parameters
        ----------
        *inputs : dict of question and context, list or generator of them; or a question, then its context
        question, context : str or list of str
        **settings
            As the class says.
        """
        asked = self._asked(inputs, question, context)
        if isinstance(asked, (list, tuple)):
            with_context = self.reads_context({**self.settings, **settings})
            asked = [self.checked(one, with_context) for one in asked]  # before the first is answered
            if len(asked) == 1:
                asked = asked[0]
        return self.answer(asked, **settings)

    def _asked(self, inputs: tuple[Any, ...], question: Any, context: Any) -> Any:
        owner = type(self).__name__
        if inputs and (question is not None or context is not None):
            raise ValueError(f"{owner}: expected either dicts or question= with context=, got both")
        if len(inputs) > 1 and all(isinstance(one, str) for one in inputs):
            if len(inputs) > 2:
                raise ValueError(f"{owner}: expected a question and a context, got {len(inputs)} texts")
            return {"question": inputs[0], "context": inputs[1]}
        if inputs:
            return inputs[0] if len(inputs) == 1 else list(inputs)
        if not isinstance(question, (list, tuple)):
            return {"question": question, "context": context}
        if not isinstance(context, (list, tuple)):
            context = [context] * len(question)
        if len(context) != len(question):
            raise ValueError(f"{owner}: expected a context for each of {len(question)} questions, got {len(context)}")
        return [{"question": one, "context": its} for one, its in zip(question, context, strict=True)]

    def reads_context(self, settings: Mapping[str, Any]) -> bool:
        """Return whether under the settings of a call a question comes with a context."""
        return True

    def checked(self, asked: Any, with_context: bool) -> dict[str, str]:
        """Return a question, with its context if there has to be one, each a text that is not empty."""
        owner = type(self).__name__
        if isinstance(asked, str):
            asked = {"question": asked}
        if not isinstance(asked, Mapping) or set(asked) - {"question", "context"}:
            got = sorted(asked) if isinstance(asked, Mapping) else type(asked).__name__
            raise ValueError(f"{owner}: expected a dict of question and context, got {got}")
        names = ("question", "context") if with_context else ("question",)
        for name in names:
            value = asked.get(name)
            if not isinstance(value, str) or not value:
                got = "none" if value is None else "an empty one" if value == "" else type(value).__name__
                raise ValueError(f"{owner}: expected a {name}, a text that is not empty, got {got}")
        if not with_context and asked.get("context") is not None:
            raise ValueError(f"{owner}: expected no context (mode='open' reads one), got one")
        return {name: asked[name] for name in names}


@dataclass(frozen=True)
class Chosen:
    """The settings of a call, and the length of windows and of what two of them share."""

    top_k: int
    doc_stride: int
    max_answer_len: int
    max_seq_len: int
    handle_impossible_answer: bool
    align_to_words: bool


class ExtractiveQuestionAnswering(QuestionAnsweringPipeline):
    """Finds answers in a context: ``{"score", "start", "end", "answer"}``, where start and end count its characters.

    A context that is too long is read in windows that share some tokens; the best spans of all count. Spans of the same
    text count as one, with the sum of their scores.

    Parameters
    ----------
    top_k : int
        How many answers; default 1. There may be fewer. More than one come as a list.
    max_seq_len : int
        Tokens of a window, question included. Default: 384, or what the tokenizer says the model takes.
    doc_stride : int
        Tokens of the context that neighbouring windows share. Default: 128, or half a window.
    max_question_len : int
        Accepted; a question is never cut, as by Transformers' fast tokenizers.
    max_answer_len : int
        Tokens of the longest answer; default 15.
    handle_impossible_answer : bool
        Whether "no answer", an empty one, is among the answers; its score is the lowest over the windows.
    align_to_words : bool
        Widen answers to whole words; default True.

    Notes
    -----
    With a tokenizer that pads on the left the context is read first, as in Transformers. There the question's tokens
    are then taken for the context's; here only the context's count.
    """

    modes = (EXTRACTIVE,)

    def decide(
        self,
        *,
        mode: str = EXTRACTIVE,
        top_k: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
    ) -> Chosen:
        owner = type(self).__name__
        check_mode(owner, mode, self.modes)
        if not getattr(self.tokenizer, "is_fast", False):
            raise ValueError(
                f"{owner}: expected a tokenizer of the tokenizers package, which keeps spans, got"
                f" {type(self.tokenizer).__name__}"
            )
        top_k = 1 if top_k is None else top_k
        max_answer_len = 15 if max_answer_len is None else max_answer_len
        if max_seq_len is None:
            max_seq_len = min(self.tokenizer.model_max_length, LONGEST_WINDOW)
            if self.model.config.context is not None:
                max_seq_len = min(max_seq_len, self.model.config.context)
        count(owner, 1, top_k=top_k, max_answer_len=max_answer_len, max_seq_len=max_seq_len)
        doc_stride = min(max_seq_len // 2, LONGEST_STRIDE) if doc_stride is None else doc_stride
        count(owner, 0, doc_stride=doc_stride)
        if doc_stride > max_seq_len:
            raise ValueError(f"{owner}: expected doc_stride of at most max_seq_len {max_seq_len}, got {doc_stride}")
        return Chosen(
            top_k,
            doc_stride,
            max_answer_len,
            max_seq_len,
            bool(handle_impossible_answer),
            align_to_words is not False,
        )

    def preprocess(self, asked: Any, chosen: Chosen) -> Iterable[Piece]:
        asked = self.checked(asked, True)
        question, context = asked["question"], asked["context"]
        question_first = self.tokenizer.padding_side == "right"
        sequence = 1 if question_first else 0  # which of the two the context is
        self._check_room(question, chosen)
        encoded = self.tokenizer(
            *((question, context) if question_first else (context, question)),
            truncation="only_second" if question_first else "only_first",
            max_length=chosen.max_seq_len,
            stride=chosen.doc_stride,
            return_overflowing_tokens=True,
        )
        names = [name for name in self.tokenizer.model_input_names if name in encoded]
        for window, ids in enumerate(encoded["input_ids"]):
            allowed = np.array([one == sequence for one in encoded.sequence_ids(window)])
            if self.tokenizer.cls_token_id is not None:
                allowed |= np.asarray(ids) == self.tokenizer.cls_token_id  # models point there where there is no answer
            more = {"allowed": allowed, "encoding": encoded.encodings[window], "sequence": sequence}
            yield Piece({name: encoded[name][window] for name in names}, {"context": context, **more})

    def _check_room(self, question: str, chosen: Chosen) -> None:
        special = self.tokenizer.num_special_tokens_to_add(True)
        tokens = len(self.tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"])
        room = chosen.max_seq_len - special - tokens
        if room <= chosen.doc_stride:
            raise ValueError(
                f"{type(self).__name__}: expected a question that leaves more than doc_stride {chosen.doc_stride} of"
                f" max_seq_len {chosen.max_seq_len} tokens to the context, got one of {tokens} tokens"
            )

    def forward(self, rows: Sequence[Mapping[str, Any]], chosen: Chosen) -> list[tuple[np.ndarray, np.ndarray]]:
        output = self.run(rows)
        starts, ends = (self.unpadded(logits, rows) for logits in (output.start_logits, output.end_logits))
        return list(zip(starts, ends, strict=True))  # (T,) and (T,) each

    def postprocess(self, pieces: Sequence[Piece], results: Sequence[Any], chosen: Chosen) -> Any:
        found = []
        no_answers = []
        # Spans that are widened to the same words become one: some more are looked at.
        looked_at = 2 * chosen.top_k + 10 if chosen.align_to_words else chosen.top_k
        for piece, (start, end) in zip(pieces, results, strict=True):
            spans, no_answer = best_spans(
                start, end, piece.more["allowed"], top_k=looked_at, max_answer_len=chosen.max_answer_len
            )
            no_answers.append(no_answer)
            found += [self._answer(span, piece, chosen) for span in spans]
        answers = merged(found)
        if chosen.handle_impossible_answer:
            answers.append({"score": min(no_answers), "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda answer: -answer["score"])[: chosen.top_k]
        return answers[0] if len(answers) == 1 else answers

    @staticmethod
    def _answer(span: Span, piece: Piece, chosen: Chosen) -> dict[str, Any]:
        first, behind = characters(
            piece.more["encoding"], span, piece.more["sequence"], whole_words=chosen.align_to_words
        )
        return {"score": span.score, "start": first, "end": behind, "answer": piece.more["context"][first:behind]}


def check_mode(owner: str, mode: Any, modes: tuple[str, ...]) -> None:
    if mode not in modes:
        other = f" (mode={mode!r} is chosen when the pipeline is made)" if mode in MODES else ""
        raise ValueError(f"{owner}: expected mode {' or '.join(map(repr, modes))}, got {mode!r}{other}")


def _class_of(settings: Mapping[str, Any]) -> Any:
    """Return the class that does what a mode asks for."""
    mode = settings.get("mode", EXTRACTIVE)
    check_mode("QuestionAnsweringPipeline", mode, MODES)
    if mode == EXTRACTIVE:
        return ExtractiveQuestionAnswering
    from numtx.pipelines.written_answers import GenerativeQuestionAnswering

    return GenerativeQuestionAnswering
