"""What is known of the components with attention in them, and of the residual around a sublayer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx import nn
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds, within
from numtx.testing.op import difference
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.attention import weights
from numtx.testing.specs.nn_layers import rates


def widths(d: Drawer) -> tuple[int, int]:
    """Width and number of heads; at least four numbers a row, so that a norm of them is no constant."""
    return d.choice(((4, 1), (4, 2), (6, 2), (6, 3)))


def draw_attention(d: Drawer, cross: bool = False) -> Draft:
    """Causal, window, mask and bias on and off."""
    batch, queries, keys = d.sizes(3, 1, 4)
    width, num_heads = widths(d)
    memory = d.array((batch, keys, width)) if cross else None
    keys = keys if cross else queries
    rate, rng = rates(d)
    options = {
        "width": width,
        "num_heads": num_heads,
        "causal": not cross and d.boolean(),
        "window": d.choice((None, None, 1, 2)) if rng is None and not cross else None,
        "scale": d.choice((None, None, 1.0)),
        "dropout": rate,
        "bias": d.boolean(),
    }
    bias = None
    if d.integer(0, 2) == 0:
        bias = d.array((num_heads, queries + keys - 1) if d.boolean() else (1, num_heads, queries, keys))
    mask = None
    if d.boolean():
        mask = d.mask((batch, 1, d.choice((1, queries)), keys))
        mask[..., 0] = True  # a query sees something, unless a window hides it
    inputs = {"x": d.array((batch, queries, width)), "memory": memory, "bias": bias}
    return Draft(options, inputs, {"mask": mask, "rng": rng})


def attention(p: plain.Parameters, options: Any, x: Any, memory: Any, bias: Any, mask: Any, rng: Any) -> np.ndarray:
    """Each head by itself."""
    settings = {key: options[key] for key in ("num_heads", "causal", "window")} | {"scale": options.get("scale")}
    return plain.multi_head_attention(p, x, memory, bias, mask=mask, **settings)


def cached_equals_full(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Token by token with a key-value cache, a causal self-attention gives what it gives at once, to rounding."""
    options, x = case.settings["module"].options, case.inputs["x"]
    others = (case.inputs["memory"], case.inputs["bias"], case.settings["mask"])
    if not options["causal"] or any(other is not None for other in others):
        return
    plain_case = case.with_settings(rng=None)
    full, _ = pair.forward(**plain_case.keywords())
    kv_cache, steps = nn.KVCache(), []
    for t in range(x.shape[1]):
        step = plain_case.with_inputs({"x": x[:, t : t + 1]}).with_settings(kv_cache=kv_cache)
        steps.append(pair.forward(**step.keywords())[0])
    error = difference(np.concatenate(steps, axis=1), full)
    yield within("cached decoding equals the full forward", "y", error, 1e-12, "a decoding step differs")


