"""Datasets: where rows come from, what becomes of them, splits, and one clear error for what cannot be."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import one_line

from numtx.text import Dataset, as_dataset, check_labels, encode_labels, split_rows

TWEETS = {"text": ["good", "bad", "fine", "poor"], "label": [1, 0, 1, 0]}


@pytest.fixture
def dataset():
    return Dataset(TWEETS)


# --- rows and columns


def test_rows_columns_and_parts(dataset):
    assert len(dataset) == dataset.num_rows == 4
    assert dataset.column_names == ["text", "label"]
    assert dataset[1] == dataset[-3] == dataset[np.int64(1)] == {"text": "bad", "label": 0}
    assert dataset["label"] == [1, 0, 1, 0]
    assert dataset[1:3] == dataset[[1, 2]] == {"text": ["bad", "fine"], "label": [0, 1]}
    assert list(dataset)[3] == {"text": "poor", "label": 0}
    assert dataset.unique("label") == [1, 0]
    with pytest.raises(IndexError, match="below 4, got 4"):
        dataset[4]


def test_what_comes_out_is_not_the_dataset_itself(dataset):
    dataset["label"][0] = 7
    dataset[0:2]["label"][0] = 7
    dataset[0]["label"] = 7
    dataset[[0]]["label"][0] = 7
    assert dataset["label"] == [1, 0, 1, 0]


def test_other_columns(dataset):
    assert dataset.select_columns("label").column_names == ["label"]
    assert dataset.remove_columns(["text"]).column_names == ["label"]
    assert dataset.rename_column("label", "labels").column_names == ["text", "labels"]
    assert dataset.add_column("id", range(4))[3] == {"text": "poor", "label": 0, "id": 3}
    assert dataset.column_names == ["text", "label"]


def test_map_row_by_row(dataset):
    longer = dataset.map(lambda row: {"length": len(row["text"]), "label": -row["label"]})
    assert longer[0] == {"text": "good", "label": -1, "length": 4}
    assert dataset.map(lambda row: {"length": 1}, remove_columns=["text", "label"]).column_names == ["length"]

    def in_place(row):
        row["label"] = 9

    assert dataset.map(in_place)["label"] == [9] * 4
    assert dataset["label"] == [1, 0, 1, 0]


@pytest.mark.parametrize("size", [1, 3, 4, 1000])
def test_map_in_batches_may_change_the_number_of_rows(dataset, size):
    def letters(batch):
        return {"letter": [letter for text in batch["text"] for letter in text]}

    mapped = dataset.map(letters, batched=True, batch_size=size, remove_columns=dataset.column_names)
    assert "".join(mapped["letter"]) == "goodbadfinepoor"
    with pytest.raises(ValueError, match="expected 4 rows, got 15: remove_columns takes out text, label"):
        dataset.map(letters, batched=True, batch_size=size)


def test_map_takes_arrays(dataset):
    mapped = dataset.map(lambda batch: {"ids": np.zeros((len(batch["text"]), 3), int)}, batched=True)
    assert [row.tolist() for row in mapped["ids"]] == [[0, 0, 0]] * 4


def test_filter_select_shuffle(dataset):
    assert dataset.filter(lambda row: row["label"])["text"] == ["good", "fine"]
    assert dataset.select(range(2))["text"] == ["good", "bad"]
    assert dataset.select([3, -4])["text"] == ["poor", "good"]
    assert dataset.select([])["text"] == []
    assert dataset.shuffle(3)["text"] == dataset.shuffle(seed=3)["text"]
    assert sorted(dataset.shuffle(3)["text"]) == sorted(TWEETS["text"])


def test_class_names_stay_with_their_column(dataset):
    encoded = dataset.class_encode_column("text")
    assert encoded["text"] == [2, 0, 1, 3]
    assert encoded.class_names == {"text": ["bad", "fine", "good", "poor"]}
    assert encoded.shuffle(1).rename_column("text", "class").class_names == {"class": ["bad", "fine", "good", "poor"]}
    assert encoded.remove_columns("text").class_names == {}


# --- splits


@given(rows=st.integers(2, 60), share=st.floats(0.01, 0.99), seed=st.integers(0, 99), shuffle=st.booleans())
def test_a_split_is_a_partition(rows, share, seed, shuffle):
    if math.ceil(share * rows) == rows:
        with pytest.raises(ValueError, match="expected rows in both parts"):
            split_rows(rows, share, shuffle=shuffle, seed=seed)
        return
    train, test = split_rows(rows, share, shuffle=shuffle, seed=seed)
    assert sorted([*train, *test]) == list(range(rows))
    assert len(test) == math.ceil(share * rows)
    again = split_rows(rows, share, shuffle=shuffle, seed=seed)
    assert train.tolist() == again[0].tolist()


def test_splits_are_those_of_the_package_datasets():
    dataset = Dataset({"i": list(range(20)), "label": [row % 3 for row in range(20)]})
    parts = dataset.train_test_split(test_size=0.3, seed=5)
    # Drawn by datasets 5.2.0, as is what follows.
    assert parts["train"]["i"] == [19, 13, 11, 2, 4, 17, 10, 12, 6, 15, 0, 5, 14, 8]
    assert parts["test"]["i"] == [9, 18, 3, 7, 1, 16]
    parts = dataset.train_test_split(test_size=6, stratify_by_column="label", seed=5)
    assert parts["train"]["i"] == [0, 13, 6, 10, 1, 17, 8, 4, 11, 12, 9, 3, 19, 5]
    assert parts["test"]["i"] == [18, 7, 15, 14, 16, 2]
    parts = dataset.train_test_split(test_size=0.3, train_size=0.42, stratify_by_column="label", seed=5)
    assert parts["train"]["i"] == [6, 12, 4, 1, 3, 8, 17, 10]
    assert parts["test"]["i"] == [11, 13, 19, 9, 5, 0]
    assert dataset.shuffle(5)["i"] == [9, 18, 3, 7, 1, 16, 19, 13, 11, 2, 4, 17, 10, 12, 6, 15, 0, 5, 14, 8]


def test_stratified_parts_have_the_shares_of_the_whole():
    labels = ["a"] * 30 + ["b"] * 60 + ["c"] * 10
    parts = Dataset({"label": labels}).train_test_split(test_size=0.2, stratify_by_column="label", seed=4)
    for part, size in (("train", 80), ("test", 20)):
        found = [parts[part]["label"].count(name) for name in "abc"]
        assert found == [0.3 * size, 0.6 * size, 0.1 * size]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_size": 4}, "test_size in (0, 1), or a number of less than 4 rows, got 4"),
        ({"test_size": 0.0}, "got 0.0"),
        ({"train_size": -1}, "expected train_size"),
        ({"test_size": True}, "got True"),
        ({"test_size": 0.99}, "expected rows in both parts, got 0 for training and 4 for testing of 4"),
        ({"test_size": 3, "train_size": 3}, "expected parts of 4 rows, got 3 and 3"),
        ({"test_size": 2, "seed": -1}, "seed"),
        ({"stratify_by_column": "class"}, "expected a column class, got a dataset with the columns text, label"),
        ({"stratify_by_column": "text"}, "at least 2 rows of each class, got 1 of bad"),
        ({"stratify_by_column": "label", "test_size": 1}, "at least 2 rows a part, one a class, got 1"),
        ({"stratify_by_column": "label", "shuffle": False}, "expected shuffle=True to stratify"),
    ],
)
def test_splits_that_cannot_be(dataset, settings, message):
    with one_line(f".*{re.escape(message)}"):
        dataset.train_test_split(**settings)


def test_an_empty_dataset_has_no_split():
    with pytest.raises(ValueError, match=r"expected rows in both parts"):
        Dataset({"text": []}).train_test_split()


# --- whatever holds rows


class Rows:
    """As torch's datasets are: a length and numbered rows."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


