"""generate() beside what Transformers wrote under drawn settings: the same tokens, greedily and by beams."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from numtx import models

FILES = sorted((Path(__file__).parent / "generate").glob("*.safetensors"))


def opened(path, folder):
    """Our model, from the very files that Transformers wrote, and the cases."""
    with safe_open(path, "np") as file:
        weights = {name.removeprefix("weight/"): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    for name in ("config", "generation_config"):
        (folder / f"{name}.json").write_text(metadata[name], encoding="utf-8")
    save_file(weights, folder / "model.safetensors")
    return getattr(models, metadata["class"]).from_pretrained(folder, dtype=np.float64), json.loads(metadata["cases"])


def test_every_family_that_writes_has_a_file():
    assert [path.stem for path in FILES] == ["bart", "gpt2", "llama", "marian", "t5"]


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_same_tokens_are_written(path, tmp_path):
    model, cases = opened(path, tmp_path)
    for number, case in enumerate(cases):
        inputs = {name: np.array(rows) for name, rows in case["inputs"].items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of drawn settings without effect
            got = model.generate(**inputs, **case["settings"], return_dict_in_generate=True)
        assert got.sequences.tolist() == case["sequences"], f"case {number}: {case}"
        if "sequences_scores" in case:
            np.testing.assert_allclose(got.sequences_scores, case["sequences_scores"], atol=1e-5, err_msg=str(number))
