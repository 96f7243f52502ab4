"""What a Trainer takes or refuses before its first step: optimizers, rows and labels, folders, methods of its class."""

import json

import numpy as np
import pytest
from small_families import FAMILIES
from small_trainer import SIZES, bert, rows, same_weights, trainer

from numtx import nn
from numtx.checkpoints import verify_manifest
from numtx.models import BertConfig, BertForSequenceClassification, BertForTokenClassification, GPT2LMHeadModel
from numtx.training import AdamW, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from numtx.training.foreign_methods import NOT_HERE


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# --- optimizers


def test_an_optimizer_over_another_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^Trainer: expected an optimizer made over the trainer's model, got one o"):
        trainer(tmp_path / "run", optimizers=(AdamW(bert(seed=1), 1e-2), None))

    class Own(Trainer):
        def create_optimizer(self):
            return AdamW(bert(seed=1), 1e-2)

    made = Own(bert(), TrainingArguments(tmp_path / "run", report_to="none"), train_dataset=rows(8))
    with pytest.raises(ValueError, match=r"^Trainer: expected an optimizer made over the trainer's model"):
        made.train()
    assert not (tmp_path / "run").exists()


def test_an_optimizer_made_before_freezing_is_refused_before_the_first_step(tmp_path):
    model = bert()
    optimizer = AdamW(model, 1e-2)
    made = trainer(tmp_path / "run", model=model, optimizers=(optimizer, None))
    nn.freeze(model.body)
    with pytest.raises(ValueError, match=r"and \d+ more; freeze and unfreeze before the optimizer is made$") as error:
        made.train()
    assert len(str(error.value)) < 400
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="freeze and unfreeze before"):
        trainer(tmp_path / "run", model=model, optimizers=(optimizer, None))


# --- rows and labels


def classifier(problem, classes):
    config = BertConfig(vocab_size=20, problem_type=problem, id2label=dict(enumerate("ab"[:classes])), **SIZES)
    return BertForSequenceClassification(config, rng=0)


REGRESSION, SEVERAL = ("regression", 1), ("multi_label_classification", 2)


@pytest.mark.parametrize(
    ("kind", "label", "said"),
    [
        (REGRESSION, float("nan"), "finite numbers as label of {}, got nan in row 8"),
        (REGRESSION, float("inf"), "finite numbers as label of {}, got inf in row 8"),
        (REGRESSION, None, "1 numbers as label of {}, got None in row 8"),
        (SEVERAL, [1.0, 2.0], r"numbers from 0 to 1 as label of {}, got \[1.0, 2.0\] in row 8"),
        (SEVERAL, [-0.5, 1.0], r"numbers from 0 to 1 as label of {}, got \[-0.5, 1.0\] in row 8"),
        (SEVERAL, [1.0, float("nan")], r"numbers from 0 to 1 as label of {}, got \[1.0, nan\] in row 8"),
        (SEVERAL, [1.0, 0.0, 0.0], r"2 numbers as label of {}, got \[1.0, 0.0, 0.0\] in row 8"),
    ],
)
def test_labels_that_are_numbers_are_looked_at_in_every_row(tmp_path, kind, label, said):
    good = [{"input_ids": [1, 2, 3], "label": 0.5 if kind is REGRESSION else [1.0, 0.0]}] * 8
    bad = [*good, {"input_ids": [1, 2, 3], "label": label}]
    args = TrainingArguments(tmp_path / "run", eval_strategy="steps", eval_steps=1, max_steps=1, report_to="none")
    for data, held_out, what in ((bad, good, "train_dataset"), (good, bad, "eval_dataset")):
        made = Trainer(classifier(*kind), args, train_dataset=data, eval_dataset=held_out)
        with pytest.raises(ValueError, match=f"^Trainer: expected {said.format(what)}$"):
            made.train()
    assert not (tmp_path / "run").exists()
    Trainer(classifier(*kind), args, train_dataset=good, eval_dataset=good).check()


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("attention_mask", [1, 1], "attention_mask of train_dataset for each of 6 input_ids, got 2 in row 8"),
        ("token_type_ids", [0] * 7, "token_type_ids of train_dataset for each of 6 input_ids, got 7 in row 8"),
        ("token_type_ids", [0] * 5 + [2], "token_type_ids of train_dataset from 0 to 1, got 2 in row 8"),
        ("token_type_ids", [-1] * 6, "token_type_ids of train_dataset from 0 to 1, got -1 in row 8"),
    ],
)
def test_what_stands_beside_the_ids_is_looked_at_in_every_row(tmp_path, column, values, said):
    good = [{**row, column: [1] * 6} for row in rows(9)]
    args = TrainingArguments(tmp_path / "run", report_to="none")
    Trainer(bert(), args, train_dataset=good).check()
    with pytest.raises(ValueError, match=f"^Trainer: expected {said}$"):
        Trainer(bert(), args, train_dataset=[*good[:8], {**good[8], column: values}]).train()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"attention_mask": np.ones((4, 5), int)},
            "attention_mask of the first batch .* each of 6 input_ids, got 5",
        ),
        ({"attention_mask": np.ones((3, 6), int)}, "attention_mask of the first batch .* each of 4 rows, got 3"),
        ({"token_type_ids": np.full((4, 6), 2)}, "token_type_ids of the first batch .* from 0 to 1, got 2 in row 0"),
        (
            {"input_ids": np.full((4, 6), 20)},
            "input_ids from 0 to 19 in row 0 of the first batch of train_dataset",
        ),
    ],
)
def test_what_a_collator_of_one_s_own_makes_is_looked_at_in_the_first_batch(tmp_path, more, said):
    def collated(given):
        ids = np.array([row["input_ids"] for row in given])
        return {"input_ids": ids, "labels": np.array([row["label"] for row in given]), **more}

    args = TrainingArguments(tmp_path / "run", per_device_train_batch_size=4, report_to="none")
    with pytest.raises(ValueError, match=f"^Trainer: expected {said}"):
        Trainer(bert(), args, collated, rows(4)).train()
    assert not (tmp_path / "run").exists()


