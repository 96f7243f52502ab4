"""Predictions over a dataset: the loss is a mean over labels, the scores stand in the order of the rows."""

import numpy as np
import pytest
from small_families import FAMILIES

import numtx
from numtx.models import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertForQuestionAnswering,
)
from numtx.training import EvalPrediction, PrinterCallback, Trainer, TrainingArguments
from numtx.training.prediction import joined

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


class Pads:
    """Pads ids with 0, as a tokenizer does."""

    def pad(self, features, **settings):
        longest = max(len(row["input_ids"]) for row in features)
        made = {}
        for name in features[0]:
            if np.ndim(features[0][name]):
                made[name] = np.array([[*row[name], *[0] * (longest - len(row[name]))] for row in features])
            else:
                made[name] = np.array([row[name] for row in features])
        made["attention_mask"] = np.array(
            [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in features]
        )
        return made


def trainer(model, tmp_path, collator=None, metrics=None, more=None, **settings):
    args = TrainingArguments(tmp_path, report_to="none", **settings)
    made = Trainer(model, args, collator, compute_metrics=metrics, processing_class=Pads(), **(more or {}))
    made.pop_callback(PrinterCallback)
    return made


def token_rows(rng):
    lengths = [3, 5, 1, 4, 2, 5, 3]
    return [
        {
            "input_ids": rng.integers(1, 9, length).tolist(),
            "labels": [-100 if rng.random() < 0.4 else int(rng.integers(2)) for _ in range(length)],
        }
        for length in lengths
    ]


@pytest.fixture
def tokens():
    config = BertConfig(vocab_size=9, **SIZES)
    return BertForTokenClassification(config, rng=0, dtype=np.float64), token_rows(np.random.default_rng(1))


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("threads", [1, 2])
def test_eval_loss_is_a_mean_over_real_labels_whatever_the_batch_size(tokens, tmp_path, batch, threads):
    model, rows = tokens
    collator = numtx.DataCollatorForTokenClassification(Pads())
    total = items = 0.0
    for row in rows:
        asked = {"input_ids": np.array([row["input_ids"]]), "labels": np.array([row["labels"]])}
        count = model.count_labels(asked)
        total, items = total + float(model.loss(asked, num_items=max(1, count))) * count, items + count
    for metrics in (None, lambda given: {"ok": 1.0}):  # without scores, and with them
        made = trainer(model, tmp_path, collator, metrics, per_device_eval_batch_size=batch, threads=threads)
        found = made.evaluate(rows)
        assert found["eval_loss"] == pytest.approx(total / items, rel=1e-12)
        assert ("eval_ok" in found) == (metrics is not None)


def test_predictions_stand_in_the_order_of_the_rows_filled_with_minus_100(tokens, tmp_path):
    model, rows = tokens
    collator = numtx.DataCollatorForTokenClassification(Pads())
    found = trainer(model, tmp_path, collator, per_device_eval_batch_size=2, threads=2).predict(rows)
    assert found.predictions.shape == (7, 5, 2)
    assert found.label_ids.shape == (7, 5)
    for row, scores, labels in zip(rows, found.predictions, found.label_ids, strict=True):
        length = len(row["input_ids"])
        alone = model(np.array([row["input_ids"]])).logits[0]
        assert np.abs(scores[:length] - alone).max() < 1e-12
        assert labels[:length].tolist() == row["labels"]
        assert (labels[length:] == -100).all()
    assert {"test_loss", "test_runtime"} <= found.metrics.keys()


def test_smoothing_counts_in_the_evaluation_too(tokens, tmp_path):
    model, rows = tokens
    collator = numtx.DataCollatorForTokenClassification(Pads())
    plain, smooth = (
        trainer(model, tmp_path, collator, metrics, label_smoothing_factor=0.2).evaluate(rows)["eval_loss"]
        for metrics in (None, lambda given: {})
    )
    assert plain == pytest.approx(smooth, rel=1e-12)
    assert plain != trainer(model, tmp_path, collator).evaluate(rows)["eval_loss"]


