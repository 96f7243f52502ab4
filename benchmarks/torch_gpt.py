"""The opponent: the same GPT in PyTorch's eager mode, as nanoGPT writes it, with its fused attention and AdamW."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as tF


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        y = tF.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.c_proj(tF.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TorchGPT(nn.Module):
    """A GPT-2 with the names of Transformers' checkpoints, dropout off."""

    def __init__(self, vocabulary, layers, heads, width, context):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, ids, labels):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.T
        return tF.cross_entropy(logits.view(-1, logits.shape[-1]), labels.reshape(-1))

    def load(self, arrays):
        """Take the weights of a checkpoint, whose matrices are (in, out)."""
        state = {}
        for name, array in arrays.items():
            name = name.removeprefix("transformer.")
            is_linear = array.ndim == 2 and name not in ("wte.weight", "wpe.weight")
            state[name] = torch.from_numpy(np.ascontiguousarray(array.T if is_linear else array).copy())
        self.load_state_dict(state)


class TorchTraining:
    """The training step, as the trainer of numtx makes it: loss, gradients, clipping, AdamW."""

    def __init__(self, shape, arrays, lr, betas, weight_decay, clip):
        self.model = TorchGPT(shape.vocabulary, shape.layers, shape.heads, shape.width, shape.context)
        self.model.load(arrays)
        self.clip = clip
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas)

    def step(self, ids, labels, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(torch.from_numpy(ids), torch.from_numpy(labels))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.item()
