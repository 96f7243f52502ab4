"""Write the golden files of generate(): small random models of Transformers, and what they write under drawn settings.

python tests/golden/make_golden_generate.py
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from generation_draws import FAMILIES, ask_theirs, draw_case, writers  # noqa: E402 - it stands one folder higher

GREEDY, BEAMS = 24, 16  # configurations of a family
FIRST = 10_000  # seeds that no other test draws


def write(family):
    """One file: the model's own files, and of each configuration the inputs, the settings and what was written."""
    theirs, _ = writers(family)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(folder)
        arrays = {
            f"weight/{key}": array.astype(np.float32) for key, array in load_file(f"{folder}/model.safetensors").items()
        }
        files = {name: Path(folder, f"{name}.json").read_text() for name in ("config", "generation_config")}
    cases = []
    for seed, beams in [(FIRST + i, i >= GREEDY) for i in range(GREEDY + BEAMS)]:
        case = draw_case(family, seed, beams=beams)
        written = ask_theirs(theirs, case)
        made = {"inputs": {name: array.tolist() for name, array in case.inputs.items()}, "settings": case.settings}
        made["sequences"] = written.sequences.tolist()
        if beams:
            made["sequences_scores"] = [round(float(score), 9) for score in written.sequences_scores]
        cases.append(made)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__}
    metadata = {**files, "class": FAMILIES[family][0], "cases": json.dumps(cases), "versions": json.dumps(versions)}
    path = HERE / "generate" / f"{family}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(arrays, path, metadata=metadata)
    print(f"{path.name}: {path.stat().st_size:,} bytes, {len(cases)} configurations")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for family in FAMILIES:
        write(family)
