"""What all metrics share: how they are found, given examples, and resampled."""

import subprocess
import sys

import numpy as np
import pytest

from numtx.metrics import METRICS, Metric, load


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_described(name):
    metric = load(name)
    assert isinstance(metric, Metric)
    assert metric.name == name
    assert len(metric.description) > 80
    assert "predictions" in metric.features
    assert metric.needs_references == (name != "perplexity")
    assert metric.features["predictions"] in ("int32", "string") or "id" in metric.features["predictions"]
    assert name in repr(metric)


def test_an_unknown_name_is_answered_with_the_nearest():
    for wrong, nearest in (
        ("Accuracy", "accuracy"),
        ("squad-v2", "squad_v2"),
        ("rogue", "rouge"),
        ("ter", None),
        (3, None),
    ):
        with pytest.raises(ValueError, match=r"^metrics: expected a metric of accuracy, bleu, ") as caught:
            load(wrong)
        message = str(caught.value)
        assert "\n" not in message
        assert message.endswith(f"the nearest is '{nearest}'") or nearest is None


def test_the_floor_needs_no_extra():
    code = "import sys, numtx.metrics\nprint(*sys.modules)"
    modules = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    unwanted = {
        "sacrebleu",
        "rouge_score",
        "nltk",
        "sklearn",
        "torch",
        "tokenizers",
        "typer",
        "numtx.models",
        "numtx.cli",
    }
    assert "numtx.metrics" in modules
    assert not modules & (unwanted | {"numtx.testing", "numtx.plotting"})


def test_an_absent_package_is_named_with_its_command(monkeypatch):
    for name, package in (
        ("sacrebleu", "sacrebleu"),
        ("chrf", "sacrebleu"),
        ("rouge", "rouge_score"),
        ("meteor", "nltk"),
    ):
        for module in [one for one in sys.modules if one.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf"package {package}.*pip install 'numtx\[metrics\]'"):
            load(name).compute(predictions=["a"], references=["a"])


def test_examples_come_at_once_or_in_parts():
    whole = load("accuracy").compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
    metric = load("accuracy")
    metric.add(prediction=0, reference=0)
    metric.add_batch(predictions=np.array([1, 1]), references=(1, 0))
    assert len(metric) == 3
    assert metric.compute(predictions=[0], references=[0]) == whole == {"accuracy": 0.75}
    assert len(metric) == 0  # what was computed is gone
    with pytest.raises(ValueError, match=r"^accuracy: expected at least one prediction, got none$"):
        metric.compute()
    assert metric.compute(predictions=[1], references=[1]) == {"accuracy": 1.0}


def test_columns_of_a_dataset_are_taken():
    class Column:
        def __init__(self, values):
            self.values = values

        def __len__(self):
            return len(self.values)

        def __getitem__(self, k):
            return self.values[k]

    columns = {"predictions": Column(["a", "b"]), "references": Column(["a", "c"])}
    assert load("exact_match").compute(**columns) == {"exact_match": 0.5}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"predictions": [1, 2], "references": [1]}, "as many predictions as references, got 2 and 1"),
        ({"predictions": [1]}, "references beside the predictions, got none"),
        ({"references": [1]}, "predictions beside the references, got none"),
        ({"predictions": [], "references": []}, "at least one prediction, got none"),
        ({"predictions": "12", "references": [1, 2]}, "predictions as a list, got str"),
        ({"predictions": [1], "references": {1: 1}}, "references as a list, got dict"),
        ({"predictions": np.array(1), "references": [1]}, "predictions as a list, got"),
        ({"predictions": 3, "references": [1]}, "predictions as a list, got int"),
        (
            {"predictions": [1], "references": [1], "average": "micro", "topk": 5},
            "settings normalize, .*got average, topk",
        ),
        ({"predictions": [1, 2], "references": [1, 1], "bootstrap": -3}, "bootstrap as a positive number.*got -3"),
        ({"predictions": [1, 2], "references": [1, 1], "bootstrap": 2.5}, "bootstrap as a positive number.*got 2.5"),
        ({"predictions": [1, 2], "references": [1, 1], "bootstrap": True}, "bootstrap as a positive number.*got True"),
        ({"predictions": [1, 2], "references": [1, 1], "bootstrap": 9, "confidence": 1.0}, "between 0 and 1, got 1.0"),
        ({"predictions": [1], "references": [1], "bootstrap": 9}, "at least 2 examples to resample, got 1"),
    ],
)
def test_bad_input(given, words):
    with pytest.raises(ValueError, match=rf"^accuracy: expected .*{words}") as caught:
        load("accuracy").compute(**given)
    assert "\n" not in str(caught.value)


