"""Layers and stacks beside PyTorch's in float64: values and the gradient of every input and parameter."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from numtx import nn

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")

F64 = {"dtype": np.float64}
TORCH = {"dtype": torch.float64, "batch_first": True, "dropout": 0.0}
WIDTH, HEADS, HIDDEN = 6, 3, 5
PADDING = ("none", "left", "right", "both", "everything")


def normal(rng, *shape, scale=1.0):
    return scale * rng.standard_normal(shape)


def real_tokens(kind, length):
    """Which tokens of two sequences are real (2, T); of "everything" the second has none."""
    real = np.ones((2, length), bool)
    if kind in ("left", "both"):
        real[0, : length // 2] = False
    if kind in ("right", "both"):
        real[1, length - length // 3 :] = False
    if kind == "everything":
        real[1] = False
    return None if kind == "none" else real


def ours_of(real):
    return None if real is None else real[:, None, None, :]


def theirs_of(real):
    """PyTorch's: True where one may *not* attend."""
    return None if real is None else torch.from_numpy(~real)


def future(length):
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def by_projection(arrays):
    """Query, key and value apart: together, a large gradient of the value would hide an error of the key's."""
    apart = {}
    for name, array in arrays.items():
        if "in_proj" in name:
            apart |= {f"{name} {part}": a for part, a in zip("qkv", np.split(array, 3), strict=True)}
        else:
            apart[name] = array
    return apart


def draw_parameters(theirs, rng, scale):
    """Norm weights that are not ones, biases that are not zeros."""
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            mean = 0.7 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(torch.from_numpy(mean + normal(rng, *parameter.shape, scale=scale)))


def compare(agree, ours, theirs, inputs, call, *, seed=17, scale=0.5, **settings):
    """Give both the same random parameters and inputs; `call(*tensors)` is PyTorch's forward. The same numbers?"""
    rng = np.random.default_rng(seed)
    draw_parameters(theirs, rng, scale)
    parameters = dict(theirs.named_parameters())
    ours.load_torch_state_dict({name: p.detach().numpy() for name, p in parameters.items()})

    leaves = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in inputs.items()}
    result = call(*leaves.values())
    dy = normal(rng, *result.shape)
    gradients = torch.autograd.grad(result, [*leaves.values(), *parameters.values()], torch.from_numpy(dy))
    gradients = dict(zip([*leaves, *parameters], (g.numpy() for g in gradients), strict=True))
    expected = {name: gradients.pop(name) for name in inputs} | by_projection(gradients)

    y, cache = ours.forward(*inputs.values(), **settings)
    dinputs, grads = ours.backward(dy, cache)
    assert [d is not None for d in dinputs] == [True] * len(inputs) + [False] * (len(dinputs) - len(inputs))
    got = dict(zip(inputs, dinputs, strict=False)) | by_projection(ours.torch_state_dict(grads))
    agree(type(ours).__name__, ({"y": y}, got), ({"y": result.detach().numpy()}, expected))


# A failing layer is not worth minutes of shrinking.
quick_to_fail = settings(phases=[Phase.generate])

LAYER = {
    "norm_first": st.booleans(),
    "activation": st.sampled_from(["relu", "gelu"]),
    "bias": st.booleans(),
    "layer_norm_eps": st.sampled_from([1e-5, 1e-2]),
}
DRAWN = {
    "options": st.fixed_dictionaries(LAYER),
    "causal": st.booleans(),
    "padding": st.sampled_from(PADDING),
    "length": st.integers(1, 5),
    "scale": st.sampled_from([0.02, 0.5, 1.0]),
    "seed": st.integers(0, 999),
}


def encoder_masks(causal, real, length):
    return {"src_mask": future(length) if causal else None, "src_key_padding_mask": theirs_of(real)}


def decoder_masks(causal, real, real_memory, length):
    return {
        "tgt_mask": future(length) if causal else None,
        "tgt_key_padding_mask": theirs_of(real),
        "memory_key_padding_mask": theirs_of(real_memory),
    }


@quick_to_fail
@given(**DRAWN)
def test_encoder_layer(options, causal, padding, length, scale, seed, agree):
    """Causal with padding on the left, or all padding, leaves rows that see nothing: zeros and zero gradients."""
    ours = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.0, **options, causal=causal, **F64)
    theirs = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, **options, **TORCH)
    real = real_tokens(padding, length)
    masks = encoder_masks(causal, real, length)
    compare(
        agree, ours, theirs, {"x": normal(np.random.default_rng(seed), 2, length, WIDTH)},
        lambda x: theirs(x, **masks), seed=seed, scale=scale, mask=ours_of(real),
    )  # fmt: skip


@quick_to_fail
@given(**DRAWN, memory_padding=st.sampled_from(PADDING), keys=st.integers(1, 5))
def test_decoder_layer(options, causal, padding, length, scale, seed, memory_padding, keys, agree):
    ours = nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, 0.0, **options, causal=causal, **F64)
    theirs = torch.nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, **options, **TORCH)
    real, real_memory = real_tokens(padding, length), real_tokens(memory_padding, keys)
    masks = decoder_masks(causal, real, real_memory, length)
    rng = np.random.default_rng(seed)
    compare(
        agree, ours, theirs, {"x": normal(rng, 2, length, WIDTH), "memory": normal(rng, 2, keys, WIDTH)},
        lambda x, memory: theirs(x, memory, **masks), seed=seed, scale=scale,
        mask=ours_of(real), memory_mask=ours_of(real_memory),
    )  # fmt: skip


KEEP = {"keep": st.sampled_from(["all", "inputs"]), "layers": st.integers(1, 3), "final": st.booleans()}


