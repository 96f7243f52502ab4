"""What the loop does for plans, batches and measures that are no TrainingConfig's."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from numtx.training import AdamW, Callback, RunFolder, TrainingLoop
from numtx.training.interrupt import stopping


@dataclass
class Plan:
    """Everything by hand."""

    steps: int = 6
    seed: int = 3
    shards: int = 2
    threads: int = 1
    clip: float | None = None
    recompute: bool = False
    checkpoints: int | None = None
    best_measure: str | None = "eval_accuracy"
    greater_is_better: bool = True
    keeps_best: str = "checkpoint"
    loss_settings: dict = field(default_factory=dict)
    free: tuple = ("threads",)
    logged: tuple = (1, 4)
    evaluated: tuple = (0, 2, 4, 6)
    saved: tuple = (2, 3, 6)

    def settings(self):
        return {"steps": self.steps, "threads": self.threads}

    def learning_rate(self, step):
        return 0.01 / (1 + step)

    def logs(self, step):
        return step in self.logged

    def evaluates(self, step):
        return step in self.evaluated

    def saves(self, step):
        return step in self.saved


class Ragged:
    """One, two or three micro-batches, of one row and more."""

    def __init__(self, tokens):
        self.tokens, self.asked = tokens, []

    def at_step(self, step):
        self.asked.append(step)
        rng = np.random.default_rng(step)
        made = []
        for _ in range(1 + step % 3):
            starts = rng.integers(500, size=rng.integers(1, 4))
            ids = self.tokens[starts[:, None] + np.arange(9)]
            made.append({"input_ids": ids[:, :-1], "shift_labels": ids[:, 1:]})
        return made


class Witness(Callback):
    def __init__(self):
        self.events, self.norms = [], []

    def on_gradients(self, loop, gradients):
        self.events.append("gradients")
        self.norms.append(float(np.sqrt(np.sum(np.square(gradients.buffer, dtype=np.float64)))))

    def on_step(self, loop, report):
        self.events.append(f"step {report.step}")
        self.norms[-1] -= report.grad_norm

    def on_log(self, loop, row):
        self.events.append(f"log {row['step']}")

    def on_evaluate(self, loop, row):
        self.events.append(f"evaluate {row['step']}")

    def on_save(self, loop, path):
        self.events.append(path.name)


def accuracy(*values):
    """Return a measure that gives these numbers in turn."""
    left = list(values)
    return lambda loop: {"eval_loss": 1.0, "eval_accuracy": left.pop(0)}


@pytest.fixture
def make_loop(make_model, tokens):
    def make(plan, measure=None, folder=None, **more):
        model = make_model(dropout=0.1)
        return TrainingLoop(model, Ragged(tokens), measure, plan, folder, optimizer=AdamW(model), **more)

    return make


def test_the_plan_says_what_follows_a_step(make_loop, tmp_path):
    witness = Witness()
    loop = make_loop(Plan(), accuracy(0.1, 0.5, 0.7, 0.6), tmp_path / "run", callbacks=[witness])
    result = loop.train()
    assert " ".join(witness.events).replace("gradients ", "") == (
        "evaluate 0 step 1 log 1 step 2 evaluate 2 checkpoint-2 step 3 checkpoint-3 step 4 log 4 evaluate 4 "
        "step 5 step 6 evaluate 6 checkpoint-6"
    )
    np.testing.assert_allclose(witness.norms, 0, atol=1e-6)
    assert (result.best_step, result.best_value) == (4, 0.7)
    rows = RunFolder.open(tmp_path / "run").log()
    assert [row["step"] for row in rows] == [0, 1, 2, 4, 6]
    assert ["loss" in row for row in rows] == [False, True, False, True, False]
    assert [row.get("eval_accuracy") for row in rows] == [0.1, None, 0.5, 0.7, 0.6]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint-2",
        "checkpoint-3",
        "checkpoint-6",
        "log.jsonl",
        "training.json",
    ]


def test_a_smaller_measure_may_be_the_better(make_loop):
    loop = make_loop(Plan(greater_is_better=False), accuracy(0.5, 0.3, 0.4, 0.3))
    assert (loop.train().best_step, loop.progress.best_value) == (2, 0.3)


def test_a_measure_that_is_no_number_is_never_the_best(make_loop, tmp_path):
    loop = make_loop(Plan(), accuracy(float("nan"), -2, float("nan"), -3), callbacks=[])
    assert (loop.train().best_step, loop.progress.best_value) == (2, -2.0)


def test_without_a_measure_that_decides_there_is_no_best(make_loop):
    result = make_loop(Plan(best_measure=None), accuracy(0.5, 0.3, 0.4, 0.3)).train()
    assert (result.best_step, result.best_value) == (None, None)


def test_a_measure_that_is_not_there_is_refused_by_name(make_loop):
    loop = make_loop(Plan(best_measure="eval_f1"), accuracy(0.5))
    with pytest.raises(ValueError, match=r"measure eval_f1, which decides .*, got eval_loss, eval_accuracy"):
        loop.train()


def test_micro_batches_may_differ_and_are_computed_as_one(make_loop, make_model, tokens):
    plan = Plan(evaluated=(), saved=(), shards=1)
    model = make_model(dtype=np.float64)
    loop = TrainingLoop(model, Ragged(tokens), None, plan, optimizer=AdamW(model))
    loop.train()
    by_hand = make_model(dtype=np.float64)
    optimizer = AdamW(by_hand)
    for step in range(6):
        parts = Ragged(tokens).at_step(step)
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        _, grads = by_hand.loss_and_grads(batch)
        optimizer.step(grads, plan.learning_rate(step))
    for name, array in by_hand.named_parameters():
        np.testing.assert_allclose(model.get_parameter(name), array, rtol=1e-6, atol=1e-9)


def test_loss_settings_reach_every_piece(make_loop):
    loop = make_loop(Plan(loss_settings={"sharpness": 2}, evaluated=(), saved=()))
    given = []
    inner = loop.model.loss_and_grads

    def loss_and_grads(batch, *, sharpness, **rest):
        given.append(sharpness)
        return inner(batch, **rest)

    loop.model.loss_and_grads = loss_and_grads
    loop.train()
    assert len(given) > 6
    assert set(given) == {2}


class Counter(Callback):
    """Keeps its count in the loop's state."""

    def on_step(self, loop, report):
        loop.state["counted"] = [*loop.state.get("counted", []), report.step]