def test_a_refused_example_is_not_kept():
    metric = load("accuracy")
    with pytest.raises(ValueError, match="as many"):
        metric.add_batch(predictions=[1, 2], references=[1])
    assert len(metric) == 0


def test_references_where_there_is_nothing_to_compare():
    with pytest.raises(ValueError, match=r"^perplexity: expected predictions alone, got references too$"):
        load("perplexity").compute(predictions=["a"], references=["a"])


# --- intervals -------------------------------------------------------------------------------------------------------


def test_an_interval_is_made_of_quantiles_of_resamplings():
    rng = np.random.default_rng(5)
    predictions, references = rng.integers(3, size=(2, 40))
    given = {"predictions": predictions, "references": references, "average": "macro"}
    found = load("f1").compute(**given, bootstrap=200, confidence=0.8, seed=3)
    assert set(found) == {"f1", "confidence_intervals"}
    assert found["f1"] == load("f1").compute(**given)["f1"]
    rng, scores = np.random.default_rng(3), []
    for _ in range(200):  # the definition: the metric of the examples that were drawn
        drawn = rng.integers(40, size=40)
        given = {"predictions": predictions[drawn], "references": references[drawn], "labels": [0, 1, 2]}
        scores.append(load("f1").compute(**given, average="macro", zero_division=0)["f1"])
    low, high = found["confidence_intervals"]["f1"]
    assert np.allclose([low, high], np.quantile(scores, [0.1, 0.9]), rtol=1e-12)
    assert low < found["f1"] < high


def test_an_interval_covers_what_it_says():
    """Of 200 samples whose true accuracy is 0.7, the intervals of 90 % hold it in about 90 %."""
    rng, held = np.random.default_rng(0), 0
    for trial in range(200):
        right = (rng.random(150) < 0.7).astype(int)
        result = load("accuracy").compute(
            predictions=right, references=[1] * 150, bootstrap=200, confidence=0.9, seed=trial
        )
        low, high = result["confidence_intervals"]["accuracy"]
        held += low <= 0.7 <= high
    assert 0.82 * 200 <= held <= 0.96 * 200  # about three standard errors of 200 trials


def test_intervals_come_from_a_seed():
    given = {"predictions": [0, 1, 1, 0, 1, 0], "references": [0, 1, 0, 0, 1, 1], "bootstrap": 50}
    first = load("matthews_correlation").compute(**given)
    assert first == load("matthews_correlation").compute(**given, seed=0)
    assert first != load("matthews_correlation").compute(**given, seed=1)


def test_every_fractional_score_has_an_interval_and_no_count_has():
    predictions = [
        {"id": str(k), "prediction_text": "a b"[: k % 4], "no_answer_probability": 0.1 * k} for k in range(8)
    ]
    references = [{"id": str(k), "answers": {"text": ["a"] * (k % 3)}} for k in range(8)]
    found = load("squad_v2").compute(predictions=predictions, references=references, bootstrap=30)
    intervals = found.pop("confidence_intervals")
    assert set(intervals) == {name for name in found if "total" not in name}
    each = load("f1").compute(predictions=[0, 1, 2, 1], references=[0, 1, 1, 1], average=None, bootstrap=20)
    low, high = each["confidence_intervals"]["f1"]
    assert len(low) == len(high) == 3
    assert all(one <= other for one, other in zip(low, high, strict=True))
