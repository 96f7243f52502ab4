"""The transformer beside torch.nn.Transformer: results, the gradient of every input and parameter, masks, weights."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from numtx import nn
from numtx.models import Transformer

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")

# Said of every model whose padded batches it will not compute by nested tensors.
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")

# None, padding on either side or both, causal, anything, and a row that sees nothing.
KINDS = ("none", "left", "right", "both", "causal", "random", "nothing")


@st.composite
def calls(draw):
    """Sizes, a seed, an order of norms, an activation, and a kind for each of the three masks."""
    heads = draw(st.integers(1, 3))
    return {
        "seed": draw(st.integers(0, 2**31)),
        "scale": draw(st.sampled_from((0.02, 0.5, 1.0))),
        "batch": draw(st.integers(1, 3)),
        "source": draw(st.integers(1, 5)),
        "target": draw(st.integers(1, 5)),
        "masks": tuple(draw(st.sampled_from(KINDS)) for _ in range(3)),
        "options": {
            # A norm makes ±1 of any two numbers: PyTorch's own gradients then move by 2e-10 with the last bits.
            "d_model": heads * draw(st.integers(2 if heads > 1 else 4, 5)),
            "nhead": heads,
            "num_encoder_layers": draw(st.integers(1, 2)),
            "num_decoder_layers": draw(st.integers(1, 2)),
            "dim_feedforward": draw(st.integers(1, 7)),
            "activation": draw(st.sampled_from(("relu", "gelu"))),
            "layer_norm_eps": draw(st.sampled_from((1e-5, 1e-3))),
            "norm_first": draw(st.booleans()),
            "bias": draw(st.booleans()),
        },
    }


def mask_of(kind, rng, batch, heads, queries, keys):
    """A mask of a kind, True = may attend, in one of the forms that numtx takes; or None."""
    if kind == "none":
        return None
    if kind == "causal":
        return np.tri(queries, keys, keys - queries, dtype=bool)
    if kind in ("random", "nothing"):
        mask = rng.random((batch, heads, queries, keys)) < 0.7
        mask[..., 0] = True
        if kind == "nothing":
            mask[rng.integers(batch), :, rng.integers(queries)] = False
        return mask
    real = np.ones((batch, keys), bool)
    for row in real:
        left, right = rng.integers(0, keys, 2) * (kind != "right", kind != "left")
        row[:left] = row[keys - right :] = False
    return real[:, None, None, :]


def theirs_of(options, scale, rng):
    """PyTorch's model with random numbers: norm weights that are not ones, biases that are not zeros."""
    model = torch.nn.Transformer(**options, dropout=0.0, batch_first=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 0.7 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(torch.from_numpy(mean + scale * rng.standard_normal(parameter.shape)))
    return model


def weights_of(model):
    return {name: parameter.detach().numpy() for name, parameter in model.state_dict().items()}


def hidden(mask, batch, heads, queries, keys):
    """Our mask as PyTorch's: True = may not attend, one (Tq, Tk) for each batch and head."""
    if mask is None:
        return None
    whole = np.broadcast_to(mask if mask.ndim == 4 else mask[None, None], (batch, heads, queries, keys))
    return torch.from_numpy(~whole.reshape(batch * heads, queries, keys))


def setting(call):
    """PyTorch's model, the two inputs, our masks and theirs, and the incoming gradient."""
    rng = np.random.default_rng(call["seed"])
    batch, source, target, options = (call[key] for key in ("batch", "source", "target", "options"))
    sizes = ((source, source), (target, target), (target, source))
    masks = [
        mask_of(kind, rng, batch, options["nhead"], *size) for kind, size in zip(call["masks"], sizes, strict=True)
    ]
    theirs = [hidden(mask, batch, options["nhead"], *size) for mask, size in zip(masks, sizes, strict=True)]
    shapes = {"src": (batch, source, options["d_model"]), "tgt": (batch, target, options["d_model"])}
    inputs = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return theirs_of(options, call["scale"], rng), inputs, masks, theirs, rng.standard_normal(shapes["tgt"])


def run_ours(model, inputs, masks, dy, keep="all"):
    """The result, and gradients under PyTorch's names."""
    y, cache = model.forward(*inputs.values(), *masks, keep=keep)
    dinputs, grads = model.backward(dy, cache)
    return {"y": y}, dict(zip(inputs, dinputs, strict=True)) | model.torch_state_dict(grads)


def oracle_of(model, masks):
    """PyTorch's model as a function of its inputs and its parameters."""
    names = ("src_mask", "tgt_mask", "memory_mask")

    def oracle(src, tgt, **parameters):
        return torch.func.functional_call(
            model, parameters, (src, tgt), dict(zip(names, masks, strict=True)), strict=True
        )

    return oracle


# A hundred settings, whatever the profile: a model is not worth shrinking.
@settings(max_examples=max(100, settings.default.max_examples), phases=[Phase.generate])
@given(call=calls())
def test_results_and_every_gradient(call, agree, differentiate):
    theirs, inputs, masks, hidden_masks, dy = setting(call)
    expected = differentiate(oracle_of(theirs, hidden_masks), inputs | weights_of(theirs), dy)
    ours = Transformer(**call["options"], dropout=0.0, rng=0, dtype=np.float64)
    ours.load_torch_state_dict(weights_of(theirs))
    for keep in ("all", "inputs"):
        values, gradients = run_ours(ours, inputs, masks, dy, keep)
        assert sorted(gradients) == sorted(expected[1])
        agree(f"{call} {keep}", (values, {name: gradients[name] for name in expected[1]}), expected)


@settings(max_examples=10, phases=[Phase.generate])
@given(call=calls())
def test_float32_within_the_noise_of_rounding(call, within_noise):
    theirs, inputs, masks, hidden_masks, dy = setting(call)
    single = {name: array.astype(np.float32) for name, array in (inputs | weights_of(theirs)).items()}
    dy = dy.astype(np.float32)
    ours = Transformer(**call["options"], dropout=0.0, rng=0)
    ours.load_torch_state_dict({name: array for name, array in single.items() if name not in inputs})
    values, gradients = run_ours(ours, {name: single[name] for name in inputs}, masks, dy)
    outcome = values, {name: gradients[name] for name in single}
    within_noise(f"{call}", outcome, oracle_of(theirs, hidden_masks), single, dy)


@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_as_pytorch_takes_it(norm_first, agree, differentiate):
    """The same with PyTorch's key padding masks, which know the batch alone."""
    options = {"d_model": 6, "nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 1, "dim_feedforward": 7}
    rng = np.random.default_rng(5)
    theirs = theirs_of({**options, "norm_first": norm_first}, 0.5, rng)
    inputs = {"src": rng.standard_normal((3, 5, 6)), "tgt": rng.standard_normal((3, 4, 6))}
    real = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]], bool)
    written = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]], bool)
    dy = rng.standard_normal((3, 4, 6))

    def oracle(src, tgt, **parameters):
        return torch.func.functional_call(
            theirs,
            parameters,
            (src, tgt),
            {
                "tgt_mask": torch.nn.Transformer.generate_square_subsequent_mask(4),
                "src_key_padding_mask": torch.from_numpy(~real),
                "memory_key_padding_mask": torch.from_numpy(~real),
                "tgt_key_padding_mask": torch.from_numpy(np.where(written, 0.0, -np.inf)),
            },
        )

    expected = differentiate(oracle, inputs | weights_of(theirs), dy)
    ours = Transformer(**options, dropout=0.0, norm_first=norm_first, rng=0, dtype=np.float64)
    ours.load_torch_state_dict(weights_of(theirs))
    seen = real[:, None, None, :]
    values, gradients = run_ours(ours, inputs, (seen, np.tri(4, dtype=bool) & written[:, None, None, :], seen), dy)
    agree("padding", (values, {name: gradients[name] for name in expected[1]}), expected)


