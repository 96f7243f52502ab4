"""Accuracy, precision, recall, F1 and Matthews' correlation: published examples, definitions, bad input."""

import itertools
import math
import warnings

import numpy as np
import pytest

from numtx.metrics import load

TWO = {"references": [0, 1, 0, 1, 0], "predictions": [0, 0, 1, 1, 0]}
THREE = {"predictions": [0, 2, 1, 0, 0, 1], "references": [0, 1, 2, 0, 1, 2]}
WEIGHTS = {"sample_weight": [0.9, 0.5, 3.9, 1.2, 0.3]}


def score(metric, places=None, **given):
    found = load(metric).compute(**given)[metric]
    return found if places is None else round(found, places)


def test_published_examples_of_evaluate():
    assert score("accuracy", references=[0, 1, 2, 0, 1, 2], predictions=[0, 1, 1, 2, 1, 0]) == 0.5
    assert score("accuracy", references=[0, 1, 2, 0, 1, 2], predictions=[0, 1, 1, 2, 1, 0], normalize=False) == 3.0
    weighted = {"sample_weight": [0.5, 2, 0.7, 0.5, 9, 0.4]}
    assert score("accuracy", 4, references=[0, 1, 2, 0, 1, 2], predictions=[0, 1, 1, 2, 1, 0], **weighted) == 0.8779
    assert score("f1", **TWO) == 0.5
    assert score("f1", 2, **TWO, pos_label=0) == 0.67
    assert score("f1", 2, **TWO, **WEIGHTS) == 0.35
    for average, expected in (("macro", 0.27), ("micro", 0.33), ("weighted", 0.27)):
        assert score("f1", 2, **THREE, average=average) == expected
    assert np.allclose(score("f1", **THREE, average=None), [0.8, 0, 0])
    assert score("precision", **TWO) == 0.5
    assert score("precision", 2, **TWO, pos_label=0) == 0.67
    assert math.isclose(score("precision", **TWO, **WEIGHTS), 0.23529411764705882)
    for average, expected in (("macro", 2 / 9), ("micro", 1 / 3), ("weighted", 2 / 9)):
        assert math.isclose(score("precision", **THREE, average=average), expected)
    assert np.allclose(score("precision", **THREE, average=None), [2 / 3, 0, 0])
    recall = {"references": [0, 0, 1, 1, 1], "predictions": [0, 1, 0, 1, 1]}
    assert math.isclose(score("recall", **recall), 2 / 3)
    assert score("recall", **recall, pos_label=0) == 0.5
    assert math.isclose(score("recall", **recall, sample_weight=[0.9, 0.2, 0.9, 0.3, 0.8]), 0.55)
    matthews = {"references": [1, 3, 2, 0, 3, 2], "predictions": [1, 2, 2, 0, 3, 3]}
    assert score("matthews_correlation", 2, **matthews) == 0.54
    assert score("matthews_correlation", 2, **matthews, sample_weight=[0.5, 3, 1, 1, 1, 2]) == 0.1
    assert score("matthews_correlation", 2, **matthews, sample_weight=[0.5, 1, 0, 0, 0, 1]) == -0.25


def test_matthews_correlation_is_the_correlation_of_two_columns_where_there_are_two_classes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        got, wanted = rng.integers(2, size=(2, 12))
        if len(set(got)) == len(set(wanted)) == 2:
            expected = np.corrcoef(got, wanted)[0, 1]
            assert math.isclose(
                score("matthews_correlation", predictions=got, references=wanted), expected, abs_tol=1e-12
            )


def test_a_single_class_has_no_correlation():
    assert score("matthews_correlation", predictions=[1, 1], references=[1, 1]) == 0.0
    assert score("matthews_correlation", predictions=[1, 1], references=[0, 1]) == 0.0


