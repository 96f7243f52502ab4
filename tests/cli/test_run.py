"""numtx run: what goes to the pipeline, and how its answers look."""

import json
from pathlib import Path

import numpy as np
import pytest

TOKENIZERS = Path(__file__).parents[1] / "golden/tokenizers"
SPANS = [
    {"entity": "LOC", "score": np.float32(0.98768), "word": "Zürich", "start": 3, "end": 9},
    {"entity": "PER", "score": 0.5, "word": "Ada", "start": 12, "end": 15},
]


@pytest.fixture
def asked(monkeypatch):
    """Answer in place of a pipeline; returns what it was made with and asked."""
    seen = {"answer": [{"label": "joy", "score": 0.75}], "inputs": []}

    def pipeline(task, model, *, tokenizer, **settings):
        seen["made"] = (task, model, tokenizer, settings)

        def ask(inputs=None, **named):
            seen["inputs"].append(inputs if named == {} else named)
            many = isinstance(inputs, list)
            return [seen["answer"] for _ in inputs] if many else seen["answer"]

        return ask

    monkeypatch.setattr("numtx.pipelines.pipeline", pipeline)
    return seen


def test_a_table(numtx, asked):
    asked["answer"] = SPANS
    ran = numtx("run", "ner", "In Zürich, Ada", "--model", "folder")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "entity  score   word    start  end",
        "LOC     0.9877  Zürich  3      9",
        "PER     0.5000  Ada     12     15",
    ]
    assert asked["made"] == ("ner", "folder", None, {"batch_size": None})
    assert asked["inputs"] == ["In Zürich, Ada"]


@pytest.mark.parametrize(
    ("task", "answer", "lines"),
    [
        ("token-classification", [], ["nothing found"]),
        ("summarization", [{"summary_text": "Short.\nVery."}], ["Short.", "Very."]),
        ("text-generation", [{"generated_text": "a"}, {"generated_text": "b"}], ["a", "", "b"]),
        ("text-generation", [{"generated_text": [{"role": "user", "content": "?"}, {"content": "!"}]}], ["!"]),
        ("text-generation", [{"generated_text": ""}], [""]),
        ("zero-shot-classification", {"sequence": "s", "labels": ["a", "b"], "scores": [0.9, 0.1]}, None),
        ("fill-mask", [[{"score": 0.5, "token_str": "x y"}], [{"score": 0.25, "token_str": "\n"}]], None),
        ("question-answering", {"score": 0.5, "start": 0, "end": 3, "answer": "Ada"}, None),
        ("text-classification", [[{"label": "a", "score": None}]], ["label  score", "a      -"]),
    ],
)
def test_answers_of_every_shape(numtx, asked, task, answer, lines):
    asked["answer"] = answer
    options = {"zero-shot-classification": ["--labels", "a,b"], "question-answering": ["--question", "Who?"]}
    out = numtx("run", task, "text", "--model", "m", *options.get(task, [])).out.splitlines()
    expected = {
        "zero-shot-classification": ["label  score", "a      0.9000", "b      0.1000"],
        "fill-mask": ["score   token_str", "0.5000  x y", "", "score   token_str", "0.2500"],
        "question-answering": ["score   start  end  answer", "0.5000  0      3    Ada"],
    }
    assert out == (expected[task] if lines is None else lines)


def test_features(numtx, asked):
    asked["answer"] = np.array([[[3, 4, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1.5]]]).tolist()
    out = numtx("run", "feature-extraction", "text", "--model", "m").out.splitlines()
    assert out[0] == "2 x 7 numbers (--json has all)"
    assert out[1].split() == ["token", "length", *(f"[{k}]" for k in range(6)), "..."]
    assert out[2].split() == ["0", "5.0000", "3.0000", "4.0000", *["0.0000"] * 4, "..."]
    asked["answer"] = [[0.5, 0.25]]
    assert numtx("run", "feature-extraction", "text", "--model", "m").out.splitlines()[2].split()[2:] == [
        "0.5000",
        "0.2500",
    ]


def test_json_is_the_answer_whole(numtx, asked):
    asked["answer"] = SPANS
    out = numtx("run", "ner", "x", "--model", "m", "--json").out
    assert "Zürich" in out
    assert [list(one.values()) for one in json.loads(out)] == [
        ["LOC", pytest.approx(0.98768, abs=1e-6), "Zürich", 3, 9],
        ["PER", 0.5, "Ada", 12, 15],
    ]


def test_lines_of_a_file_and_of_standard_input(numtx, asked, tmp_path):
    (tmp_path / "t.txt").write_bytes("\ufeffone\r\n\ntwo €\n".encode())
    ran = numtx("run", "text-classification", "t.txt", "--model", "m", "--lines", "--batch-size", 4)
    assert asked["inputs"] == [["one", "two €"]]
    assert asked["made"][3] == {"batch_size": 4}
    assert ran.out.split("\n\n")[1].splitlines()[:2] == ["two €", "label  score"]
    numtx("run", "text-classification", "t.txt", "--model", "m")
    assert asked["inputs"].pop() == "one\r\n\ntwo €"
    for given in (["-"], []):
        out = numtx("run", "text-classification", *given, "--model", "m", "--lines", "--json", stdin=b"a\nb\n").out
        assert asked["inputs"].pop() == ["a", "b"]
        assert len(out.splitlines()) == 2
    numtx("run", "text-classification", "--model", "m", "--lines", stdin=b"a\n")
    assert asked["inputs"].pop() == "a"  # one text, whose answer is one whatever the task makes of a list


