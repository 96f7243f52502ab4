"""A run folder is a checkpoint that Transformers opens: model and tokenizer, to the same logits and the same text."""

import numpy as np
import pytest

from numtx.models import GPT2Config, GPT2LMHeadModel
from numtx.text import ByteTokenizer, CharTokenizer
from numtx.training import TrainingConfig, TrainingLoop, load_run

torch = pytest.importorskip("torch", reason="the oracle is not installed")
transformers = pytest.importorskip("transformers", reason="the oracle is not installed")

TEXT = "The cat  sat on\nthe mat , à côté ; it did n't 1 + 1 = 2 .\n" * 20


@pytest.mark.parametrize("tokenizer", [CharTokenizer.from_text(TEXT), ByteTokenizer()], ids=["char", "byte"])
def test_auto_classes_open_a_run(tmp_path, tokenizer):
    tokens = tokenizer.encode(TEXT)
    config = GPT2Config(vocab_size=tokenizer.vocab_size, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    settings = TrainingConfig(steps=4, batch=4, context=16, eval_every=2)
    model = GPT2LMHeadModel(config, rng=0)
    TrainingLoop(model, tokens, tokens[:100], settings, tmp_path / "run", tokenizer=tokenizer).train()

    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run").eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    run = load_run(tmp_path / "run")
    prompt = "did n't 1 . \n"  # what a clean-up of spaces would close up
    ids = run.tokenizer.encode(prompt)[None]
    assert their_tokenizer(prompt)["input_ids"] == ids[0].tolist()
    assert their_tokenizer.decode(ids[0]) == prompt
    with torch.no_grad():
        logits = theirs.to(torch.float64)(torch.from_numpy(ids)).logits.numpy()
    ours = run.model.astype(np.float64)(ids).logits
    np.testing.assert_allclose(ours, logits, rtol=1e-10, atol=1e-12)
    written = theirs.generate(torch.from_numpy(ids), max_new_tokens=3, do_sample=False)[0]
    assert run.model.generate(ids, max_new_tokens=3)[0].tolist() == written.tolist()
    assert their_tokenizer.decode(written) == run.tokenizer.decode(written.numpy())
