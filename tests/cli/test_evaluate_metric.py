"""numtx evaluate."""

import json
import shutil

import pytest


@pytest.fixture
def write(tmp_path):
    def put(name, content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        return name

    return put


def lines(*values):
    return "".join(f"{one}\n" for one in values)


def test_classes_a_line(numtx, write):
    given = (
        "--predictions",
        write("p.txt", lines(0, 0, 1, 1, 0)),
        "--references",
        write("r.txt", lines(0, 1, 0, 1, 0)),
    )
    ran = numtx("evaluate", "f1", *given)
    assert (ran.code, ran.out, ran.err) == (0, "f1  0.5\n", "")
    assert json.loads(numtx("evaluate", "f1", *given, "--json", "--set", "pos_label=0").out) == {"f1": 2 / 3}
    assert json.loads(numtx("evaluate", "f1", *given, "--json", "--set", "average=null").out) == {"f1": [2 / 3, 0.5]}


def test_classes_that_are_words(numtx, write):
    given = ("--predictions", write("p.txt", "yes\r\nno\r\nyes"), "--references", write("r.txt", "yes\nno\nno\n"))
    assert json.loads(numtx("evaluate", "accuracy", *given, "--json").out) == {"accuracy": 2 / 3}
    assert json.loads(numtx("evaluate", "recall", *given, "--json", "--set", "pos_label=no").out) == {"recall": 0.5}


def test_intervals(numtx, write):
    given = ("--predictions", write("p.txt", lines(0, 0, 1, 1)), "--references", write("r.txt", lines(0, 1, 1, 1)))
    shown = numtx("evaluate", "accuracy", *given, "--bootstrap", 200, "--seed", 4).out
    found = json.loads(numtx("evaluate", "accuracy", *given, "--bootstrap", 200, "--seed", 4, "--json").out)
    low, high = found["confidence_intervals"]["accuracy"]
    assert shown == f"accuracy  0.75  [{low:.6g}, {high:.6g}]\n"
    assert low < 0.75 < high


def test_answers_as_lists_and_as_the_files_of_squad(numtx, write):
    questions = [
        {"id": "a", "answers": [{"text": "1976", "answer_start": 3}]},
        {"id": "b", "answers": [{"text": "Größe"}]},
    ]
    whole = {"version": "1.1", "data": [{"paragraphs": [{"context": "", "qas": [one]}]} for one in questions]}
    official = (
        "--predictions",
        write("p.json", {"b": "der größe", "a": "1976"}),
        "--references",
        write("r.json", whole),
    )
    flat = [{"id": "a", "prediction_text": "1976"}, {"id": "b", "prediction_text": "der größe"}]
    listed = (
        "--predictions",
        write("q.json", flat),
        "--references",
        write("s.jsonl", lines(*map(json.dumps, questions))),
    )
    found = json.loads(numtx("evaluate", "squad", *official, "--json").out)
    assert found == {"exact_match": 50.0, "f1": pytest.approx(250 / 3)}
    assert json.loads(numtx("evaluate", "squad", *listed, "--json").out) == found
    second = json.loads(numtx("evaluate", "squad_v2", *official, "--json").out)
    assert (second["exact"], second["HasAns_total"], second["best_f1_thresh"]) == (50.0, 2, 0.0)


def test_several_references(numtx, write):
    pytest.importorskip("sacrebleu", reason="no sacrebleu: pip install 'numtx[metrics]'")
    predictions = ("--predictions", write("p.txt", lines("a small cat sat", "no\u2028line end", "")))
    first, second = (
        write("r1.txt", lines("the small cat sat", "no\u2028line end", "x")),
        write("r2.txt", lines("b", "c", "d")),
    )
    both = ("--references", first, "--references", second)
    together = write("r.jsonl", lines('["the small cat sat", "b"]', '["no\\u2028line end", "c"]', '["x", "d"]'))
    ran = numtx("evaluate", "chrf", *predictions, *both)
    assert ran.out == numtx("evaluate", "chrf", *predictions, "--references", together).out
    assert "signature   nrefs:2|" in ran.out
    assert numtx("evaluate", "sacrebleu", *predictions, "--references", first).out != ran.out


def test_standard_input(numtx, write):
    references = ("--references", write("r.txt", lines("é", "b")))
    ran = numtx("evaluate", "exact_match", "--predictions", "-", *references, stdin="é\nc\n".encode())
    assert ran.out == "exact_match  0.5\n"
    numtx("evaluate", "exact_match", "--predictions", "-", "--references", "-").refused(2, "got it for both")


def test_perplexity_of_a_run(numtx, finished, write, text_file):
    shutil.copy(text_file, "t.txt")
    found = json.loads(numtx("evaluate", "perplexity", "--model", finished, "--predictions", "t.txt", "--json").out)
    text = text_file.read_text()
    assert found["tokens"] == len(text) - 1
    assert 1 < found["perplexity"] < 200
    two = write("t.jsonl", lines(json.dumps(text[:900]), json.dumps(text[900:])))
    both = json.loads(numtx("evaluate", "perplexity", "--model", finished, "--predictions", two, "--json").out)
    assert len(both["perplexities"]) == 2
    given = ("evaluate", "perplexity", "--model", finished, "--predictions", "t.txt", "--set", "stride=8")
    assert numtx(*given).code == 0
    numtx(*given, "--set", "stride=9").refused(1, "stride up to the length of a window, 8")


def test_what_is_asked_wrongly(numtx, write, finished):
    given = ("--predictions", write("p.txt", "1\n2\n"), "--references", write("r.txt", "1\n2\n"))
    numtx("evaluate", "acuracy", *given).refused(2, "the nearest is 'accuracy'")
    numtx("evaluate", "accuracy", *given[:2]).refused(2, "--references for accuracy")
    numtx("evaluate", "perplexity", *given).refused(2, "perplexity without --references")
    numtx("evaluate", "perplexity", *given[:2]).refused(2, "--model for perplexity")
    numtx("evaluate", "accuracy", *given, "--model", finished).refused(2, "no --model for accuracy")
    numtx("evaluate", "accuracy", *given, "--set", "k=5").refused(2, "normalize, sample_weight with --set", "got k")
    numtx("evaluate", "squad", *given, "--set", "k=5").refused(2, "nothing with --set for squad, got k")
    numtx("evaluate", "accuracy", *given, "--set", "k").refused(2, "--set NAME=VALUE")
    numtx("evaluate", "perplexity", *given[:2], "--set", "model=x").refused(2, "has its own place")
    numtx("evaluate", "accuracy", *given, "--bootstrap", 5, "--confidence", 1.5).refused(1, "between 0 and 1, got 1.5")
    assert numtx("evaluate", "accuracy").code == 2


def test_files_that_are_wrong(numtx, write, tmp_path):
    good = write("p.txt", "1\n2\n")

    def refused(metric, reference, *words):
        numtx("evaluate", metric, "--predictions", good, "--references", reference).refused(1, *words)

    refused("accuracy", "none.txt", "'none.txt', which does not exist")
    refused("accuracy", write("r.txt", "1\n"), "as many predictions as references, got 2 and 1")
    refused("accuracy", write("e.txt", ""), "got 2 and 0")
    refused("accuracy", write("r.jsonl", "1\n{\n"), "JSON in line 2 of 'r.jsonl'")
    refused("accuracy", write("r.json", "[" * 100_000), "JSON in 'r.json'")
    refused("accuracy", write("r.json", {"a": 1}), "a list in 'r.json', got dict")
    refused("squad", write("r.json", {"data": [3]}), "a list of questions or a file of SQuAD")
    (tmp_path / "b.txt").write_bytes(b"ok\n\xff\n")
    refused("accuracy", "b.txt", "UTF-8", "offset 3 of 'b.txt'")
    refused("accuracy", ".", "readable file")
    numtx(
        "evaluate", "accuracy", "--predictions", good, "--references", good, "--references", write("r.txt", "1\n")
    ).refused(1, "as many references in each file, got 2, 1")
