"""What the pipelines of Transformers 4.57 found in contexts, and wrote, with small models, beside what numtx's do."""

import gzip
import json
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
pytest.importorskip("sentencepiece", reason="no sentencepiece: pip install 'numtx[hub]'")

from pipeline_questions import answer, differences
from written_questions import TASKS, make_folders, questions

import numtx

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "pipelines" / "written.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("models"))


def test_they_were_made_by_the_version_that_is_meant():
    assert GOLDEN["versions"]["transformers"].startswith("4.57")


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_those_of_transformers(task, folders):
    asked = list(questions())
    assert len(asked) == len(GOLDEN["answers"])
    for question, expected in zip(asked, GOLDEN["answers"], strict=True):
        name, model, settings, inputs, options = question
        if name == task:
            got = answer(numtx.pipeline(task, folders[model], **settings), inputs, options)
            assert list(differences(likely(got), likely(expected))) == [], (model, settings, options)


def likely(answers):
    """Return answers without spans of score 0 among several: which of these fill up is by chance of a partial sort."""
    if not isinstance(answers, list):
        return answers
    found = [likely(one) for one in answers]
    return [one for one in found if not (isinstance(one, dict) and one.get("score") == 0.0)] or found