def final_norms(final):
    return (nn.LayerNorm(WIDTH, **F64), torch.nn.LayerNorm(WIDTH, dtype=torch.float64)) if final else (None, None)


@quick_to_fail
@given(**DRAWN, **KEEP)
def test_encoder(options, causal, padding, length, scale, seed, keep, layers, final, agree):
    ours_norm, theirs_norm = final_norms(final)
    make = [nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, **options, causal=causal, **F64) for _ in range(layers)]
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, **options, **TORCH)
    theirs = torch.nn.TransformerEncoder(layer, layers, theirs_norm, enable_nested_tensor=False)
    real = real_tokens(padding, length)
    masks = encoder_masks(causal, real, length)
    masks["mask"] = masks.pop("src_mask")
    compare(
        agree, nn.Stack(make, ours_norm), theirs, {"x": normal(np.random.default_rng(seed), 2, length, WIDTH)},
        lambda x: theirs(x, **masks), seed=seed, scale=scale, mask=ours_of(real), keep=keep,
    )  # fmt: skip


@quick_to_fail
@given(**DRAWN, **KEEP, memory_padding=st.sampled_from(PADDING), keys=st.integers(1, 5))
def test_decoder(options, causal, padding, length, scale, seed, keep, layers, final, memory_padding, keys, agree):
    ours_norm, theirs_norm = final_norms(final)
    make = [nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, **options, causal=causal, **F64) for _ in range(layers)]
    layer = torch.nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, **options, **TORCH)
    theirs = torch.nn.TransformerDecoder(layer, layers, theirs_norm)
    real, real_memory = real_tokens(padding, length), real_tokens(memory_padding, keys)
    masks = decoder_masks(causal, real, real_memory, length)
    rng = np.random.default_rng(seed)
    compare(
        agree, nn.Stack(make, ours_norm), theirs,
        {"x": normal(rng, 2, length, WIDTH), "memory": normal(rng, 2, keys, WIDTH)},
        lambda x, memory: theirs(x, memory, **masks), seed=seed, scale=scale,
        mask=ours_of(real), memory_mask=ours_of(real_memory), keep=keep,
    )  # fmt: skip


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_mask_of_four_axes_with_rows_that_see_nothing(norm_first, agree):
    """One mask for each head and query: PyTorch takes it as (B · H, Tq, Tk)."""
    rng = np.random.default_rng(0)
    mask = rng.random((2, HEADS, 4, 4)) < 0.6
    mask[0, :, 1] = mask[1, 2, 3] = False
    options = {"norm_first": norm_first, "activation": "gelu"}
    theirs = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, **options, **TORCH)
    hidden = torch.from_numpy(~mask.reshape(2 * HEADS, 4, 4))
    compare(
        agree, nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, **options, **F64), theirs,
        {"x": normal(rng, 2, 4, WIDTH)}, lambda x: theirs(x, src_mask=hidden), mask=mask,
    )  # fmt: skip


@pytest.mark.parametrize("by_distance", [False, True])
@pytest.mark.parametrize("keep", ["all", "inputs"])
def test_a_bias_that_every_layer_uses(keep, by_distance, agree):
    """T5's way: one table for the stack. PyTorch adds a floating mask to the scores, and differentiates it."""
    rng = np.random.default_rng(0)
    length = 4
    bias = normal(rng, HEADS, 2 * length - 1) if by_distance else normal(rng, 1, HEADS, length, length)
    layers = [nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, norm_first=True, **F64) for _ in range(3)]
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, norm_first=True, **TORCH)
    theirs = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    def call(x, given):
        if by_distance:
            rows = [given[:, length - 1 - i : 2 * length - 1 - i] for i in range(length)]
            given = torch.stack(rows, dim=1)
        return theirs(x, mask=given.reshape(HEADS, length, length).repeat(2, 1, 1))

    class Lent(nn.Stack):
        """The stack with x and bias alone."""

        def forward(self, x, given, **settings):
            return super().forward(x, None, given, **settings)

        def backward(self, dy, cache):
            (dx, dmemory, dbias), grads = super().backward(dy, cache)
            assert dmemory is None
            return (dx, dbias), grads

    compare(agree, Lent(layers), theirs, {"x": normal(rng, 2, length, WIDTH), "bias": bias}, call, keep=keep)


@pytest.mark.parametrize("norm_first", [False, True])
def test_float32_within_the_noise(norm_first, within_noise):
    rng = np.random.default_rng(3)
    options = {"norm_first": norm_first, "activation": "gelu"}
    theirs = torch.nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, **options, **TORCH)
    draw_parameters(theirs, rng, 0.5)
    parameters = {name: p.detach().numpy().astype(np.float32) for name, p in theirs.named_parameters()}
    inputs = {"x": normal(rng, 2, 4, WIDTH), "memory": normal(rng, 2, 5, WIDTH)}
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    dy = normal(rng, 2, 4, WIDTH).astype(np.float32)
    real = real_tokens("both", 5)

    def oracle(x, memory, **weights):
        named = {name.replace("__", "."): tensor for name, tensor in weights.items()}
        masks = {"tgt_mask": future(4), "memory_key_padding_mask": theirs_of(real)}
        return torch.func.functional_call(theirs, named, (x, memory), masks)

    ours = nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, **options, causal=True)
    ours.load_torch_state_dict(parameters)
    y, cache = ours.forward(*inputs.values(), memory_mask=ours_of(real))
    (dx, dmemory, _), grads = ours.backward(dy, cache)
    gradients = {"x": dx, "memory": dmemory} | {
        name.replace(".", "__"): array for name, array in ours.torch_state_dict(grads).items()
    }
    weights = {name.replace(".", "__"): array for name, array in parameters.items()}
    within_noise("TransformerDecoderLayer", ({"y": y}, gradients), oracle, inputs | weights, dy)
