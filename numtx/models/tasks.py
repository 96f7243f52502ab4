"""What a model with a head is asked for: labels, their loss and its gradient, task by task, as Transformers has them.

Each class says for one task which labels a batch holds and what they cost. `HeadModel` does the rest.
"""

from typing import Any, ClassVar

import numpy as np

from numtx import functional as F
from numtx.functional.door import count
from numtx.models.batch import as_array, known_labels, read_late
from numtx.models.loss import IGNORE_INDEX, count_labels, next_token_loss, next_token_loss_backward
from numtx.models.output import (
    CausalLMOutput,
    MaskedLMOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    Seq2SeqLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class Task:
    """The labels of a task and their loss.

    `checked(labels, shape)` refuses labels that do not fit ids of a shape, before anything is computed;
    `loss_of(outputs, labels, num_items)` gives the loss and what `loss_backward` turns into the gradients of the
    outputs, by field. `num_items` is what the sum of the losses is divided by: the real labels if None. A
    `label_smoothing` is for labels that are classes.
    """

    output: ClassVar[type[ModelOutput]]
    fields: ClassVar[tuple[str, ...]] = ("logits",)  # of the output, which labels bear on
    label_names: ClassVar[tuple[str, ...]] = ("labels",)
    config: Any

    def checked(self, labels: dict[str, Any], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return the labels as arrays, if they fit ids of that shape."""
        raise TypeError(f"{type(self).__name__} has no labels")

    def loss_of(self, outputs, labels: dict[str, np.ndarray], num_items=None, label_smoothing=0.0):
        """Return (loss, cache); the loss is the sum over the labels, divided by `num_items`."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def loss_backward(self, cache) -> dict[str, np.ndarray]:
        """Return the loss gradient of each field of the outputs that labels bear on."""
        return {"logits": next_token_loss_backward(1.0, cache)}

    def count_items(self, labels: dict[str, np.ndarray]) -> int:
        """Return how many labels are predicted."""
        return int(np.count_nonzero(labels["labels"] != IGNORE_INDEX))


class CausalLM(Task):
    """The next token: `labels` (B, T), the tokens themselves, or `shift_labels`, shifted already; -100 is ignored."""

    output = CausalLMOutput
    label_names = ("labels", "shift_labels")

    def checked(self, labels, shape):
        name, limit = type(self).__name__, self.config.vocab_size
        if len(labels) != 1:
            raise ValueError(f"{name}: expected a batch of input_ids, labels or shift_labels, got both of them")
        return {field: known_labels(name, field, given, shape, limit) for field, given in labels.items()}

    def loss_of(self, outputs, labels, num_items=None, label_smoothing=0.0):
        return next_token_loss(outputs.logits, **labels, num_items=num_items, label_smoothing=label_smoothing)

    def count_items(self, labels):
        return count_labels(**labels)


class TokenClassification(Task):
    """The class of each token: `labels` (B, T), of which -100 is ignored."""

    output: ClassVar[type[ModelOutput]] = TokenClassifierOutput

    @property
    def classes(self) -> int:
        """How many classes a token may have."""
        return self.config.num_labels

    def checked(self, labels, shape):
        return {"labels": known_labels(type(self).__name__, "labels", labels["labels"], shape, self.classes)}

    def loss_of(self, outputs, labels, num_items=None, label_smoothing=0.0):
        asked = labels["labels"]
        return next_token_loss(outputs.logits, shift_labels=asked, num_items=num_items, label_smoothing=label_smoothing)


class MaskedLM(TokenClassification):
    """The token at each masked place: `labels` (B, T), -100 elsewhere."""

    output = MaskedLMOutput

    @property
    def classes(self):
        return self.config.vocab_size


class Seq2SeqLM(TokenClassification):
    """The target of an encoder-decoder: `labels` (B, T), the tokens themselves, of which -100 is ignored.

    Where a batch has no `decoder_input_ids`, the decoder reads the labels one place late, behind the start token.
    """

    output = Seq2SeqLMOutput

    @property
    def classes(self):
        return self.config.vocabulary

    def checked(self, labels, shape):
        name = type(self).__name__
        given = as_array(name, "labels", labels["labels"])
        if given.ndim != 2 or not given.size:
            raise ValueError(f"{name}: expected labels (B, T), not empty, got {given.shape}")
        return {"labels": known_labels(name, "labels", given, (*shape[:1], given.shape[1]), self.classes)}

    def prepared(self, inputs: dict[str, Any], labels: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the inputs with what the decoder reads."""
        if "decoder_input_ids" in inputs:
            return inputs
        return {**inputs, "decoder_input_ids": self.prepare_decoder_input_ids_from_labels(labels["labels"])}

    def prepare_decoder_input_ids_from_labels(self, labels: np.ndarray) -> np.ndarray:
        """Return what the decoder reads to be asked for `labels` (B, T): the start token, then each label but the last.

        A -100 is read as padding. `DataCollatorForSeq2Seq` calls this where it is given the model.
        """
        return read_late(type(self).__name__, self.config, labels)


class SequenceClassification(Task):
    """The class of a sequence, several classes, or numbers, by `config.problem_type`.

    Where that is None, one label is a regression (mean squared error), whole numbers are classes (B,) (cross-entropy),
    and floating ones (B, num_labels) are several classes at once (binary cross-entropy).
    """

    output: ClassVar[type[ModelOutput]] = SequenceClassifierOutput

    def checked(self, labels, shape):
        name, classes = type(self).__name__, self.config.num_labels
        given = as_array(name, "labels", labels["labels"])
        if self.problem(given) == "single_label_classification":
            return {"labels": known_labels(name, "labels", one_a_row(given), shape[:1], classes)}
        if classes == 1:
            given = one_a_row(given)
        expected = shape[:1] if classes == 1 else (*shape[:1], classes)
        if given.shape != expected or given.dtype.kind not in "fiub":
            raise ValueError(f"{name}: expected labels {expected} of numbers, got {given.dtype} {given.shape}")
        return {"labels": given}

    def loss_of(self, outputs, labels, num_items=None, label_smoothing=0.0):
        logits, asked = outputs.logits, labels["labels"]
        problem = self.problem(asked)
        if problem == "single_label_classification":
            return next_token_loss(logits, shift_labels=asked, num_items=num_items, label_smoothing=label_smoothing)
        unsmoothed(type(self).__name__, label_smoothing)
        num_items = asked.size if num_items is None else num_items
        count(type(self).__name__, 1, num_items=num_items)
        pair = _NUMBERS[problem]
        total, cache = pair[0](logits.reshape(asked.shape), asked.astype(logits.dtype), reduction="sum")
        return total / logits.dtype.type(num_items), (pair, cache, num_items, logits.shape)

    def loss_backward(self, cache):
        if len(cache) == 2:  # that of classes
            return super().loss_backward(cache)
        (_, backward), cache, num_items, shape = cache
        return {"logits": backward(1.0 / num_items, cache).reshape(shape)}

    def count_items(self, labels):
        given = labels["labels"]
        return super().count_items(labels) if self.problem(given).startswith("single") else given.size

    def problem(self, labels) -> str:
        """Return the problem type for such labels."""
        said = self.config.problem_type
        if said is not None:
            if said not in _PROBLEMS:
                raise ValueError(
                    f"{type(self).__name__}: expected a problem_type of {', '.join(_PROBLEMS)}, got {said!r}"
                )
            return said
        if self.config.num_labels == 1:
            return "regression"
        return "single_label_classification" if labels.dtype.kind in "iu" else "multi_label_classification"


_NUMBERS: dict[str, tuple[Any, Any]] = {
    "regression": (F.mse_loss, F.mse_loss_backward),
    "multi_label_classification": (F.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits_backward),
}
_PROBLEMS = ("single_label_classification", *_NUMBERS)


def unsmoothed(owner, label_smoothing):
    """Refuse to smooth labels that are no classes of their own: numbers, several classes at once, positions."""
    if label_smoothing:
        raise ValueError(f"{owner}: expected label_smoothing 0 for labels that are no classes, got {label_smoothing}")


def one_a_row(labels):
    """Labels (B, 1) as (B,); others as they are."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


class QuestionAnswering(Task):
    """Where an answer starts and ends: `start_positions` and `end_positions` (B,).

    The loss is the mean of the two cross-entropies. A position outside the sequence, as of an answer that was cut off,
    is ignored; a negative one counts as the first. Each of the two is a mean over its own positions; a `num_items` of
    one's own divides both, so parts of a batch add up to the whole where no answer was cut off on one side alone.
    """

    output: ClassVar[type[ModelOutput]] = QuestionAnsweringModelOutput
    fields = ("start_logits", "end_logits")
    label_names = ("start_positions", "end_positions")

    def checked(self, labels, shape):
        name, asked = type(self).__name__, {}
        for label in self.label_names:
            if labels.get(label) is None:
                raise ValueError(f"{name}: expected start_positions and end_positions, got no {label}")
            given = one_a_row(as_array(name, label, labels[label]))
            if given.dtype.kind not in "iu" or given.shape != shape[:1]:
                raise ValueError(f"{name}: expected integer {label} {shape[:1]}, got {given.dtype} {given.shape}")
            inside = np.clip(given, 0, shape[1])
            asked[label] = np.where(inside == shape[1], IGNORE_INDEX, inside)
        return asked

    def loss_of(self, outputs, labels, num_items=None, label_smoothing=0.0):
        unsmoothed(type(self).__name__, label_smoothing)
        total, caches = outputs.start_logits.dtype.type(0), list[Any]()
        for field, label in zip(self.fields, self.label_names, strict=True):
            loss, cache = next_token_loss(getattr(outputs, field), shift_labels=labels[label], num_items=num_items)
            total, caches = total + loss / 2, [*caches, cache]
        return total, caches

    def loss_backward(self, cache):
        return {field: next_token_loss_backward(0.5, one) for field, one in zip(self.fields, cache, strict=True)}

    def count_items(self, labels):
        return len(labels["start_positions"])
