"""Shards in forked processes: the same bits as in this one, errors that arrive, and processes that end."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from numtx.models import GPT2Config, GPT2LMHeadModel
from numtx.training import SGD, Adam, AdamW, ShardedGradients, Workers, clip_grad_norm
from numtx.training.clip import clip_factor
from numtx.training.crew import CAN_FORK, Crew

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="this system trains in threads")


def model(**dropout):
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, **dropout)
    return GPT2LMHeadModel(config, rng=0)


def batch(rows=5):
    ids = np.random.default_rng(3).integers(11, size=(rows, 8))
    labels = np.where(np.random.default_rng(4).random(ids.shape) < 0.3, -100, ids)
    return {"input_ids": ids, "labels": labels}


def gone(pid):
    """Whether a process has ended (a zombie has) before ten seconds are over."""
    for _ in range(200):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_processes_give_the_bits_of_one_thread(shards):
    results = []
    for threads in (1, 2, 3, 4):
        network = model(resid_pdrop=0.2, attn_pdrop=0.2)
        with Workers(threads) as workers, ShardedGradients(network, shards, seed=7, workers=workers) as sharded:
            assert (sharded._crew is None) == (threads == 1)
            for step in range(2):
                loss, gradients = sharded([batch(), batch(4)], step)
                sharded.gradients.flat.buffer -= 0.1 * gradients.buffer  # seen by all, or the second step differs
            results.append((loss, gradients.buffer.tobytes()))
    assert len(set(results)) == 1


@pytest.mark.parametrize(
    "optimizer", [AdamW, Adam, SGD, partial(SGD, momentum=0.9)], ids=["AdamW", "Adam", "SGD", "momentum"]
)
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("max_norm", [0.05, 1e9], ids=["clipped", "not clipped"])
def test_a_shared_out_update_has_the_bits_of_clip_and_step(monkeypatch, optimizer, threads, max_norm):
    monkeypatch.setattr("numtx.training.sharding.BLOCK", 64)  # slices of several blocks, and weight decay ends in one
    monkeypatch.setattr("numtx.training.clip.BLOCK", 64)
    monkeypatch.setattr("numtx.training.optimizers.BLOCK", 64)
    alone, shared = optimizer(model(), weight_decay=0.3), optimizer(model(), weight_decay=0.3)
    with Workers(threads) as workers, ShardedGradients(shared, 4, seed=7, workers=workers) as sharded:
        for step in range(3):
            _, gradients = ShardedGradients(alone.flat, 4, seed=7)(batch(), step)
            norm = clip_grad_norm(gradients, max_norm)
            alone.step(gradients, 0.1 + step)
            sharded(batch(), step)
            assert sharded.norm() == norm
            sharded.update(0.1 + step, clip_factor(norm, max_norm))
            np.testing.assert_array_equal(sharded.gradients.buffer, gradients.buffer)
    assert norm > 0.05
    for one, other in ((alone.state_dict(), shared.state_dict()), (alone.flat.views, shared.flat.views)):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_an_array_put_into_the_model_is_updated_too():
    optimizer = SGD(model(), lr=1.0)
    with Workers(2) as workers, ShardedGradients(optimizer, 2, workers=workers) as sharded:
        sharded(batch(), 0)
        optimizer.flat.model.set_parameter("body.stack.norm.bias", np.full(8, 5, np.float32))
        sharded.update(1.0)
        gradient = sharded.gradients.views["body.stack.norm.bias"]
    np.testing.assert_array_equal(optimizer.flat.model.body.stack.norm.bias, 5 - gradient)


def test_settings_that_change_between_steps_reach_every_process(monkeypatch):
    monkeypatch.setattr("numtx.training.sharding.BLOCK", 64)  # or the small model is one slice, of this process
    results = []
    for threads in (1, 2, 3):
        optimizer = AdamW(model(), weight_decay=0.3)
        with Workers(threads) as workers, ShardedGradients(optimizer, 3, workers=workers) as sharded:
            for step in range(3):
                sharded(batch(), step)
                sharded.update(0.1)
                optimizer.weight_decay, optimizer.betas, optimizer.eps = 0.0, (0.5, 0.5), 1e-2
        results.append(optimizer.flat.buffer.tobytes())
    assert len(set(results)) == 1


def test_a_process_killed_in_an_update_leaves_an_optimizer_that_says_so(monkeypatch):
    optimizer = AdamW(model())
    before = {name: array.copy() for name, array in optimizer.state_dict().items()}
    update = ShardedGradients._update

    def killed(self, number, task):
        if number:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, number, task)

    monkeypatch.setattr(ShardedGradients, "_update", killed)
    monkeypatch.setattr("numtx.training.sharding.BLOCK", 64)  # or the small model is one slice
    with Workers(2) as workers, ShardedGradients(optimizer, 2, workers=workers) as sharded:
        sharded(batch(), 0)
        with pytest.raises(ChildProcessError, match="killed"):
            sharded.update(0.1)
    assert optimizer.torn
    with pytest.raises(ValueError, match="AdamW: expected a whole state, got some of a step that failed"):
        optimizer.state_dict()
    with pytest.raises(ValueError, match="AdamW: expected whole weights, got some of a step that failed"):
        optimizer.step(sharded.gradients)
    optimizer.load_state_dict(before)
    optimizer.step(sharded.gradients)
    assert optimizer.steps == 1


@pytest.mark.parametrize("scale", [1.5, -0.1, float("nan")])
def test_a_scale_is_what_clipping_gives(scale):
    sharded = ShardedGradients(SGD(model()), 2)
    sharded(batch(), 0)
    with pytest.raises(ValueError, match="expected a scale from 0 to 1"):
        sharded.update(0.1, scale)


def test_an_update_needs_an_optimizer():
    with pytest.raises(ValueError, match="made with an optimizer"):
        ShardedGradients(model(), 2).update(0.1)


def test_what_a_process_raises_is_raised_here():
    def bake(number, task):
        if number:
            raise ValueError(f"no {task}")
        return task

    crew = Crew(2, {"bake": bake})
    try:
        for _ in range(2):  # and it still answers after that
            with pytest.raises(ValueError, match="no bread"):
                crew.map("bake", ["cake", "bread", "butter"])
        assert crew.map("bake", ["cake"]) == ["cake"]
    finally:
        crew.close()


class PeculiarError(Exception):
    """Cannot be built again from its arguments, as pickle does."""

    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")


def test_what_cannot_travel_arrives_by_its_name():
    def sail(number, task):
        if task == 1:
            raise PeculiarError("a fault", "sea")
        return number, task

    crew = Crew(1, {"sail": sail})
    try:
        with pytest.raises(RuntimeError, match="PeculiarError: a fault at sea"):
            crew.map("sail", [0, 1])
        assert crew.map("sail", [0, 2.5]) == [(0, 0), (1, 2.5)]
    finally:
        crew.close()


def test_an_error_says_where_in_the_process_it_was_raised():
    def some_function_of_mine(number, task):
        if number:
            raise ValueError("no bread")

    crew = Crew(1, {"mine": some_function_of_mine})
    with pytest.raises(ValueError, match="no bread") as raised:
        crew.map("mine", [0, 0])
    crew.close()
    assert any("some_function_of_mine" in note for note in raised.value.__notes__)


def test_each_process_has_its_number_and_its_function():
    crew = Crew(2, {"double": lambda number, task: (number, 2 * task), "pid": lambda number, task: os.getpid()})
    assert len(crew) == 3
    assert crew.map("double", [1, 2, 3]) == [(0, 2), (1, 4), (2, 6)]
    assert crew.map("double", [5, 6]) == [(0, 10), (1, 12)]
    assert crew.map("pid", [None] * 3) == [os.getpid(), *crew._pids]
    crew.close()


@pytest.mark.parametrize(
    ("error", "row"),
    [(ValueError, 0), (ValueError, 2), (ValueError, 4), (KeyboardInterrupt, 0)],
    ids=["here", "in the first process", "in the last process", "interrupted here"],
)
@pytest.mark.parametrize("threads", [2, 3])
def test_an_error_leaves_no_answer_for_the_next_batch(monkeypatch, error, row, threads):
    """Neither one in this process, whose own shard is the first, nor one in another."""
    network, fresh = model(resid_pdrop=0.2), model(resid_pdrop=0.2)
    right = ShardedGradients(fresh, 3, seed=7)(batch(6), 1)
    with Workers(threads) as workers, ShardedGradients(network, 3, seed=7, workers=workers) as sharded:
        sharded(batch(6), 0)
        bad, compute = batch(6), sharded.compute
        if error is ValueError:
            bad["input_ids"][row] = 11  # no token
        else:
            monkeypatch.setattr(sharded, "compute", interrupted)
        with pytest.raises(error):
            sharded([bad, batch(6)], 0)
        monkeypatch.setattr(sharded, "compute", compute)
        loss, gradients = sharded(batch(6), 1)
    assert loss == right[0]
    np.testing.assert_array_equal(gradients.buffer, right[1].buffer)


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("order", ["first, second", "second, first"])
def test_two_crews_close_in_either_order(order):
    code = f"""
