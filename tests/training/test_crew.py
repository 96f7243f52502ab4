"""Shards in forked processes: the same bits as in this one, errors that arrive, and processes that end."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from numtx.models import GPT2Config, GPT2LMHeadModel
from numtx.training import ShardedGradients, Workers
from numtx.training.crew import CAN_FORK, Crew
from numtx.training.flat import FlatParameters

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


def test_what_a_process_raises_is_raised_here():
    def compute(task):
        raise ValueError(f"no {task}")

    flat = FlatParameters(model())
    crew = Crew(2, flat, compute)
    try:
        for _ in range(2):  # and it still answers after that
            crew.start(["bread", "butter"])
            with pytest.raises(ValueError, match="no bread"):
                crew.results(2)
    finally:
        crew.close()


class PeculiarError(Exception):
    """Cannot be built again from its arguments, as pickle does."""

    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")


def test_what_cannot_travel_arrives_by_its_name():
    grads = {name: np.zeros_like(array) for name, array in model().named_parameters()}

    def compute(task):
        if task == 1:
            raise PeculiarError("a fault", "sea")
        return task, grads

    crew = Crew(1, FlatParameters(model()), compute)
    try:
        crew.start([1])
        with pytest.raises(RuntimeError, match="PeculiarError: a fault at sea"):
            crew.results(1)
        crew.start([2.5])
        assert crew.results(1)[0][0] == 2.5
    finally:
        crew.close()


def test_an_error_says_where_in_the_process_it_was_raised():
    def some_function_of_mine(task):
        raise ValueError("no bread")

    crew = Crew(1, FlatParameters(model()), some_function_of_mine)
    crew.start([0])
    with pytest.raises(ValueError, match="no bread") as raised:
        crew.results(1)
    crew.close()
    assert any("some_function_of_mine" in note for note in raised.value.__notes__)


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
    crew = Crew(2, FlatParameters(model()), lambda task: None)
    os.kill(crew._pids[1], signal.SIGKILL)
    assert gone(crew._pids[1])
    with pytest.raises(ChildProcessError, match="killed"):
        crew.start([1, 2])
    crew.close()


def test_a_killed_process_is_an_error_and_not_a_wait():
    crew = Crew(1, FlatParameters(model()), lambda task: time.sleep(60))
    crew.start([0])
    os.kill(crew._pids[0], signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="killed"):
        crew.results(1)
    crew.close()


def test_keyboard_signals_are_left_to_the_parent():
    grads = {name: np.zeros_like(array) for name, array in model().named_parameters()}
    crew = Crew(1, FlatParameters(model()), lambda task: (task, grads))
    crew.start([1])
    crew.results(1)  # now it is past its start
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(crew._pids[0], number)
    crew.start([2.5])
    assert crew.results(1)[0][0] == 2.5
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
