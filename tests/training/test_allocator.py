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
