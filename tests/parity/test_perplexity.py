"""Perplexity of a model of Transformers: the loop of its documentation, with PyTorch, beside numtx's."""

import numpy as np
import pytest

from numtx import AutoModelForCausalLM
from numtx.metrics import load

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
transformers = pytest.importorskip("transformers", reason="parity tests need Transformers: pip install 'numtx[parity]'")


CONTEXT = 16


def tiny(kind):
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=31, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            vocab_size=31,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
        )
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for one in model.parameters():
            one.normal_(0, 0.3)
    return model.float().eval()


def documented(model, ids, stride):
    """As docs/perplexity of Transformers has it."""
    total, weight, done = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + CONTEXT, len(ids))
        new = end - done
        read = torch.tensor(ids[None, begin:end])
        labels = read.clone()
        labels[:, :-new] = -100
        with torch.no_grad():
            loss = model(read, labels=labels).loss.item()
        valid = int((labels != -100).sum()) - 1
        total, weight, done = total + loss * valid, weight + valid, end
        if end == len(ids):
            break
    return np.exp(total / weight)


def by_hand(model, ids, stride):
    """Every token but the first once, predicted from all that its window has before it."""
    nats, done = [], 1
    for begin in range(0, len(ids), stride):
        end = min(begin + CONTEXT, len(ids))
        with torch.no_grad():
            scores = torch.log_softmax(model(torch.tensor(ids[None, begin:end])).logits[0].double(), -1)
        nats += [-scores[place - begin - 1, ids[place]].item() for place in range(done, end)]
        done = end
        if end == len(ids):
            break
    assert len(nats) == len(ids) - 1
    return np.exp(np.mean(nats))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_both_weightings(kind, tmp_path):
    theirs = tiny(kind)
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    for tokens in (9, 16, 17, 50, 83):
        ids = rng.integers(31, size=tokens)
        for stride in (3, 8, 15):
            given = {"predictions": [ids], "model": ours, "stride": stride}
            hf = load("perplexity").compute(**given, weighting="hf")["perplexity"]
            assert hf == pytest.approx(documented(theirs, ids, stride), rel=1e-5)
            exact = load("perplexity").compute(**given)["perplexity"]
            assert exact == pytest.approx(by_hand(theirs, ids, stride), rel=1e-5)
            assert tokens <= CONTEXT or abs(exact / hf - 1) > 1e-4
