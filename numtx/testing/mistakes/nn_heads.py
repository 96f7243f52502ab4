"""Classic mistakes in heads: which rows are read, where the probabilities are taken, which way gradients go back."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case
from numtx.testing.specs.nn_heads import build, build_sequence_lm_head

# (B, T, C) = (2, 3, 4), and a table (V, C) of five rows
X = np.random.default_rng(5).standard_normal((2, 3, 4))
TABLE = np.random.default_rng(6).standard_normal((5, 4))
PADDED = np.array([[1, 1, 0], [1, 0, 0]], bool)[:, None, None]

right_pooling = nn.Pooling.forward
right_pooler = nn.Pooler.forward
right_classifier = nn.ClassifierHead.forward
right_classification, right_classification_backward = nn.ClassificationHead.forward, nn.ClassificationHead.backward
right_span, right_span_backward = nn.SpanHead.forward, nn.SpanHead.backward
right_value = nn.ValueHead.forward
right_masked_lm_backward = nn.MaskedLMHead.backward
right_seq2seq_backward = nn.Seq2SeqLMHead.backward


def last_for_first(self: nn.Pooler, x: Any, *, mask: Any = None, rng: Any = None) -> Any:
    if self.pooling.pooling != "first":
        return right_pooler(self, x, mask=mask)
    h, pooled = right_pooling(nn.Pooling("last"), x, mask=mask)
    h, dense = self.dense.forward(h)
    y, act = getattr(F, self.activation)(h)
    return y, (pooled, dense, act)


def activation_forgotten(self: nn.Pooler, dy: Any, cache: Any) -> Any:
    pooled, dense, _ = cache
    dh, g_dense = self.dense.backward(dy, dense)
    dx, _ = self.pooling.backward(dh, pooled)
    return dx, {"dense": g_dense}


def mask_not_dropped(self: nn.SequenceClassificationHead, dy: Any, cache: Any) -> Any:
    pooled, _, out = cache
    return self._scores_backward(dy, (pooled, None, out))


def first_dropout_forgotten(self: nn.ClassificationHead, dy: Any, cache: Any) -> Any:
    pooled, _, scores = cache
    return right_classification_backward(self, dy, (pooled, None, scores))


def last_column_for_last_token(self: nn.ClassificationHead, x: Any, *, mask: Any = None, rng: Any = None) -> Any:
    return right_classification(self, x, mask=None if self.pooling.pooling == "last" else mask, rng=rng)


def probabilities(self: nn.ClassifierHead, x: Any, *, mask: Any = None, rng: Any = None) -> Any:
    scores, cache = self._scores(x, mask, rng)
    y, soft = F.softmax(scores)
    return y, (cache, soft)


def probabilities_backward(self: nn.ClassifierHead, dy: Any, cache: Any) -> Any:
    cache, soft = cache
    return self._scores_backward(F.softmax_backward(dy, soft), cache)


def as_if_scores(self: nn.ClassifierHead, dy: Any, cache: Any) -> Any:
    return self._scores_backward(dy, cache[0])


def over_the_rows(self: nn.ClassifierHead, x: Any, *, mask: Any = None, rng: Any = None) -> Any:
    scores, cache = self._scores(x, mask, rng)
    y, log = F.log_softmax(scores, axis=-2)
    return y, (cache, log)


def one_gradient_for_all(self: nn.RegressorHead, dy: Any, cache: Any) -> Any:
    return self._scores_backward(np.full_like(dy, dy.mean())[..., None], cache)


def last_value_for_all(self: nn.ValueHead, x: Any, *, rng: Any = None) -> Any:
    y, cache = right_value(self, x, rng=rng)
    return np.repeat(y[:, -1:], y.shape[1], axis=1), cache


def transposed_scores(self: nn.TokenClassificationHead, x: Any, *, rng: Any = None) -> Any:
    y, cache = self._scores(x, None, rng)  # (B, T, K)
    return y.transpose(0, 2, 1).reshape(y.shape), cache


def end_before_start(self: nn.SpanHead, x: Any, *, rng: Any = None) -> Any:
    (start, end), cache = right_span(self, x, rng=rng)
    return (end, start), cache


def end_before_start_backward(self: nn.SpanHead, dy: Any, cache: Any) -> Any:
    return right_span_backward(self, (dy[1], dy[0]), cache)


def halves_for_columns(self: nn.SpanHead, x: Any, *, rng: Any = None) -> Any:
    y, cache = self._scores(x, None, rng)  # (B, T, 2)
    start, end = np.moveaxis(y.reshape(len(y), 2, -1), 1, 0)  # each is half of the row of 2T numbers
    return (start.copy(), end.copy()), cache


def bias_not_added(self: nn.Seq2SeqLMHead, x: Any, weight: Any) -> Any:
    return F.linear(x, weight.T, np.zeros_like(self.final_logits_bias))


def table_not_passed_on(self: nn.MaskedLMHead, dy: Any, cache: Any) -> Any:
    (dx, dweight), grads = right_masked_lm_backward(self, dy, cache)
    return (dx, np.zeros_like(dweight)), grads


def table_of_the_last_row(self: nn.Seq2SeqLMHead, dy: Any, cache: Any) -> Any:
    (dx, dweight), grads = right_seq2seq_backward(self, dy, cache)
    x, rows = cache[0].reshape(-1, dweight.shape[1]), dy.reshape(-1, len(dweight))
    for row, drow in zip(x, rows, strict=True):
        dweight = np.outer(drow, row)
    return (dx, dweight), grads


def norm_before_activation(self: nn.MaskedLMHead, x: Any, weight: Any) -> Any:
    h, dense = self.dense.forward(x)
    h, norm = self.norm.forward(h)
    h, act = getattr(F, self.activation)(h)
    y, decoder = F.linear(h, weight.T, self.bias)
    return y, (dense, act, norm, decoder)


def norm_before_activation_backward(self: nn.MaskedLMHead, dy: Any, cache: Any) -> Any:
    dense, act, norm, decoder = cache
    dh, dweight, dbias = F.linear_backward(dy, decoder)
    dh = getattr(F, f"{self.activation}_backward")(dh, act)
    dh, g_norm = self.norm.backward(dh, norm)
    dx, g_dense = self.dense.backward(dh, dense)
    return (dx, dweight.T), {"bias": dbias, "dense": g_dense, "norm": g_norm}


def head_case(kind: Any, rng: int | None = None, mask: Any = None, **options: Any) -> Case:
    """A head that pools: two sequences of three tokens, three classes where there are classes."""
    given = {"width": 4, "dropout": 0.5 if rng is not None else 0.0, **options}
    return component_case(build(kind), Draft(given, {"x": X}, {"mask": mask, "rng": rng}))


def token_case(kind: Any, **options: Any) -> Case:
    """A head that answers for each token."""
    return component_case(build(kind), Draft({"width": 4, "dropout": 0.0, **options}, {"x": X}, {"rng": None}))


def borrowing_case(kind: Any, **options: Any) -> Case:
    """A head over a borrowed table."""
    made = build_sequence_lm_head if kind is nn.Seq2SeqLMHead else build(kind)
    return component_case(made, Draft({"vocab_size": 5, **options}, {"x": X, "weight": TABLE}, {}))


def masked_lm_case() -> Case:
    """The head of a masked language model."""
    return borrowing_case(nn.MaskedLMHead, width=4, activation="gelu", eps=1e-3)


MISTAKES = [
    Mistake(
        name="dropout before the dense layer not undone",
        of="ClassificationHead",
        why="The head has two places of dropout and one rate; one backward is written for both.",
        hint="Drop everything in the first place: may x have a gradient?",
        backward=first_dropout_forgotten,
        witness=lambda: head_case(nn.ClassificationHead, 3, num_labels=3, pooling="first", activation="tanh"),
        owner="numtx.nn.ClassificationHead",
    ),
    Mistake(
        name="classes read from the last column, padding or not",
        of="ClassificationHead",
        why="x[:, -1] is the last token as long as no sequence is shorter than the others.",
        hint="Add padding on the right: the scores must not change.",
        forward=last_column_for_last_token,
        witness=lambda: head_case(nn.ClassificationHead, mask=PADDED, num_labels=3, pooling="last", activation="tanh"),
        owner="numtx.nn.ClassificationHead",
    ),
    Mistake(
        name="pooler reads the last token instead of the first",
        of="Pooler",
        why="Decoders are read at the end, and the head is taken over from one; BERT's [CLS] comes first.",
        hint="Change the first token of x. Does the result move?",
        forward=last_for_first,
        witness=lambda: component_case(
            build(nn.Pooler),
            Draft({"width": 4, "activation": "tanh", "pooling": "first"}, {"x": X}, {"mask": None}),
        ),
        owner="numtx.nn.Pooler",
    ),
    Mistake(
        name="pooler's activation forgotten in backward",
        of="Pooler",
        why="It has no parameters; the chain is written down from dense layer to dense layer.",
        hint="Near zero tanh is the identity. Try larger weights.",
        backward=activation_forgotten,
        witness=lambda: component_case(
            build(nn.Pooler),
            Draft({"width": 4, "activation": "tanh", "pooling": "first"}, {"x": X}, {"mask": None}),
        ),
        owner="numtx.nn.Pooler",
    ),
    Mistake(
        name="classification head forgets its dropout in backward",
        of="SequenceClassificationHead",
        why="Dropout has no parameters, and tests run without it.",
        hint="Check the gradients with a fixed seed and a rate above zero.",
        backward=mask_not_dropped,
        witness=lambda: head_case(
            nn.SequenceClassificationHead, 3, num_labels=3, pooler=True, pooling="first", activation="tanh"
        ),
        owner="numtx.nn.SequenceClassificationHead",
    ),
    Mistake(
        name="softmax where the log of it is due",
        of="ClassifierHead",
        why="Probabilities are what one wants to see, and a loss of them falls too, slowly.",
        hint="Exponentiate a row of the result and sum it.",
        forward=probabilities,
        backward=probabilities_backward,
        witness=lambda: head_case(nn.ClassifierHead, num_labels=3, pooler=False, pooling="mean"),
        owner="numtx.nn.ClassifierHead",
    ),
    Mistake(
        name="gradient of log-probabilities taken for that of scores",
        of="ClassifierHead",
        why="Where loss and softmax are one op, p - y is the gradient of the scores; here log-softmax stands between.",
        hint="Adding one number to all scores of a row changes nothing: what must their gradients sum to?",
        backward=as_if_scores,
        witness=lambda: head_case(nn.ClassifierHead, num_labels=3, pooler=False, pooling="mean"),
        owner="numtx.nn.ClassifierHead",
    ),
    Mistake(
        name="log-softmax over the rows instead of the classes",
        of="ClassifierHead",
        why="The axis is left to a default, or counted from the front while x had one axis less.",
        hint="Along which axis do the probabilities sum to one?",
        forward=over_the_rows,
        witness=lambda: head_case(nn.ClassifierHead, num_labels=3, pooler=False, pooling=None),
        owner="numtx.nn.ClassifierHead",
    ),
    Mistake(
        name="regressor gives every sequence the mean gradient",
        of="RegressorHead",
        why="The loss is a mean over the batch, and the mean is taken of the gradients as well.",
        hint="Give the sequences different incoming gradients.",
        backward=one_gradient_for_all,
        witness=lambda: head_case(nn.RegressorHead, pooler=False, pooling="mean"),
        owner="numtx.nn.RegressorHead",
    ),
    Mistake(
        name="value of the last token for all tokens",
        of="ValueHead",
        why="A reward model scores the whole text by its last token; a value function scores every prefix.",
        hint="Change the last token: which values may move?",
        forward=last_value_for_all,
        witness=lambda: token_case(nn.ValueHead),
        owner="numtx.nn.ValueHead",
    ),
    Mistake(
        name="tokens and labels exchanged before a reshape",
        of="TokenClassificationHead",
        why="Losses of PyTorch want (B, K, T); transposed for them and reshaped back, the shape is right again.",
        hint="Change one token: only its own row of scores may move.",
        forward=transposed_scores,
        witness=lambda: token_case(nn.TokenClassificationHead, num_labels=3),
        owner="numtx.nn.TokenClassificationHead",
    ),
    Mistake(
        name="start and end of the span swapped",
        of="SpanHead",
        why="Both are columns of one product, of one shape; trained from scratch, either order learns.",
        hint="Compare with a checkpoint: the first column is the start.",
        forward=end_before_start,
        backward=end_before_start_backward,
        witness=lambda: token_case(nn.SpanHead),
        owner="numtx.nn.SpanHead",
    ),
    Mistake(
        name="span scores split into halves of the row",
        of="SpanHead",
        why="(B, T, 2) is reshaped to (B, 2, T) where it should be transposed; no shape complains.",
        hint="Change one token: one start and one end may move, at its own place.",
        forward=halves_for_columns,
        witness=lambda: token_case(nn.SpanHead),
        owner="numtx.nn.SpanHead",
    ),
    Mistake(
        name="final bias of the logits not added",
        of="Seq2SeqLMHead",
        why="BART's is zero, so nothing shows until a Marian checkpoint is opened, whose bias is not.",
        hint="Set x to zero and look at the logits.",
        forward=bias_not_added,
        witness=lambda: borrowing_case(nn.Seq2SeqLMHead),
        owner="numtx.nn.Seq2SeqLMHead",
    ),
    Mistake(
        name="borrowed table keeps the gradient of the last row only",
        of="Seq2SeqLMHead",
        why="Every position uses the table, and `=` is written in the loop where `+=` is due.",
        hint="Compare one position with two: the gradient of the table is a sum.",
        backward=table_of_the_last_row,
        witness=lambda: borrowing_case(nn.Seq2SeqLMHead),
        owner="numtx.nn.Seq2SeqLMHead",
    ),
    Mistake(
        name="masked-LM head does not pass the table's gradient on",
        of="MaskedLMHead",
        why="The table belongs to the embedding, so the head is thought to learn its own layers and bias alone.",
        hint="Move one element of the table and watch the logits.",
        backward=table_not_passed_on,
        witness=masked_lm_case,
        owner="numtx.nn.MaskedLMHead",
    ),
    Mistake(
        name="masked-LM head normalises before the activation",
        of="MaskedLMHead",
        why="In most networks the norm comes first; here the order is dense, activation, norm.",
        hint="What are mean and variance of the rows that meet the table?",
        forward=norm_before_activation,
        backward=norm_before_activation_backward,
        witness=masked_lm_case,
        owner="numtx.nn.MaskedLMHead",
    ),
]
