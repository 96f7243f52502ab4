"""Label smoothing in the losses of models: the mixture by hand, and its gradient by central differences."""

import numpy as np
import pytest
from small_families import BERT, FAMILIES

from numtx import nn
from numtx.models import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertForQuestionAnswering,
    causal_lm,
    seq2seq_lm,
)

EPSILON = 0.1


def drawn(name, rng):
    """A model in float64 and a batch with labels, some of them ignored."""
    kind, config = FAMILIES[name]
    model = kind(config, rng=1, dtype=np.float64)
    for _, array in model.named_parameters():  # nothing is zero or one
        array += 0.3 * rng.standard_normal(array.shape)
    batch = {"input_ids": rng.integers(2, 9, (3, 5))}
    if name == "bert":
        return model, {**batch, "labels": rng.integers(2, size=3)}
    batch["labels"] = np.where(rng.random((3, 5)) < 0.3, -100, rng.integers(2, 9, (3, 5)))
    if name == "t5":
        batch["decoder_input_ids"] = rng.integers(2, 9, (3, 5))
    return model, batch


def by_hand(model, name, batch):
    logits, labels = model(**batch).logits, batch["labels"]
    if name in ("gpt2", "llama"):
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = []
    for scores, label in zip(logits.reshape(-1, logits.shape[-1]), labels.ravel(), strict=True):
        if label != -100:
            logs = np.log(np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum())
            losses.append(-(1 - EPSILON) * logs[label] - EPSILON * logs.mean())
    return np.mean(losses)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "bart", "marian", "t5"])
def test_the_loss_is_the_mixture_and_the_gradient_is_its_own(name, large, monkeypatch):
    if large:
        monkeypatch.setattr(causal_lm, "LARGE_VOCABULARY", 1)
        monkeypatch.setattr(seq2seq_lm, "LARGE_VOCABULARY", 1)
    rng = np.random.default_rng(3)
    model, batch = drawn(name, rng)
    loss, grads = model.loss_and_grads(batch, label_smoothing=EPSILON)
    assert loss == pytest.approx(by_hand(model, name, batch), rel=1e-12)
    assert model.loss(batch, label_smoothing=EPSILON) == pytest.approx(loss, rel=1e-12)
    assert loss != pytest.approx(model.loss(batch), rel=1e-6)
    flat, arrays = nn.flatten(grads), dict(model.named_parameters())
    ways = {key: rng.standard_normal(array.shape) for key, array in flat.items() if "embed" not in key}
    h, ends = 1e-5, []
    for sign in (1, -2):
        for key, way in ways.items():
            arrays[key] += sign * h * way
        ends.append(float(model.loss(batch, label_smoothing=EPSILON)))
    wanted = sum(float((flat[key] * way).sum()) for key, way in ways.items())
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(wanted, rel=1e-5)


def test_parts_of_a_batch_add_up():
    model, batch = drawn("roberta", np.random.default_rng(3))
    count = model.count_labels(batch)
    parts = [{name: array[rows] for name, array in batch.items()} for rows in (slice(0, 1), slice(1, 3))]
    total = sum(model.loss(part, num_items=count, label_smoothing=EPSILON) for part in parts)
    assert total == pytest.approx(model.loss(batch, label_smoothing=EPSILON), rel=1e-12)


def test_labels_that_are_no_classes_are_not_smoothed():
    answers = DistilBertForQuestionAnswering(FAMILIES["distilbert"][1], rng=0)
    asked = {"input_ids": [[1, 2, 3]], "start_positions": np.array([0]), "end_positions": np.array([1])}
    number = BertForSequenceClassification(BertConfig(**BERT, id2label={0: "x"}), rng=0)
    for model, batch in ((answers, asked), (number, {"input_ids": [[1, 2]], "labels": np.array([0.5])})):
        name = type(model).__name__
        with pytest.raises(
            ValueError, match=f"{name}: expected label_smoothing 0 for labels that are no classes, got 0.1"
        ):
            model.loss_and_grads(batch, label_smoothing=0.1)
        model.loss_and_grads(batch)
