"""What every pipeline shares: one input, a list or a generator goes in, and the answers come out in the same shape."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from numtx.functional.door import count, nearest
from numtx.pipelines.accepted import check_workers, checking_settings, others
from numtx.pipelines.batching import in_batches, windows
from numtx.pipelines.opening import require_head
from numtx.pipelines.progress import progress_of
from numtx.text.fitting import require_fit
from numtx.text.lengths import EncodingOptions

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
        Rows that the model reads at a time. Default: the class's own for a list, one for a generator. Where chance
        decides, a seed gives the same texts for the same `batch_size` alone.
    progress : bool, optional
        A bar on standard error. Default: on a terminal, when a text or a list takes long. A generator, whose length
        nobody knows, has none.
    **settings
        The task's settings; those of a call count before them. What Transformers takes besides, ``device=-1`` and the
        like, is taken where it says what is done anyway: the CPU, NumPy.

    Raises
    ------
    ValueError
        If the model lacks the head; a `SettingError`, if a setting is unknown or wrong.
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
        with checking_settings():
            settings = others(type(self).__name__, settings)
            heads = self.heads_for(settings)
            self._check_running(batch_size, progress)
        require_head(self.task, heads, model)
        if not callable(tokenizer) or not hasattr(tokenizer, "get_vocab"):
            raise ValueError(f"{type(self).__name__}: expected a tokenizer, got {type(tokenizer).__name__}")
        require_fit(type(self).__name__, tokenizer, model)
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.progress = batch_size, progress
        self.settings = settings
        with checking_settings():
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
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
        num_workers: int | None = None,
        **settings: Any,
    ) -> Any:
        """Answer one input, each of a list, or lazily each that a generator brings.

        Parameters
        ----------
        inputs : one input, a list of them, or an iterable
            Of an iterable without length no more is taken than is needed for the next answers.
        batch_size, progress, **settings
            Count before those that the pipeline was made with.
        num_workers : int, optional
            Accepted, as Transformers has it; it changes nothing.

        Returns
        -------
        The answer to one input; a list of answers; for any other iterable an iterator over the answers.
        """
        with checking_settings():
            self._check_running(batch_size, progress)
            check_workers(type(self).__name__, num_workers)
            chosen = self.chosen({**self.settings, **settings})
        size = batch_size or self.batch_size
        wanted = self.progress if progress is None else progress
        one = self.is_one(inputs)
        if one or isinstance(inputs, (list, tuple)):
            asked = [inputs] if one else inputs
            with progress_of(len(asked), self.task, wanted) as tell:
                answers = list(self._answers(asked, chosen, size or (1 if one else self.batch_size_of_lists), tell))
            return answers[0] if one else answers
        if isinstance(inputs, Iterable) and not isinstance(inputs, (bytes, bytearray)):
            return self._answers(inputs, chosen, size or 1)
        raise ValueError(
            f"{type(self).__name__}: expected a text, a list of them or a generator, got {type(inputs).__name__}"
        )

    def _check_running(self, batch_size: Any, progress: Any) -> None:
        if batch_size is not None:
            count(type(self).__name__, 1, batch_size=batch_size)
        if progress is not None and not isinstance(progress, bool):
            raise ValueError(f"{type(self).__name__}: expected progress None, True or False, got {progress!r}")

    def chosen(self, settings: Mapping[str, Any]) -> Any:
        """Return what `decide` makes of settings, after refusing those that it does not name."""
        signature = inspect.signature(self.decide).parameters
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.values()):
            refuse_unknown(type(self).__name__, settings, tuple(signature))
        return self.decide(**settings)

    def can_pad(self) -> bool:
        """Return whether several rows may go together; without a padding token each goes alone."""
        return self.tokenizer.pad_token_id is not None

    @property
    def quiet(self) -> dict[str, bool]:
        """Options of the tokenizer's call: no warning of a length that the model refuses anyway, and says so."""
        context = self.model.config.context
        return {"verbose": context is None or self.tokenizer.model_max_length < context}

    def _answers(
        self, inputs: Iterable[Any], chosen: Any, size: int, tell: Callable[[float], None] | None = None
    ) -> Iterator[Any]:
        size, done = size if self.can_pad() else 1, 0
        for group in windows(inputs, size * IN_A_WINDOW if size > 1 else 1):
            pieces = [list(self.preprocess(one, chosen)) for one in group]
            rows = [piece.inputs for own in pieces for piece in own]
            lengths = [len(row["input_ids"]) for row in rows]
            self._require_room(max(lengths, default=0))
            share = None if tell is None else partial(_tell_share, tell, done, len(group))
            results = iter(in_batches(rows, lengths, lambda batch: [*self.forward(batch, chosen)], size, share))
            done += len(group)
            for own in pieces:
                yield self.postprocess(own, [next(results) for _ in own], chosen)

    def said_to_cut(self, options: Mapping[str, Any]) -> str | None:
        """Return how a call hands options to the tokenizer, so that it cuts a text; None where the texts are cut anyway
        or the model says more."""
        return None

    def _require_room(self, length: int) -> None:
        """Refuse a row that the model cannot read, with what would cut it."""
        context, options = self.model.config.context, {"truncation": True}
        if context is None or length <= context:
            return
        if self.tokenizer.model_max_length > context:
            options["max_length"] = context
        advice = self.said_to_cut(options)
        if advice is not None:
            raise ValueError(
                f"{type(self).__name__}: expected a text of at most {context} tokens, the model's context, "
                f"got {length} ({advice} cuts it)"
            )

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


def _tell_share(tell: Callable[[float], None], before: int, group: int, share: float) -> None:
    """Tell how many inputs are done, of which `before` were, and a share of the next ones is."""
    tell(before + group * share)


def refuse_unknown(owner: str, settings: Iterable[str], known: Sequence[str], *, more: Sequence[str] = ()) -> None:
    """Refuse settings that are neither known nor more of the tokenizer's call, with the nearest that there is."""
    for name in settings:
        if name not in known and name not in more:
            names = ", ".join(known) + (" or of the tokenizer's call" if more else "")
            raise ValueError(f"{owner}: expected settings of {names}, got {name!r}{nearest(name, [*known, *more])}")


def tokenizer_options(owner: str, name: str, value: Any) -> dict[str, Any]:
    """Return a setting that holds options of the tokenizer's call, checked; None is none."""
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{owner}: expected {name} as a dict of options of the tokenizer's call, got {value!r}")
    options = dict(value or {})
    EncodingOptions.of(owner, options)
    return options
