"""Train small tokenizers of every family, and write down what Transformers answers with them.

    python tests/golden/make_golden_tokenizers.py

needs `transformers`, `tokenizers`, `sentencepiece` and `protobuf`. The folders hold the files that a hub's hold;
``answers.json.gz`` the answers to `tokenizer_questions.questions`, one list a folder, and the versions that gave them.
"""

import gzip
import io
import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, logging

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenizer_questions import FOLDERS, NAMES, answer, prepare, questions

from numtx.text import python_topics

# A small table of normal forms: the usual one takes 240 KB in each file.
RULES = {
    "½": "1⁄2",
    "ﬁ": "fi",
    "\u00a0": " ",
    "\t": " ",
    "\n": " ",
    "\u200b": " ",
    "\ufeff": "",
    "Ａ": "A",
    "e\u0301": "é",
}
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '<<SYS>>' + message.content + '<</SYS>>\\n' }}
    {%- else %}
        {{- bos_token if loop.first }}{{ '[' + message.role + '] ' + message.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[assistant] ' }}
{%- endif %}
"""


def sample() -> list[str]:
    """English prose to train on; the marks are in it so that the vocabularies have some of what the questions ask."""
    lines = [line for line in python_topics().split("\n") if line.strip()][:3000]
    return [*lines, *["naïve café 中文 ½ don't"] * 5, *["## a ### b #!"] * 60]


def pieces(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample()), model_writer=model, minloglevel=2, num_threads=1, **options
    )
    return model.getvalue()


def unigram(**options) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rules.tsv"
        points = [[" ".join(f"{ord(c):X}" for c in side) for side in rule] for rule in RULES.items()]
        table.write_text("".join(f"{left}\t{right}\n" for left, right in points))
        return pieces(model_type="unigram", normalization_rule_tsv=str(table), **options)


def folder(name: str, config: dict, **files: bytes | str) -> Path:
    path = FOLDERS / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    for file, content in files.items():
        data = content if isinstance(content, bytes) else content.encode("utf-8")
        (path / file.replace("__", ".")).write_bytes(data)
    return path


def bert() -> None:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        [line.lower() for line in sample()],
        trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False),
    )
    vocab = tokenizer.get_vocab()
    text = "".join(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__))
    folder("bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}, vocab__txt=text)
    cased = {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False, "tokenize_chinese_chars": False}
    folder("distilbert_cased", {**cased, "strip_accents": True, "padding_side": "left"}, vocab__txt=text)
    # What Transformers saves of it: tokenizer.json, here with lengths in it, which a call must not take over.
    saved = AutoTokenizer.from_pretrained(FOLDERS / "bert").backend_tokenizer
    saved.enable_truncation(12)
    saved.enable_padding(pad_id=0, pad_token="[PAD]", length=12)
    config = {"tokenizer_class": "BertTokenizer", "clean_up_tokenization_spaces": True, "model_max_length": 64}
    folder("bert_json", config, tokenizer__json=saved.to_str())


def byte_level() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sample(), trainer)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.model.save(scratch)
        files = {
            "vocab__json": (Path(scratch) / "vocab.json").read_text(encoding="utf-8"),
            "merges__txt": (Path(scratch) / "merges.txt").read_text(encoding="utf-8"),
        }
    mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False}
    folder("gpt2", {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024}, **files)
    roberta = {"tokenizer_class": "RobertaTokenizer", "mask_token": {**mask, "normalized": False}}
    folder("roberta", {**roberta, "model_max_length": 512}, **files)
    bart = {"tokenizer_class": "BartTokenizer", "mask_token": {**mask, "normalized": False}, "add_prefix_space": True}
    folder("bart", bart, **files)


def sentencepiece_families() -> None:
    t5 = unigram(vocab_size=300, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    folder("t5", {"tokenizer_class": "T5Tokenizer", "extra_ids": 20, "model_max_length": 512}, spiece__model=t5)
    llama = pieces(
        model_type="bpe",
        vocab_size=560,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    settings = {"add_bos_token": True, "add_eos_token": False, "legacy": False, "model_max_length": 2048}
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    added = {
        str(560 + i): {"content": token, "special": special, "normalized": False, "lstrip": False}
        | {"rstrip": False, "single_word": False}
        for i, (token, special) in enumerate((("<tool>", False), ("<call>", True)))
    }
    config = {"tokenizer_class": "LlamaTokenizer", **settings, **named, "added_tokens_decoder": added}
    folder("llama", config, tokenizer__model=llama, chat_template__jinja=CHAT_TEMPLATE)


def marian() -> None:
    files = {"source__spm": unigram(vocab_size=240), "target__spm": unigram(vocab_size=280)}
    tables = []
    for model in files.values():
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        tables.append([processor.id_to_piece(i) for i in range(3, processor.get_piece_size())])
    # "ing" is left out: a piece without an id is the unknown token.
    both = [piece for piece in dict.fromkeys(tables[0] + tables[1]) if piece != "ing"]
    joint = ["</s>", "<unk>", *both, ">>fra<<", ">>deu<<", "<pad>"]
    source, target = (["</s>", "<unk>", "<pad>", *table] for table in tables)
    table = [json.dumps({piece: i for i, piece in enumerate(each)}) for each in (joint, source, target)]
    config = {"tokenizer_class": "MarianTokenizer", "source_lang": "eng", "target_lang": "fra", "model_max_length": 512}
    folder("marian", config, vocab__json=table[0], **files)
    separate = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": True}
    folder("marian_separate", separate, vocab__json=table[1], target_vocab__json=table[2], **files)


def main() -> None:
    logging.set_verbosity_error()
    shutil.rmtree(FOLDERS, ignore_errors=True)
    bert()
    byte_level()
    sentencepiece_families()
    marian()
    answers = {}
    for name in NAMES:
        tokenizer = prepare(AutoTokenizer.from_pretrained(FOLDERS / name))
        answers[name] = [answer(tokenizer, *question) for question in questions(name)]
        print(name, type(tokenizer).__name__, len(answers[name]), "answers")
    packages = ("transformers", "tokenizers", "sentencepiece")
    content = {"versions": {package: version(package) for package in packages}, "answers": answers}
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    (FOLDERS / "answers.json.gz").write_bytes(gzip.compress(text.encode("ascii"), mtime=0))


if __name__ == "__main__":
    main()
