"""The loop: what it tells, logs, keeps and refuses."""

import time

import numpy as np
import pytest

from numtx.text import TokenBatches
from numtx.training import AdamW, Callback, TrainingLoop, clip_grad_norm, evaluate, load_run
from numtx.training.crew import CAN_FORK, Crew

needs_fork = pytest.mark.skipif(not CAN_FORK, reason="this system trains in threads")


class Witness(Callback):
    """Writes down what it is told."""

    def __init__(self):
        self.events, self.reports, self.rows = [], [], []

    def on_start(self, loop):
        self.events.append(("start", loop.step))

    def on_step(self, loop, report):
        self.events.append(("step", report.step))
        self.reports.append(report)

    def on_evaluate(self, loop, row):
        self.events.append(("evaluate", row["step"]))
        self.rows.append(row)

    def on_save(self, loop, path):
        self.events.append(("save", path.name))

    def on_end(self, loop, result):
        self.events.append(("end", result.stopped))


def split(tokens):
    return tokens[:500], tokens[500:]


def test_callbacks_are_told_everything_in_order(make_model, make_config, tokens, tmp_path):
    witness = Witness()
    config = make_config(steps=5, eval_every=2, save_every=3)
    result = TrainingLoop(make_model(), *split(tokens), config, tmp_path / "run", callbacks=[witness]).train()
    assert witness.events == [
        ("start", 0),
        ("save", "checkpoint-0"),
        ("step", 1),
        ("step", 2),
        ("evaluate", 2),
        ("step", 3),
        ("save", "checkpoint-3"),
        ("step", 4),
        ("evaluate", 4),
        ("step", 5),
        ("evaluate", 5),
        ("save", "checkpoint-5"),
        ("end", False),
    ]
    assert (result.step, result.stopped) == (5, False)
    assert result.folder == tmp_path / "run"


def test_loop_is_the_one_a_user_would_write(make_model, make_config, tokens):
    config = make_config(steps=4, shards=1, clip=0.05, weight_decay=0.5)
    witness = Witness()
    loop = TrainingLoop(make_model(), tokens, None, config, callbacks=[witness])
    loop.train()
    model = make_model()
    optimizer = AdamW(model, betas=config.betas, eps=config.eps, weight_decay=0.5)
    for step in range(4):
        ids, labels = TokenBatches(tokens, batch=5, context=8, seed=config.seed).at(step)
        loss, grads = model.loss_and_grads({"input_ids": ids, "shift_labels": labels})
        norm = clip_grad_norm(grads, 0.05)
        lr = config.learning_rate(step)
        optimizer.step(grads, lr)
        report = witness.reports[step]
        assert (report.loss, report.lr, report.tokens) == (float(loss), lr, 40)
        assert report.grad_norm == pytest.approx(norm, rel=1e-12)
    for name, array in model.named_parameters():
        np.testing.assert_array_equal(loop.model.get_parameter(name), array)


def test_log_holds_means_since_the_last_evaluation(make_model, make_config, tokens, tmp_path):
    witness = Witness()
    train, validation = split(tokens)
    config = make_config(steps=6)
    loop = TrainingLoop(make_model(), train, validation, config, tmp_path / "run", callbacks=[witness])
    loop.train()
    log = load_run(tmp_path / "run").log
    assert log == witness.rows == loop.log
    assert [row["step"] for row in log] == [4, 6]
    for row, reports in zip(log, (witness.reports[:4], witness.reports[4:]), strict=True):
        assert row["loss"] == pytest.approx(np.mean([report.loss for report in reports]))
        assert row["grad_norm"] == pytest.approx(np.mean([report.grad_norm for report in reports]))
        assert row["lr"] == reports[-1].lr
        assert row["tokens_per_second"] > 0
        assert row["seconds"] > 0
    assert log[-1]["eval_loss"] == pytest.approx(evaluate(loop.model, validation, 8).loss, rel=1e-6)
    assert log[0]["seconds"] < log[1]["seconds"]


def test_the_run_holds_the_best_weights_not_the_last(make_model, make_config, tokens, tmp_path):
    best = {}

    class Keep(Callback):
        def on_evaluate(self, loop, row):
            best[row["eval_loss"]] = {name: array.copy() for name, array in loop.model.named_parameters()}

    rising = [{"input_ids": tokens[None, :8], "shift_labels": (tokens[None, 1:9] + 7) % tokens.max()}]
    config = make_config(steps=12, eval_every=3, lr=0.05, warmup=0)
    loop = TrainingLoop(make_model(), tokens, rising, config, tmp_path / "run", callbacks=[Keep()])
    result = loop.train()
    assert result.best_step < 12  # else this test shows nothing
    assert result.best_value == min(best)
    run = load_run(tmp_path / "run")
    for name, array in best[min(best)].items():
        np.testing.assert_array_equal(run.model.get_parameter(name), array)


