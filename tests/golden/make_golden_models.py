"""Write the golden files of encoders, decoders and the whole transformer: what PyTorch computes, in float64.

python tests/golden/make_golden_models.py
"""

import numpy as np
import torch
from make_golden import component, normal

WIDTH, HEADS, HIDDEN, LAYERS = 6, 2, 8, 2
SOURCE, TARGET = 5, 4


def hidden(mask):
    """Our mask (True = may attend, four axes) as PyTorch's: True = may not, one for each batch and head."""
    whole = np.broadcast_to(mask, (2, HEADS, *mask.shape[2:]))
    return torch.from_numpy(~whole.reshape(2 * HEADS, *mask.shape[2:]))


def masks():
    """Padding of the source on either side, causal targets, and a target that sees nothing of the memory."""
    real = np.array([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)[:, None, None, :]
    src_mask = np.repeat(real, SOURCE, axis=2)
    memory_mask = np.repeat(real, TARGET, axis=2)
    memory_mask[1, :, 2] = False
    return src_mask, np.tri(TARGET, dtype=bool)[None, None], memory_mask


def transformer_encoder():
    rng = np.random.default_rng(5)
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    module = torch.nn.TransformerEncoder(layer, LAYERS, torch.nn.LayerNorm(WIDTH), enable_nested_tensor=False)
    mask, _, _ = masks()
    component(
        "transformer_encoder", module, lambda x: module(x, mask=hidden(mask)),
        {"x": normal(rng, 2, SOURCE, WIDTH)}, {"mask": mask}, rng,
        d_model=WIDTH, nhead=HEADS, dim_feedforward=HIDDEN, activation="gelu", norm_first=True,
    )  # fmt: skip


def transformer_decoder():
    rng = np.random.default_rng(6)
    layer = torch.nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, activation="relu", batch_first=True)
    module = torch.nn.TransformerDecoder(layer, LAYERS, torch.nn.LayerNorm(WIDTH))
    _, mask, memory_mask = masks()
    component(
        "transformer_decoder", module,
        lambda x, memory: module(x, memory, tgt_mask=hidden(mask), memory_mask=hidden(memory_mask)),
        {"x": normal(rng, 2, TARGET, WIDTH), "memory": normal(rng, 2, SOURCE, WIDTH)},
        {"mask": mask, "memory_mask": memory_mask}, rng,
        d_model=WIDTH, nhead=HEADS, dim_feedforward=HIDDEN, activation="relu", norm_first=False,
    )  # fmt: skip


def transformer():
    for name, seed, options in (
        ("transformer_post_norm", 7, {"activation": "relu", "norm_first": False}),
        ("transformer_pre_norm", 8, {"activation": "gelu", "norm_first": True}),
    ):
        rng = np.random.default_rng(seed)
        sizes = {
            "d_model": WIDTH, "nhead": HEADS, "num_encoder_layers": 1, "num_decoder_layers": LAYERS,
            "dim_feedforward": HIDDEN,
        }  # fmt: skip
        module = torch.nn.Transformer(**sizes, **options, dropout=0.0, batch_first=True)
        given = dict(zip(("src_mask", "tgt_mask", "memory_mask"), masks(), strict=True))
        theirs = {key: hidden(mask) for key, mask in given.items()}
        component(
            name, module, lambda src, tgt, model=module, seen=theirs: model(src, tgt, **seen),
            {"src": normal(rng, 2, SOURCE, WIDTH), "tgt": normal(rng, 2, TARGET, WIDTH)}, given, rng,
            **sizes, **options,
        )  # fmt: skip


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    transformer_encoder()
    transformer_decoder()
    transformer()
