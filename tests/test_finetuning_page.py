"""The Python of examples/FINETUNING.md runs, on a small model, and does what the page says of it."""

import re
from pathlib import Path

import numpy as np
import pytest
from pipeline_questions import TOKENIZERS
from small_families import BERT

import numtx
from numtx import models

PAGE = (Path(__file__).parents[1] / "examples" / "FINETUNING.md").read_text(encoding="utf-8")
TEXTS = ["Alice is good", "Bob is bad", "a good café", "a bad café", "good, good", "bad"]


@pytest.mark.filterwarnings("ignore:.*drawn anew:UserWarning")
def test_adapters(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    base = tmp_path / "base"
    config = models.BertConfig(**BERT | {"vocab_size": 512, "max_position_embeddings": 32})
    models.BertModel(config, rng=0).save_pretrained(base)
    numtx.AutoTokenizer.from_pretrained(TOKENIZERS / "bert").save_pretrained(base)
    lines = [f'"{text}",{"good" if "good" in text else "bad"}' for text in TEXTS]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": base}
    exec(compile(code, "FINETUNING.md", "exec"), names)
    model, again, classify = (names[name] for name in ("model", "again", "classify"))
    assert {path.name for path in Path("adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    moved = [array for name, array in model.named_parameters() if name.endswith("lora_B")]
    assert all(array.any() for array in moved)
    assert len(moved) == 2
    ids = np.array([names["tokenizer"](TEXTS[0])["input_ids"]])
    scores = model(ids).logits
    assert again.adapter is None
    np.testing.assert_allclose(again(ids).logits, scores, rtol=1e-4)
    merged = numtx.AutoModelForSequenceClassification.from_pretrained("merged")
    np.testing.assert_allclose(merged(ids).logits, scores, rtol=1e-4)
    assert merged.config.id2label == {0: "bad", 1: "good"}
    answers = {answer["label"]: answer["score"] for answer in classify(TEXTS[0], top_k=None)}
    odds = np.exp(scores[0] - scores.max())
    np.testing.assert_allclose([answers[f"LABEL_{i}"] for i in (0, 1)], odds / odds.sum(), rtol=1e-5)