def memory_projected_once(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Query by query with a `MemoryCache`, two beams a row from the second on, gives what all at once give."""
    x, mask = case.inputs["x"], case.settings["mask"]
    if case.inputs["bias"] is not None:  # which has a place for every query
        return
    plain_case = case.with_settings(rng=None)
    full, _ = pair.forward(**plain_case.keywords())
    kv_cache = nn.MemoryCache()
    for t in range(x.shape[1]):
        beams = 1 + (t > 0)
        if t == 1:
            kv_cache.reorder(np.repeat(np.arange(len(x)), beams))
        step = plain_case.with_inputs({"x": np.repeat(x[:, t : t + 1], beams, axis=0)})
        if mask is not None:
            rows = mask if mask.shape[2] == 1 else mask[:, :, t : t + 1]
            step = step.with_settings(mask=np.repeat(rows, beams, axis=0))
        y, _ = pair.forward(**step.with_settings(kv_cache=kv_cache).keywords())
        error = difference(y, np.repeat(full[:, t : t + 1], beams, axis=0))
        yield within("a memory's cache changes nothing", "y", error, 1e-12, f"query {t} differs, of {beams} beams")


def shown_beside(case: Case, pair: Pair, expected: np.ndarray) -> Iterator[Finding]:
    """With need_weights the softmax comes along, before dropout; result and gradients are the same."""
    (y, shown), cache = pair.forward(**case.keywords(), need_weights=True)
    alone, cache_alone = pair.forward(**case.keywords())
    yield holds("need_weights", "y", np.array_equal(y, alone), "the result differs with need_weights")
    yield within("need_weights", "weights", difference(shown, expected), 1e-10, "the weights differ")
    assert pair.backward is not None
    dy = np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    gradients = zip(pair.backward(dy, cache), pair.backward(dy, cache_alone), strict=True)
    same = all((a is None and b is None) or np.array_equal(a, b) for a, b in gradients)
    yield holds("need_weights", "x", same, "a gradient differs with need_weights")


def weights_are_shown(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Each head's weights, on demand."""
    options, given = case.settings["module"].options, dict(case.inputs)
    x, memory, bias = (given.pop(name) for name in ("x", "memory", "bias"))
    made = plain.queries_keys_values(given, x, memory, options["num_heads"])
    settings = {key: options[key] for key in ("causal", "window")} | {"scale": options.get("scale")}
    yield from shown_beside(case, pair, weights(*made, bias, mask=case.settings["mask"], **settings))


def build_residual(kind: Any) -> Any:
    """PreNorm or PostNorm around a feed-forward network or an attention."""

    def build(dtype: Any, *, width: int, num_heads: int, sublayer: str, dropout: float) -> nn.Module:
        inner: nn.Module
        if sublayer == "attention":
            inner = nn.MultiHeadAttention(width, num_heads, rng=0, dtype=dtype)
        else:
            inner = nn.FeedForward(width, 5, rng=0, dtype=dtype)
        return kind(nn.LayerNorm(width, 1e-3, dtype=dtype), inner, dropout)

    return build


def draw_residual(d: Drawer) -> Draft:
    """The inputs of the sublayer go through: an attention has a memory in half of the draws."""
    width, num_heads = widths(d)
    batch, queries, keys = d.sizes(3, 1, 3)
    sublayer = d.choice(("attention", "feed_forward"))
    rate, rng = rates(d)
    options = {"width": width, "num_heads": num_heads, "sublayer": sublayer, "dropout": rate}
    inputs: dict[str, Any] = {"x": d.array((batch, queries, width))}
    if sublayer == "attention":
        inputs["memory"] = d.optional(lambda: d.array((batch, keys, width)))
        inputs["bias"] = None
    return Draft(options, inputs, {"rng": rng})


def sublayer_of(p: plain.Parameters, options: Any, x: np.ndarray, *others: Any) -> np.ndarray:
    """The sublayer by itself."""
    if options["sublayer"] == "attention":
        return plain.multi_head_attention(plain.part(p, "sublayer"), x, *others, num_heads=options["num_heads"])
    return plain.feed_forward(plain.part(p, "sublayer"), x, "gelu")


def pre_norm(p: plain.Parameters, options: Any, x: np.ndarray, *others: Any, rng: Any) -> np.ndarray:
    """x + sublayer(norm(x))."""
    return x + sublayer_of(p, options, plain.norm(plain.part(p, "norm"), x, 1e-3), *others)


def post_norm(p: plain.Parameters, options: Any, x: np.ndarray, *others: Any, rng: Any) -> np.ndarray:
    """norm(x + sublayer(x))."""
    return plain.norm(plain.part(p, "norm"), x + sublayer_of(p, options, x, *others), 1e-3)


def draw_block(d: Drawer) -> Draft:
    """A mask of padding in half of the draws, a bias by distance in a third."""
    width, num_heads = widths(d)
    batch, length = d.sizes(2, 1, 3)
    rate, rng = rates(d)
    options = {
        "width": width,
        "num_heads": num_heads,
        "hidden": d.size(2, 5),
        "activation": d.choice(("gelu_tanh", "relu")),
        "eps": d.choice((1e-5, 1e-3)),
        "dropout": rate,
        "attention_dropout": rate,
    }
    mask = d.optional(lambda: d.mask((batch, 1, 1, length)))
    bias = d.array((num_heads, 2 * length - 1)) if d.integer(0, 2) == 0 else None
    return Draft(options, {"x": d.array((batch, length, width)), "bias": bias}, {"mask": mask, "rng": rng})


def block(p: plain.Parameters, options: Any, x: np.ndarray, bias: Any, mask: Any, rng: Any) -> np.ndarray:
    """Attention and feed-forward network, each x + sublayer(norm(x))."""
    settings = {key: options[key] for key in ("num_heads", "activation", "eps")}
    return plain.decoder_block(p, x, bias, mask=mask, **settings)


def draw_stack(d: Drawer) -> Draft:
    """Two blocks; backward from kept caches, or from kept inputs."""
    draft = draw_block(d)
    options = {**draft.options, "layers": d.integer(1, 2)}
    return Draft(options, {"x": draft.inputs["x"]}, {**draft.settings, "keep": d.choice(("all", "inputs"))})


def build_stack(dtype: Any, *, layers: int, **options: Any) -> nn.Module:
    """Blocks of one kind, and a norm."""
    blocks = [nn.DecoderBlock(**options, rng=k, dtype=dtype) for k in range(layers)]
    return nn.Decoder(blocks, nn.LayerNorm(options["width"], options["eps"], dtype=dtype))


def stack(p: plain.Parameters, options: Any, x: np.ndarray, mask: Any, rng: Any, keep: str) -> np.ndarray:
    """Block after block."""
    settings = {key: options[key] for key in ("layers", "num_heads", "activation", "eps")}
    return plain.decoder(p, x, mask=mask, **settings)


def causal_by_gradients(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """An output depends on nothing that comes later: its gradient there is exactly zero."""
    y, cache = pair.forward(**case.keywords())
    if y.shape[1] < 2 or pair.backward is None:
        return
    dy = np.zeros_like(y)
    dy[:, 0] = np.cos(np.arange(dy[:, 0].size)).reshape(dy[:, 0].shape)
    dx = pair.backward(dy, cache)[0]
    yield holds("causality", "x", not dx[:, 1:].any(), "the first output has a gradient at a later input")


def keep_changes_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Caches computed a second time give the same gradients, dropout included."""
    outcomes = []
    for keep in ("all", "inputs"):
        y, cache = pair.forward(**case.with_settings(keep=keep).keywords())
        assert pair.backward is not None
        outcomes.append(list(pair.backward(np.cos(np.arange(y.size)).reshape(y.shape), cache)))
    error = max(difference(a, b, floor=1e-6) for a, b in zip(*outcomes, strict=True))
    yield within("recomputed equals kept", "x", error, 1e-9, "keep='inputs' gives other gradients than keep='all'")


SPECS = [
    component_spec(
        "MultiHeadAttention",
        lambda dtype, **options: nn.MultiHeadAttention(**options, rng=0, dtype=dtype),
        draw_attention,
        attention,
        positional=("x", "memory", "bias"),
        stochastic=True,
        checks=(cached_equals_full, weights_are_shown),
    ),
    component_spec(
        "MultiHeadAttention-cross",
        lambda dtype, **options: nn.MultiHeadAttention(**options, rng=0, dtype=dtype),
        lambda d: draw_attention(d, cross=True),
        attention,
        positional=("x", "memory", "bias"),
        stochastic=True,
        checks=(weights_are_shown, memory_projected_once),
    ),
    component_spec(
        "PreNorm",
        build_residual(nn.PreNorm),
        draw_residual,
        pre_norm,
        positional=("x", "memory", "bias"),
        stochastic=True,
    ),
    component_spec(
        "PostNorm",
        build_residual(nn.PostNorm),
        draw_residual,
        post_norm,
        positional=("x", "memory", "bias"),
        stochastic=True,
    ),
    component_spec(
        "DecoderBlock",
        lambda dtype, **options: nn.DecoderBlock(**options, rng=0, dtype=dtype),
        draw_block,
        block,
        positional=("x", "bias"),
        stochastic=True,
        checks=(causal_by_gradients,),
    ),
    component_spec(
        "Decoder",
        build_stack,
        draw_stack,
        stack,
        stochastic=True,
        checks=(causal_by_gradients, keep_changes_nothing),
    ),
]
