"""The tasks of fine-tuning: what they make of rows, what they measure, and what they refuse."""

import json

import numpy as np
import pytest
from finetune_models import TASKS, rows_of, write_model

from numtx.text import AutoTokenizer, Dataset
from numtx.training.tasks import Lengths, task_of
from numtx.training.tasks.data import found_columns, hold_out
from numtx.training.tasks.words import entities, entity_scores

pytest.importorskip("tokenizers", reason="real tokenizers need the package tokenizers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = write_model(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return folder


def opened(task, folder):
    from numtx.models.auto import AutoConfig

    settings = task.model_settings(AutoConfig.from_pretrained(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer, task.auto.from_pretrained(folder, **settings)


def batch_of(task, rows, model, tokenizer):
    features = task.features(rows, model, tokenizer)
    collator = task.collator(model, tokenizer)
    draws = {"rng": np.random.default_rng(0)} if getattr(collator, "draws", False) else {}
    return features, collator([features[k] for k in range(len(features))], **draws)


@pytest.mark.filterwarnings("ignore:.*drawn anew")
@pytest.mark.parametrize("name", TASKS)
def test_a_batch_of_every_task_is_what_its_model_takes(folders, name):
    lengths = Lengths(16) if name in ("language-modeling", "fill-mask") else Lengths()
    task = task_of(name)(rows_of(name), share=0.25, columns={}, lengths=lengths)
    tokenizer, model = opened(task, folders(TASKS[name]))
    for rows in (task.train, task.held_out):
        features, batch = batch_of(task, rows, model, tokenizer)
        assert len(features) >= 1
        assert np.isfinite(model.loss(batch))
    assert task.train.num_rows + task.held_out.num_rows == 24
    if task.scores:
        outputs = model(**{name: value for name, value in batch.items() if name not in model.label_names})
        scores = tuple(getattr(outputs, field) for field in model.fields)
        labels = tuple(batch[label] for label in model.label_names)
        task.train  # noqa: B018
        found = task.findings(model, tokenizer, *(one if len(one) > 1 else one[0] for one in (scores, labels)))
        assert all(np.isfinite(value) for value in found.metrics.values())
        assert set(found.baseline) <= set(found.metrics)
        assert task.metric in found.metrics or task.metric == "loss"
    else:
        found = task.findings(model, tokenizer, None, None)
    assert found.tables
    for table in found.tables:
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_measures_of_classes():
    task = task_of("text-classification")(rows_of("text-classification"))
    task.model_settings(type("Config", (), {"id2label": None}))
    assert task.names == ["bad", "good"]
    scores = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [1.0, 2.0]])
    assert task.measures(scores, np.array([0, 1, 1, 1])) == {"accuracy": 0.75, "f1": pytest.approx((2 / 3 + 0.8) / 2)}


def test_confusion_and_samples_of_classes():
    rows = [{"text": f"t{k}", "label": label} for k, label in enumerate("aab")]
    task = task_of("text-classification")(rows, rows)
    task.model_settings(type("Config", (), {"id2label": None}))
    found = task.findings(None, None, np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), np.array([0, 0, 1]))
    assert found.confusion.tolist() == [[1, 1], [0, 1]]  # an a was taken for a b
    confusion, samples = found.tables
    assert [list(row) for row in confusion.rows] == [["a", 1, 1, "0.500"], ["b", 0, 1, "1.000"]]
    assert samples.rows == [("a", "a", "0.88", "t0"), ("b", "b", "0.88", "t2"), ("a", "b", "0.88", "t1")]
    assert found.baseline == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(0.4)}


def test_a_model_that_knows_the_classes_keeps_their_numbers():
    task = task_of("text-classification")(rows_of("text-classification"))
    known = type("Config", (), {"id2label": {0: "good", 1: "so", 2: "bad"}})
    assert task.model_settings(known)["id2label"] == {0: "good", 1: "so", 2: "bad"}
    assert task.labels(Dataset({"label": ["bad", "good"]})) == [2, 0]


