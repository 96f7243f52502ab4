"""Gated units, the negative log-likelihood and gated feed-forward networks beside PyTorch and Transformers."""

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
TF = torch.nn.functional

SCALES = (0.02, 0.5, 1.0, 4.0)
UNITS = {
    "glu": lambda gate, up: TF.glu(torch.cat([up, gate], -1)),
    "geglu": lambda gate, up: TF.gelu(gate) * up,
    "geglu_tanh": lambda gate, up: TF.gelu(gate, approximate="tanh") * up,
    "swiglu": lambda gate, up: TF.silu(gate) * up,
}
REDUCTIONS = ("mean", "sum", "none")


def normal(rng, *shape, scale=1.0):
    """Normal numbers that float32 holds exactly, so that both precisions start from the same point."""
    return (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)


def ours(op, inputs, dy, dtype, **options):
    """`(values, gradients)` of a pair of ours."""
    y, cache = getattr(F, op)(*(array.astype(dtype) for array in inputs.values()), **options)
    gradients = getattr(F, f"{op}_backward")(np.asarray(dy, dtype), cache)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    return {"y": y}, dict(zip(inputs, gradients, strict=True))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", UNITS)
def test_gated_units(name, scale, agree, differentiate, within_noise):
    for seed in range(4):
        rng = np.random.default_rng([seed, 7])
        shape = tuple(rng.integers(1, 6, rng.integers(1, 4)))
        inputs = {"gate": normal(rng, *shape, scale=scale), "up": normal(rng, *shape, scale=scale)}
        dy = normal(rng, *shape)
        agree(name, ours(name, inputs, dy, np.float64), differentiate(UNITS[name], inputs, dy))
        within_noise(name, ours(name, inputs, dy, np.float32), UNITS[name], inputs, dy)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_nll_loss(ignore_index, weighted, reduction, scale, seed, agree, differentiate, within_noise):
    rng = np.random.default_rng([seed, 8])
    shape, classes = tuple(rng.integers(2, 6, rng.integers(1, 4))), 5
    inputs = {"log_probs": normal(rng, *shape, classes, scale=scale)}
    target = np.where(rng.random(shape) < 0.7, rng.integers(0, classes, shape), ignore_index)
    target[(0,) * len(shape)] = 1  # one real target, since PyTorch's mean of none is NaN
    weight = rng.uniform(0.2, 3.0, classes).astype(np.float32).astype(np.float64) if weighted else None
    options = {"ignore_index": ignore_index, "reduction": reduction}
    dy = normal(rng, *(shape if reduction == "none" else ()))

    def oracle(log_probs):
        weights = None if weight is None else torch.tensor(weight, dtype=log_probs.dtype)
        loss = TF.nll_loss(log_probs.reshape(-1, classes), torch.tensor(target.ravel()), weights, **options)
        return loss.reshape(shape) if reduction == "none" else loss

    def mine(dtype):
        weights = None if weight is None else weight.astype(dtype)
        return ours("nll_loss", inputs, dy, dtype, target=target, weight=weights, **options)

    agree("nll_loss", mine(np.float64), differentiate(oracle, inputs, dy))
    within_noise("nll_loss", mine(np.float32), oracle, inputs, dy)


def test_nll_loss_with_nothing_to_predict_is_zero():
    """Where PyTorch's mean is 0/0; its sum and its single losses are the zeros that numtx gives in all three."""
    log_probs, target = np.zeros((2, 3)), np.full(2, -100)
    theirs = {r: TF.nll_loss(torch.tensor(log_probs), torch.tensor(target), reduction=r).numpy() for r in REDUCTIONS}
    assert np.isnan(theirs["mean"])
    assert F.nll_loss(log_probs, target)[0] == 0
    for reduction in ("sum", "none"):
        np.testing.assert_array_equal(F.nll_loss(log_probs, target, reduction=reduction)[0], theirs[reduction])


def compare(module, oracle, theirs, x, agree):
    """One network with PyTorch's parameters, by our name: values and every gradient; `theirs` are (out, in)."""
    state = {n: p.detach().numpy().T if p.ndim == 2 else p.detach().numpy() for n, p in theirs.items()}
    module.load_state_dict(state)
    leaf = torch.tensor(x, requires_grad=True)
    result = oracle(leaf)
    dy = normal(np.random.default_rng(2), *result.shape)
    dx, *grads = torch.autograd.grad(result, [leaf, *theirs.values()], torch.tensor(dy))
    expected = {"x": dx.numpy()} | {
        n: g.numpy().T if g.ndim == 2 else g.numpy() for n, g in zip(theirs, grads, strict=True)
    }
    y, cache = module.forward(x)
    dinput, tree = module.backward(dy, cache)
    got = {"x": dinput} | {n: nn.flatten(tree)[n] for n in theirs}
    assert set(nn.flatten(tree)) == set(theirs), "one gradient for every parameter"
    agree(type(module).__name__, ({"y": y}, got), ({"y": result.detach().numpy()}, expected))


@pytest.mark.parametrize("scale", SCALES[:3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", UNITS)
def test_gated_feed_forward(name, bias, scale, agree):
    rng = np.random.default_rng(0)
    gate, up, down = (torch.nn.Linear(*widths, bias=bias) for widths in ((4, 7), (4, 7), (7, 4)))
    theirs = {f"{n}.{p}": v for n, m in {"gate": gate, "up": up, "down": down}.items() for p, v in m.named_parameters()}
    with torch.no_grad():
        for parameter in theirs.values():
            parameter.copy_(torch.tensor(normal(rng, *parameter.shape, scale=scale)))
    module = nn.GatedFeedForward(4, 7, name, bias=bias, dtype=np.float64)
    compare(module, lambda x: down(UNITS[name](gate(x), up(x))), theirs, normal(rng, 2, 3, 4), agree)


def test_llama_and_t5_have_this_network(agree):
    pytest.importorskip("transformers", reason="parity tests need Transformers: pip install 'numtx[parity]'")
    from transformers import LlamaConfig, T5Config
    from transformers.models.llama.modeling_llama import LlamaMLP
    from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

    x = normal(np.random.default_rng(0), 2, 3, 4)
    config = LlamaConfig(hidden_size=4, num_attention_heads=2, intermediate_size=7, hidden_act="silu", mlp_bias=True)
    llama = LlamaMLP(config).double()
    theirs = {name.replace("_proj", ""): parameter for name, parameter in llama.named_parameters()}
    compare(nn.GatedFeedForward(4, 7, "swiglu", dtype=np.float64), llama, theirs, x, agree)

    t5 = T5DenseGatedActDense(T5Config(d_model=4, d_ff=7, feed_forward_proj="gated-gelu", dropout_rate=0.0)).double()
    names = {"wi_0.weight": "gate.weight", "wi_1.weight": "up.weight", "wo.weight": "down.weight"}
    theirs = {names[name]: parameter for name, parameter in t5.named_parameters()}
    compare(nn.GatedFeedForward(4, 7, "geglu_tanh", bias=False, dtype=np.float64), t5, theirs, x, agree)
