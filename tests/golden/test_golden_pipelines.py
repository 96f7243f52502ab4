"""What the pipelines of Transformers 4.57 answered with small models, beside what numtx's answer."""

import gzip
import json
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")

from pipeline_questions import TASKS, answer, differences, make_folders, plain, questions

import numtx

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "pipelines" / "answers.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("models"))


def test_they_were_made_by_the_version_that_is_meant():
    assert GOLDEN["versions"]["transformers"].startswith("4.57")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.filterwarnings("ignore:TokenClassificationPipeline. this tokenizer does not mark")
def test_answers_are_those_of_transformers(task, folders):
    asked = list(questions())
    assert len(asked) == len(GOLDEN["answers"])
    for question, expected in zip(asked, GOLDEN["answers"], strict=True):
        name, model, settings, inputs, options = question
        if name == task:
            got = answer(numtx.pipeline(task, folders[model], **settings), inputs, options)
            assert list(differences(got, expected)) == [], (model, settings, options)


def test_a_difference_is_seen():
    one = [{"label": "a", "score": 0.5}]
    assert not list(differences(one, plain([{"label": "a", "score": 0.5000049}])))
    for other in (
        [{"label": "b", "score": 0.5}],
        [{"label": "a", "score": 0.50002}],
        [{"label": "a", "score": float("nan")}],
        [{"label": "a"}],
        one * 2,
        one[0],
        [{"score": 0.5, "label": "a"}],
    ):
        assert list(differences(one, other)), other