class Table(Rows):
    """As `datasets.Dataset` is: rows, columns, and their names."""

    def __init__(self, rows):
        super().__init__(rows)
        self.column_names = ["text", "label"]

    def __getitem__(self, key):
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]


def test_whatever_holds_rows(dataset, tmp_path):
    rows = list(dataset)
    csv = tmp_path / "tweets.csv"
    csv.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    for source in (dataset, rows, tuple(rows), TWEETS, Rows(rows), Table(rows), csv, str(csv)):
        made = as_dataset(source)
        assert (made.column_names, list(made)) == (["text", "label"], rows)
    assert as_dataset(dataset) is dataset


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, "expected rows (a list of dicts, a dict of lists, a file), got int"),
        ({"train": Dataset(TWEETS), "test": Dataset(TWEETS)}, "got the splits train, test: choose one by its name"),
        ([1, 2], "expected rows that are dicts, got int as row 0"),
        ([{"a": 1}, {"b": 1}], "expected the columns a in row 1, got none of a"),
        ([{"a": 1}, {"a": 1, "b": 1}], "expected the columns a in row 1, got 'b' too"),
        ({"a": [1], "b": [1, 2]}, "expected columns of one length, got a 1, b 2"),
        ({"a": "text"}, "expected a list as column a, got str"),
        ({"a": 3}, "expected a list as column a, got int"),
        ([{1: 2}], "names of columns that are a line of text"),
        ([{}], "expected at least one column"),
        ("rows.xlsx", "expected a file called .csv"),
        ("nowhere.csv", "which does not exist"),
    ],
)
def test_what_holds_no_rows(source, message):
    with one_line(f".*{re.escape(message)}"):
        as_dataset(source)


