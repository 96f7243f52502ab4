"""Hundreds of damaged models through the Auto classes: each opens or gives a clean error."""

import json
import os
import subprocess
import sys
from pathlib import Path

from small_families import FAMILIES

MUTANTS = Path(__file__).parents[1] / "model_mutants.py"
COUNT = int(os.environ.get("NUMTX_MODEL_MUTANTS", "800"))
SECONDS = 2  # of processor time for one mutant, on a machine that is busy


def test_each_opens_or_gives_a_clean_error(tmp_path):
    run = [sys.executable, "-W", "error", str(MUTANTS), str(tmp_path), "5", str(COUNT)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert sum(said["became"].values()) == COUNT
    for family in FAMILIES:
        assert min(said["became"].get(f"{family} {end}", 0) for end in ("refused", "opened")) >= 5, said
    assert said["longest"] < SECONDS
