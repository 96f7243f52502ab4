"""Datasets to batches: what stands in an update, and what is refused."""

import numpy as np
import pytest

from numtx.models import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from numtx.text import BatchOrder, Dataset, default_data_collator
from numtx.training.epochs import Batches, Epochs, rows_print, training_order, used_columns
from numtx.training.feature_checks import check_features, check_first_batch

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture(scope="module")
def model():
    return BertForSequenceClassification(BertConfig(vocab_size=9, max_position_embeddings=6, **SIZES), rng=0)


def rows(count, **more):
    return Dataset.from_list(
        [{"input_ids": [1, 2 + number % 5], "label": number % 2, **more} for number in range(count)]
    )


def epochs(count, batch, accumulation, **settings):
    dataset = rows(count)
    order = BatchOrder(count, batch, 3, **settings)
    return Epochs(Batches(dataset, order, default_data_collator, 3), accumulation)


@pytest.mark.parametrize(("count", "batch", "accumulation"), [(10, 2, 2), (11, 2, 3), (3, 4, 2), (8, 2, 4), (1, 1, 1)])
def test_each_row_stands_once_in_an_epoch_and_updates_do_not_cross_it(count, batch, accumulation):
    plan = epochs(count, batch, accumulation)
    for epoch in range(3):
        seen = []
        for update in range(plan.steps):
            numbers = plan.numbers(epoch * plan.steps + update)
            assert 1 <= len(numbers) <= accumulation
            assert len(numbers) == accumulation or update == plan.steps - 1
            seen += [int(row) for number in numbers for row in plan.batches.order.at(number)]
        assert sorted(seen) == list(range(count))
        assert plan.epoch((epoch + 1) * plan.steps) == epoch + 1


def test_an_epoch_that_was_ended_early_is_left_out():
    plan = epochs(12, 2, 2)  # 3 updates an epoch
    plan.skipped = 2  # of the first epoch only one was made
    assert plan.numbers(1) == range(6, 8)
    assert plan.epoch(2) == pytest.approx(1 + 2 / 6)


def test_a_batch_follows_from_its_number_alone():
    class Draws:
        draws = True

        def __call__(self, features, rng):
            return {"input_ids": rng.integers(9, size=(len(features), 2)), "gone": None}

    batches = Batches(rows(5), BatchOrder(5, 2, 1), Draws(), 7)
    again = Batches(rows(5), BatchOrder(5, 2, 1), Draws(), 7)
    for number in (4, 0, 2):
        assert batches.at(number).keys() == {"input_ids"}
        assert np.array_equal(batches.at(number)["input_ids"], again.at(number)["input_ids"])
    assert not np.array_equal(batches.at(0)["input_ids"], batches.at(3)["input_ids"])


def test_columns_that_the_model_does_not_take_are_left_out(model):
    dataset = rows(2, text="a", token_type_ids=[0, 0], length=2)
    assert used_columns(dataset, model, ("labels",), "data").column_names == ["input_ids", "label", "token_type_ids"]
    with pytest.raises(ValueError, match=r"expected a column input_ids in train_dataset.*got the columns text, label"):
        used_columns(Dataset({"text": ["a"], "label": [0]}), model, ("labels",), "train_dataset")


def test_rows_of_like_length_and_a_dropped_rest():
    dataset = Dataset({"input_ids": [[1] * length for length in (1, 5, 2, 6) * 16]})
    order = training_order(dataset, 2, 0, "length", drop_last=False)
    spread = [np.ptp([len(dataset[int(row)]["input_ids"]) for row in batch]) for batch in order.epoch(0)]
    assert np.mean(spread) < 1  # 2.4 where rows are drawn freely
    told = training_order(dataset.add_column("length", [1] * 40 + [9] + [1] * 23), 2, 0, "length", drop_last=False)
    assert told.at(0)[0] == 40  # the longest comes first
    assert len(training_order(dataset, 10, 0, None, drop_last=True)) == 6
    with pytest.raises(
        ValueError, match="expected at least 65 rows in train_dataset with dataloader_drop_last, got 64"
    ):
        training_order(dataset, 65, 0, None, drop_last=True)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"input_ids": [1, 9], "label": 0}, r"expected input_ids from 0 to 8 in row 2 of data, got 9 \(is this"),
        ({"input_ids": [1, -1], "label": 0}, "expected input_ids from 0 to 8 in row 2 of data, got -1"),
        ({"input_ids": [1] * 7, "label": 0}, "expected at most the model's 6 tokens in row 2 of data, got 7: cut them"),
        ({"input_ids": [], "label": 0}, "expected ids in input_ids of row 2 of data, got none"),
        ({"input_ids": [1, 2], "label": 2}, "expected label of data from 0 to 1, got 2 in row 2"),
        ({"input_ids": [1, 2], "label": -1}, "expected label of data from 0 to 1, got -1 in row 2"),
    ],
)
def test_what_does_not_fit_the_model_is_said_with_its_row(model, row, said):
    dataset = Dataset.from_list([*rows(2), row])
    with pytest.raises(ValueError, match=f"^Trainer: {said}"):
        check_features(dataset, model, "data")


