"""The README's comparison with PyTorch runs, and compares something."""

import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the README's comparison needs PyTorch")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
(TWIN,) = [text for text in BLOCKS if "torch.nn.Transformer" in text]


def test_the_twin_agrees_with_pytorch():
    names = {}
    exec(compile(TWIN, "README.md", "exec"), names)
    assert len(names["ours"].torch_state_dict(names["grads"])) == len(list(names["theirs"].parameters()))


def test_it_would_not_agree_with_another_model():
    wrong = TWIN.replace("tgt_mask=~torch", "tgt_mask=torch")
    assert wrong != TWIN
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        exec(compile(wrong, "README.md", "exec"), {})
