"""What Transformers answered with small tokenizers of every family, beside what numtx answers."""

import gzip
import json
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
pytest.importorskip("sentencepiece", reason="no sentencepiece: pip install 'numtx[hub]'")

from tokenizer_questions import FOLDERS, NAMES, answer, prepare, questions

from numtx.text import AutoTokenizer

GOLDEN = json.loads(gzip.decompress((FOLDERS / "answers.json.gz").read_bytes()))["answers"]


def refused_on_purpose(name, kind, argument, options):
    """Marian: Transformers leaves a text too long where the cut that was asked for is not possible."""
    how = options.get("truncation")
    return name.startswith("marian") and kind == "call" and how in ("only_first", "only_second")


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_transformers(name):
    tokenizer = prepare(AutoTokenizer.from_pretrained(FOLDERS / name))
    asked = list(questions(name))
    assert len(asked) == len(GOLDEN[name])
    for question, expected in zip(asked, GOLDEN[name], strict=True):
        got = answer(tokenizer, *question)
        if got == ["error"] and refused_on_purpose(name, *question):
            continue
        assert got == expected, (name, question)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_folder_answers_the_same(name, tmp_path):
    first = AutoTokenizer.from_pretrained(FOLDERS / name)
    files = first.save_pretrained(tmp_path)
    assert {"tokenizer_config.json", "special_tokens_map.json"} < {Path(file).name for file in files}
    again = prepare(AutoTokenizer.from_pretrained(tmp_path))
    prepare(first)
    for question in questions(name):
        assert answer(again, *question) == answer(first, *question), (name, question)
