"""What scikit-learn, SQuAD's script, sacrebleu, rouge-score and nltk made of drawn predictions, beside numtx."""

import gzip
import json
from pathlib import Path

import pytest
from metric_oracles import PACKAGES
from metric_questions import EXTRA, METRICS, differences, golden_questions, plain

from numtx.metrics import load

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "metrics" / "answers.json.gz").read_bytes()))


def without_version(result):
    """A result whose signature does not say which version made it: that may be another here."""
    if "signature" not in result:
        return result
    return {**result, "signature": result["signature"].partition("|version")[0]}


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_those_of_the_reference(metric):
    if metric in EXTRA:
        package = PACKAGES[metric]
        pytest.importorskip(package, reason=f"no {package}: pip install 'numtx[metrics]'")
    answers = GOLDEN["answers"][metric]
    for (predictions, references, settings), theirs in zip(golden_questions(metric), answers, strict=True):
        ours = plain(load(metric).compute(predictions=predictions, references=references, **settings))
        if metric == "meteor":
            ours.pop("signature")
        assert list(differences(without_version(ours), without_version(theirs))) == [], (
            predictions,
            references,
            settings,
        )


def test_a_difference_is_seen():
    one = {"f1": [0.5, 1], "signature": "a|version:1"}
    assert not list(differences(without_version(one), without_version({**one, "signature": "a|version:2"})))
    others = [
        {"f1": [0.5, 1]},
        {**one, "f1": [0.5]},
        {**one, "f1": [0.5, 1 + 1e-9]},
        {**one, "f1": [None, 1]},
        one | {"a": 1},
    ]
    for other in [*others, {**one, "f1": 0.5}, {**one, "f1": [float("nan"), 1]}]:
        assert list(differences(other, one)), other
    assert list(differences({"f1": 0.5}, {"f1": None}))