def test_what_compute_metrics_is_given(tmp_path):
    model = BertForSequenceClassification(BertConfig(vocab_size=9, **SIZES), rng=0)
    rows = [{"input_ids": [1, number + 2], "label": number % 2} for number in range(5)]
    seen = []

    class Tensor:
        """As one of PyTorch."""

        def tolist(self):
            return 0.25

    def metrics(given):
        seen.append(given)
        predictions, labels, *more = given
        assert (predictions.shape, labels.shape, len(more)) == ((5,), (5,), 2)
        return {"f1": np.float32(0.5), "by_class": np.array([1, 2]), "eval_same": 3, "tensor": Tensor()}

    made = trainer(
        model, tmp_path, metrics=metrics, include_for_metrics=["inputs", "loss"], per_device_eval_batch_size=2,
        more={"preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1) + 0 * labels},
    )  # fmt: skip
    found = made.evaluate(rows)
    measured = [found[f"eval_{name}"] for name in ("f1", "by_class", "same", "tensor")]
    assert measured == [0.5, [1, 2], 3, 0.25]
    (given,) = seen
    assert isinstance(given, EvalPrediction)
    assert given.inputs.tolist() == [row["input_ids"] for row in rows]
    assert given.losses.shape == (5,)
    assert given.losses[0] == given.losses[1]
    assert np.average(given.losses) == pytest.approx(found["eval_loss"])


def test_data_without_labels_are_predicted_and_have_no_loss(tmp_path):
    model = BertForSequenceClassification(BertConfig(vocab_size=9, **SIZES), rng=0)
    found = trainer(model, tmp_path, metrics=lambda given: {"never": 0}).predict([{"input_ids": [1, 2]}] * 3)
    assert found.predictions.shape == (3, 2)
    assert found.label_ids is None
    assert found.metrics.keys() == {"test_runtime", "test_samples_per_second", "test_steps_per_second"}


def test_several_outputs_and_labels_are_tuples(tmp_path):
    model = DistilBertForQuestionAnswering(FAMILIES["distilbert"][1], rng=0)
    rows = [{"input_ids": [1, 2, 3], "start_positions": 0, "end_positions": 2}] * 3
    found = trainer(model, tmp_path, per_device_eval_batch_size=2).predict(rows)
    assert [one.shape for one in found.predictions] == [(3, 3), (3, 3)]
    assert [one.tolist() for one in found.label_ids] == [[0] * 3, [2] * 3]
    one = trainer(model, tmp_path).predict(rows, ignore_keys=["end_logits"]).predictions
    assert one.shape == (3, 3)


def test_an_encoder_decoder_is_measured_on_what_it_writes(tmp_path):
    kind, config = FAMILIES["bart"]
    model = kind(config, rng=0)
    rows = [{"input_ids": [3, 4 + number, 2], "labels": [5, 2]} for number in range(3)]
    settings = {"predict_with_generate": True, "generation_max_length": 4, "per_device_eval_batch_size": 2}
    made = trainer(model, tmp_path, metrics=lambda given: {"length": given.predictions.shape[1]}, **settings)
    assert made.evaluate(rows, min_length=4)["eval_length"] == 4
    assert made.evaluate(rows, max_length=6, min_length=6, num_beams=2)["eval_length"] == 6
    written = made.predict(rows, num_beams=2).predictions
    alone = model.generate(np.array([rows[2]["input_ids"]]), max_length=4, num_beams=2)
    assert np.array_equal(written[2][: alone.shape[1]], alone[0])
    with pytest.raises(ValueError, match="expected predict_with_generate=True with num_beams, got False"):
        trainer(model, tmp_path).evaluate(rows, num_beams=2)


def test_a_ready_made_model_gives_log_probabilities(tmp_path):
    model = numtx.EncoderOnlyTransformer(vocab_size=9, num_classes=2, d_model=8, nhead=2, dim_feedforward=8, rng=0)
    rows = [{"input_ids": [1, number + 2], "labels": number % 2} for number in range(5)]
    made = trainer(model, tmp_path, numtx.default_data_collator, lambda given: {"n": len(given.predictions)})
    found = made.predict(rows)
    assert np.allclose(found.predictions, model(np.array([row["input_ids"] for row in rows])).log_probs)
    assert found.metrics["test_n"] == 5
    assert found.metrics["test_loss"] == pytest.approx(
        -np.mean([scores[row["labels"]] for row, scores in zip(rows, found.predictions, strict=True)]), rel=1e-6
    )


def ready_made():
    return numtx.EncoderOnlyTransformer(vocab_size=9, num_classes=2, d_model=8, nhead=2, dim_feedforward=8, rng=0)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("make", [ready_made, lambda: BertForSequenceClassification(BertConfig(vocab_size=9, **SIZES))])
def test_scores_are_computed_without_the_labels(tmp_path, monkeypatch, make, labelled):
    model, told = make(), []

    def listens(name):
        whole = getattr(type(model), name)

        def heard(self, *inputs, **settings):
            told.append(settings.get("labels"))
            return whole(self, *inputs, **{name: one for name, one in settings.items() if name != "labels"})

        monkeypatch.setattr(type(model), name, heard)

    listens("__call__")
    listens("forward")
    rows = [{"input_ids": [1, number + 2], **({"labels": number % 2} if labelled else {})} for number in range(5)]
    found = trainer(model, tmp_path, numtx.default_data_collator, threads=1).predict(rows)
    assert ("test_loss" in found.metrics) == labelled
    assert told
    assert all(one is None for one in told)


def test_joining_what_does_not_fit():
    with pytest.raises(ValueError, match="expected predictions of batches that differ in length alone"):
        joined([np.zeros((1, 2, 3)), np.zeros((1, 2, 4))])
    assert joined([None, None]) is None
