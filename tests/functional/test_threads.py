"""Threads: how many, who works, what BLAS has meanwhile and after."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import threadpoolctl

import numtx
from numtx.functional import threads as module
from numtx.functional.threads import available_processors, get_num_threads, one_blas_thread, parallel, set_num_threads
from numtx.training import Workers, available_threads


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads for numtx and for BLAS; then what was before."""
    monkeypatch.setattr(module._state, "chosen", None)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        set_num_threads(2)
        yield


def blas_threads():
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


def meet(_):
    """Wait until two threads are here: nobody can be both."""
    meet.barrier.wait(timeout=10)
    return threading.current_thread()


def test_items_are_worked_on_at_once_and_answers_keep_their_order(two_threads):
    meet.barrier = threading.Barrier(2)
    assert len(set(parallel(meet, range(2)))) == 2
    assert parallel(lambda x: x * x, range(100)) == [x * x for x in range(100)]
    assert parallel(lambda x: x, []) == []


def test_blas_has_one_thread_inside_and_what_it_had_after(two_threads):
    assert blas_threads() == {2}
    assert all(found == {1} for found in parallel(lambda _: blas_threads(), range(3)))
    assert blas_threads() == {2}
    with pytest.raises(ZeroDivisionError):
        parallel(lambda x: 1 // x, [1, 0])
    assert blas_threads() == {2}


def test_a_blas_that_was_loaded_later_is_held_too():
    code = """
import threadpoolctl
from numtx.functional.threads import one_blas_thread, parallel, set_num_threads
set_num_threads(2)
parallel(abs, [1, 2])
import scipy.linalg  # brings its own
threadpoolctl.threadpool_limits(2, user_api="blas")
with one_blas_thread():
    inside = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
print(set(inside), {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "{1} {2}"


def test_holders_may_overlap_in_any_order(two_threads):
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert blas_threads() == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == {2}


def test_a_number_set_while_blas_is_held_counts_from_its_release(two_threads):
    with one_blas_thread():
        set_num_threads(3)
        assert blas_threads() == {1}
    assert blas_threads() == {3}


@pytest.mark.parametrize("outer", ["parallel", "Workers"])
def test_no_threads_below_threads(two_threads, outer):
    def here(_):
        time.sleep(0.005)  # long enough for another thread to take the next item, were there one
        return threading.current_thread()

    def inner(_):
        return parallel(here, range(4)), threading.current_thread()

    if outer == "parallel":
        found = parallel(inner, range(2))
    else:
        with Workers(2) as workers:
            found = workers.map(inner, range(2))
    assert all(set(inside) == {thread} for inside, thread in found)


def test_the_first_error_ends_the_work(two_threads):
    done = []

    def fail(x):
        if x == 0:
            raise KeyError("first")
        time.sleep(0.01)
        done.append(x)

    with pytest.raises(KeyError, match="first"):
        parallel(fail, range(100))
    assert len(done) < 10
    assert parallel(lambda x: x, range(3)) == [0, 1, 2]


def test_threads_see_the_caller_s_errstate(two_threads):
    def overflow(_):
        meet.barrier.wait(timeout=10)
        return np.float32(1e38) * np.float32(1e38)

    meet.barrier = threading.Barrier(2)
    with np.errstate(over="ignore"):
        assert parallel(overflow, range(2)) == [np.inf, np.inf]
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        parallel(overflow, range(2))


def test_a_forked_process_has_threads_of_its_own(two_threads):
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    meet.barrier = threading.Barrier(2)
    parallel(meet, range(2))  # the parent's helper is awake
    pid = os.fork()
    if pid == 0:
        os._exit(len(set(parallel(meet, range(2)))) if _in_time() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2


def _in_time():
    meet.barrier = threading.Barrier(2)
    return True


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, None])
def test_a_number_that_is_none_is_refused(threads):
    before = get_num_threads()
    with pytest.raises(ValueError, match=r"^set_num_threads: expected threads as a whole number of at least 1, got "):
        numtx.set_num_threads(threads)
    assert numtx.get_num_threads() == before == available_threads()


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("3", 3), ("4,2", 4), (" 2 ", 2)])
def test_the_environment_is_asked(monkeypatch, asked, threads):
    monkeypatch.setattr(module._state, "chosen", None)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert get_num_threads() == threads


@pytest.mark.parametrize("asked", ["0", "-2", "two", "1.5"])
def test_an_environment_that_says_nothing_sensible_is_named(monkeypatch, asked):
    monkeypatch.setattr(module._state, "chosen", None)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    with pytest.raises(ValueError, match=rf"expected OMP_NUM_THREADS as a whole number of at least 1, got '{asked}'"):
        get_num_threads()


def test_without_it_the_processors_count(monkeypatch):
    monkeypatch.setattr(module._state, "chosen", None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for quota, threads in ((float("inf"), 8), (3.0, 3), (1.5, 2), (0.2, 1), (20.0, 8)):
        monkeypatch.setattr(module, "_quota", lambda quota=quota: quota)
        assert get_num_threads() == available_processors() == threads


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "400000 100000\n"}, 4),  # that of a parent
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),  # inside a container
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, float("inf")),
        (
            {
                "proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/m/cpu.cfs_quota_us": "1\n",
                "sys/fs/cgroup/memory/m/cpu.cfs_period_us": "1\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            float("inf"),
        ),
        ({}, float("inf")),  # no Linux
    ],
)
def test_the_quota_of_a_control_group_is_found(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert module._quota.__wrapped__(tmp_path) == quota


def test_a_process_ends_though_its_helpers_wait():
    code = "from numtx.functional.threads import *; set_num_threads(3); print(parallel(lambda x: x + 1, [1, 2, 3]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[2, 3, 4]"
