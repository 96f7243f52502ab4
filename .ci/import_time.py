"""Fail when `import numtx` with its maths, models and training takes 0.4 s or more (the best of five processes)."""

import subprocess
import sys

CODE = """
import time
began = time.perf_counter()
import numtx, numtx.functional, numtx.nn, numtx.models, numtx.training
print(time.perf_counter() - began)
"""
seconds = min(float(subprocess.check_output([sys.executable, "-c", CODE], text=True)) for _ in range(5))
print(f"import of numtx and all it trains with: {seconds:.2f} s")
sys.exit(seconds >= 0.4)