def test_encoding_and_decoding_apart(agree):
    options = {"d_model": 6, "nhead": 3, "num_encoder_layers": 1, "num_decoder_layers": 2, "dim_feedforward": 5}
    rng = np.random.default_rng(6)
    theirs = theirs_of(options, 0.5, rng)
    ours = Transformer(**options, dropout=0.0, rng=0, dtype=np.float64)
    ours.load_torch_state_dict(weights_of(theirs))
    src, tgt = rng.standard_normal((2, 4, 6)), rng.standard_normal((2, 3, 6))
    causal = np.tri(3, dtype=bool)
    with torch.no_grad():
        memory = theirs.encoder(torch.from_numpy(src))
        y = theirs.decoder(torch.from_numpy(tgt), memory, tgt_mask=torch.from_numpy(~causal))
    expected = {"memory": memory.numpy(), "y": y.numpy()}
    got = {"memory": ours.encode(src), "y": ours.decode(tgt, memory.numpy(), causal)}
    agree("encode, decode", (got, {}), (expected, {}))


# --- a row that sees nothing -----------------------------------------------------------------------------------------


def test_a_target_that_sees_no_memory_has_zero_gradients_there():
    """Zeros come out of the attention, and no gradient goes in, in PyTorch 2.13 too."""
    call = {"seed": 7, "scale": 0.5, "batch": 2, "source": 4, "target": 3, "masks": ("none", "none", "none")}
    options = {"d_model": 6, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 2, "dim_feedforward": 5}
    theirs, inputs, _, _, dy = setting({**call, "options": options})
    mask = np.ones((2, 1, 3, 4), bool)
    mask[0] = False  # the first source is seen by nobody
    ours = Transformer(**options, dropout=0.0, rng=0, dtype=np.float64)
    ours.load_torch_state_dict(weights_of(theirs))
    _, gradients = run_ours(ours, inputs, (None, None, mask), dy)
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in inputs.items()}
    y = theirs(**leaves, memory_mask=hidden(mask, 2, 2, 3, 4))
    dsrc, _ = torch.autograd.grad(y, list(leaves.values()), torch.from_numpy(dy))
    for got in (gradients["src"], dsrc.numpy()):
        assert not got[0].any()
        assert got[1].any()


