"""What is known of encoder and decoder layers, PyTorch's two, and of stacks of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numtx import nn
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds, within
from numtx.testing.op import difference
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs import nn_grouped_attention as grouped
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.attention import weights
from numtx.testing.specs.nn_attention import keep_changes_nothing, widths
from numtx.testing.specs.nn_layers import positions_of, rates
from numtx.testing.specs.norms import rms_norm

EPS = 1e-3
ROTARY = {"layout": "half", "base": 10.0}


def draw_call(d: Drawer, options: dict[str, Any], *, memory: bool) -> Draft:
    """What goes into a layer or a stack: masks of padding or of any kind, a bias by distance or by position."""
    batch, length, keys = d.sizes(3, 1, 3)
    width, heads = options["width"], options["num_heads"]
    bias = None
    if d.integer(0, 2) == 0:
        bias = d.array((heads, 2 * length - 1) if d.boolean() else (1, heads, length, length))
    mask = d.optional(lambda: d.mask((batch, 1, d.choice((1, length)), length)))
    inputs: dict[str, Any] = {"x": d.array((batch, length, width)), "bias": bias}
    settings = {"mask": mask, "rng": d.optional(d.seed)}
    if options.get("grouped"):
        settings["positions"] = positions_of(d, batch, length, 9)
    if memory:
        inputs = {"x": inputs["x"], "memory": d.array((batch, keys, width)), "bias": bias}
        settings["memory_mask"] = d.optional(lambda: d.mask((batch, 1, d.choice((1, length)), keys)))
    return Draft(options, inputs, settings)


def draw_layer(d: Drawer, *, memory: bool) -> Draft:
    """Norm before or after, of either kind; causal or not; in a third of the draws heads that share keys, turned by
    their positions.
    """
    width, num_heads = widths(d)
    options = {
        "width": width,
        "num_heads": num_heads,
        "hidden": d.size(2, 5),
        "norm": d.choice(("LayerNorm", "RMSNorm")),
        "activation": d.choice(("relu", "gelu", "silu")),
        "norm_first": d.boolean(),
        "causal": d.boolean(),
        "grouped": d.integer(0, 2) == 0,
        "dropout": rates(d)[0],
    }
    return draw_call(d, options, memory=memory)


def build_layer(memory: bool) -> Callable[..., nn.Module]:
    """An EncoderLayer or a DecoderLayer of ready parts."""

    def build(dtype: Any, *, seed: int = 0, **options: Any) -> nn.Module:
        rng = np.random.default_rng(seed)
        width, dropout, norm = options["width"], options["dropout"], getattr(nn, options["norm"])
        settings = {"dropout": dropout, "rng": rng, "dtype": dtype}

        def around(sublayer: nn.Module) -> nn.Module:
            return (nn.PreNorm if options["norm_first"] else nn.PostNorm)(
                norm(width, EPS, dtype=dtype), sublayer, dropout
            )

        def attention(causal: bool, rotary: nn.Rotary | None) -> nn.Module:
            heads = options["num_heads"]
            if not options["grouped"]:
                return nn.MultiHeadAttention(width, heads, causal=causal, **settings)
            shared = {"widths": nn.AttentionWidths(head=2), "causal": causal, "rotary": rotary}
            return nn.GroupedQueryAttention(width, heads, 1, **shared, **settings)

        own = attention(options["causal"], nn.Rotary(**ROTARY) if options["grouped"] else None)
        feed_forward = nn.FeedForward(width, options["hidden"], options["activation"], **settings)
        if memory:
            cross = attention(False, None)
            return nn.DecoderLayer(around(own), around(cross), around(feed_forward))
        return nn.EncoderLayer(around(own), around(feed_forward))

    return build


def residual(p: plain.Parameters, options: Any, x: np.ndarray, sublayer: Callable[..., np.ndarray]) -> np.ndarray:
    """x + sublayer(norm(x)), or norm(x + sublayer(x))."""

    def norm(h: np.ndarray) -> np.ndarray:
        if options.get("norm") == "RMSNorm":
            return np.asarray(rms_norm(h, p["norm.weight"], EPS))
        return plain.norm(plain.part(p, "norm"), h, options.get("layer_norm_eps", EPS))

    return x + sublayer(norm(x)) if options["norm_first"] else norm(x + sublayer(x))


def attention(
    p: plain.Parameters,
    options: Any,
    x: np.ndarray,
    memory: Any,
    *,
    bias: Any,
    mask: Any,
    causal: bool = False,
    rotary: Any = None,
    positions: Any = None,
    shown: Any = None,
) -> np.ndarray:
    """Each head with keys of its own, or all with the same. The weights are appended to `shown`, if it is given."""
    heads, seen = options["num_heads"], {"mask": mask, "causal": causal}
    if not options.get("grouped"):
        if shown is not None:
            shown.append(weights(*plain.queries_keys_values(p, x, memory, heads), bias, **seen))
        return plain.multi_head_attention(p, x, memory, bias, mask=mask, causal=causal, num_heads=heads)
    shared = {"num_heads": options["num_heads"], "num_kv_heads": 1, "scale": None, "causal": causal, "rotary": rotary}
    if shown is not None:
        shown.append(weights(*grouped.projected(p, shared, x, memory, None, positions), bias, **seen))
    return grouped.grouped(p, shared, x, memory, None, bias, mask, None, positions)


def layer(
    p: plain.Parameters,
    options: Any,
    x: np.ndarray,
    *others: Any,
    mask: Any,
    memory_mask: Any = None,
    positions: Any = None,
    rng: Any = None,
    shown: Any = None,
) -> np.ndarray:
    """Self-attention; attention over the memory, if there is one; a feed-forward network."""
    memory, bias = others if len(others) == 2 else (None, *others)

    def attend(h: np.ndarray) -> np.ndarray:
        own = {"bias": bias, "mask": mask, "causal": options["causal"], "rotary": ROTARY, "positions": positions}
        own["shown"] = shown
        return attention(plain.part(p, "attention.sublayer"), options, h, None, **own)

    def look(h: np.ndarray) -> np.ndarray:
        cross = plain.part(p, "cross_attention.sublayer")
        return attention(cross, options, h, memory, bias=None, mask=memory_mask, shown=shown)

    def feed(h: np.ndarray) -> np.ndarray:
        return plain.feed_forward(plain.part(p, "feed_forward.sublayer"), h, options["activation"])

    x = residual(plain.part(p, "attention"), options, x, attend)
    if memory is not None:
        x = residual(plain.part(p, "cross_attention"), options, x, look)
    return residual(plain.part(p, "feed_forward"), options, x, feed)


def draw_stack(d: Drawer, *, memory: bool) -> Draft:
    """One layer or two, a norm at the end or none; backward from kept caches, or from kept inputs."""
    draft = draw_layer(d, memory=memory)
    options = {**draft.options, "layers": d.integer(1, 2), "final": d.boolean()}
    inputs = {"x": draft.inputs["x"], "memory": draft.inputs.get("memory"), "bias": draft.inputs["bias"]}
    return Draft(options, inputs, {**draft.settings, "keep": d.choice(("all", "inputs"))})


def build_stack(memory: bool) -> Callable[..., nn.Module]:
    """Layers of one kind, and a norm or none."""

    def build(dtype: Any, *, layers: int, final: bool, **options: Any) -> nn.Module:
        norm = nn.LayerNorm(options["width"], EPS, dtype=dtype) if final else None
        return nn.Stack([build_layer(memory)(dtype, seed=k, **options) for k in range(layers)], norm)

    return build


def stack(
    p: plain.Parameters,
    options: Any,
    x: np.ndarray,
    memory: Any,
    bias: Any,
    keep: str,
    states: Any = None,
    **settings: Any,
) -> np.ndarray:
    """Layer after layer, each given the same memory and the same bias. What comes out of each goes into `states`."""
    lent = (bias,) if memory is None else (memory, bias)
    states = [] if states is None else states
    for k in range(options["layers"]):
        states.append(x)
        x = layer(plain.part(p, f"layers.{k}"), options, x, *lent, **settings)
    y = plain.norm(plain.part(p, "norm"), x, EPS) if options["final"] else x
    states.append(y)
    return y


def draw_torch(d: Drawer, *, memory: bool) -> Draft:
    """PyTorch's arguments."""
    width, num_heads = widths(d)
    draft = draw_call(d, {"width": width, "num_heads": num_heads}, memory=memory)
    options = {
        "d_model": width,
        "nhead": num_heads,
        "dim_feedforward": d.size(2, 5),
        "dropout": rates(d)[0],
        "activation": d.choice(("relu", "gelu")),
        "layer_norm_eps": d.choice((1e-5, 1e-2)),
        "norm_first": d.boolean(),
        "bias": d.boolean(),
        "causal": d.boolean(),
    }
    return Draft(options, draft.inputs, draft.settings)


