"""`AutoTokenizer`: which tokenizer a folder holds, and what it says of one that holds none."""

import json
import shutil

import pytest
from tokenizer_questions import FOLDERS

import numtx
from numtx.text import AutoTokenizer, ByteTokenizer, CharTokenizer

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
pytest.importorskip("sentencepiece", reason="no sentencepiece: pip install 'numtx[hub]'")


@pytest.fixture
def folder(tmp_path):
    """Copy a golden folder, to be changed."""

    def copy(name):
        return shutil.copytree(FOLDERS / name, tmp_path / name)

    return copy


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


def test_it_stands_at_the_top():
    assert numtx.AutoTokenizer is AutoTokenizer


@pytest.mark.parametrize("ours", [CharTokenizer.from_text("Hello wörld"), ByteTokenizer()], ids=["char", "byte"])
def test_the_tokenizers_of_runs_open(ours, tmp_path):
    ours.save(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert opened.encode("Hello wörld") == ours.encode("Hello wörld").tolist()
    assert opened.decode(ours.encode("wörld")) == "wörld"
    assert len(opened) == ours.vocab_size
    assert opened.all_special_tokens == []


@pytest.mark.parametrize("name", ["bert", "gpt2", "roberta", "t5", "llama", "marian"])
def test_the_model_names_the_family_where_the_tokenizer_does_not(name, folder):
    copy = folder(name)
    (copy / "tokenizer_config.json").unlink()
    write(copy / "config.json", {"model_type": name})
    whole = AutoTokenizer.from_pretrained(FOLDERS / name)
    opened = AutoTokenizer.from_pretrained(copy)
    assert opened.encode("Hello, world! <mask>") == whole.encode("Hello, world! <mask>")
    assert opened.special_tokens_map == whole.special_tokens_map


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "llama", "marian"])
def test_files_alone_are_enough(name, folder):
    copy = folder(name)
    (copy / "tokenizer_config.json").unlink()
    assert AutoTokenizer.from_pretrained(copy).encode("the world") == AutoTokenizer.from_pretrained(
        FOLDERS / name
    ).encode("the world")


def test_the_mask_token_of_roberta_takes_the_space_before_it(folder):
    copy = folder("roberta")
    write(copy / "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer"})
    opened = AutoTokenizer.from_pretrained(copy)
    assert opened.convert_ids_to_tokens(opened.encode("a <mask>.")) == ["<s>", "a", "<mask>", ".", "</s>"]


def test_what_is_given_counts_first(folder):
    opened = AutoTokenizer.from_pretrained(
        folder("bert"), padding_side="left", model_max_length=9, do_lower_case=False, pad_token="[MASK]"
    )
    assert (opened.padding_side, opened.model_max_length, opened.pad_token) == ("left", 9, "[MASK]")
    assert opened.tokenize("Hello")[0] != AutoTokenizer.from_pretrained(FOLDERS / "bert").tokenize("Hello")[0]


@pytest.mark.parametrize("family", ["gpt2", "roberta", "bart"])
def test_a_space_before_each_word_is_put_there_or_not_whatever_the_file_says(family, tmp_path):
    """As Transformers 4 does it: lists of words can be read, and the places in the text do not count the space."""
    words = ["Hello", "world"]
    for saved in (False, True):
        AutoTokenizer.from_pretrained(FOLDERS / family, add_prefix_space=saved).save_pretrained(tmp_path)
        for wanted in (False, True, None):
            given = {} if wanted is None else {"add_prefix_space": wanted}
            opened = AutoTokenizer.from_pretrained(tmp_path, **given)
            direct = AutoTokenizer.from_pretrained(
                FOLDERS / family, add_prefix_space=saved if wanted is None else wanted
            )
            for text, split in ((words, True), ("Hello world", False)):
                options = {"is_split_into_words": split, "return_offsets_mapping": True}
                assert dict(opened(text, **options)) == dict(direct(text, **options)), (saved, wanted)
            begin = [token[0] for token in opened.tokenize("Hello world")]
            assert begin.count("Ġ") == (2 if wanted or (wanted is None and saved) else 1)


def test_special_tokens_of_the_older_files(folder):
    copy = folder("gpt2")
    write(copy / "special_tokens_map.json", {"pad_token": {"content": "<pad>", "lstrip": True}, "bos_token": "<s>"})
    write(copy / "added_tokens.json", {"<new>": 500, "<newer>": 501})
    opened = AutoTokenizer.from_pretrained(copy)
    assert (opened.pad_token, opened.bos_token, opened.eos_token) == ("<pad>", "<s>", "<|endoftext|>")
    assert opened.convert_ids_to_tokens(opened.encode("a <pad>b<newer>")) == ["a", "<pad>", "b", "<newer>"]
    assert (opened.convert_tokens_to_ids("<newer>"), len(opened), opened.vocab_size) == (501, 502, 500)