def test_labels_of_other_tasks(model):
    tokens = BertForTokenClassification(BertConfig(vocab_size=9, **SIZES), rng=0)
    check_features(Dataset({"input_ids": [[1, 2]], "labels": [[-100, 1]]}), tokens, "data")
    with pytest.raises(ValueError, match="expected labels of data from 0 to 1, got 2 in row 0"):
        check_features(Dataset({"input_ids": [[1, 2]], "labels": [[-100, 2]]}), tokens, "data")
    with pytest.raises(ValueError, match="expected numbers in label of data, got 'good' in row 0"):
        check_features(Dataset({"input_ids": [[1]], "label": ["good"]}), model, "data")
    number = BertForSequenceClassification(BertConfig(vocab_size=9, id2label={0: "x"}, **SIZES), rng=0)
    check_features(Dataset({"input_ids": [[1]], "label": [7.5]}), number, "data")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"start_positions": -3}, "expected start_positions of data from 0 to 2, got -3 in row 1"),
        ({"start_positions": -100}, "expected start_positions of data from 0 to 2, got -100 in row 1"),
        ({"end_positions": 3}, "expected end_positions of data from 0 to 2, got 3 in row 1"),
        ({"end_positions": 5}, "expected end_positions of data from 0 to 2, got 5 in row 1"),
        ({"end_positions": [3]}, "expected end_positions of data from 0 to 2, got 3 in row 1"),
        ({"end_positions": 1.0}, "expected a whole number as end_positions of data, got 1.0 in row 1"),
        ({"end_positions": None}, "expected a whole number as end_positions of data, got None in row 1"),
        ({"attention_mask": [1, 1, 0]}, "expected end_positions of data from 0 to 1, got 2 in row 1"),
    ],
)
def test_positions_of_answers_are_places_of_their_rows(more, said):
    answers = BertForQuestionAnswering(BertConfig(vocab_size=9, max_position_embeddings=6, **SIZES), rng=0)
    row = {"input_ids": [1, 2, 3], "start_positions": 0, "end_positions": 2, "attention_mask": [1, 1, 1]}
    check_features(Dataset.from_list([row, row]), answers, "data")
    with pytest.raises(ValueError, match=f"^Trainer: {said}"):
        check_features(Dataset.from_list([row, {**row, **more}]), answers, "data")


def test_an_answer_that_was_cut_off_may_stand_where_no_row_reaches():
    answers = BertForQuestionAnswering(BertConfig(vocab_size=9, max_position_embeddings=6, **SIZES), rng=0)
    row = {"input_ids": [1, 2, 3], "start_positions": 1, "end_positions": 2}
    for cut in (6, 512):
        data = Dataset.from_list([row, {**row, "end_positions": cut}, {**row, "start_positions": [cut]}])
        check_features(data, answers, "data")
        batch = default_data_collator([data[0], data[1]])
        assert answers.count_labels(batch) == 2
        assert np.isfinite(answers.loss(batch))


def test_a_first_batch_without_labels_or_with_more_than_the_model_takes(model):
    def first(dataset):
        batches = Batches(dataset, BatchOrder(len(dataset), 2, shuffle=False), default_data_collator, 0)
        check_first_batch(batches, model, ("labels",), "eval_dataset")

    first(rows(2))
    with pytest.raises(ValueError, match=r"expected a column labels \(or label\) in eval_dataset, got .* input_ids$"):
        first(rows(2).remove_columns("label"))
    with pytest.raises(ValueError, match=r"expected batches of .*, got length too \(remove_unused_columns"):
        first(rows(2, length=2))


def test_the_print_of_data_sees_every_value():
    def printed(dataset):
        return rows_print({"": dataset})

    data = {"input_ids": [[1, 2], [3]], "label": [0.5, 1.0], "text": ["a", "b"]}
    prints = {printed(Dataset(data))}
    for name, values in data.items():
        prints.add(printed(Dataset({**data, name: values[::-1]})))
    assert len(prints) == 4
    same_numbers = ([[1], [2, 3]], [[1, 2], [3]], [[[1], [2, 3]]], [[[1, 2, 3]]], [[[1], [2], [3]]], [[1.0, 2.0, 3.0]])
    assert len({printed(Dataset({"input_ids": one})) for one in same_numbers}) == len(same_numbers)
    long = [[np.arange(2000) + (np.arange(2000) == k), np.arange(3)] for k in (900, 901)]  # which repr shortens
    assert printed(Dataset({"extra": long[:1]})) != printed(Dataset({"extra": long[1:]}))
    listed = [[part.tolist() for part in long[0]]]
    assert printed(Dataset({"extra": listed})) == printed(Dataset({"extra": long[:1]}))
    one, two = Dataset({"label": [0, 1]}), Dataset({"label": [0, 1, 2]})
    several = ({"a": one, "b": two}, {"b": one, "a": two}, {"a": two, "b": one}, {"a": one}, {"a": two})
    assert len({rows_print(datasets) for datasets in several}) == 5
    assert rows_print(several[0]).startswith("5 rows, sha256 ")