def test_a_collator_of_one_s_own_may_make_labels_of_others(tmp_path):
    """Names of classes as a list of ids, say, or a label a word; what it makes of them is looked at."""
    data = [{"input_ids": [1, 2, 3], "label": [0, 5, 7][: 1 + k % 3]} for k in range(4)]

    def collated(given, high=1.0):
        labels = [[high * (2 * k in row["label"]) for k in range(2)] for row in given]
        return {"input_ids": np.array([row["input_ids"] for row in given]), "labels": np.array(labels)}

    args = TrainingArguments(tmp_path / "run", max_steps=1, report_to="none", save_strategy="no")
    assert Trainer(classifier(*SEVERAL), args, collated, data).train().global_step == 1
    with pytest.raises(ValueError, match=r"^Trainer: expected numbers from 0 to 1 as labels of the first batch of"):
        Trainer(classifier(*SEVERAL), args, lambda given: collated(given, 3.0), data).train()


def test_a_label_for_each_token_in_every_row(tmp_path):
    tagger = BertForTokenClassification(BertConfig(vocab_size=20, **SIZES), rng=0)
    writer = GPT2LMHeadModel(FAMILIES["gpt2"][1], rng=0)
    args = TrainingArguments(tmp_path / "run", report_to="none")
    for model in (tagger, writer):
        good = [{"input_ids": [1, 2, 3], "labels": [0, 1, -100]}] * 8
        Trainer(model, args, train_dataset=good).check()
        said = r"^Trainer: expected labels of train_dataset for each of 3 input_ids, got 2 in row 8$"
        with pytest.raises(ValueError, match=said):
            Trainer(model, args, train_dataset=[*good, {"input_ids": [1, 2, 3], "labels": [0, 1]}]).train()
    assert not (tmp_path / "run").exists()


