"""FLOPs beside PyTorch's own counter."""

import numpy as np
import pytest

from numtx import nn
from numtx.models import GPT2Config, GPT2LMHeadModel

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")


def theirs(call) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


def ours(model, *inputs) -> int:
    with nn.trace(model) as t:
        model(*inputs)
    return sum(nn.count_flops(t).values())


def test_attention():
    x, memory = np.ones((2, 5, 6)), np.ones((2, 7, 6))
    module = torch.nn.MultiheadAttention(6, 3, batch_first=True).train()  # in training: not the fused kernel
    a, b = torch.tensor(x), torch.tensor(memory)
    mine = nn.MultiHeadAttention(6, 3, dtype=np.float64)
    assert ours(mine, x) == theirs(lambda: module(a, a, a, need_weights=True))
    assert ours(mine, x, memory) == theirs(lambda: module(a, b, b, need_weights=True))


def test_gpt2():
    pytest.importorskip("transformers", reason="parity tests need Transformers: pip install 'numtx[parity]'")
    from transformers import GPT2Config as TheirConfig
    from transformers import GPT2LMHeadModel as TheirModel

    sizes = {"vocab_size": 11, "n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 3}
    model = TheirModel(TheirConfig(**sizes, attn_implementation="eager")).eval()
    ids = np.arange(14).reshape(2, 7) % 11
    expected = theirs(lambda: model(torch.tensor(ids)))
    assert ours(GPT2LMHeadModel(GPT2Config(**sizes), rng=0), ids) == expected
