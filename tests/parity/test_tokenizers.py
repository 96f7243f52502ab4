"""The tokenizer files against the libraries that open them: same ids, same text, nothing added, nothing cleaned up."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.text import ByteTokenizer, CharTokenizer, load_tokenizer, python_topics

tokenizers = pytest.importorskip("tokenizers")

TRICKY = (
    "Hello  world .\r\n\t it 's  ,  do n't ! naïve €😀 </s> <|endoftext|> [UNK] <unk> <pad> ##a Ġ Ċ ▁ "
    "\u2028\u00a0\u3000\u200be\u0301\x00\x1b\ufeff\U0010ffff end  \n\n "
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


both = pytest.mark.parametrize("make", [CharTokenizer.from_text, lambda text: ByteTokenizer()], ids=["char", "byte"])


@both
@given(text=texts)
def test_tokenizers_package_encodes_and_decodes_alike(tmp_path_factory, make, text):
    folder = tmp_path_factory.mktemp("saved")
    ours = make(text + TRICKY)
    ours.save(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert theirs.get_vocab_size() == ours.vocab_size
    for each in (text, TRICKY + text):
        ids = theirs.encode(each).ids
        assert ids == ours.encode(each).tolist()
        assert theirs.decode(ids) == theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids) == each


@given(data=st.binary())
def test_broken_bytes_decode_alike(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("saved")
    ByteTokenizer().save(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert theirs.decode(list(data)) == ByteTokenizer().decode(list(data))


def test_unknown_character_is_refused_there_too(tmp_path):
    CharTokenizer("abc").save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Exception, match="WordLevel"):
        theirs.encode("abcd")


def open_with_transformers(folder):
    transformers = pytest.importorskip("transformers")
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 300}
    config |= {"bos_token_id": None, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    return transformers.AutoTokenizer.from_pretrained(str(folder))


@both
def test_auto_tokenizer_opens_a_run_folder_of_gpt2(make, tmp_path):
    ours = make(TRICKY)
    ours.save(tmp_path)
    theirs = open_with_transformers(tmp_path)
    assert len(theirs) == theirs.vocab_size == ours.vocab_size
    ids = theirs.encode(TRICKY)
    assert ids == theirs(TRICKY)["input_ids"] == ours.encode(TRICKY).tolist()
    assert theirs.decode(ids) == TRICKY
    assert theirs.decode(ids, skip_special_tokens=True) == TRICKY
    assert theirs.batch_decode([ids, ids[:5]]) == [TRICKY, TRICKY[:5]]
    assert not theirs.all_special_tokens


@both
def test_auto_tokenizer_on_the_default_text(make, tmp_path):
    text = python_topics()[:50_000]
    ours = make(text)
    ours.save(tmp_path)
    theirs = open_with_transformers(tmp_path)
    np.testing.assert_array_equal(theirs.encode(text), ours.encode(text))
    assert theirs.decode(theirs.encode(text)) == text


@both
def test_what_transformers_saves_again_is_read_back(make, tmp_path):
    ours = make(TRICKY)
    ours.save(tmp_path)
    open_with_transformers(tmp_path).save_pretrained(str(tmp_path / "again"))
    again = load_tokenizer(tmp_path / "again")
    assert type(again) is type(ours)
    np.testing.assert_array_equal(again.encode(TRICKY), ours.encode(TRICKY))