def test_lists_of_unequal_length_within_a_column(tmp_path):
    args = TrainingArguments(tmp_path / "run", remove_unused_columns=False, report_to="none")
    data = [{**row, "extra": [[1], [1, 2]]} for row in rows(4)]
    with pytest.raises(ValueError, match=r"expected extra of one shape in all rows, got \[\[1\], \[1, 2\]\] in row 0$"):
        Trainer(bert(), args, train_dataset=data).train()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"compute_metrics": 3}, "expected compute_metrics to be a function, got int"),
        ({"preprocess_logits_for_metrics": 3}, "expected preprocess_logits_for_metrics to be a function, got int"),
        (
            {"model": BertForSequenceClassification},
            "expected a model, got the class BertForSequenceClassification",
        ),
        ({"model": None, "model_init": 3}, "expected model_init to be a function, got int"),
    ],
)
def test_what_is_no_function_and_no_model(given, said):
    with pytest.raises(ValueError, match=f"^Trainer: {said}"):
        Trainer(**{"model": bert(), **given})


# --- folders


class Fails(TrainerCallback):
    """Raises before the first save."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise RuntimeError("told")


def test_a_training_that_failed_before_its_first_save_begins_anew(tmp_path):
    whole = trainer(tmp_path / "whole", max_steps=5, logging_steps=1)
    whole.train()
    with pytest.raises(RuntimeError, match="told"):
        trainer(tmp_path / "run", callbacks=[Fails()], max_steps=4, logging_steps=1, learning_rate=0.5).train()
    assert {"training.json", "log.jsonl"} <= {*files(tmp_path / "run")}
    said = r"^Trainer: expected a checkpoint in '.*run' to go on from, got a run that ended before its first save"
    with pytest.raises(ValueError, match=said):
        trainer(tmp_path / "run", max_steps=5, logging_steps=1).train(resume_from_checkpoint=True)
    anew = trainer(tmp_path / "run", max_steps=5, logging_steps=1)
    anew.train()
    assert same_weights(anew.model, whole.model)
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    steps = [
        [json.loads(line)["step"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("run", "whole")
    ]
    assert steps[0] == steps[1]
    assert (tmp_path / "run/training.json").read_bytes() == (tmp_path / "whole/training.json").read_bytes()
    with pytest.raises(ValueError, match="expected an output_dir without a run"):
        trainer(tmp_path / "run", max_steps=5).train()  # a checkpoint is there now


def test_no_checkpoints_where_a_run_failed_or_may_go(tmp_path):
    with pytest.raises(RuntimeError, match="told"):
        trainer(tmp_path / "run", callbacks=[Fails()]).train()
    trainer(tmp_path / "run", max_steps=1, save_strategy="no").train()
    assert files(tmp_path / "run") == ["log.jsonl"]
    trainer(tmp_path / "run", max_steps=2, save_steps=1).train()
    (tmp_path / "run/notes.txt").write_text("mine")
    trainer(tmp_path / "run", max_steps=1, save_strategy="no", overwrite_output_dir=True).train()
    assert files(tmp_path / "run") == ["log.jsonl", "notes.txt"]
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 1


def test_the_run_of_the_training_loop_is_a_run_from_its_start(tmp_path):
    from numtx.training import TrainingConfig, TrainingLoop

    model = GPT2LMHeadModel(FAMILIES["gpt2"][1], rng=0)
    plan = TrainingConfig(steps=1, batch=2, context=4)
    TrainingLoop(model, np.arange(50) % 5, plan=plan, folder=tmp_path / "run").train()
    for path in (tmp_path / "run").glob("checkpoint-*"):
        path.rename(tmp_path / path.name)
    before = files(tmp_path / "run")
    with pytest.raises(ValueError, match="expected an output_dir without a run"):
        trainer(tmp_path / "run").train()
    assert files(tmp_path / "run") == before


# --- another length


def test_a_run_of_another_length_names_what_was_asked(tmp_path):
    trainer(tmp_path / "run", num_train_epochs=2, save_steps=1).train()
    said = (
        r"^Trainer: expected the 10 steps that the run began with, got num_train_epochs 3, which make 15: to train "
        r"further, give a checkpoint's model \(from_pretrained\) to a new Trainer with another output_dir$"
    )
    with pytest.raises(ValueError, match=said):
        trainer(tmp_path / "run", num_train_epochs=3, save_steps=1).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="the 10 steps that the run began with, got max_steps 9: to train further"):
        trainer(tmp_path / "run", max_steps=9, save_steps=1).train(resume_from_checkpoint=True)
    for other in ({"per_device_train_batch_size": 4}, {"train": 71}):  # which make other steps, and are to blame
        with pytest.raises(ValueError, match=r"^resume: expected the (settings|training rows) of the run"):
            trainer(tmp_path / "run", num_train_epochs=2, save_steps=1, **other).train(resume_from_checkpoint=True)
    way = BertForSequenceClassification.from_pretrained(tmp_path / "run/checkpoint-10")
    assert trainer(tmp_path / "more", model=way, num_train_epochs=1).train().global_step == 5


# --- methods of a subclass, and names that are looked for


class Saves(Trainer):
    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir, _internal_call)
        with open(output_dir + "/own.txt", "w") as file:
            file.write(f"{self.state.global_step} {_internal_call}")


def saving(cls, folder, **given):
    settings = {"save_steps": 2, "max_steps": 4, "report_to": "none", "dataloader_drop_last": True, **given}
    made = cls(bert(), TrainingArguments(folder, **settings), train_dataset=rows(32))
    made.pop_callback(PrinterCallback)
    return made


def test_checkpoints_call_a_save_model_of_one_s_own(tmp_path):
    saving(Trainer, tmp_path / "plain").train()
    saving(Saves, tmp_path / "run").train()
    for step in (2, 4):
        path = tmp_path / f"run/checkpoint-{step}"
        assert (path / "own.txt").read_text() == f"{step} True"
        plain = tmp_path / f"plain/checkpoint-{step}"
        assert files(path) == sorted([*files(plain), "own.txt"])
        assert (path / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
        verify_manifest(path)
    (path / "own.txt").write_text("changed")
    with pytest.raises(ValueError, match=r"got 7 bytes of own\.txt, which had 6$"):
        verify_manifest(path)


def test_a_save_that_fails_within_leaves_the_one_before(tmp_path):
    class Own(Trainer):
        def save_model(self, output_dir=None, _internal_call=False):
            super().save_model(output_dir, _internal_call)
            if self.state.global_step == 4:
                raise RuntimeError("told")

    with pytest.raises(RuntimeError, match="told"):
        saving(Own, tmp_path / "run").train()
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint-*")] == ["checkpoint-2"]
    saving(Trainer, tmp_path / "run").train(resume_from_checkpoint=True)
    saving(Trainer, tmp_path / "plain").train()
    weights = [tmp_path / name / "checkpoint-4/model.safetensors" for name in ("run", "plain")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_save_model_that_checkpoints_cannot_call_or_that_writes_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"^Trainer: expected save_model\(self, output_dir=None, _internal_call=Fa"):
        saving(type("Own", (Trainer,), {"save_model": lambda self, output_dir=None: None}), tmp_path / "run")
    nothing = type("Own", (Trainer,), {"save_model": lambda self, output_dir=None, _internal_call=False: None})
    with pytest.raises(ValueError, match=r"^Trainer: expected save_model to write the model's weights \(super"):
        saving(nothing, tmp_path / "run").train()
    assert not list((tmp_path / "run").glob("*checkpoint-*"))


def test_names_that_are_looked_for_have_a_hint():
    made = Trainer(bert())
    for name, hint in NOT_HERE.items():
        with pytest.raises(AttributeError, match=f"^Trainer has no {name}, as Transformers' has: ") as error:
            getattr(made, name)
        assert str(error.value).endswith(hint)
    assert type("Own", (Trainer,), {"num_examples": lambda self: 3})(bert()).num_examples() == 3


def test_keys_that_are_ignored_while_training(tmp_path):
    kind, config = FAMILIES["bart"]
    data = [{"input_ids": [3, 4, 2], "labels": [5, 2]}] * 4
    seen = []

    class Own(Trainer):
        def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
            seen.append(ignore_keys)
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    args = TrainingArguments(
        tmp_path / "run", max_steps=1, eval_strategy="steps", eval_steps=1, save_strategy="no", report_to="none"
    )
    made = Own(kind(config, rng=0), args, train_dataset=data, eval_dataset=data)
    made.train(ignore_keys_for_eval=["encoder_last_hidden_state"])
    made.train()
    assert seen == [["encoder_last_hidden_state"], None]