def test_settings(numtx, asked):
    options = ["--set", "top_k=3", "--set", "function-to-apply=sigmoid", "--set", "truncation=true", "--set", "x=a=b"]
    numtx("run", "text-classification", "t", "--model", "m", "--tokenizer", "other", *options)
    task, _, tokenizer, settings = asked["made"]
    expected = {"top_k": 3, "function_to_apply": "sigmoid", "truncation": True, "x": "a=b", "batch_size": None}
    assert (task, tokenizer, settings) == ("text-classification", "other", expected)


def test_questions(numtx, asked):
    numtx("run", "question-answering", "Ada was here.", "--question", "Who?", "--model", "m")
    assert asked["inputs"].pop() == {"question": "Who?", "context": "Ada was here."}
    numtx("run", "question-answering", "--question", "Who?", "--set", "mode=closed", "--model", "m", stdin=b"unread")
    assert asked["inputs"].pop() == {"question": "Who?"}
    numtx("run", "question-answering", "text", "--question", "Who?", "--set", "mode=closed", "--model", "m")
    assert asked["inputs"].pop() == {"question": "Who?", "context": "text"}  # for the pipeline to judge


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["text-clasification", "x"], 2, ["summarization", "nearest is 'text-classification'"]),
        (["ner", "x", "--set", "top_k"], 2, ["--set NAME=VALUE", "'top_k'"]),
        (["ner", "x", "--set", "1=2"], 2, ["--set NAME=VALUE"]),
        (["ner", "x", "--set", "model=2"], 2, ["its own place"]),
        (["ner", "x", "--batch-size", "0"], 2, ["--batch-size"]),
        (["ner", "x", "--question", "?"], 2, ["question-answering alone"]),
        (["question-answering", "x"], 2, ["--question"]),
        (["zero-shot-classification", "x"], 2, ["--labels"]),
        (["ner", "", "--lines", "--model", "m"], 1, ["a line of text"]),
        (["ner", "broken.txt", "--model", "m"], 1, ["UTF-8", "broken.txt", "offset 1"]),
        (["ner", "x", "--model", "/no/such/place"], 1, ["/no/such/place", "does not exist"]),
        ([], 2, ["TASK"]),
    ],
)
def test_bad_input(numtx, tmp_path, arguments, code, words):
    (tmp_path / "broken.txt").write_bytes(b"a\xff")
    ran = numtx("run", *arguments)
    ran.refused(code, *words)
    assert ran.out == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small classifier with random weights."""
    pytest.importorskip("tokenizers", reason="needs pip install 'numtx[hub]'")
    from numtx.models import BertConfig, BertForSequenceClassification
    from numtx.text import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / "bert")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "type_vocab_size": 2}
    config = BertConfig(**sizes, id2label={0: "bad", 1: "good"})
    path = tmp_path_factory.mktemp("bert")
    model = BertForSequenceClassification(config, rng=0)
    model.draw(np.random.default_rng(0), 0.5)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_the_answers_are_the_pipelines(numtx, folder):
    from numtx import pipeline

    texts = ["a b c", "", "what a day \U0001f600"]
    expected = pipeline("text-classification", folder)(texts, top_k=None)
    stdin = "\n".join(["a b c", "what a day \U0001f600"]).encode()
    options = ["--model", folder, "--lines", "--set", "top_k=null", "--json"]
    ran = numtx("run", "sentiment-analysis", *options, stdin=stdin)
    assert (ran.code, ran.err) == (0, "")
    for line, answer in zip(ran.out.splitlines(), [expected[0], expected[2]], strict=True):
        for ours, theirs in zip(json.loads(line), answer, strict=True):
            assert ours["label"] == theirs["label"]
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-6)  # rows of other lengths beside them
    shown = numtx("run", "text-classification", "", "--model", folder).out.splitlines()
    best = max(expected[1], key=lambda one: one["score"])
    assert shown == ["label  score", f"{best['label']:<5}  {best['score']:.4f}"]


def test_standard_input_that_holds_nothing(numtx, asked):
    for given in ([], ["-"]):
        numtx("run", "text-classification", *given, "--model", "m").refused(2, "TEXT on standard input, got nothing")
    assert asked["inputs"] == []
    assert numtx("run", "text-classification", "", "--model", "m").code == 0  # a text that was said to be empty


def test_what_the_pipeline_refuses(numtx, folder):
    numtx("run", "fill-mask", "x", "--model", folder).refused(1, "BertForSequenceClassification")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("top_k=0", ["top_k", "got 0"]),
        ("function_to_apply=relu", ["function_to_apply", "'relu'"]),
        ("topk=3", ["'topk'", "the nearest is 'top_k'"]),
        ("dtype=int8", ["dtype", "'int8'"]),
        ("device=cuda", ["device", "'cuda'"]),
    ],
)
def test_a_setting_that_cannot_be_is_a_wrong_question(numtx, folder, setting, words):
    numtx("run", "text-classification", "x", "--model", folder, "--set", setting).refused(2, *words)


def test_a_text_that_cannot_be_is_not(numtx, folder):
    long = ("run", "text-classification", "a " * 99, "--model", folder)
    numtx(*long).refused(1, "at most 64 tokens", "truncation=True")
    assert numtx(*long, "--set", "truncation=true", "--set", "max_length=64").code == 0
