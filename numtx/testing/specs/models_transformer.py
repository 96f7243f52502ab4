"""What is known of the transformer on embeddings: two stacks, and what each mask promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx.models.transformer import Transformer
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.nn_attention import keep_changes_nothing, widths
from numtx.testing.specs.nn_layers import rates
from numtx.testing.specs.nn_stacks import layer

MASKS = ("src_mask", "tgt_mask", "memory_mask")


def draw(d: Drawer) -> Draft:
    """Norms before and after, one layer or two, each mask in each of its forms; some rows see nothing."""
    batch, source, target = d.sizes(3, 1, 3)
    width, heads = widths(d)
    rate, rng = rates(d)
    options = {
        "d_model": width,
        "nhead": heads,
        "num_encoder_layers": d.integer(1, 2),
        "num_decoder_layers": d.integer(1, 2),
        "dim_feedforward": d.size(2, 5),
        "dropout": rate,
        "activation": d.choice(("relu", "gelu")),
        "layer_norm_eps": d.choice((1e-5, 1e-3)),
        "norm_first": d.boolean(),
        "bias": d.integer(0, 2) > 0,
        "causal": d.integer(0, 2) == 0,
    }
    settings = {"rng": rng, "keep": d.choice(("all", "inputs"))}
    for name, queries, keys in (("src_mask", source, source), ("tgt_mask", target, target)):
        settings[name] = draw_mask(d, batch, heads, queries, keys)
    settings["memory_mask"] = draw_mask(d, batch, heads, target, source)
    inputs = {"src": d.array((batch, source, width)), "tgt": d.array((batch, target, width))}
    return Draft(options, inputs, settings)


def draw_mask(d: Drawer, batch: int, heads: int, queries: int, keys: int) -> np.ndarray | None:
    """None, padding, one mask for all, or one for each batch and head."""
    shape = d.choice((None, (batch, 1, 1, keys), (queries, keys), (batch, heads, queries, keys)))
    return None if shape is None else d.mask(shape)


def stack(
    p: plain.Parameters,
    options: Any,
    x: np.ndarray,
    memory: np.ndarray | None = None,
    *,
    mask: np.ndarray | None,
    memory_mask: np.ndarray | None = None,
    causal: bool = False,
) -> np.ndarray:
    """Layer after layer, and a norm at the end."""
    given = {**options, "num_heads": options["nhead"], "causal": causal}
    lent = (None,) if memory is None else (memory, None)
    for k in range(len({name.split(".")[1] for name in p if name.startswith("layers.")})):
        x = layer(plain.part(p, f"layers.{k}"), given, x, *lent, mask=mask, memory_mask=memory_mask)
    return plain.norm(plain.part(p, "norm"), x, options["layer_norm_eps"])


def transformer(
    p: plain.Parameters,
    options: Any,
    src: np.ndarray,
    tgt: np.ndarray,
    src_mask: Any,
    tgt_mask: Any,
    memory_mask: Any,
    keep: str = "all",
    rng: Any = None,
    causal: bool = False,
) -> np.ndarray:
    """The decoder looks at what the encoder gives."""
    masks = [m[None, None] if m is not None and m.ndim == 2 else m for m in (src_mask, tgt_mask, memory_mask)]
    memory = stack(plain.part(p, "encoder"), options, src, mask=masks[0])
    decoder = plain.part(p, "decoder")
    return stack(decoder, options, tgt, memory, mask=masks[1], memory_mask=masks[2], causal=causal)


def gradients_follow_the_masks(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """The first result alone, differentiated: later targets and padded sources have gradients of exactly zero."""
    src, tgt = case.inputs["src"], case.inputs["tgt"]
    padding = np.ones((len(src), 1, 1, src.shape[1]), bool)
    padding[..., 1:] = False
    causal = np.tri(tgt.shape[1], dtype=bool)
    masked = case.with_settings(src_mask=padding, tgt_mask=causal, memory_mask=padding)
    y, cache = pair.forward(**masked.keywords())
    dy = np.zeros_like(y)
    dy[:, 0] = np.cos(np.arange(dy[:, 0].size)).reshape(dy[:, 0].shape)
    assert pair.backward is not None
    dsrc, dtgt = pair.backward(dy, cache)[:2]
    yield holds("causality", "tgt", not dtgt[:, 1:].any(), "the first result has a gradient at a later target")
    yield holds("padding", "src", not dsrc[:, 1:].any(), "a padded place of the source has a gradient")


SPECS = [
    component_spec(
        "Transformer",
        lambda dtype, **options: Transformer(**options, rng=0, dtype=dtype),
        draw,
        lambda p, options, *inputs, **given: transformer(p, options, *inputs, **{**given, "causal": options["causal"]}),
        positional=("src", "tgt"),
        stochastic=True,
        kind="model",
        checks=(keep_changes_nothing, gradients_follow_the_masks),
    ),
]