def torch_layer(p: plain.Parameters, options: Any, *inputs: Any, **settings: Any) -> np.ndarray:
    """The plain layer, by PyTorch's arguments."""
    return layer(p, {**options, "num_heads": options["nhead"]}, *inputs, **settings)


def hidden_memory_does_nothing(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """What no query may see of the memory has no gradient, exactly, and other numbers there change no bit."""
    memory, mask = case.inputs["memory"], case.settings.get("memory_mask")
    if mask is None or memory is None:
        return
    seen = np.broadcast_to(mask, (len(memory), *mask.shape[1:3], memory.shape[1]))
    hidden = np.logical_not(np.any(seen, axis=(1, 2)))  # (B, Tk)
    y, cache = pair.forward(**case.keywords())
    assert pair.backward is not None
    dmemory = pair.backward(np.cos(np.arange(y.size)).reshape(y.shape), cache)[1]
    yield holds("padding of the memory", "memory", not dmemory[hidden].any(), "a hidden token has a gradient")
    other = case.with_inputs({"memory": np.where(hidden[..., None], memory + 1, memory)})
    same = np.array_equal(pair.forward(**other.keywords())[0], y)
    yield holds("padding of the memory", "y", same, "a hidden token changes the result")


def cached_equals_full(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Token by token with a key-value cache, a causal layer or stack gives what it gives at once, to rounding."""
    options, x = case.settings["module"].options, case.inputs["x"]
    shared = case.settings.get("memory_mask")
    apart = (case.inputs["bias"], case.settings["mask"], case.settings.get("positions"))
    if not options["causal"] or any(array is not None for array in apart):
        return
    if shared is not None and shared.shape[2] > 1:  # its rows belong to all queries at once
        return
    plain_case = case.with_settings(rng=None)
    full, _ = pair.forward(**plain_case.keywords())
    for kind in (nn.KVCache, nn.DecoderLayerCache)[: 1 + (case.inputs.get("memory") is not None)]:
        caches = [kind() for _ in range(options.get("layers", 1))]
        kv_cache = caches if "layers" in options else caches[0]
        steps = []
        for t in range(x.shape[1]):
            step = plain_case.with_inputs({"x": x[:, t : t + 1]}).with_settings(kv_cache=kv_cache)
            steps.append(pair.forward(**step.keywords())[0])
        error = difference(np.concatenate(steps, axis=1), full)
        yield within(
            "cached decoding equals the full forward", "y", error, 1e-12, f"a step with {kind.__name__} differs"
        )


def looked_at(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Hidden states and weights are what the definition has on its way; to ask for them changes neither y nor backward.

    A layer shows its weights by `need_weights`, a stack by `output_attentions`.
    """
    options, given = case.settings["module"].options, dict(case.inputs)
    settings: dict[str, Any] = {name: case.settings[name] for name in case.settings if name not in ("module", "rng")}
    inputs = [given.pop(name) for name in ("x", "memory", "bias") if name in given]
    memory = case.inputs.get("memory")
    states: list[np.ndarray] = []
    shown: list[np.ndarray] = []
    if "layers" in options:
        stack(given, options, *inputs, **settings | {"states": states, "shown": shown})
        asked = {"output_hidden_states": True, "output_attentions": True}
    else:
        layer(given, options, *inputs, **settings, shown=shown)
        asked = {"need_weights": True}
    alone, cache_alone = pair.forward(**case.keywords())
    got, cache = pair.forward(**case.keywords(), **asked)
    yield holds("looking changes nothing", "y", np.array_equal(got[0], alone), "y differs where more is asked for")
    if case.settings["rng"] is None:  # the definition has no dropout
        own, over = got[2:] if "layers" in options else _of_layer(got[1], memory is not None)
        expected = (shown, None) if memory is None else (shown[::2], shown[1::2])
        for name, ours, theirs in zip(("weights", "weights over the memory"), (own, over), expected, strict=True):
            yield _all_within(name, ours, theirs)
        if "layers" in options:
            yield _all_within("hidden states", got[1], states)
    assert pair.backward is not None
    dy = np.cos(np.arange(alone.size, dtype=alone.dtype)).reshape(alone.shape)
    gradients = zip(pair.backward(dy, cache), pair.backward(dy, cache_alone), strict=True)
    same = all((a is None and b is None) or np.array_equal(a, b) for a, b in gradients)
    yield holds("looking changes nothing", "x", same, "a gradient differs where more was asked for")


def _of_layer(shown: Any, has_memory: bool) -> tuple[Any, Any]:
    """A layer's weights as a stack of one would show them."""
    return ((shown[0],), (shown[1],)) if has_memory else ((shown,), None)


def _all_within(name: str, ours: Any, theirs: Any) -> Finding:
    if ours is None or theirs is None or len(ours) != len(theirs):
        alike = ours is None and theirs is None
        return holds(name, "y", alike, f"expected {theirs and len(theirs)}, got {ours and len(ours)}")
    error = max(difference(a, b) for a, b in zip(ours, theirs, strict=True))
    return within(name, "y", error, 1e-10, f"the {name} differ from the definition's")


SPECS = [
    component_spec(
        "EncoderLayer",
        build_layer(memory=False),
        lambda d: draw_layer(d, memory=False),
        layer,
        positional=("x", "bias"),
        stochastic=True,
        checks=(cached_equals_full, looked_at),
    ),
    component_spec(
        "DecoderLayer",
        build_layer(memory=True),
        lambda d: draw_layer(d, memory=True),
        layer,
        positional=("x", "memory", "bias"),
        stochastic=True,
        checks=(hidden_memory_does_nothing, cached_equals_full, looked_at),
    ),
    component_spec(
        "TransformerEncoderLayer",
        lambda dtype, **options: nn.TransformerEncoderLayer(**options, rng=0, dtype=dtype),
        lambda d: draw_torch(d, memory=False),
        torch_layer,
        positional=("x", "bias"),
        stochastic=True,
    ),
    component_spec(
        "TransformerDecoderLayer",
        lambda dtype, **options: nn.TransformerDecoderLayer(**options, rng=0, dtype=dtype),
        lambda d: draw_torch(d, memory=True),
        torch_layer,
        positional=("x", "memory", "bias"),
        stochastic=True,
        checks=(hidden_memory_does_nothing,),
    ),
    component_spec(
        "Stack",
        build_stack(memory=False),
        lambda d: draw_stack(d, memory=False),
        stack,
        positional=("x", "memory", "bias"),
        stochastic=True,
        checks=(keep_changes_nothing, cached_equals_full, looked_at),
    ),
    component_spec(
        "Stack-memory",
        build_stack(memory=True),
        lambda d: draw_stack(d, memory=True),
        stack,
        positional=("x", "memory", "bias"),
        stochastic=True,
        checks=(keep_changes_nothing, hidden_memory_does_nothing, cached_equals_full, looked_at),
    ),
]