def test_begin_and_end_tokens_are_a_matter_of_settings():
    opened = AutoTokenizer.from_pretrained(FOLDERS / "llama", add_bos_token=False, add_eos_token=True)
    first, second = (opened.encode(text, add_special_tokens=False) for text in ("of", "the"))
    assert opened.encode("of", "the") == [*first, opened.eos_token_id, *second, opened.eos_token_id]
    assert opened.num_special_tokens_to_add(pair=True) == 2


def test_symbols_that_a_user_defined_stand_alone(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world of words", "held"] * 20),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        user_defined_symbols=["<tool>"],
        minloglevel=2,
        hard_vocab_limit=False,
    )
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert "<tool>" in opened.tokenize("held<tool>held")
    assert "<tool>" not in opened.all_special_tokens
    assert opened.decode(opened.encode("held<tool>"), skip_special_tokens=True) == "held<tool>"


def test_lengths_inside_tokenizer_json_are_not_a_call_s(folder):
    opened = AutoTokenizer.from_pretrained(folder("bert_json"))
    assert opened.backend_tokenizer.truncation is opened.backend_tokenizer.padding is None
    assert len(opened.encode("of the " * 20)) > 12
    opened("of", padding="max_length", truncation=True, max_length=5)
    opened.save_pretrained(folder("bert"))
    assert AutoTokenizer.from_pretrained(FOLDERS / "bert_json").encode("of") == opened.encode("of")


def test_an_entry_that_is_null_takes_a_default_away(folder):
    copy = folder("gpt2")
    write(copy / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "bos_token": None})
    assert AutoTokenizer.from_pretrained(copy).bos_token is None


def test_templates_in_files_count_first(folder):
    copy = folder("llama")
    config = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
    write(copy / "tokenizer_config.json", {**config, "chat_template": "from the config"})
    assert AutoTokenizer.from_pretrained(copy).chat_template.startswith("{%- for")
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    assert set(AutoTokenizer.from_pretrained(copy).chat_template) == {"default", "tool_use"}
    shutil.rmtree(copy / "additional_chat_templates")
    (copy / "chat_template.jinja").unlink()
    assert AutoTokenizer.from_pretrained(copy).chat_template == "from the config"


# --- what it refuses


def refused(path, *words, **options):
    with pytest.raises(ValueError, match=r"^\S+: ") as caught:
        AutoTokenizer.from_pretrained(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_nothing_there_lists_what_was_looked_for(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "tokenizer.json", "vocab.txt", "spiece.model", "source.spm", "merges.txt", "model.safetensors")


def test_half_a_pair_of_files(folder):
    copy = folder("gpt2")
    (copy / "merges.txt").unlink()
    refused(copy, "vocab.json with merges.txt", "got", "vocab.json")


def test_files_of_another_family(folder):
    copy = folder("t5")
    write(copy / "tokenizer_config.json", {"tokenizer_class": "AlbertTokenizer"})
    refused(copy, "AlbertTokenizer", "tokenizer.json")
    write(copy / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    refused(copy, "t5", "bert")
    shutil.copy(copy / "spiece.model", copy / "tokenizer.model")
    (copy / "spiece.model").unlink()
    write(copy / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    refused(copy, "BPE", "unigram")


def test_a_vocabulary_without_the_special_tokens(folder):
    copy = folder("bert")
    (copy / "vocab.txt").write_text("hello\nworld\n")
    refused(copy, "cls_token", "[CLS]", "vocab.txt")


def test_broken_files(folder):
    copy = folder("gpt2")
    (copy / "merges.txt").write_text("#version: 0.2\na b c\n")
    refused(copy, "merges.txt", "a b c")
    (copy / "merges.txt").write_text("#version: 0.2\nno such\n")
    refused(copy, "merges.txt")
    write(copy / "vocab.json", {"a": "b"})
    refused(copy, "vocab.json")
    copy = folder("llama")
    (copy / "tokenizer.model").write_bytes(b"no model")
    refused(copy, "tokenizer.model")
    copy = folder("bert_json")
    (copy / "tokenizer.json").write_text('{"model": {"type": "none"}}')
    refused(copy, "tokenizer.json")
    (copy / "tokenizer_config.json").write_text("{")
    refused(copy, "tokenizer_config.json")


@pytest.mark.parametrize(
    "entries",
    [
        {"pad_token": 3},
        {"added_tokens_decoder": {"x": "<new>"}},
        {"model_max_length": "long"},
        {"padding_side": "top"},
        {"chat_template": 3},
        {"extra_special_tokens": [1]},
    ],
)
def test_entries_that_cannot_be(entries, folder):
    copy = folder("bert")
    write(copy / "tokenizer_config.json", entries)
    refused(copy)


def test_a_file_that_is_no_gguf(folder):
    refused(folder("bert") / "vocab.txt")


def test_an_absent_package_is_named(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'numtx\[hub\]'"):
        AutoTokenizer.from_pretrained(folder("bert"))
