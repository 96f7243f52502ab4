"""Small models with their tokenizers, made once a run."""

import pytest
from pipeline_questions import make_folders

import numtx


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The folders of `pipeline_questions.MODELS`, by name."""
    pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
    return make_folders(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def made(folders):
    """`made(task, model, **settings)`: a pipeline of one of these models."""

    def make(task, model, **settings):
        return numtx.pipeline(task, folders[model], **settings)

    return make
