"""Transformers opens what numtx finetune made: same class, same classes, same scores."""

import json

import numpy as np
import pytest
from finetune_models import TASKS, rows_of, write_model

from numtx.cli import main
from numtx.models import auto

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
OPENERS = {
    "text-classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "translation": "AutoModelForSeq2SeqLM",
    "language-modeling": "AutoModelForCausalLM",
    "fill-mask": "AutoModelForMaskedLM",
}


@pytest.mark.parametrize("task", OPENERS)
@pytest.mark.parametrize("lora", [False, True])
def test_the_folder(tmp_path, task, lora):
    if lora and task not in ("text-classification", "translation"):
        pytest.skip("one of each kind")
    model = write_model(tmp_path / "model", TASKS[task])
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in rows_of(task)))
    options = ["--steps", "6", "--batch", "8", "--lr", "1e-2", "--threads", "1", "--eval-share", "0.3"]
    options += ["--max-length", "16"] if task in ("language-modeling", "fill-mask") else []
    out = tmp_path / "out"
    given = ["finetune", str(model), "--task", task, "--data", str(rows), "--out", str(out), *options]
    assert main([*given, *(["--lora", "2"] if lora else [])]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    kind = getattr(transformers, OPENERS[task])
    theirs, said = kind.from_pretrained(out, output_loading_info=True, dtype=torch.float32)
    assert not any(names for names in said.values())
    ours = getattr(auto, OPENERS[task]).from_pretrained(out)
    batch = tokenizer("the tree is good", return_tensors="np")
    inputs = {name: np.asarray(array) for name, array in batch.items() if name in ours.arguments}
    if task == "translation":
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :3]
    with torch.no_grad():
        expected = theirs.eval()(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    got = ours(**inputs)
    for field in ours.fields:
        assert np.max(np.abs(getattr(got, field) - getattr(expected, field).numpy())) < 1e-4
    if task == "text-classification":
        assert theirs.config.id2label == {0: "bad", 1: "good"}
