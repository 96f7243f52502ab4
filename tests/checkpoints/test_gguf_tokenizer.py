"""The tokenizer inside a GGUF file: what its two JSON files hold, and what the package makes of them."""

import json

import numpy as np
import pytest
from gguf_writer import Llama, gguf_bytes

from numtx.checkpoints import gguf_tokenizer
from numtx.checkpoints.gguf_splits import SPLITS, pre_tokenizer


def byte_alphabet():
    """GPT-2's spelling of the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


SPECIAL = ["<|end|>", "<|user|>"]
MERGES = ["Ġ t", "h e", "Ġt he", "1 2", "l l"]
TOKENS = [*SPECIAL, *byte_alphabet().values(), *(merge.replace(" ", "") for merge in MERGES), "<tool>", "hello"]
BYTE_LEVEL = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.token_type": np.array([3, 3] + [1] * (len(TOKENS) - 4) + [4, 1], np.int32),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{{ messages }}\n",
}

PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abc<s>", "ab", "▁ab", "bc", "<s"]
SCORES = [0.0] * 259 + [-9.0] * 7 + [-2.0, -3.0, -1.0, -4.0]
SENTENCEPIECE = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": np.array(SCORES, np.float32),
    "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256 + [1] * 11, np.int32),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


def written(tmp_path, settings, **changes):
    settings = settings | changes
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf_bytes({name: value for name, value in settings.items() if value is not None}, {}))
    return path


def opened(tmp_path, settings, **changes):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer, _ = gguf_tokenizer(written(tmp_path, settings, **changes))
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer))


def test_byte_level_files(tmp_path):
    tokenizer, config = gguf_tokenizer(written(tmp_path, BYTE_LEVEL))
    assert tokenizer["model"]["type"] == "BPE"
    assert tokenizer["model"]["vocab"] == {token: number for number, token in enumerate(TOKENS)}
    assert tokenizer["model"]["merges"] == [merge.split(" ") for merge in MERGES]
    assert tokenizer["pre_tokenizer"]["pretokenizers"][0] == {"type": "Digits", "individual_digits": True}
    added = {token["content"]: (token["id"], token["special"]) for token in tokenizer["added_tokens"]}
    assert added == {"<|end|>": (0, True), "<|user|>": (1, True), "<tool>": (len(TOKENS) - 2, False)}
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": "<|user|>",
        "eos_token": "<|end|>",
        "model_max_length": 64,
        "chat_template": "{{ messages }}\n",
    }
    assert json.loads(json.dumps(tokenizer)) == tokenizer


def test_byte_level_text(tmp_path):
    tokenizer = opened(tmp_path, BYTE_LEVEL)

    def pieces(text):
        return tokenizer.encode(text).tokens

    assert pieces("hello the") == ["he", "ll", "o", "Ġthe"]
    assert pieces("12 12") == ["1", "2", "Ġ", "1", "2"]  # digits apart, whatever the merges
    assert pieces("the<|user|>the<tool>") == ["t", "he", "<|user|>", "t", "he", "<tool>"]
    for text in ("hello\n é 😀\u0000 <tool>", "", " ", "  12"):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_words_that_are_tokens_come_whole_where_the_model_wants_it(tmp_path):
    tokenizer = opened(
        tmp_path, BYTE_LEVEL, **{"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None}
    )
    assert tokenizer.encode("hello", add_special_tokens=False).tokens == ["hello"]
    assert tokenizer.encode("hello").tokens == ["<|user|>", "hello"]  # and these begin with bos unless told otherwise
    assert tokenizer.encode("12", add_special_tokens=False).tokens == ["12"]
    plain = opened(tmp_path, BYTE_LEVEL, **{"tokenizer.ggml.pre": None, "tokenizer.ggml.add_bos_token": None})
    assert plain.encode("hello 12").tokens == ["he", "ll", "o", "Ġ", "12"]


@pytest.mark.parametrize("name", SPLITS)
def test_every_way_of_cutting_is_the_packages(name):
    tokenizers = pytest.importorskip("tokenizers")
    content = {
        "version": "1.0",
        "model": {"type": "BPE", "vocab": {}, "merges": []},
        "pre_tokenizer": pre_tokenizer(name),
    }
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    text = "It's  wideWORLD, 12345 naïve\n\n x"
    cut = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    spelled = byte_alphabet()
    assert "".join(cut) == "".join(spelled[byte] for byte in text.encode("utf-8"))
    digits = {"gpt-2": ["Ġ12345"], "smollm": ["Ġ", *"12345"], "llama-bpe": ["Ġ", "123", "45"], "qwen2": ["Ġ", *"12345"]}
    digits["tekken"] = digits["qwen2"]
    if name in digits:
        at = cut.index(digits[name][0], 4)
        assert cut[at : at + len(digits[name])] == digits[name]
    assert ("ĠwideWORLD" in cut) == (name != "tekken")


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False])
def test_what_stands_around_a_text(tmp_path, bos, eos):
    around = {"tokenizer.ggml.add_bos_token": bos, "tokenizer.ggml.add_eos_token": eos}
    tokenizer = opened(tmp_path, BYTE_LEVEL, **around)
    _, config = gguf_tokenizer(written(tmp_path, BYTE_LEVEL, **around))
    assert (config["add_bos_token"], config["add_eos_token"]) == (bos, eos)
    first, last = [1] * bos, [0] * eos
    one, two = (
        tokenizer.encode("he", add_special_tokens=False).ids,
        tokenizer.encode("ll", add_special_tokens=False).ids,
    )
    assert tokenizer.encode("he").ids == [*first, *one, *last]
    pair = tokenizer.encode("he", "ll")
    assert pair.ids == [*first, *one, *last, *first, *two, *last]
    assert pair.type_ids == [0] * (len(one) + bos + eos) + [1] * (len(two) + bos + eos)


def test_sentencepiece(tmp_path):
    tokenizer, config = gguf_tokenizer(written(tmp_path, SENTENCEPIECE))
    assert (config["bos_token"], config["eos_token"], config["add_bos_token"]) == ("<s>", "</s>", True)
    assert [token["content"] for token in tokenizer["added_tokens"]] == ["<unk>", "<s>", "</s>"]
    # By score; and no way to make a control token or a byte out of characters.
    assert tokenizer["model"]["merges"] == [["b", "c"], ["a", "b"], ["▁", "ab"], ["<", "s"]]
    package = opened(tmp_path, SENTENCEPIECE)
    assert package.encode("abc ab").tokens == ["<s>", "▁", "a", "bc", "▁ab"]
    assert package.encode("é", add_special_tokens=False).tokens == ["▁", "<0xC3>", "<0xA9>"]
    assert package.encode("a<s>ab").tokens == ["<s>", "▁", "a", "<s>", "▁ab"]
    assert package.encode(" ab").tokens == ["<s>", "▁", "▁ab"]
    for text in ("abc ab", "  a", "é  b", "c\n"):
        assert package.decode(package.encode(text).ids) == text
    assert opened(tmp_path, SENTENCEPIECE, **{"tokenizer.ggml.add_space_prefix": False}).encode("ab").tokens == [
        "<s>",
        "ab",
    ]


def test_a_model_without_tokenizer(tmp_path):
    with pytest.raises(
        ValueError, match=r"gguf_tokenizer: expected a tokenizer that numtx reads in '.*', got none at all"
    ):
        gguf_tokenizer(Llama().write(tmp_path / "small.gguf"))


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (BYTE_LEVEL, {"model": "bert"}, "got the kind 'bert' "),
        (BYTE_LEVEL, {"model": 1}, "tokenizer.ggml.model as int, not str"),
        (BYTE_LEVEL, {"pre": "own"}, "got the way 'own' of cutting text"),
        (BYTE_LEVEL, {"tokens": None}, "no list of strings as tokenizer.ggml.tokens"),
        (BYTE_LEVEL, {"tokens": [*TOKENS[:-1], "Ġ"]}, "got 265 tokens of which 264 differ"),
        (BYTE_LEVEL, {"merges": None}, "no list of strings as tokenizer.ggml.merges"),
        (BYTE_LEVEL, {"merges": ["h h"]}, "the merge 'h h', which are not two tokens and their union"),
        (BYTE_LEVEL, {"merges": ["he"]}, "the merge 'he', which are not two"),
        (BYTE_LEVEL, {"token_type": np.zeros(3, np.int32)}, "token_type that is not one number for each of 265"),
        (BYTE_LEVEL, {"eos_token_id": 265}, "eos_token_id = '265' beside 265 tokens"),
        (BYTE_LEVEL, {"add_bos_token": 1}, "add_bos_token as int, not bool"),
        (SENTENCEPIECE, {"scores": None}, "no scores of its pieces"),
        (SENTENCEPIECE, {"scores": np.full(len(PIECES), np.nan, np.float32)}, "no scores of its pieces"),
    ],
)
def test_odd_tokenizers(tmp_path, settings, changes, message):
    path = written(tmp_path, settings, **{f"tokenizer.ggml.{name}": value for name, value in changes.items()})
    with pytest.raises(ValueError, match=message) as raised:
        gguf_tokenizer(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
