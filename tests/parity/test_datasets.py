"""Datasets of the package datasets are taken as they are, and split, shuffled and read as that package does it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.text import Dataset, as_dataset

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
theirs = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'numtx[parity]'")

ROWS = {
    "text": ["a delight", "ein Ärgernis", "", "退屈", "so \n so"],
    "label": [1, 0, 0, 0, 1],
    "score": [0.5, -1.25, 0.0, 3.0, 1e-3],
    "input_ids": [[1, 2, 3], [4], [], [5, 6], [7]],
}


def test_a_dataset_of_the_package_is_read_whole():
    table = theirs.Dataset.from_dict(ROWS)
    ours = as_dataset(table)
    assert ours.column_names == table.column_names
    assert [ours[row] for row in range(5)] == [table[row] for row in range(5)]
    assert ours["input_ids"] == list(table["input_ids"])
    assert as_dataset(table.with_format("numpy"))["label"] == list(ROWS["label"])


def test_its_splits_are_refused_by_name():
    splits = theirs.Dataset.from_dict(ROWS).train_test_split(test_size=2, seed=0)
    with pytest.raises(ValueError, match="expected one dataset, got the splits train, test"):
        as_dataset(splits)


@given(
    rows=st.integers(4, 60), share=st.sampled_from([0.1, 0.25, 0.5, 0.77]), seed=st.integers(0, 1000), by=st.booleans()
)
def test_splits_and_order_are_the_packages(rows, share, seed, by):
    columns = {"i": list(range(rows)), "label": [row % 2 for row in range(rows)]}
    table, ours = theirs.Dataset.from_dict(columns), Dataset(columns)
    assert ours.shuffle(seed)["i"] == list(table.shuffle(seed=seed)["i"])
    settings = {"test_size": share, "seed": seed}
    if by:
        table = table.class_encode_column("label")
        settings["stratify_by_column"] = "label"
    try:
        expected = table.train_test_split(**settings)
    except ValueError:
        with pytest.raises(ValueError, match="expected"):
            ours.train_test_split(**settings)
        return
    got = ours.train_test_split(**settings)
    for part in ("train", "test"):
        assert got[part]["i"] == list(expected[part]["i"])


def test_files_are_read_as_the_package_reads_them(tmp_path):
    table = theirs.Dataset.from_dict(ROWS)
    table.to_json(tmp_path / "rows.jsonl", force_ascii=False)
    table.remove_columns("input_ids").to_csv(tmp_path / "rows.csv", index=False)
    read = as_dataset(tmp_path / "rows.jsonl")
    assert [dict(row) for row in read] == [table[row] for row in range(5)]
    read = as_dataset(tmp_path / "rows.csv")
    assert read.column_names == ["text", "label", "score"]
    np.testing.assert_array_equal(np.array(read["score"], float), ROWS["score"])
    assert list(map(int, read["label"])) == ROWS["label"]
    assert read["text"][1] == "ein Ärgernis"
    assert read["text"][4] == "so \n so"