@pytest.mark.parametrize("need_weights", [False, True])
def test_what_pytorch_makes_of_a_row_that_sees_nothing(need_weights):
    """Zeros, as here, but for nn.MultiheadAttention when it is asked for its weights: NaN."""
    rng = np.random.default_rng(8)
    theirs = torch.nn.MultiheadAttention(6, 2, batch_first=True)
    with torch.no_grad():
        theirs.out_proj.bias.copy_(torch.from_numpy(rng.standard_normal(6)))
    x = rng.standard_normal((1, 3, 6))
    mask = np.ones((3, 3), bool)
    mask[1] = False
    tensor = torch.tensor(x, requires_grad=True)
    y, _ = theirs(tensor, tensor, tensor, attn_mask=torch.from_numpy(~mask), need_weights=need_weights)
    (gradient,) = torch.autograd.grad(y[0, 1].sum(), tensor)
    ours = nn.MultiHeadAttention(6, 2, rng=0, dtype=np.float64)
    ours.load_torch_state_dict(weights_of(theirs))
    got, cache = ours.forward(x, mask=mask[None, None])
    dy = np.zeros_like(got)
    dy[0, 1] = 1
    (dx, _, _), grads = ours.backward(dy, cache)
    np.testing.assert_array_equal(got[0, 1], ours.out_proj.bias)  # zeros out of the attention
    assert not dx.any()
    assert not grads["in_proj_weight"].any()
    if need_weights:
        assert np.isnan(y[0, 1].detach().numpy()).all()
        assert np.isnan(gradient.numpy()).all()
    else:
        np.testing.assert_array_equal(y[0, 1].detach().numpy(), ours.out_proj.bias)
        assert not gradient.numpy().any()


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_go_there_and_back_bit_for_bit(bias, dtype):
    options = {"d_model": 6, "nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 1, "dim_feedforward": 5}
    theirs = theirs_of({**options, "bias": bias}, 0.5, np.random.default_rng(9)).to(
        torch.float32 if dtype is np.float32 else torch.float64
    )
    ours = Transformer(**options, bias=bias, rng=0, dtype=dtype)
    ours.load_torch_state_dict(weights_of(theirs))
    back = {name: torch.from_numpy(np.array(array)) for name, array in ours.torch_state_dict().items()}
    assert list(back) == list(theirs.state_dict())
    again = torch.nn.Transformer(**options, bias=bias, batch_first=True).to(next(theirs.parameters()).dtype)
    again.load_state_dict(back)  # strict: no name missing, none too many
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_matrices_are_drawn_as_pytorch_draws_them():
    options = {"d_model": 32, "nhead": 4, "num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 48}
    ours, theirs = Transformer(**options, rng=0).torch_state_dict(), torch.nn.Transformer(**options).state_dict()
    for name, array in ours.items():
        if array.ndim == 2:
            bound = np.sqrt(6 / sum(array.shape))
            for drawn in (array, theirs[name].numpy()):
                assert 0.98 * bound < np.abs(drawn).max() <= bound, name
                assert drawn.std() == pytest.approx(bound / np.sqrt(3), rel=0.1), name
        elif "norm" in name:
            np.testing.assert_array_equal(array, theirs[name].numpy())
