"""What `import numtx` loads, and what it must not."""

import subprocess
import sys

import pytest


def loaded(statement):
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def test_import_loads_next_to_nothing():
    assert not loaded("import numtx") & {"numpy", "scipy", "numtx.nn"}


@pytest.mark.parametrize(
    "room",
    ["functional", "nn", "models", "text", "checkpoints", "generation", "training", "metrics", "pipelines"],
)
def test_no_floor_needs_an_extra_the_command_line_or_what_stands_beside(room):
    modules = loaded(f"import numtx.{room}")
    assert f"numtx.{room}" in modules
    unwanted = {"torch", "transformers", "tokenizers", "matplotlib", "typer", "rich", "hypothesis", "pytest"}
    unwanted |= {"huggingface_hub", "gguf", "sentencepiece", "jinja2", "sacrebleu", "rouge_score", "nltk"}
    unwanted |= {"numtx.testing", "numtx.cli", "numtx.plotting"}
    assert not modules & unwanted


def test_testing_needs_no_extra():
    assert not loaded("import numtx.testing") & {"torch", "hypothesis", "pytest", "typer", "rich"}


def test_names_are_found_when_asked_for():
    import numtx

    assert numtx.testing.gradcheck
    assert numtx.Transformer is numtx.models.Transformer
    assert {name for name in numtx.__all__ if getattr(numtx, name) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = numtx.nonsense
