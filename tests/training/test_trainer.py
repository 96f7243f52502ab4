"""The Trainer: it learns, evaluates, keeps the best, goes on after an interruption, and refuses what cannot be."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from small_families import FAMILIES
from small_trainer import SIZES, accuracy, bert, history, rows, same_weights, trainer

import numtx
from numtx.models import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel
from numtx.text import Dataset
from numtx.training import (
    SGD,
    EarlyStoppingCallback,
    NonFiniteError,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_decay_parameter_names,
)


class StopAt(TrainerCallback):
    """Ends the training from outside, as a signal does."""

    def __init__(self, step, trainer=None):
        self.step, self.trainer = step, trainer

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.trainer._loop.stop()


class Events(TrainerCallback):
    """Keeps which events came, and what the state was."""

    def __init__(self, *flags):
        self.seen, self.flags = [], flags

    def _heard(self, event, state, control):
        self.seen.append((event, state.global_step))
        for name, step, flag in self.flags:
            if (name, step) == (event, state.global_step):
                setattr(control, flag, True)

    def steps(self, event):
        return [step for name, step in self.seen if name == event]


for _event in (
    "on_init_end", "on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_step_begin", "on_step_end",
    "on_pre_optimizer_step", "on_optimizer_step", "on_evaluate", "on_predict", "on_save", "on_log",
    "on_prediction_step",
):  # fmt: skip

    def _hear(self, args, state, control, event=_event, **kwargs):
        self._heard(event, state, control)

    setattr(Events, _event, _hear)


# --- it trains


def test_it_learns_logs_saves_and_measures(tmp_path):
    made = trainer(tmp_path / "run")
    found = made.train()
    assert found.global_step == 15  # 9 batches of 8 an epoch, two of them an update, the last alone
    assert made.evaluate()["eval_accuracy"] == 1.0
    assert made.state.epoch == 3.0
    losses = [row["loss"] for row in made.state.log_history if "loss" in row]
    assert len(losses) == 5
    assert losses[-1] < 0.5 * losses[0]
    assert found.training_loss == pytest.approx(np.mean(losses))
    assert {"train_runtime", "train_samples_per_second", "train_loss", "epoch"} <= found.metrics.keys()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines == made.state.log_history[:-1]  # the last is of the evaluation above
    assert [row["step"] for row in lines if "eval_loss" in row] == [5, 10, 15]
    folders = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert folders == ["checkpoint-10", "checkpoint-15", "checkpoint-5"]
    opened = BertForSequenceClassification.from_pretrained(tmp_path / "run" / "checkpoint-15")
    assert same_weights(opened, made.model)


def test_two_trainings_are_the_same_on_any_number_of_threads(tmp_path):
    one, two = (trainer(tmp_path / str(threads), threads=threads) for threads in (1, 2))
    one.train()
    two.train()
    assert same_weights(one.model, two.model)
    assert history(one) == history(two)


def test_a_model_may_be_made_by_a_function_and_numbers_come_from_the_seed(tmp_path):
    def train(seed):
        args = TrainingArguments(tmp_path / str(seed), max_steps=2, save_strategy="no", report_to="none", seed=seed)
        made = Trainer(model_init=bert, args=args, train_dataset=rows(20))
        made.pop_callback(PrinterCallback)
        made.train()
        return made.model

    assert same_weights(train(1), train(1))
    assert not same_weights(train(1), train(2))


def test_the_loss_of_an_update_is_a_mean_over_the_labels_of_all_micro_batches(tmp_path):
    drops = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=11, n_positions=9, n_embd=8, n_layer=1, n_head=2, **drops)
    data = [
        {"input_ids": [1, 2, 3, 4], "labels": [-100, 5, -100, -100]},
        {"input_ids": [4, 3, 2, 1], "labels": [4, 3, 2, 1]},
    ]

    def weights(**settings):
        model = GPT2LMHeadModel(config, rng=0, dtype=np.float64)
        args = TrainingArguments(
            tmp_path, num_train_epochs=2, save_strategy="no", report_to="none", logging_steps=1, **settings
        )
        made = Trainer(model, args, train_dataset=data, optimizers=(SGD(model, 0.1), None))
        made.pop_callback(PrinterCallback)
        found = made.train()
        return model.state_dict(), found.training_loss

    whole, loss = weights(per_device_train_batch_size=2)
    parts, parts_loss = weights(per_device_train_batch_size=1, gradient_accumulation_steps=2)
    assert loss == pytest.approx(parts_loss, rel=1e-12)
    for name, array in whole.items():
        assert np.abs(array - parts[name]).max() < 1e-12


def test_steps_rates_and_clipping_follow_the_arguments(tmp_path):
    class Norms(TrainerCallback):
        def __init__(self):
            self.rates, self.norms = [], []

        def on_pre_optimizer_step(self, args, state, control, gradients, lr_scheduler, **kwargs):
            self.norms.append(float(np.sqrt(sum(np.sum(np.square(one)) for one in gradients.views.values()))))
            self.rates.append(lr_scheduler(state.global_step))

    heard = Norms()
    made = trainer(
        tmp_path / "run", callbacks=[heard], max_steps=8, warmup_steps=4, save_strategy="no", eval_strategy="no",
        logging_steps=1, max_grad_norm=0.01,
    )  # fmt: skip
    before = {name: array.copy() for name, array in made.model.named_parameters()}
    assert made.train().global_step == 8
    assert heard.rates == pytest.approx([0, 0.0025, 0.005, 0.0075, 0.01, 0.0075, 0.005, 0.0025])
    logged = [row for row in made.state.log_history if "loss" in row]
    assert [row["learning_rate"] for row in logged] == pytest.approx(heard.rates)
    assert [row["grad_norm"] for row in logged] == pytest.approx(heard.norms, rel=1e-5)  # before clipping
    assert made.optimizer.steps == 8
    assert any(not np.array_equal(before[name], array) for name, array in made.model.named_parameters())


@pytest.mark.parametrize("most", [0.01, 1e6, 0])
def test_a_step_of_sgd_is_as_long_as_clipping_says(tmp_path, most):
    model = bert(dropout=0.0, dtype=np.float64)
    before = {name: array.copy() for name, array in model.named_parameters()}
    made = trainer(
        tmp_path / "run", model=model, max_steps=1, save_strategy="no", eval_strategy="no", logging_steps=1,
        max_grad_norm=most, optim="sgd", learning_rate=0.5,
    )  # fmt: skip
    made.train()
    moved = np.sqrt(sum(np.sum((array - before[name]) ** 2) for name, array in model.named_parameters()))
    norm = made.state.log_history[0]["grad_norm"]
    assert moved == pytest.approx(0.5 * (0.01 if most == 0.01 else norm), rel=1e-4)


def test_what_decays_and_how_fast_a_group_learns(tmp_path):
    names = get_decay_parameter_names(bert())
    assert names
    assert not any("norm" in name.lower() or "bias" in name for name in names)
    kind, config = FAMILIES["t5"]
    t5 = get_decay_parameter_names(kind(config, rng=0))
    saved = [kind.names(config).checkpoint_name(name) for name in t5]
    assert not any("bias" in name or "norm" in name for name in saved)
    assert "shared.weight" in saved

    def moved(**settings):
        model = bert(dropout=0.0)
        before = {name: array.copy() for name, array in model.named_parameters()}
        made = trainer(tmp_path / "run", model=model, max_steps=1, save_strategy="no", eval_strategy="no", **settings)
        made.train()
        return {name: array - before[name] for name, array in model.named_parameters()}

    plain, decayed = (moved(optim="sgd", weight_decay=decay, learning_rate=0.5) for decay in (0.0, 0.2))
    start = dict(bert(dropout=0.0).named_parameters())
    for name, step in decayed.items():
        wanted = plain[name] - 0.5 * 0.2 * start[name] * (name in names)
        assert np.allclose(step, wanted, rtol=1e-4, atol=1e-6), name
    plain = moved()
    grouped = moved(learning_rate_groups={"head.*": 10.0, "body.embeddings.*": 0.0})
    for name, step in grouped.items():
        factor = 10.0 if name.startswith("head.") else 0.0 if name.startswith("body.embeddings.") else 1.0
        assert np.allclose(step, factor * plain[name], rtol=1e-3, atol=2e-6), name
    with pytest.raises(ValueError, match="hed"):
        moved(learning_rate_groups={"hed.*": 10.0})


def test_a_frozen_body_stays(tmp_path):
    model = bert()
    numtx.nn.freeze(model, "body.*")
    before = {name: array.copy() for name, array in model.named_parameters()}
    trainer(tmp_path / "run", model=model, max_steps=3).train()
    changed = [name for name, array in model.named_parameters() if not np.array_equal(array, before[name])]
    assert changed
    assert all(name.startswith("head.") for name in changed)


# --- it goes on


@pytest.mark.parametrize("stop", [1, 5, 7])
def test_a_training_that_goes_on_gives_the_bits_of_one_that_never_ended(tmp_path, stop):
    settings = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "save_total_limit": 2}
    whole = trainer(tmp_path / "whole", **settings)
    total = whole.train()
    halted = StopAt(stop)
    first = trainer(tmp_path / "run", callbacks=[halted], **settings)
    halted.trainer = first
    assert first.train().global_step == stop
    second = trainer(tmp_path / "run", **settings, model=bert(seed=9))
    found = second.train(resume_from_checkpoint=True)
    assert found.training_loss == total.training_loss
    assert same_weights(whole.model, second.model)
    middle = [row for row in history(second) if "train_loss" not in row]
    assert middle == [row for row in history(whole) if "train_loss" not in row]
    assert second.state.best_global_step == whole.state.best_global_step


def test_it_goes_on_from_a_checkpoint_that_is_named(tmp_path):
    whole = trainer(tmp_path / "run")
    whole.train()
    again = trainer(tmp_path / "run", model=bert(seed=9))
    again.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-5")
    assert same_weights(whole.model, again.model)


@pytest.mark.parametrize("family", ["marian", "t5", "llama"])
def test_other_families_go_on_too(tmp_path, family):
    kind, config = FAMILIES[family]
    data = [{"input_ids": [3, 4, 5 + number % 4], "labels": [5, 2, 3]} for number in range(12)]
    if family == "t5":
        data = [{**row, "decoder_input_ids": [1, 5, 2]} for row in data]
    made = []
    for steps in ((3,), (2, 3)):
        for number, last in enumerate(steps):
            args = TrainingArguments(tmp_path / str(len(steps)), max_steps=3, save_steps=1, report_to="none")
            halted = StopAt(last)
            one = Trainer(kind(config, rng=number), args, train_dataset=data, callbacks=[halted])
            halted.trainer = one
            one.pop_callback(PrinterCallback)
            one.train(resume_from_checkpoint=number > 0)
        made.append(one.model)
    assert same_weights(*made)


def test_a_run_that_goes_on_is_the_same_run(tmp_path):
    trainer(tmp_path / "run", max_steps=2, save_steps=1).train()
    with pytest.raises(ValueError, match=r"got learning_rate 0\.5"):
        trainer(tmp_path / "run", max_steps=2, save_steps=1, learning_rate=0.5).train(resume_from_checkpoint=True)
    said = r"^resume: expected the training rows of the run, 70 rows, sha256 \w{16}, got 71 rows, sha256 \w{16}$"
    with pytest.raises(ValueError, match=said):
        trainer(tmp_path / "run", max_steps=2, save_steps=1, train=71).train(resume_from_checkpoint=True)
    config = BertConfig(vocab_size=20, **{**SIZES, "hidden_size": 8})
    other = BertForSequenceClassification(config, rng=0)
    said = r"^resume: expected the model of the run, got hidden_size 8 \(began with 16\)$"
    with pytest.raises(ValueError, match=said):
        trainer(tmp_path / "run", model=other, max_steps=2, save_steps=1).train(resume_from_checkpoint=True)
    classes = BertConfig(vocab_size=20, id2label=dict(enumerate("abcdefghij")), **SIZES)
    named = BertForSequenceClassification(classes, rng=0)
    said = r"got id2label\.0 a \(began with none\) and more, label2id\.a 0 \(began with none\) and more$"
    with pytest.raises(ValueError, match=said):
        trainer(tmp_path / "run", model=named, max_steps=2, save_steps=1).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="with one: choose another"):
        trainer(tmp_path / "run", max_steps=2, save_strategy="no").train()
    anew = trainer(tmp_path / "run", max_steps=1, save_steps=1, overwrite_output_dir=True)
    anew.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    with pytest.raises(ValueError, match="nothing-here"):
        trainer(tmp_path / "nothing-here").train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"^Trainer: expected resume_from_checkpoint, a path, True or False, got 3$"):
        trainer(tmp_path / "run").train(resume_from_checkpoint=3)


def test_rows_that_decided_what_is_best_are_the_same_when_it_goes_on(tmp_path):
    def make(folder, held_out=30, **given):
        given = {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "held_out": held_out, **given}
        return trainer(folder, **given)

    make(tmp_path / "run", metric_for_best_model="loss").train()
    said = r"^resume: expected the held-out rows of the run, 30 rows, sha256 \w{16}, got 3 rows, sha256 \w{16}$"
    with pytest.raises(ValueError, match=said):
        make(tmp_path / "run", 3, metric_for_best_model="loss").train(resume_from_checkpoint=True)
    make(tmp_path / "run", metric_for_best_model="loss").train(resume_from_checkpoint=True)
    several = {"metrics": accuracy, "metric_for_best_model": "b_accuracy"}
    for rows_of_a, refused in ((5, False), (5, False), (6, True)):
        made = make(tmp_path / "several", **several)
        made.eval_dataset = {"a": rows(rows_of_a), "b": rows(6, seed=3)}
        begun = (tmp_path / "several").exists()
        if refused:
            with pytest.raises(ValueError, match=r"expected the held-out rows of the run, 11 rows, .*, got 12 rows"):
                made.train(resume_from_checkpoint=begun)
        else:
            made.train(resume_from_checkpoint=begun)
    make(tmp_path / "free").train()  # nothing is the best here: others may be looked at
    make(tmp_path / "free", 3).train(resume_from_checkpoint=True)


def test_ctrl_c_saves_and_is_passed_on(tmp_path):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", callbacks=[Interrupt]).train()
    again, whole = trainer(tmp_path / "run"), trainer(tmp_path / "whole")
    assert (tmp_path / "run" / "checkpoint-3").is_dir()
    again.train(resume_from_checkpoint=True)
    whole.train()
    assert same_weights(again.model, whole.model)


def test_what_is_not_finite_is_named_and_the_last_save_stays(tmp_path):
    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 6:
                model.get_parameter("body.embeddings.words.weight")[...] = np.nan

    with pytest.raises(
        NonFiniteError, match=r"parameter body.embeddings.words.weight; the last save is .*checkpoint-5"
    ):
        trainer(tmp_path / "run", callbacks=[Spoil]).train()


# --- the best


def test_the_best_is_loaded_in_the_end_and_never_removed(tmp_path):
    scores = iter([0.3, 0.9, 0.5, 0.9, 0.2])
    made = trainer(
        tmp_path / "run", metrics=lambda given: {"score": next(scores)}, max_steps=10, eval_steps=2, save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="score", save_total_limit=1,
    )  # fmt: skip
    made.train()
    assert (made.state.best_global_step, made.state.best_metric) == (4, 0.9)  # the first of equals
    assert made.state.best_model_checkpoint == str(tmp_path / "run" / "checkpoint-4")
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-4"]
    best = BertForSequenceClassification.from_pretrained(tmp_path / "run" / "checkpoint-4")
    assert same_weights(best, made.model)


def test_a_best_checkpoint_that_was_damaged_is_not_loaded(tmp_path):
    class Damage(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                path = tmp_path / "run" / "checkpoint-2" / "model.safetensors"
                path.write_bytes(path.read_bytes()[:-4] + b"!!!!")

    scores = iter([0.9, 0.5])
    made = trainer(
        tmp_path / "run", metrics=lambda given: {"score": next(scores)}, max_steps=4, eval_steps=2, save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="score", callbacks=[Damage],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"checkpoint-2.*the model has the weights of step 4"):
        made.train()


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_best_that_is_lost_is_said_in_the_end_and_before_a_run_goes_on(tmp_path, damage):
    class Lose(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 6:
                best = tmp_path / "run" / "checkpoint-2"
                if damage == "removed":
                    shutil.rmtree(best)
                else:
                    (best / "config.json").write_text("{}")

    scores = [0.9, 0.5, 0.4]
    given = {
        "metrics": lambda given: {"score": scores.pop(0)}, "max_steps": 6, "eval_steps": 2, "save_steps": 2,
        "load_best_model_at_end": True, "metric_for_best_model": "score",
    }  # fmt: skip
    said = r"^Trainer: expected the best checkpoint '.*checkpoint-2' to load in the end, got .*"
    with pytest.raises(ValueError, match=said + "the model has the weights of step 6$"):
        trainer(tmp_path / "run", callbacks=[Lose], **given).train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    scores.append(0.3)
    with pytest.raises(ValueError, match=said + "nothing was trained"):
        trainer(tmp_path / "run", **given).train(resume_from_checkpoint=True)
    assert scores == [0.3]
    plain = {**given, "load_best_model_at_end": False}
    assert trainer(tmp_path / "run", **plain).train(resume_from_checkpoint=True).global_step == 6


def test_a_best_between_two_saves_is_saved(tmp_path):
    scores = iter([0.9, 0.5, 0.4, 0.3, 0.2])
    made = trainer(
        tmp_path / "run", metrics=lambda given: {"score": next(scores)}, max_steps=8, eval_steps=2, save_steps=4,
        load_best_model_at_end=True, metric_for_best_model="score",
    )  # fmt: skip
    made.train()
    assert made.state.best_model_checkpoint.endswith("checkpoint-2")
    only = trainer(tmp_path / "only", max_steps=4, eval_steps=2, save_strategy="best")
    only.train()
    assert sorted(path.name for path in (tmp_path / "only").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def test_early_stopping_remembers_its_patience_over_an_interruption(tmp_path):
    def losses():
        return iter([0.5, 0.4, 0.45, 0.41, 0.39, 0.1, 0.1])

    def make(folder, scores, *more):
        return trainer(
            folder, metrics=lambda given: {"score": next(scores)}, max_steps=14, eval_steps=2, save_steps=2,
            load_best_model_at_end=True, metric_for_best_model="score", greater_is_better=False,
            callbacks=[EarlyStoppingCallback(2), *more],
        )  # fmt: skip

    whole = make(tmp_path / "whole", losses())
    whole.train()
    assert (whole.state.global_step, whole.state.best_global_step) == (8, 4)
    scores, halted = losses(), StopAt(7)
    first = make(tmp_path / "run", scores, halted)
    halted.trainer = first
    first.train()
    second = make(tmp_path / "run", scores)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 8
    assert same_weights(whole.model, second.model)
    third = make(tmp_path / "run", scores)  # as after a kill behind the last save
    assert third.train(resume_from_checkpoint=True).global_step == 8
    assert same_weights(whole.model, third.model)
    assert next(scores) == 0.39
    with pytest.raises(ValueError, match=r"EarlyStoppingCallback: expected metric_for_best_model and an eval_strategy"):
        trainer(tmp_path / "none", callbacks=[EarlyStoppingCallback])


def test_the_last_step_is_saved_where_steps_are(tmp_path):
    trainer(tmp_path / "run", max_steps=7, eval_strategy="no").train()
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-7"]


def test_early_stopping_counts_what_is_better_by_the_threshold_alone():
    args = TrainingArguments("run", metric_for_best_model="f1", eval_strategy="epoch")
    callback, state, control = EarlyStoppingCallback(2, 0.1), TrainerState(), TrainerControl()
    for best, value, counter in ((None, 0.5, 0), (0.5, 0.55, 1), (0.55, 0.7, 0), (0.7, 0.6, 1), (0.7, 0.7, 2)):
        assert not control.should_training_stop
        state.best_metric = best
        callback.on_evaluate(args, state, control, {"eval_f1": value})
        assert callback.early_stopping_patience_counter == counter
    assert control.should_training_stop
    callback.on_evaluate(args, state, control, {"eval_b_f1": 0.0})  # of another dataset
    assert callback.early_stopping_patience_counter == 2


# --- callbacks


def test_events_come_in_order_and_flags_are_honoured(tmp_path):
    heard = Events(
        ("on_step_end", 2, "should_save"), ("on_epoch_begin", 5, "should_log"), ("on_log", 6, "should_evaluate")
    )
    made = trainer(tmp_path / "run", callbacks=[heard], max_steps=7, save_strategy="epoch", logging_strategy="no")
    made.train()
    assert heard.steps("on_init_end") == [0]
    assert heard.steps("on_train_begin") == [0]
    assert heard.steps("on_epoch_begin") == [0, 5]
    assert heard.steps("on_epoch_end") == [5, 7]
    assert heard.steps("on_step_begin") == heard.steps("on_pre_optimizer_step") == list(range(7))
    assert heard.steps("on_step_end") == list(range(1, 8))
    assert heard.steps("on_save") == [2, 5, 7]
    assert heard.steps("on_evaluate") == [5]
    assert heard.seen[-1] == ("on_train_end", 7)
    made.predict(rows(3))
    assert heard.seen[-1] == ("on_predict", 7)


def test_an_epoch_may_be_ended_early_also_in_a_run_that_goes_on(tmp_path):
    def make(folder, *more):
        heard = Events(("on_step_end", 2, "should_epoch_stop"), ("on_step_end", 4, "should_training_stop"))
        return trainer(folder, callbacks=[heard, *more], save_steps=1, num_train_epochs=3), heard

    whole, heard = make(tmp_path / "whole")
    whole.train()
    assert heard.steps("on_epoch_begin") == [0, 2]
    assert heard.steps("on_epoch_end") == [2, 4]
    assert whole.state.epoch == pytest.approx(1 + 4 / 9)
    halted = StopAt(3)
    first, _ = make(tmp_path / "run", halted)
    halted.trainer = first
    first.train()
    second, _ = make(tmp_path / "run")
    second.train(resume_from_checkpoint=True)
    assert second.state.epoch == whole.state.epoch
    assert same_weights(whole.model, second.model)


def test_a_callback_may_ask_for_a_save_where_none_was_planned(tmp_path):
    heard = Events(("on_step_end", 2, "should_save"))
    made = trainer(tmp_path / "run", callbacks=[heard], max_steps=3, save_strategy="no", logging_steps=1)
    made.train()
    assert heard.steps("on_save") == [2]
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == len(made.state.log_history)


def test_callbacks_come_and_go(tmp_path, capsys):
    made = trainer(tmp_path / "run", max_steps=1, save_strategy="no")
    made.add_callback(PrinterCallback)
    made.add_callback(Events)
    assert isinstance(made.pop_callback(Events), Events)
    assert made.pop_callback(Events) is None
    made.train()
    assert "'train_loss'" in capsys.readouterr().out
    made.remove_callback(PrinterCallback)
    made.evaluate()
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="expected callbacks that are TrainerCallbacks, got dict"):
        made.add_callback({})


def test_a_bar_shows_and_goes_away(tmp_path, capsys):
    made = Trainer(
        bert(), TrainingArguments(tmp_path, max_steps=2, disable_tqdm=False, report_to="none", save_strategy="no",
        eval_strategy="steps", eval_steps=1), train_dataset=rows(20), eval_dataset=rows(9),
    )  # fmt: skip
    made.train()
    made.evaluate()
    said = capsys.readouterr().out
    assert "eval_loss" in said
    assert "train_loss" in said


# --- files


def test_the_model_its_tokenizer_and_results_are_written(tmp_path, tokenizer):
    made = trainer(tmp_path / "run", max_steps=1, save_strategy="no")
    made.processing_class = tokenizer
    made.save_model(tmp_path / "model")
    assert same_weights(BertForSequenceClassification.from_pretrained(tmp_path / "model"), made.model)
    assert (tmp_path / "model" / "tokenizer.json").is_file()
    found = made.train()
    made.save_metrics("train", found.metrics)
    made.save_metrics("eval", made.evaluate())
    made.save_state()
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert {"train_loss", "eval_loss"} <= results.keys()
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 1


def test_event_files_hold_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = trainer(tmp_path / "run", max_steps=6, report_to="tensorboard", logging_dir=tmp_path / "events")
    made.train()
    found = EventAccumulator(str(tmp_path / "events"))
    found.Reload()
    logged = [(row["step"], row["loss"]) for row in made.state.log_history if "loss" in row]
    assert [(one.step, one.value) for one in found.Scalars("train/loss")] == [
        (step, pytest.approx(loss, rel=1e-6)) for step, loss in logged
    ]
    assert len(found.Scalars("eval/loss")) == 1


def test_event_files_need_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("numtx.training.trainer_logs.can_write_events", lambda: False)
    with pytest.raises(ValueError, match="expected the package tensorboard with report_to 'tensorboard'"):
        trainer(tmp_path / "run", report_to="tensorboard", max_steps=1).train()
    trainer(tmp_path / "other", report_to=None, max_steps=1).train()


# --- more of data


def test_several_evaluation_datasets_each_have_their_measures(tmp_path):
    made = trainer(tmp_path / "run", max_steps=1, eval_steps=1, metric_for_best_model="b_loss")
    made.eval_dataset = {"a": rows(5), "b": Dataset.from_list(rows(6, seed=3))}
    made.train()
    assert made.state.best_metric == next(row["eval_b_loss"] for row in made.state.log_history if "eval_b_loss" in row)
    found = made.evaluate()
    assert {"eval_a_loss", "eval_b_accuracy"} <= found.keys()
    assert made.evaluate("b")["eval_loss"] == found["eval_b_loss"]


def test_a_language_model_with_drawn_masks_goes_on_with_the_same_masks(tmp_path):
    class Masks:
        draws = True

        def __call__(self, features, rng):
            ids = np.array([one["input_ids"] for one in features])
            return {"input_ids": ids, "labels": np.where(rng.random(ids.shape) < 0.5, ids, -100)}

    def make(folder, *callbacks):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2), rng=0)
        args = TrainingArguments(folder, max_steps=6, save_steps=2, report_to="none", data_seed=3)
        made = Trainer(model, args, Masks(), rows(20), callbacks=list(callbacks))
        made.pop_callback(PrinterCallback)
        return made

    whole, halted = make(tmp_path / "whole"), StopAt(3)
    whole.train()
    first = make(tmp_path / "run", halted)
    halted.trainer = first
    first.train()
    second = make(tmp_path / "run")
    second.train(resume_from_checkpoint=True)
    assert same_weights(whole.model, second.model)