def test_accumulation_is_one_larger_batch(make_model, make_config, tokens):
    class Halves:
        def at(self, index):
            rng = np.random.default_rng(index // 2)
            places = rng.integers(500, size=4)[:, None] + np.arange(9)
            rows = tokens[places][2 * (index % 2) : 2 * (index % 2) + 2]
            labels = np.where(np.arange(8) < 3 + 5 * (index % 2), rows[:, 1:], -100)
            return {"input_ids": rows[:, :-1], "shift_labels": labels}

    class Wholes:
        def at(self, index):
            parts = [Halves().at(2 * index), Halves().at(2 * index + 1)]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    models = [make_model(dtype=np.float64) for _ in range(2)]
    TrainingLoop(models[0], Halves(), None, make_config(steps=3, batch=2, shards=2, accumulation=2)).train()
    TrainingLoop(models[1], Wholes(), None, make_config(steps=3, batch=4, shards=2)).train()
    for name, array in models[0].named_parameters():
        np.testing.assert_allclose(array, models[1].get_parameter(name), rtol=1e-7, atol=1e-10)


def test_it_learns(make_model, make_config, tokens):
    config = make_config(steps=150, context=16, eval_every=150)
    model = make_model()
    before = evaluate(model, tokens, 16).loss
    TrainingLoop(model, tokens, None, config).train()
    assert before > 2.5
    assert evaluate(model, tokens, 16).loss < 1.3


@pytest.mark.parametrize("fork", [pytest.param(True, marks=needs_fork), False], ids=["processes", "threads"])
@pytest.mark.parametrize(("threads", "shards"), [(2, 2), (2, 3), (3, 2), (4, 2), (4, 3), (3, 1)])
def test_threads_change_no_bit_of_a_run(
    make_model, make_config, tokens, monkeypatch, threads, shards, fork, worth_threads
):
    """More threads than shards and fewer, in processes and, as where there is no fork, in threads."""
    crews = []

    def counted(count, *arguments):
        crews.append(count)
        return Crew(count, *arguments)

    monkeypatch.setattr("numtx.training.sharding.Crew", counted)
    monkeypatch.setattr("numtx.training.sharding.CAN_FORK", fork)
    runs = []
    for count in (1, threads):
        config = make_config(steps=4, eval_every=2, threads=count, shards=shards, accumulation=2)
        loop = TrainingLoop(make_model(dropout=0.2), *split(tokens), config)
        loop.train()
        states = {name: array.tobytes() for name, array in loop.optimizer.state_dict().items()}
        losses = [(row["loss"], row["eval_loss"], row["grad_norm"]) for row in loop.log]
        runs.append((loop.optimizer.flat.buffer.tobytes(), states, losses))
    assert runs[0] == runs[1]
    assert crews == ([min(threads, shards) - 1] if fork and shards > 1 else [])


def test_stop_ends_after_the_running_step_and_saves(make_model, make_config, tokens, tmp_path):
    class StopAt(Callback):
        def on_step(self, loop, report):
            if report.step == 3:
                loop.stop()

    witness = Witness()
    loop = TrainingLoop(make_model(), *split(tokens), make_config(), tmp_path / "run", callbacks=[StopAt(), witness])
    result = loop.train()
    assert (result.step, result.stopped) == (3, True)
    assert witness.events[-2:] == [("save", "checkpoint-3"), ("end", True)]
    run = load_run(tmp_path / "run")  # never evaluated: the newest weights are the run's
    for name, array in loop.model.named_parameters():
        np.testing.assert_array_equal(run.model.get_parameter(name), array)
    assert loop.train().step == 10  # and it goes on in the same process


def test_the_clock_stands_still_after_the_end(make_model, make_config, tokens):
    loop = TrainingLoop(make_model(), tokens, None, make_config(steps=2))
    result = loop.train()
    time.sleep(0.01)
    assert loop.seconds == result.seconds == loop.progress.seconds > 0
    assert loop.train().seconds >= result.seconds  # nothing is left to do; the time goes on from there


@pytest.mark.parametrize("event", ["on_start", "on_step", "on_save"])
def test_a_callback_that_raises_leaves_a_trainer_that_goes_on(make_model, make_config, tokens, tmp_path, event):
    def fail(loop, *_):
        loop.stop()
        raise RuntimeError("full of errors")

    callback = Callback()
    setattr(callback, event, fail)
    loop = TrainingLoop(make_model(), *split(tokens), make_config(), tmp_path / "run", callbacks=[callback])
    with pytest.raises(RuntimeError, match="full of errors"):
        loop.train()
    loop.callbacks.clear()
    seconds = loop.seconds
    time.sleep(0.01)
    assert loop.seconds == seconds
    result = loop.train()
    assert (result.step, result.stopped) == (10, False)
    assert (tmp_path / "run/checkpoint-10").is_dir()


def test_workers_do_not_outlive_a_training(make_model, make_config, tokens):
    loop = TrainingLoop(make_model(), tokens, None, make_config(steps=2, threads=2))
    before = set(vars(loop))
    loop.train()
    assert set(vars(loop)) == before


def test_what_cannot_train_is_refused_before_a_run_is_made(make_model, make_config, tokens, tmp_path):
    cases = [
        ((tokens, tokens, make_config(context=17)), "a context of at most the model's 16 positions, got 17"),
        ((tokens[:8], tokens, make_config()), "at least context . 1 = 9 tokens, got 8"),
        ((tokens, tokens[:1], make_config()), "at least 2 tokens"),
        (([1, 2, 3], tokens, make_config()), "an array of tokens or batches with at.step. or at_step.step., got list"),
    ]
    for arguments, said in cases:
        with pytest.raises(ValueError, match=said):
            TrainingLoop(make_model(), *arguments, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_validation_the_newest_weights_are_kept(make_model, make_config, tokens, tmp_path):
    loop = TrainingLoop(make_model(), tokens, None, make_config(steps=5), tmp_path / "run")
    result = loop.train()
    assert (result.best_step, result.best_value) == (5, None)
    assert "eval_loss" not in loop.log[0]
    run = load_run(tmp_path / "run")
    np.testing.assert_array_equal(run.model.body.embedding.weight, loop.model.body.embedding.weight)