def test_classes_come_as_numbers_strings_arrays_or_truth_values():
    expected = score("f1", **TWO)
    for kind in (np.array, lambda one: np.array(one, np.uint8), lambda one: [bool(x) for x in one], tuple, np.float32):
        assert score("f1", predictions=kind(TWO["predictions"]), references=kind(TWO["references"])) == expected
    words = {name: [("no", "yes")[one] for one in values] for name, values in TWO.items()}
    assert score("f1", **words, pos_label="yes") == expected
    assert score("accuracy", predictions=np.array(["Ä", "b"]), references=["Ä", "c"]) == 0.5


def test_an_average_over_some_classes():
    """labels may leave out a class that is there, and name one that is not."""
    given = {**THREE, "zero_division": 0}
    each = dict(zip([0, 1, 2], score("f1", **given, average=None), strict=True))
    for labels in itertools.permutations([0, 1, 2], 2):
        assert score("f1", **given, average="macro", labels=labels) == np.mean([each[one] for one in labels])
        assert list(score("f1", **given, average=None, labels=labels)) == [each[one] for one in labels]
    assert list(score("precision", **{**given, "zero_division": 1}, average=None, labels=[7, 0])) == [1.0, 2 / 3]
    assert math.isnan(score("recall", **{**given, "zero_division": math.nan}, average="macro", labels=[7]))


def test_nothing_to_divide_by_is_warned_of_once():
    given = {"predictions": [0, 0], "references": [0, 1]}
    with pytest.warns(UserWarning, match=r"^precision: .*counts as 0") as caught:
        assert score("precision", **given) == 0.0
    assert len(caught) == 1
    assert caught[0].filename == __file__  # it points to who asked
    for said, expected in ((0, 0.0), (1, 1.0), (math.nan, math.nan)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = score("precision", **given, zero_division=said)
        assert found == expected or math.isnan(found) == math.isnan(expected)
    with pytest.warns(UserWarning, match=r"counts as 0") as caught:
        load("precision").compute(**given, bootstrap=50)
    assert len(caught) == 1  # not of each resampling
    with pytest.warns(UserWarning, match=r"^f1: pos_label counts with average='binary' alone"):
        score("f1", **THREE, average="micro", pos_label=2)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"predictions": [0, 1, 2, 1, 0]},
            r"another average than binary \(micro, macro, weighted or None\) for 3 classes",
        ),
        ({"pos_label": 7}, "pos_label among the classes 0, 1, got 7"),
        ({"average": "samples"}, "average binary, micro, macro, weighted or None, got 'samples'"),
        ({"average": "macro", "labels": []}, "labels that are all different"),
        ({"average": "macro", "labels": [1, 1]}, r"labels that are all different, got \[1, 1\]"),
        ({"zero_division": 2}, "zero_division 'warn', 0, 1 or nan, got 2"),
        ({"zero_division": "raise"}, "zero_division 'warn', 0, 1 or nan, got 'raise'"),
        ({"predictions": [0, "1", 0, 1, 0]}, "all integers or all strings, got both"),
        ({"predictions": [0, 1, 0.5, 1, 0]}, "as prediction 2, got 0.5"),
        ({"predictions": [0, 1, None, 1, 0]}, "as prediction 2, got None"),
        ({"predictions": np.eye(5)}, r"as prediction 0, got an array \(5,\): take the argmax of scores"),
        ({"references": [0, 1, math.nan, 1, 0]}, "as reference 2, got nan"),
        ({"sample_weight": [1, 2]}, r"sample_weight for each of 5 examples, got \(2,\)"),
        ({"sample_weight": [1, 2, 3, 4, -1]}, "sample_weight finite, not negative"),
        ({"sample_weight": [0] * 5}, "not all zero"),
    ],
)
def test_bad_input(changed, words):
    with pytest.raises(ValueError, match=rf"^f1: expected .*{words}") as caught:
        load("f1").compute(**{**TWO, **changed})
    assert "\n" not in str(caught.value)


def test_inputs_are_not_changed():
    given = {name: np.array(values) for name, values in TWO.items()}
    copies = {name: values.copy() for name, values in given.items()}
    load("f1").compute(**given, bootstrap=5)
    assert all(np.array_equal(given[name], copies[name]) for name in given)
