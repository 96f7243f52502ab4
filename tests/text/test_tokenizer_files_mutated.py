"""Tokenizer files with bytes flipped, cut, swapped: each opens or is refused in one line, and nothing else happens."""

import shutil
import time

import numpy as np
import pytest
from tokenizer_questions import FOLDERS

from numtx.text import AutoTokenizer

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
pytest.importorskip("sentencepiece", reason="no sentencepiece: pip install 'numtx[hub]'")

FILES = [
    ("bert", "vocab.txt"),
    ("bert", "tokenizer_config.json"),
    ("bert_json", "tokenizer.json"),
    ("gpt2", "vocab.json"),
    ("gpt2", "merges.txt"),
    ("t5", "spiece.model"),
    ("llama", "tokenizer.model"),
    ("llama", "tokenizer_config.json"),
    ("llama", "chat_template.jinja"),
    ("marian", "source.spm"),
    ("marian", "vocab.json"),
]


def mutated(data, rng):
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        kind, place = rng.integers(4), int(rng.integers(len(out))) if out else 0
        if kind == 0 and out:
            out[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del out[place:]
        elif kind == 2:
            end = place + int(rng.integers(1, 40))
            out[place:end] = out[place:end][::-1]
        else:
            out[place:place] = bytes(rng.integers(256, size=int(rng.integers(1, 9)), dtype=np.uint8))
    return bytes(out)


@pytest.mark.parametrize(("name", "file"), FILES)
def test_opens_or_says_what_is_wrong(name, file, tmp_path):
    folder = shutil.copytree(FOLDERS / name, tmp_path / name)
    whole = (folder / file).read_bytes()
    rng = np.random.default_rng([ord(c) for c in name + file])
    messages = []
    start = time.perf_counter()
    for _ in range(60):
        (folder / file).write_bytes(mutated(whole, rng))
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            tokenizer.decode(tokenizer.encode("Hello, world! 中"), skip_special_tokens=True)
            if tokenizer.chat_template:
                tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
        except ValueError as error:
            messages.append(str(error))
    assert time.perf_counter() - start < 30
    assert not [message for message in messages if "\n" in message]
    assert messages or file in ("vocab.txt", "chat_template.jinja", "tokenizer_config.json"), "nothing was broken"