def test_missing_columns_name_those_that_are_there(dataset):
    there = "expected a column class, got a dataset with the columns text, label"
    for ask in (
        lambda: dataset["class"],
        lambda: dataset.remove_columns(["class"]),
        lambda: dataset.select_columns("class"),
        lambda: dataset.rename_column("class", "label"),
        lambda: dataset.class_encode_column("class"),
        lambda: dataset.map(lambda row: row, remove_columns="class"),
        lambda: dataset.require("Trainer", "text", "class"),
    ):
        with pytest.raises(ValueError, match=re.escape(there)):
            ask()
    with pytest.raises(ValueError, match=r"^Trainer: expected a dataset with rows, got an empty one"):
        Dataset({"text": []}).require("Trainer", "text")
    with pytest.raises(ValueError, match="expected a new name for text, got label, a column"):
        dataset.rename_column("text", "label")
    with pytest.raises(ValueError, match="expected the name of a new column, got text"):
        dataset.add_column("text", [1] * 4)
    with pytest.raises(ValueError, match="below 4, got 4"):
        dataset.select([0, 4])
    with pytest.raises(ValueError, match="list of row numbers, got float64"):
        dataset.select([0.5])
    with pytest.raises(ValueError, match="function that returns a dict, got int"):
        dataset.map(lambda row: 3)
    with pytest.raises(ValueError, match="expected the columns a, got b"):
        dataset.map(lambda b: {"ab"[b["text"][0] == "fine"]: b["text"]}, batched=True, batch_size=2)


# --- classes


def test_classes_by_name_by_number_and_as_given():
    assert encode_labels(["b", "a", "b"]) == ([1, 0, 1], ["a", "b"])
    assert encode_labels([10, 9, 10]) == ([1, 0, 1], ["9", "10"])
    assert encode_labels(["b", "a"], ["b", "a"]) == ([0, 1], ["b", "a"])
    assert encode_labels([["O", "B"], [], ["B"]]) == ([[1, 0], [], [0]], ["B", "O"])
    with pytest.raises(ValueError, match="expected one of a, b in label, got 'c' in row 1"):
        encode_labels(["a", "c"], ["a", "b"])
    with pytest.raises(ValueError, match="each class once"):
        encode_labels(["a"], ["a", "a"])
    with pytest.raises(ValueError, match="text or whole numbers in label, got float"):
        encode_labels([0.5])


def test_labels_outside_the_range():
    check_labels([0, 1, 2, np.int64(2)], 3)
    check_labels([[0, -100, 2], [], np.array([1])], 3)
    for labels, got in (
        ([0, 3], "got 3 in row 1"),
        ([-1], "got -1 in row 0"),
        ([-100], "got -100 in row 0"),  # of a whole sequence: a class is asked for
        ([[0], [0, 7]], "got 7 in row 1"),
        ([0.5], "got 0.5 in row 0"),
        (["x"], "got 'x' in row 0"),
        ([None], "got None in row 0"),
    ):
        with pytest.raises(ValueError, match=f"^Trainer: expected class from 0 to 2, {got}"):
            check_labels(labels, 3, owner="Trainer", column="class")


def test_columns_that_a_format_hides_are_left_out():
    class Formatted:
        """As datasets.Dataset.with_format(columns=...) has it."""

        column_names = ["text", "label"]  # noqa: RUF012
        format = {"type": "numpy", "columns": ["label"]}  # noqa: RUF012

        def __getitem__(self, name):
            return {"label": [0, 1]}[name]

    assert as_dataset(Formatted()).column_names == ["label"]
