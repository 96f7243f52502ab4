"""A tokenizer beside a model that it is not for."""

from types import SimpleNamespace

import pytest
from tokenizer_questions import FOLDERS

from numtx.text import AutoTokenizer
from numtx.text.fitting import require_fit

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")


def model_of(vocab_size, vocabulary=None):
    config = SimpleNamespace(vocab_size=vocab_size, vocabulary=vocab_size if vocabulary is None else vocabulary)
    return SimpleNamespace(config=config)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "marian"])
def test_every_id_needs_a_row(name):
    if name in ("t5", "marian"):
        pytest.importorskip("sentencepiece", reason="no sentencepiece: pip install 'numtx[hub]'")
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / name)
    largest = max(tokenizer.get_vocab().values())
    require_fit("O", tokenizer, model_of(largest + 1))
    require_fit("O", tokenizer, model_of(largest + 100))  # spare rows are usual
    with pytest.raises(
        ValueError, match=rf"^O: expected a tokenizer with ids below vocab_size = {largest} of "
    ) as error:
        require_fit("O", tokenizer, model_of(largest))
    assert f"got id {largest} (" in str(error.value)
    assert f"in that of '{FOLDERS / name}': is it this model's?" in str(error.value)


def test_each_side_has_its_own():
    tokenizer = SimpleNamespace(
        separate_vocabs=True, name_or_path="m", get_vocab=lambda: {"a": 4}, get_target_vocab=lambda: {"b": 7}
    )
    require_fit("O", tokenizer, model_of(5, 8))
    with pytest.raises(ValueError, match="vocab_size = 4 "):
        require_fit("O", tokenizer, model_of(4, 8))
    with pytest.raises(ValueError, match=r"decoder_vocab_size = 7 .* id 7"):
        require_fit("O", tokenizer, model_of(5, 7))
