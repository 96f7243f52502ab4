"""What a Trainer refuses, each in a line, before the first step where that can be; and what it takes in other forms."""

import json

import numpy as np
import pytest
from small_families import FAMILIES
from small_trainer import accuracy, bert, rows, trainer

import numtx
from numtx.generation import GenerationConfig
from numtx.training import (
    SGD,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from numtx.training.foreign_methods import INSTEAD


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train_dataset": None}, "expected a train_dataset to train, got None"),
        ({"train_dataset": []}, "expected at least one row in train_dataset, got none"),
        ({"train_dataset": [{"text": "a", "label": 0}]}, "expected a column input_ids in train_dataset"),
        ({"train_dataset": [{"input_ids": [1]}]}, r"expected a column labels \(or label\) in train_dataset"),
        (
            {"train_dataset": [{"input_ids": [1], "label": 2}]},
            "expected label of train_dataset from 0 to 1, got 2 in row 0",
        ),
        ({"eval_dataset": None}, "expected an eval_dataset with eval_strategy 'epoch', got None"),
        ({"eval_dataset": []}, "expected at least one row in eval_dataset, got none"),
        ({"eval_dataset": {"a": rows(2), "b": [{"input_ids": [99], "label": 0}]}}, "row 0 of eval_dataset b, got 99"),
        ({"compute_metrics": None, "metric": "f1"}, "expected compute_metrics, which gives metric_for_best_model 'f1'"),
        (
            {"compute_metrics": None, "eval_dataset": {"a": rows(2), "b": rows(2)}, "metric": "loss"},
            "expected metric_for_best_model a_loss or b_loss with several datasets and no compute_metrics, got 'loss'",
        ),
        (
            {"eval_dataset": {"a": rows(2), "b": rows(2)}, "metric": "accuracy"},
            "expected metric_for_best_model to begin with a_ or b_, one of the several datasets, got 'accuracy'",
        ),
    ],
)
def test_bad_data_are_refused_before_the_first_step(tmp_path, given, said):
    given = dict(given)
    args = TrainingArguments(
        tmp_path / "run", eval_strategy="epoch", metric_for_best_model=given.pop("metric", None), report_to="none"
    )
    given = {"train_dataset": rows(4), "eval_dataset": rows(2), "compute_metrics": accuracy, **given}
    with pytest.raises(ValueError, match=f"^Trainer: .*{said}") as error:
        Trainer(bert(), args, **given).train()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_labels_that_cannot_be_smoothed_are_refused_before_the_first_step(tmp_path):
    args = TrainingArguments(tmp_path / "run", label_smoothing_factor=0.1, report_to="none")
    answers = FAMILIES["distilbert"][0](FAMILIES["distilbert"][1], rng=0)
    spans = [{"input_ids": [1, 2, 3], "start_positions": 0, "end_positions": 1}]
    ready_made = numtx.EncoderOnlyTransformer(
        vocab_size=20, num_classes=2, d_model=8, nhead=2, dim_feedforward=8, rng=0
    )
    for model, data in ((answers, spans), (ready_made, [{"input_ids": [1, 2], "labels": 1}])):
        with pytest.raises(ValueError, match=r"^Trainer: expected label_smoothing_factor 0 for this model, got 0\.1"):
            Trainer(model, args, train_dataset=data).train()


def test_what_a_model_cannot_write_and_measures_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"^Trainer: expected a model that writes with predict_with_generate"):
        trainer(tmp_path / "run", predict_with_generate=True).train()
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"^Trainer: expected compute_metrics to return a dict of measures, got None"):
        trainer(tmp_path / "run", metrics=lambda given: None).evaluate()


@pytest.mark.parametrize("first", [False, True])
def test_a_measure_that_is_not_given_is_said_at_the_first_evaluation(tmp_path, first):
    made = trainer(tmp_path / "run", metric_for_best_model="f2", eval_on_start=first)
    said = r"^Trainer: expected compute_metrics to give metric_for_best_model 'f2', got accuracy, loss$"
    with pytest.raises(ValueError, match=said):
        made.train()
    assert made.state.global_step == (0 if first else 5)


@pytest.mark.parametrize("value", ["good", None, [1, 2]])
def test_a_measure_that_decides_is_a_number(tmp_path, value):
    made = trainer(tmp_path / "run", metric_for_best_model="own", metrics=lambda given: {"own": value})
    with pytest.raises(
        ValueError, match=r"^Trainer: expected metric_for_best_model 'own' to be a number, got "
    ) as error:
        made.train()
    assert str(error.value).endswith(repr(value))


def test_settings_of_writing(tmp_path):
    kind, config = FAMILIES["bart"]
    data = [{"input_ids": [3, 4, 2], "labels": [5, 2]}] * 2
    GenerationConfig(max_new_tokens=3, min_new_tokens=3).save_pretrained(tmp_path / "settings")
    for given in (GenerationConfig(max_new_tokens=3, min_new_tokens=3), str(tmp_path / "settings")):
        args = TrainingArguments(
            tmp_path / "run", predict_with_generate=True, generation_config=given, report_to="none", max_steps=1
        )
        json.dumps(args.to_dict())
        made = Trainer(kind(config, rng=0), args, train_dataset=data, eval_dataset=data)
        made.pop_callback(PrinterCallback)
        assert made.predict(data).predictions.shape == (2, 4)
    args = TrainingArguments(
        tmp_path / "run", predict_with_generate=True, generation_config="./nowhere", eval_strategy="epoch"
    )
    with pytest.raises(ValueError, match="nowhere"):
        Trainer(kind(config, rng=0), args, train_dataset=data, eval_dataset=data).train()
    assert not (tmp_path / "run").exists()


