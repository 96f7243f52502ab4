"""Fewer page faults: let glibc keep the memory of large temporaries instead of returning it."""

from __future__ import annotations

import ctypes
import platform
import sys

M_TRIM_THRESHOLD = -1  # names and numbers of <malloc.h>
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
LARGEST = 1 << 30


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed memory of any size; return whether this C library took the setting.

    By default glibc maps a large temporary anew for each NumPy call and unmaps it after. The system then clears every
    page of it at first touch, which costs more than the arithmetic of an elementwise call. Threads, moreover, get heaps
    of at most 64 MB of their own, which are returned whenever they run empty; here all share the main one, so call this
    before they start. The setting holds for the whole process and cannot be undone: the memory of the largest step
    stays with the process. Other C libraries are left alone.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    settings = ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, LARGEST))
    taken = [mallopt(name, value) for name, value in settings]
    return all(taken)