class StopAt(Callback):
    def __init__(self, step, save):
        self.step, self.save = step, save

    def on_step(self, loop, report):
        if report.step == self.step:
            loop.stop(save=self.save)


def test_the_state_of_others_goes_on_with_the_run(make_loop, tmp_path):
    values = (0.1, 0.5, 0.7, 0.6)
    whole = make_loop(Plan(), accuracy(*values), tmp_path / "whole", callbacks=[Counter()])
    whole.train()
    assert whole.state == {"counted": [1, 2, 3, 4, 5, 6]}
    first = make_loop(Plan(), accuracy(*values), tmp_path / "run", callbacks=[Counter(), StopAt(5, save=True)])
    assert first.train().stopped
    second = make_loop(Plan(threads=2), accuracy(0.6), tmp_path / "run", callbacks=[Counter()])
    result = second.train(resume=True)
    assert second.batches.asked == [5]
    assert (result.best_step, result.best_value) == (4, 0.7)
    assert second.state == whole.state
    np.testing.assert_array_equal(second.optimizer.flat.buffer, whole.optimizer.flat.buffer)


def test_a_stop_may_leave_it_at_the_checkpoints_of_the_plan(make_loop, tmp_path):
    loop = make_loop(Plan(), accuracy(0.1, 0.5, 0.7), tmp_path / "run", callbacks=[StopAt(5, save=False)])
    assert loop.train().stopped
    assert [path.name for path in loop.run.checkpoints()] == ["checkpoint-2", "checkpoint-3"]
    loop.callbacks = []
    loop.measure = accuracy(0.6)
    assert not loop.train().stopped  # and goes on in the same process


def test_a_signal_saves_where_a_callback_would_not(make_loop, tmp_path):
    loop = make_loop(Plan(), accuracy(0.1, 0.5, 0.7), tmp_path / "run", callbacks=[StopAt(5, save=False)])
    loop.callbacks.append(StopAt(5, save=True))
    loop.train()
    assert loop.run.checkpoints()[-1].name == "checkpoint-5"


def test_plans_and_data_that_do_not_fit_are_refused(make_model, tokens):
    model = make_model()
    with pytest.raises(ValueError, match="expected a TrainingConfig, which says how tokens are cut, got Plan"):
        TrainingLoop(model, tokens, None, Plan(), optimizer=AdamW(model))
    with pytest.raises(ValueError, match="expected an optimizer or a TrainingConfig, got neither beside Plan"):
        TrainingLoop(model, Ragged(tokens), None, Plan())


def test_batches_that_know_their_fingerprint_are_compared(make_loop, tokens, tmp_path):
    class Printed(Ragged):
        def __init__(self, tokens, print_):
            super().__init__(tokens)
            self.fingerprint = lambda: print_

    def loop(print_):
        made = make_loop(Plan(evaluated=()), None, tmp_path / "run", callbacks=[StopAt(3, save=False)])
        made.train_data = made.batches = Printed(tokens, print_)
        return made

    loop("one").train()
    assert json.loads((tmp_path / "run/training.json").read_text())["tokens"]["train"] == "one"
    with pytest.raises(ValueError, match="expected the training text of the run, got another"):
        loop("other").train(resume=True)
    loop("one").train(resume=True)


def test_outside_of_the_main_thread_signals_are_left_alone(make_loop):
    from threading import Thread

    came = []

    def run():
        with stopping(lambda: None) as told:
            came.append(told)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert came == [[]]