def test_bad_constructors():
    for given, said in (
        ({}, "expected either a model or model_init, got neither"),
        ({"model": bert(), "model_init": bert}, "expected either a model or model_init, got both"),
        ({"model": bert(), "args": {}}, "expected args to be TrainingArguments, got dict"),
        ({"model": bert().body}, "expected a model with loss_and_grads"),
        ({"model": bert(), "data_collator": 3}, "expected a data_collator that can be called, got int"),
        ({"model": bert(), "compute_loss_func": max}, "expected compute_loss_func None"),
        ({"model": bert(), "processing_class": 1, "tokenizer": 2}, "expected processing_class or tokenizer, got both"),
        ({"model": bert(), "callbacks": EarlyStoppingCallback()}, "expected callbacks, a list, got <"),
        ({"model": bert(), "callbacks": TrainerCallback}, "expected callbacks, a list, got <class"),
        ({"model": bert(), "optimizers": SGD(bert(), 0.1)}, "expected optimizers, a pair"),
        (
            {"model": bert(), "optimizers": ("sgd", None)},
            "expected an optimizer of numtx.training in optimizers, got s",
        ),
        ({"model": bert(), "optimizers": (None, 0.1)}, "expected a function from a step to its learning rate in optim"),
    ):
        with pytest.raises(ValueError, match=f"^Trainer: {said}"):
            Trainer(**given)
    with pytest.raises(ValueError, match="expected an eval_dataset, got None"):
        Trainer(bert()).evaluate()


@pytest.mark.parametrize("name", INSTEAD)
def test_methods_that_would_never_be_called_are_refused(name):
    own = type("Own", (Trainer,), {name: lambda self, *given, **more: None})
    with pytest.raises(ValueError, match=f"^Trainer: expected a class without {name}, which is never called, got one"):
        own(bert())
    with pytest.raises(AttributeError, match=f"^Trainer has no {name}, as Transformers' has: "):
        getattr(Trainer(bert()), name)
    assert not hasattr(Trainer(bert()), "nonsense")


def test_methods_that_a_class_may_have_of_its_own(tmp_path):
    class Own(Trainer):
        def get_decay_parameter_names(self, model):
            return [name for name in super().get_decay_parameter_names(model) if name.startswith("head.")]

        def evaluate(self, *given, **more):
            return {**super().evaluate(*given, **more), "eval_own": 1.0}

    moved = []
    for cls in (Trainer, Own):
        model = bert(dropout=0.0)
        made = cls(
            model,
            TrainingArguments(
                tmp_path / cls.__name__, max_steps=1, weight_decay=0.5, learning_rate=0.5, optim="sgd",
                report_to="none", eval_strategy="steps", eval_steps=1, save_strategy="no",
                metric_for_best_model="own" if cls is Own else None,
            ),
            train_dataset=rows(8), eval_dataset=rows(8), callbacks=[],
        )  # fmt: skip
        made.pop_callback(PrinterCallback)
        made.train()
        moved.append(model.get_parameter("body.embeddings.words.weight").copy())
    assert made.state.best_metric == 1.0
    start = bert(dropout=0.0).get_parameter("body.embeddings.words.weight")
    unseen = 0  # a token of no row, so that decay alone moves it
    assert np.allclose(moved[0][unseen], 0.75 * start[unseen], rtol=1e-5)
    assert np.array_equal(moved[1][unseen], start[unseen])


def test_folders_where_a_training_can_neither_begin_nor_go_on(tmp_path):
    trainer(tmp_path / "run", max_steps=2, save_steps=1).train()
    with pytest.raises(
        ValueError, match=r"^Trainer: .* '.*run' with one: train\(resume_from_.*, overwrite_output_dir=T"
    ):
        trainer(tmp_path / "run", max_steps=2, save_steps=1).train()
    with pytest.raises(ValueError, match=r"^Trainer: .*of the run in output_dir '.*other', got '.*checkpoint-1'$"):
        trainer(tmp_path / "other", max_steps=2).train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ValueError, match=r"^Trainer: expected a save_strategy with resume_from_checkpoint, got 'no'$"):
        trainer(tmp_path / "run", max_steps=2, save_strategy="no").train(resume_from_checkpoint=True)
    assert not (tmp_path / "other").exists()


def test_a_relative_folder_and_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer("run", max_steps=2, save_steps=1).train()
    assert trainer("./run", max_steps=2, save_steps=1).train("run/checkpoint-1").global_step == 2
    assert trainer(tmp_path / "run", max_steps=2, save_steps=1).train("run/checkpoint-1/").global_step == 2


def test_numbers_of_numpy_are_taken(tmp_path):
    args = TrainingArguments(
        tmp_path, max_steps=np.int64(3), learning_rate=np.float32(0.5), do_train=np.bool_(True), seed=np.int32(4)
    )
    assert (args.max_steps, args.learning_rate, args.do_train, args.seed) == (3, 0.5, True, 4)
    json.dumps(args.to_dict())