def test_several_classes_at_once():
    rows = [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}, {"text": "c", "label": ["y"]}] * 4
    task = task_of("text-classification")(rows)
    settings = task.model_settings(type("Config", (), {"id2label": None}))
    assert settings == {"id2label": {0: "x", 1: "y"}, "problem_type": "multi_label_classification"}
    assert task.labels(Dataset({"label": [["y"], ["x", "y"], []]})) == [[0, 1], [1, 1], [0, 0]]
    scores = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    labels = np.array([[1.0, 1.0], [0, 0], [0, 0]])
    assert task.measures(scores, labels) == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(0.8)}


def test_measures_of_numbers():
    task = task_of("regression")(rows_of("regression"))
    found = task.measures(np.array([[1.0], [2.0], [3.0]]), np.array([2.0, 4.0, 6.0]))
    assert found == {"mse": pytest.approx(14 / 3), "mae": 2.0, "pearson": pytest.approx(1.0)}


def test_entities():
    labels = ["B-A", "I-A", "O", "I-B", "B-B", "I-A"]
    assert entities(labels) == {("A", 0, 2), ("B", 3, 4), ("B", 4, 5), ("A", 5, 6)}
    assert entities(["O", "O"]) == set()
    assert entity_scores([(["B-A", "I-A"], ["B-A", "O"]), (["B-A"], ["B-A"])])["f1"] == 0.5


def one_hot(labels, size):
    return np.eye(size)[np.maximum(labels, 0)]


@pytest.mark.filterwarnings("ignore:.*drawn anew")
def test_scores_that_are_right_measure_as_right(folders):
    """From the labels of the batch to scores, and through the task's own way back to text, nothing is lost."""
    task = task_of("question-answering")(rows_of("question-answering"))
    tokenizer, model = opened(task, folders("bert"))
    _, batch = batch_of(task, task.held_out, model, tokenizer)
    length = batch["input_ids"].shape[1]
    start, end = (9.0 * one_hot(batch[name], length) for name in ("start_positions", "end_positions"))
    assert task.measures((start, end), None) == {"exact_match": 100.0, "f1": 100.0}
    assert task.measures((np.roll(start, -1, axis=1), end), None)["exact_match"] < 50
    task = task_of("token-classification")(rows_of("token-classification"))
    tokenizer, model = opened(task, folders("bert"))
    _, batch = batch_of(task, task.held_out, model, tokenizer)
    scores = one_hot(batch["labels"], len(task.names))
    assert task.measures(scores, batch["labels"]) == dict.fromkeys(("accuracy", "precision", "recall", "f1"), 1.0)
    assert task.measures(1 - scores, batch["labels"])["f1"] == 0.0
    shown = task.findings(model, tokenizer, scores, batch["labels"]).tables[0].rows[0][0].split()
    assert [word for word in shown if "/" in word] == [f"{shown[-1].partition('/')[0]}/B-MOOD"]


@pytest.mark.filterwarnings("ignore:.*drawn anew")
def test_long_targets_keep_their_end(folders):
    task = task_of("translation")(rows_of("translation"), lengths=Lengths(None, 4), prefix="turn: ")
    tokenizer, model = opened(task, folders("t5"))
    features = task.features(task.train, model, tokenizer)
    assert {len(row) for row in features["labels"]} == {4}
    assert {row[-1] for row in features["labels"]} == {tokenizer.eos_token_id}
    assert tokenizer.decode(features["input_ids"][0]).startswith("turn:")