import numpy as np
from numtx.models import GPT2Config, GPT2LMHeadModel
from numtx.training import ShardedGradients, Workers
def network():
    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2), rng=0)
ids = np.arange(24).reshape(3, 8) % 11
with Workers(3) as workers:
    first = ShardedGradients(network(), 3, workers=workers).__enter__()
    second = ShardedGradients(network(), 3, workers=workers).__enter__()
    for one in ({order}):
        one.__exit__()
    print(first._crew, second._crew)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None None\n", "")


def test_a_process_that_died_while_idle_is_an_error_too():
    crew = Crew(2, {"rest": lambda number, task: None})
    os.kill(crew._pids[1], signal.SIGKILL)
    assert gone(crew._pids[1])
    with pytest.raises(ChildProcessError, match="killed"):
        crew.map("rest", [0, 1, 2])
    crew.close()


def test_a_killed_process_is_an_error_and_not_a_wait():
    def kill_the_other(number, task):
        if number:
            time.sleep(60)
        os.kill(crew._pids[0], signal.SIGKILL)

    crew = Crew(1, {"kill": kill_the_other})
    with pytest.raises(ChildProcessError, match="killed"):
        crew.map("kill", [0, 0])
    crew.close()


def test_keyboard_signals_are_left_to_the_parent():
    crew = Crew(1, {"give back": lambda number, task: task})
    crew.map("give back", [0, 0])  # now it is past its start
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(crew._pids[0], number)
    assert crew.map("give back", [1, 2.5]) == [1, 2.5]
    crew.close()


def test_processes_end_at_close():
    with Workers(3) as workers, ShardedGradients(model(), 3, workers=workers) as sharded:
        pids = list(sharded._crew._pids)
        assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_processes_end_when_the_parent_is_killed():
    code = """
import time
from numtx.models import GPT2Config, GPT2LMHeadModel
from numtx.training import ShardedGradients, Workers
network = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2), rng=0)
with Workers(3) as workers, ShardedGradients(network, 3, workers=workers) as sharded:
    print(*sharded._crew._pids, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert all(gone(pid) for pid in pids)
