"""Datasets of the package datasets are taken as they are, and split, shuffled and read as that package does it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.text import Dataset, as_dataset

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
theirs = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'numtx[parity]'")

ROWS = {
    "text": ["a delight", 'ein "Ärgernis",\r\ngewiss', "", "退\u2028屈", "so \n so"],
    "label": [1, 0, 0, 0, 1],
    "score": [0.5, -1.25, 0.0, 3.0, 1e-3],
    "input_ids": [[1, 2, 3], [4], [], [5, 6], [7]],
}

HOW = ("by label", "freely", "as they stand")


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


parts = st.sampled_from([None, 0.1, 0.23, 0.5, 0.77, 1, 3])


@given(rows=st.integers(4, 60), test=parts, train=parts, seed=st.integers(0, 1000), how=st.sampled_from(HOW))
def test_splits_and_order_are_the_packages(rows, test, train, seed, how):
    columns = {"i": list(range(rows)), "label": [row % 7 % 3 for row in range(rows)]}
    table, ours = theirs.Dataset.from_dict(columns), Dataset(columns)
    assert ours.shuffle(seed)["i"] == list(table.shuffle(seed=seed)["i"])
    settings = {"test_size": test, "train_size": train, "seed": seed, "shuffle": how != "as they stand"}
    if how == "by label":
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


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # its older versions leave one open
def test_files_are_read_as_the_package_reads_them(tmp_path):
    lines, cells, own = tmp_path / "rows.jsonl", tmp_path / "rows.csv", {"cache_dir": tmp_path, "keep_in_memory": True}
    table = theirs.Dataset.from_dict(ROWS)
    table.to_json(lines, force_ascii=False)
    table.remove_columns("input_ids").to_csv(cells, index=False)
    read, expected = as_dataset(lines), theirs.Dataset.from_json(str(lines), **own)
    assert [dict(row) for row in read] == [expected[row] for row in range(5)] == [table[row] for row in range(5)]
    read, expected = as_dataset(cells), theirs.Dataset.from_csv(str(cells), **own)
    assert read.column_names == expected.column_names == ["text", "label", "score"]
    for name in read.column_names:
        assert read[name] == ["" if cell is None else cell for cell in expected[name]]  # an empty cell: there None
        assert read[name] == ROWS[name]
