"""The allocator setting: taken by glibc, and no other C library is touched."""

import ctypes
import platform
import subprocess
import sys

import pytest

from numtx.training import keep_freed_memory

GLIBC = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource
import threading
import numpy as np
from numtx.training import keep_freed_memory
assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    x = np.ones(5_000_000, np.float32)
    for _ in range(3):
        y = x * 2 + 1
    before = faults()
    for _ in range(20):
        y = x * 2 + 1
    print(faults() - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""

STEPS = """
import resource
import sys
import numpy as np
from numtx.models import GPT2Config, GPT2LMHeadModel
from numtx.training import AdamW, ShardedGradients, keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
model = GPT2LMHeadModel(GPT2Config(vocab_size=65, n_positions=64, n_embd=128, n_layer=2, n_head=4), rng=0)
sharded = ShardedGradients(AdamW(model), shards=1)
ids = np.random.default_rng(0).integers(65, size=(12, 64))

def faults_of(step):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    sharded({"input_ids": ids, "shift_labels": ids}, step)
    sharded.update(1e-3, 0.5 if sharded.norm() > 1 else 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(max([faults_of(step) for step in range(8)][4:]))
"""


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_a_training_step_in_steady_state_takes_no_new_memory_from_the_system():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "given back")
    )
    assert kept < 100  # pages of 4 KB; none, as a rule
    assert given_back > 1000


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_large_temporaries_cause_no_page_faults_even_in_threads():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # a page is 4 KB: 200,000 without the setting


@pytest.mark.parametrize(("system", "library"), [("darwin", ""), ("win32", ""), ("linux", "musl")])
def test_other_systems_are_left_alone(monkeypatch, system, library):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("a C library was loaded"))
    assert keep_freed_memory() is False
