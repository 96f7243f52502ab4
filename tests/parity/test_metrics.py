"""Metrics beside scikit-learn, sacrebleu, rouge-score, nltk and SQuAD's script, over drawn predictions."""

import warnings

import pytest
from metric_oracles import ORACLES, PACKAGES
from metric_questions import EXTRA, METRICS, differences, plain, questions

from numtx.metrics import load


def need(metric):
    package = PACKAGES.get(metric)
    extra = "metrics" if metric in EXTRA else "parity"
    return package and pytest.importorskip(package, reason=f"no {package}: pip install 'numtx[{extra}]'")


@pytest.mark.parametrize("metric", METRICS)
def test_hundreds_of_drawn_cases(metric):
    need(metric)
    varied = set()
    for predictions, references, settings in questions(metric, 300, seed=1):
        ours = load(metric).compute(predictions=predictions, references=references, **settings)
        if metric == "meteor":
            ours.pop("signature")
        theirs = ORACLES[metric](predictions, references, **settings)
        assert list(differences(plain(ours), plain(theirs))) == [], (predictions, references, settings)
        varied.add(str(next(iter(plain(ours).values()))))
    assert len(varied) > 10  # not all 0, not all 1


@pytest.mark.parametrize("metric", ["precision", "recall", "f1"])
def test_warnings_are_where_scikit_learn_has_them(metric):
    sklearn = pytest.importorskip("sklearn.metrics", reason="no sklearn: pip install 'numtx[parity]'")
    seen = set()
    for predictions, references, settings in questions(metric, 200, seed=2):
        settings = {**settings, "zero_division": "warn"}
        warned = []
        for compute in (
            lambda: load(metric).compute(predictions=predictions, references=references, **settings),  # noqa: B023
            lambda: getattr(sklearn, f"{metric}_score")(references, predictions, **settings),  # noqa: B023
        ):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                compute()
            warned.append(bool(caught))
        assert warned[0] == warned[1], (predictions, references, settings)
        seen.add(warned[0])
    assert seen == {True, False}
