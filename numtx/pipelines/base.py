"""What every pipeline shares: one input, a list or a generator goes in, and the answers come out in the same shape."""

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from numtx.functional.door import count
from numtx.pipelines.batching import in_batches, windows
from numtx.pipelines.opening import require_head
from numtx.pipelines.progress import shown
from numtx.text.fitting import require_fit

IN_A_WINDOW = 32  # batches whose rows are sorted by length together


@dataclass(frozen=True)
class Piece:
    """A row that the model reads, made of one input; a long input may make several.

    Attributes
    ----------
    inputs : dict of str to list of int
        What the model is given, without padding: `input_ids` and the like.
    more : dict
        What the answer is made with besides: offsets, the text ...
    """

    inputs: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)


class Pipeline:
    """Text in, answer out: a tokenizer before a model, and what makes an answer of its numbers behind it.

    A subclass says which heads it takes (`heads`), checks its settings (`decide`), makes rows of an input
    (`preprocess`), runs a batch of rows (`forward`), and makes an answer of what came of them (`postprocess`).

    Parameters
    ----------
    model : PretrainedModel
    tokenizer : PretrainedTokenizer
    task : str, optional
        The name that was asked for; default: the class's own.
    batch_size : int, optional
        Rows that the model reads at a time. Default: the class's own for a list, one for a generator.
    progress : bool, optional
        A bar on standard error. Default: on a terminal, when a list takes long.
    **settings
        The task's settings; those of a call count before them.

    Raises
    ------
    ValueError
        If the model lacks the head, or a setting is unknown or wrong.
    """

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]]  # as in numtx.models.auto.FAMILIES; the first that a family has is opened
    batch_size_of_lists: ClassVar[int] = 8

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
        self.task = task or self.name
        require_head(self.task, self.heads_for(settings), model)
        require_fit(type(self).__name__, tokenizer, model)
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.progress = batch_size, progress
        if batch_size is not None:
            count(type(self).__name__, 1, batch_size=batch_size)
        self.settings = settings
        self.chosen(settings)

    # --- what a task says

    @classmethod
    def heads_for(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the heads that a model may have under these settings."""
        return cls.heads

    def decide(self, *arguments: Any, **settings: Any) -> Any:
        """Return the settings, checked, as `preprocess`, `forward` and `postprocess` want them.

        The signature names all that there are, with their defaults. What is not in it is refused.
        """
        raise TypeError(f"{type(self).__name__} decides nothing")

    def preprocess(self, text: Any, chosen: Any) -> Iterable[Piece]:
        """Return the rows of one input."""
        raise TypeError(f"{type(self).__name__} makes no rows")

    def forward(self, rows: Sequence[Mapping[str, Any]], chosen: Any) -> Sequence[Any] | np.ndarray:
        """Return what the model gives for each of a batch of rows, `Piece.inputs`, as `postprocess` wants it."""
        raise TypeError(f"{type(self).__name__} runs nothing")

    def postprocess(self, pieces: Sequence[Piece], results: Sequence[Any], chosen: Any) -> Any:
        """Return the answer to one input, of its rows and what `forward` gave for each."""
        raise TypeError(f"{type(self).__name__} answers nothing")

    def is_one(self, inputs: Any) -> bool:
        """Return whether this is a single input, not a collection of them."""
        return isinstance(inputs, (str, Mapping))

    # --- what they share

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Answer one input, a list, or a generator; see `answer`, whose arguments these are if a task has no others."""
        return self.answer(*arguments, **settings)

    def answer(
        self, inputs: Any, *, batch_size: int | None = None, progress: bool | None = None, **settings: Any
    ) -> Any:
        """Answer one input, each of a list, or lazily each that a generator brings.

        Parameters
        ----------
        inputs : one input, a list of them, or an iterable
            Of an iterable without length no more is taken than is needed for the next answers.
        batch_size, progress, **settings
            Count before those that the pipeline was made with.

        Returns
        -------
        The answer to one input; a list of answers; for any other iterable an iterator over the answers.
        """
        if batch_size is not None:
            count(type(self).__name__, 1, batch_size=batch_size)
        size = batch_size or self.batch_size
        chosen = self.chosen({**self.settings, **settings})
        if self.is_one(inputs):
            return next(self._answers([inputs], chosen, size or 1))
        if isinstance(inputs, (list, tuple)):
            answers = self._answers(inputs, chosen, size or self.batch_size_of_lists)
            return list(shown(answers, len(inputs), self.task, self.progress if progress is None else progress))
        if isinstance(inputs, Iterable):
            return self._answers(inputs, chosen, size or 1)
        raise ValueError(
            f"{type(self).__name__}: expected a text, a list of them or a generator, got {type(inputs).__name__}"
        )

    def chosen(self, settings: Mapping[str, Any]) -> Any:
        """Return what `decide` makes of settings, after refusing those that it does not name."""
        signature = inspect.signature(self.decide).parameters
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.values()):
            for name in settings:
                if name not in signature:
                    near = difflib.get_close_matches(name, signature, 1)
                    nearest = f"; the nearest is {near[0]!r}" if near else ""
                    known = ", ".join(signature)
                    raise ValueError(f"{type(self).__name__}: expected settings of {known}, got {name!r}{nearest}")
        return self.decide(**settings)

    def can_pad(self) -> bool:
        """Return whether several rows may go together; without a padding token each goes alone."""
        return self.tokenizer.pad_token_id is not None

    def _answers(self, inputs: Iterable[Any], chosen: Any, size: int) -> Iterator[Any]:
        size = size if self.can_pad() else 1
        for group in windows(inputs, size * IN_A_WINDOW if size > 1 else 1):
            pieces = [list(self.preprocess(one, chosen)) for one in group]
            rows = [piece.inputs for own in pieces for piece in own]
            lengths = [len(row["input_ids"]) for row in rows]
            results = iter(in_batches(rows, lengths, lambda batch: [*self.forward(batch, chosen)], size))
            for own in pieces:
                yield self.postprocess(own, [next(results) for _ in own], chosen)

    def padded(self, rows: Sequence[Mapping[str, Any]], side: str | None = None) -> dict[str, np.ndarray]:
        """Return rows as arrays (B, T), padded on one side (default: the tokenizer's), with a mask if any was."""
        if len({len(row["input_ids"]) for row in rows}) == 1:
            return {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
        return dict(self.tokenizer.pad(rows, padding_side=side, return_attention_mask=True, return_tensors="np"))

    def run(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Return the model's output for a batch of rows, padded on the right, where no position changes by it.

        What the tokenizer gives and the model does not read is left out.
        """
        read = [{name: row[name] for name in row if name in self.model.arguments} for row in rows]
        return self.model(**self.padded(read, "right"))

    @staticmethod
    def unpadded(array: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Return each row of an array (B, T, ...) that `run` gave without what stands at padding."""
        return [one[: len(row["input_ids"])] for one, row in zip(array, rows, strict=True)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task={self.task!r}, model={type(self.model).__name__})"
