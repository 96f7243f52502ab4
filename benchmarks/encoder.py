"""Encoder inference beside Transformers: a BERT of 6 layers and width 384 over a padded batch.

    python benchmarks/encoder.py
    python benchmarks/encoder.py --runs 5 --json rows.json

Same weights, same batch, in turn in one process. Transformers computes the padding too; numtx puts rows of like length
together, each group cut to its longest, as its own encoder-only model does. A second row has it compute the padding
too. Needs `pip install torch transformers`.
"""

import time
from functools import partial

import numpy as np
from measure import Row, command, median, peak_megabytes, peak_of, reset_peak

import numtx
from numtx import functional as F
from numtx import nn
from numtx.nn.rows import by_length

THREADS = 2
LIMIT = 1.0  # the ratio of times that is promised
LAYERS, HEADS, WIDTH, HIDDEN, VOCABULARY = 6, 12, 384, 1536, 30522
BATCH, LENGTH = 32, 128
EPS = 1e-12
GAP = 1e-4  # between the hidden states of two right implementations in float32
NAME, AGAINST = "encoder", "BertModel"


class Encoder(nn.Module):
    """BERT up to its last hidden state: word + position + type of the tokens, a norm, the stack."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.words = nn.Embedding(VOCABULARY, WIDTH, std=0.02, rng=rng)
        self.positions = nn.LearnedPositions(512, WIDTH, std=0.02, rng=rng)
        self.types = nn.Embedding(2, WIDTH, std=0.02, rng=rng)
        self.norm = nn.LayerNorm(WIDTH, EPS)
        layers = [nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.0, "gelu", EPS, rng=rng) for _ in range(LAYERS)]
        self.stack = nn.Stack(layers)

    def __call__(self, ids, attention_mask, padded=False):
        x, _ = self.words.forward(ids)  # (B, T, C)
        x, _ = self.positions.forward(x)
        x, _ = self.norm.forward(x + self.types.weight[0])
        mask = F.padding_mask(attention_mask)
        return self.stack(x, mask=mask) if padded else by_length(self.stack, x, mask)


def opponent(ours):
    import torch
    from transformers import BertConfig, BertModel

    torch.set_num_threads(THREADS)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        layer_norm_eps=EPS,
    )
    theirs = BertModel(config, add_pooling_layer=False).eval()
    missing, unexpected = theirs.load_state_dict(
        {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in their_weights(ours)}, strict=False
    )
    assert not unexpected
    assert missing in ([], ["embeddings.position_ids"])

    def encode(ids, attention_mask):
        with torch.inference_mode():
            outputs = theirs(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(attention_mask))
            return outputs.last_hidden_state.numpy()

    return encode


def their_weights(ours):
    """Yield our weights under BERT's names, its matrices (out, in)."""
    yield "embeddings.word_embeddings.weight", ours.words.weight
    yield "embeddings.position_embeddings.weight", ours.positions.weight
    yield "embeddings.token_type_embeddings.weight", ours.types.weight
    yield "embeddings.LayerNorm.weight", ours.norm.weight
    yield "embeddings.LayerNorm.bias", ours.norm.bias
    for i, layer in enumerate(ours.stack.layers):
        attention, feed_forward = layer.attention.sublayer, layer.feed_forward.sublayer
        weights, biases = (np.split(a, 3, axis=-1) for a in (attention.in_proj_weight, attention.in_proj_bias))
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            yield f"encoder.layer.{i}.attention.self.{name}.weight", weight.T
            yield f"encoder.layer.{i}.attention.self.{name}.bias", bias
        for name, part in (
            ("attention.output.dense", attention.out_proj),
            ("attention.output.LayerNorm", layer.attention.norm),
            ("intermediate.dense", feed_forward.up),
            ("output.dense", feed_forward.down),
            ("output.LayerNorm", layer.feed_forward.norm),
        ):
            yield f"encoder.layer.{i}.{name}.weight", part.weight.T
            yield f"encoder.layer.{i}.{name}.bias", part.bias


def batch():
    """Return ids and attention mask (B, T) of texts of 32 to 128 tokens."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(LENGTH // 4, LENGTH + 1, size=BATCH)
    lengths[0] = LENGTH
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    return rng.integers(1, VOCABULARY, size=(BATCH, LENGTH)) * mask, mask


def seconds(encode, inputs):
    began = time.perf_counter()
    encode(*inputs)
    return time.perf_counter() - began


def run(runs=3, turns=5):
    """Return the rows: time without and with padding, memory."""
    numtx.set_num_threads(THREADS)
    ours = Encoder()
    theirs = opponent(ours)
    inputs = batch()
    real = inputs[1] == 1
    gap = np.abs(ours(*inputs)[real] - theirs(*inputs)[real]).max()
    print(f"{NAME}: the hidden states of real tokens stay within {gap:.1e} of each other", flush=True)
    if not gap <= GAP:
        raise SystemExit(f"{NAME}: expected hidden states within {GAP} of each other, got {gap}: not the same model")
    contestants = {NAME: ours, "  padded": partial(ours, padded=True), AGAINST: theirs}
    times = {name: [] for name in contestants}
    ratios = {name: [] for name in contestants}
    for _ in range(runs):
        # Twice in a row: right after the other's turn its threads still spin.
        now = {name: [] for name in contestants}
        for _ in range(turns):
            for name, encode in contestants.items():
                now[name].append(min(seconds(encode, inputs) for _ in range(2)))
        for name in contestants:
            times[name] += now[name]
            ratios[name].append(median([a / b for a, b in zip(now[name], now[AGAINST], strict=True)]))
    memory = [peak_of(__file__, "--memory", which) for which in ("ours", "theirs")]
    theirs_ms = median(times[AGAINST]) * 1e3
    return [
        *(
            Row(
                name,
                "time",
                AGAINST,
                median(ratios[name]),
                median(times[name]) * 1e3,
                theirs_ms,
                "ms",
                LIMIT if name == NAME else None,
                (min(ratios[name]), max(ratios[name])),
            )
            for name in (NAME, "  padded")
        ),
        Row(NAME, "memory", AGAINST, memory[0] / memory[1], *memory, "MB"),
    ]


def memory_of(which):
    """Return how much a pass raises the peak memory of this process over its imports' and the weights', in MB."""
    numtx.set_num_threads(THREADS)
    ours = Encoder()
    encode = opponent(ours) if which == "theirs" else ours
    inputs = batch()
    encode(*(array[:1, :8] for array in inputs))
    before = reset_peak()
    encode(*inputs)
    return peak_megabytes() - before


if __name__ == "__main__":
    command(__doc__, run, memory_of)
