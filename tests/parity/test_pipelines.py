"""Pipelines beside those of the Transformers that is installed, as far as it still has them."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")

import transformers
from pipeline_questions import TASKS, answer, differences, make_folders, questions
from their_version import OLD

import numtx

TEXTS = 20  # a question; the golden files have more


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.filterwarnings("ignore")
def test_answers_are_those_of_transformers(task, folders):
    transformers.logging.set_verbosity(50)
    for _, model, settings, inputs, options in questions(TEXTS, [task]):
        if "return_all_scores" in {**settings, **options} and not OLD:
            continue  # an older way to say top_k, which version 5 took away
        theirs = transformers.pipeline(task, str(folders[model]), **settings)
        ours = numtx.pipeline(task, folders[model], **settings)
        found = list(differences(answer(ours, inputs, options), answer(theirs, inputs, options)))
        assert found == [], (model, settings, options)