def test_answers_as_text_and_as_squad(tmp_path):
    rows = [
        {"question": "who?", "context": "Ada and Bo", "answer": "Bo"},
        {"question": "q?", "context": "c", "answer": ""},
    ]
    task = task_of("question-answering")(rows, rows)
    assert task.train["answers"] == [{"text": ["Bo"], "answer_start": [8]}, {"text": [], "answer_start": []}]
    assert task.unanswerable
    questions = [{"id": "1", "question": "who?", "answers": [{"text": "Bo", "answer_start": 8}]}]
    articles = [{"title": "t", "paragraphs": [{"context": "Ada and Bo", "qas": questions}]}]
    (tmp_path / "squad.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    task = task_of("question-answering")(tmp_path / "squad.json", tmp_path / "squad.json")
    assert task.train["answers"] == [{"text": ["Bo"], "answer_start": [8]}]


def test_held_out_rows_have_the_classes_of_all():
    rows = Dataset({"text": [str(k) for k in range(100)], "label": ["a"] * 80 + ["b"] * 20})
    train, rest = hold_out(rows, 0.1, seed=3, classes=rows["label"])
    assert sorted(rest["label"]) == ["a"] * 8 + ["b"] * 2
    assert sorted(train["text"] + rest["text"]) == sorted(rows["text"])
    again, _ = hold_out(rows, 0.1, seed=4, classes=rows["label"])
    assert again["text"] != train["text"]


def test_a_class_is_never_held_out_whole():
    names = ["a"] * 12 + ["b"] * 11 + ["c"]  # the lone c is drawn by some seeds
    rows = Dataset({"text": [str(k) for k in range(24)], "label": names})
    held = set()
    for seed in range(20):
        train, rest = hold_out(rows, 0.25, seed, classes=rows["label"])
        assert set(train["label"]) == {"a", "b", "c"}
        assert rest.num_rows in (5, 6)
        assert sorted(train["text"] + rest["text"]) == sorted(rows["text"])
        held.add(rest.num_rows)
    assert held == {5, 6}
    listed = Dataset({"tags": [["O", f"B-{k // 2}"] for k in range(20)], "text": list(map(str, range(20)))})
    for seed in range(20):
        train, rest = hold_out(listed, 0.3, seed, classes=listed["tags"])
        assert len({tag for one in train["tags"] for tag in one}) == 11
        assert rest.num_rows >= 1
    task = task_of("token-classification")
    tags = [{"tokens": ["a", "b"], "tags": ["O", "X" if k == 3 else "Y"]} for k in range(8)]
    several = [{"text": "a", "label": ["x"] if k == 3 else ["y", "z"]} for k in range(8)]
    for seed in range(8):
        assert "X" in task(tags, share=0.5, seed=seed).names
        assert "x" in task_of("text-classification")(several, share=0.5, seed=seed).names


def test_the_end_of_one_text_is_held_out(tmp_path):
    (tmp_path / "text.txt").write_text("0123456789" * 10)
    task = task_of("language-modeling")(tmp_path / "text.txt")
    assert task.train["text"] == ["0123456789" * 9]
    assert task.held_out["text"] == ["0123456789"]


def test_a_column_serves_one_role():
    rows = Dataset({"sentence": ["a"], "label": [0]})
    wanted = {"text": ("text", "sentence"), "pair": ("sentence",), "label": ("label",)}
    assert found_columns(rows, wanted, {}, ("pair",)) == {"text": "sentence", "label": "label"}
    assert found_columns(rows, wanted, {"pair": "sentence"}, ("text",)) == {"pair": "sentence", "label": "label"}


BAD = {
    "no such task": ("text-classifcation", [{"text": "a", "label": 0}], "is it text-classification"),
    "a column missing": ("text-classification", [{"text": "a", "grade": 0}] * 9, "--column label=NAME"),
    "no rows": ("text-classification", [], "rows, got an empty"),
    "one class": ("text-classification", [{"text": "a", "label": "x"}] * 9, "two classes or more"),
    "an empty text": (
        "text-classification",
        [{"text": " ", "label": "x"}, {"text": "a", "label": "y"}] * 9,
        "empty one",
    ),
    "an empty class": ("text-classification", [{"text": "a", "label": ""}, {"text": "a", "label": "y"}] * 9, "a class"),
    "a class of fractions": ("text-classification", [{"text": "a", "label": k / 2} for k in range(9)], "float"),
    "a class a row": (
        "text-classification",
        [{"text": "a", "label": f"c{k}"} for k in range(4)],
        "held-out rows alone",
    ),
    "a number that is text": ("regression", [{"text": "a", "label": "x"}] * 9, "finite number"),
    "a number that is none": ("regression", [{"text": "a", "label": float("nan")}] * 9, "finite number"),
    "words without labels": ("token-classification", [{"tokens": ["a", "b"], "tags": ["O"]}] * 9, "2 words and 1"),
    "words that are text": ("token-classification", [{"tokens": "a b", "tags": ["O"]}] * 9, "a list as tokens"),
    "an answer elsewhere": (
        "question-answering",
        [{"question": "q", "context": "c", "answer": "x"}] * 9,
        "stands in the context",
    ),
    "no target": ("translation", [{"source": "a", "target": ""}] * 9, "empty one"),
    "one row": ("summarization", [{"text": "a", "summary": "b"}], "2 rows or more"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_refused_before_a_model_is_opened(what):
    name, rows, words = BAD[what]
    with pytest.raises(ValueError, match=words) as error:
        task_of(name)(rows if rows else Dataset({"text": [], "label": []}))
    assert "\n" not in str(error.value)


def test_a_held_out_class_that_is_not_trained_on():
    with pytest.raises(ValueError, match="got so in held-out rows alone"):
        task_of("text-classification")(rows_of("text-classification"), [{"text": "a", "label": "so"}])
    with pytest.raises(ValueError, match="expected a column label"):
        task_of("text-classification")(rows_of("text-classification"), [{"text": "a"}])
    with pytest.raises(ValueError, match="with rows, got an empty"):
        task_of("text-classification")(rows_of("text-classification"), Dataset({"text": [], "label": []}))


def test_a_text_shorter_than_a_block(folders):
    task = task_of("language-modeling")([{"text": "a b c"}] * 4, lengths=Lengths(60))
    tokenizer, model = opened(task, folders("gpt2"))
    with pytest.raises(ValueError, match="one block of 60 tokens to train on"):
        task.features(task.train, model, tokenizer)
    task = task_of("language-modeling")([{"text": "a b c"}] * 4, lengths=Lengths(65))
    with pytest.raises(ValueError, match="from 1 to 64"):
        task.features(task.train, model, tokenizer)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("name", "column", "value", "said"),
    [
        ("regression", "label", float("nan"), "expected a finite number as label in row {}, got nan"),
        ("regression", "text", "", "expected a text as text in row {}, got an empty one"),
        ("text-classification", "label", None, "expected a class as label in row {}, got None"),
        ("token-classification", "tokens", [], r"expected a list as tokens in row {}, got \[\]"),
        ("translation", "target", "", "expected a text as target in row {}, got an empty one"),
        (
            "question-answering",
            "answers",
            {"text": ["zzz"], "answer_start": [0]},
            "expected 'zzz' at 0 .* in row {}, got",
        ),
        ("question-answering", "answers", "zzz", "expected an answer that stands in the context in row {}, got 'zzz'"),
    ],
)
def test_a_row_that_cannot_be_used_has_its_number_in_the_file(name, column, value, said, apart):
    good = rows_of(name)
    for bad in range(0, len(good), 5):
        rows = [dict(row) for row in good]
        assert column in rows[bad]
        rows[bad][column] = value
        given = (good, rows) if apart else (rows,)
        with pytest.raises(ValueError, match=f"^finetune: {said.format(bad)}"):
            task_of(name)(*given)


def test_the_cell_that_made_text_of_a_column_of_numbers_is_named(tmp_path):
    lines = [f"text {k},{'nan' if k == 7 else 1.5}" for k in range(12)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]))
    with pytest.raises(ValueError, match=r"^finetune: expected a finite number as label in row 7, got 'nan'$"):
        task_of("regression")(tmp_path / "rows.csv")
    with pytest.raises(ValueError, match=r"^finetune: expected a finite number as label in row 0, got '1\.5'$"):
        task_of("regression")([{"text": "a", "label": "1.5"}] * 8)
