"""Thousands of damaged checkpoints: each opens or gives a clean error, in bounded time and memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from archives import GOLDEN

from numtx.checkpoints import save_arrays

MUTANTS = Path(__file__).parents[1] / "mutants.py"
COUNT = int(os.environ.get("NUMTX_MUTANTS", "3000"))
SECONDS = 2  # of processor time for one mutant, on a machine that is busy


@pytest.fixture
def checkpoints(tmp_path):
    """A folder of small checkpoints, one of each kind."""
    rng = np.random.default_rng(0)
    arrays = {"a.weight": rng.normal(size=(3, 4)).astype(np.float32), "b": np.arange(5), "c": np.array(2.5)}
    folders = {name: tmp_path / name for name in ("single", "sharded", "zip", "legacy", "wrapped", "halves")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 4, "layer_norm_eps": 1e-12}')
    save_arrays(folders["single"] / "model.safetensors", arrays)
    weight_map = {"a.weight": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    for name in ("model-1.safetensors", "model-2.safetensors"):
        save_arrays(folders["sharded"] / name, {key: arrays[key] for key, file in weight_map.items() if file == name})
    index = {"metadata": {"total_size": 96}, "weight_map": weight_map}
    (folders["sharded"] / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("zip", "legacy", "wrapped"):
        shutil.copy(GOLDEN / f"{name}.bin", folders[name] / "pytorch_model.bin")
    header = b'{"h":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},'
    header += b'"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}}'
    body = rng.bytes(16)
    (folders["halves"] / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + body)
    return tmp_path


def test_each_opens_or_gives_a_clean_error(checkpoints):
    run = [sys.executable, "-W", "error", str(MUTANTS), str(checkpoints), "5", str(COUNT)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert sum(said["became"].values()) == COUNT
    kinds = {kind.split()[0] for kind in said["became"]}
    assert len(kinds) == 14
    # Of every kind of file some were hurt where it shows and some where it does not.
    for kind in kinds:
        assert min(said["became"].get(f"{kind} {end}", 0) for end in ("refused", "opened")) >= 5, said
    assert said["longest"] < SECONDS
