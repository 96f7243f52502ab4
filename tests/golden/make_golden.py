"""Write the golden files: what PyTorch and Transformers compute, in float64, for the test that runs without them.

    python tests/golden/make_golden.py

Every file holds inputs, results and gradients, and in its metadata the versions that made it.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers.models.gptj import modeling_gptj
from transformers.models.llama import modeling_llama
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.xlm.modeling_xlm import create_sinusoidal_embeddings

HERE = Path(__file__).parent
TF = torch.nn.functional


def normal(rng, *shape, scale=1.0, mean=0.0):
    return mean + scale * rng.standard_normal(shape)


def write(name, arrays, **metadata):
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
    arrays = {key: np.array(array, order="C") for key, array in arrays.items()}
    save_file(arrays, HERE / f"{name}.safetensors", {**versions, **metadata})


def differentiate(function, leaves, dy):
    """Value and gradients of a function of tensors, `leaves` being {name: tensor that requires a gradient}."""
    y = function()
    gradients = torch.autograd.grad(y, list(leaves.values()), torch.from_numpy(np.asarray(dy)))
    return y.detach().numpy(), {name: g.numpy() for name, g in zip(leaves, gradients, strict=True)}


# --- pairs -----------------------------------------------------------------------------------------------------------


def functional_cases(rng):
    """Yield (name, op, differentiable inputs, other arrays, other options, PyTorch's version)."""
    x = normal(rng, 2, 3, 4)
    yield (
        "linear", "linear", {"x": x, "weight": normal(rng, 4, 5), "bias": normal(rng, 5)}, {}, {},
        lambda x, weight, bias: TF.linear(x, weight.T, bias),
    )  # fmt: skip
    ids = np.array([[1, 4, 1], [0, 1, 4]])
    yield (
        "embedding", "embedding", {"weight": normal(rng, 6, 3)}, {"ids": ids}, {},
        lambda weight: TF.embedding(torch.from_numpy(ids), weight),
    )  # fmt: skip
    activations = {
        "relu": TF.relu,
        "gelu": TF.gelu,
        "gelu_tanh": lambda x: TF.gelu(x, approximate="tanh"),
        "silu": TF.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
    }
    for op, function in activations.items():
        yield op, op, {"x": normal(rng, 3, 7, scale=2.0)}, {}, {}, lambda x, f=function: f(x)
    for axis in (-1, 1):
        for op, function in (("softmax", torch.softmax), ("log_softmax", torch.log_softmax)):
            inputs = {"x": normal(rng, 2, 5, 4, scale=2.0)}
            yield f"{op} axis {axis}", op, inputs, {}, {"axis": axis}, lambda x, f=function, a=axis: f(x, a)
    inputs = {"x": normal(rng, 2, 3, 6, mean=1.0), "weight": normal(rng, 6, mean=0.5), "bias": normal(rng, 6)}
    yield (
        "layer_norm", "layer_norm", inputs, {}, {"eps": 1e-5},
        lambda x, weight, bias: TF.layer_norm(x, (6,), weight, bias, 1e-5),
    )  # fmt: skip
    inputs = {"x": normal(rng, 2, 3, 6), "weight": normal(rng, 6, mean=0.5)}
    yield (
        "rms_norm", "rms_norm", inputs, {}, {"eps": 1e-6}, lambda x, weight: TF.rms_norm(x, (6,), weight, 1e-6)
    )  # fmt: skip


def attention_cases(rng):
    tq, tk = 4, 6

    def heads(length):
        return normal(rng, 2, 2, length, 3)

    everything = np.ones((tq, tk), bool)
    lower_right = np.tri(tq, tk, tk - tq, dtype=bool)
    newest = lower_right & ~np.tri(tq, tk, tk - tq - 3, dtype=bool)
    around = np.tri(tq, tk, tk - tq + 1, dtype=bool) & ~np.tri(tq, tk, tk - tq - 2, dtype=bool)
    padding = np.array([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], bool)[:, None, None]
    for name, options, positions, mask in (
        ("plain", {}, everything, None),
        ("causal", {"causal": True}, lower_right, None),
        ("scale", {"scale": 0.25}, everything, None),
        ("window", {"causal": True, "window": 3}, newest, None),
        ("window of both sides", {"window": 2}, around, None),
        ("padded", {"causal": True}, lower_right, padding),
    ):
        allowed = torch.from_numpy(positions if mask is None else positions & mask)
        yield (
            f"attention {name}", "scaled_dot_product_attention",
            {"query": heads(tq), "key": heads(tk), "value": heads(tk)}, {} if mask is None else {"mask": mask}, options,
            lambda query, key, value, seen=allowed, o=options: TF.scaled_dot_product_attention(
                query, key, value, attn_mask=seen, scale=o.get("scale")
            ),
        )  # fmt: skip
    nothing = np.ones((2, 1, tq, tk), bool)
    nothing[0, 0, 2] = False
    yield (
        "attention bias and a row of nothing", "scaled_dot_product_attention",
        {"query": heads(tq), "key": heads(tk), "value": heads(tk), "bias": normal(rng, 1, 2, tq, tk)},
        {"mask": nothing}, {},
        lambda query, key, value, bias: TF.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.masked_fill(~torch.from_numpy(nothing), -torch.inf)
        ),
    )  # fmt: skip
    distance = torch.arange(tk)[None, :] - torch.arange(tq)[:, None] + tq - 1
    yield (
        "attention bias by distance", "scaled_dot_product_attention",
        {"query": heads(tq), "key": heads(tk), "value": heads(tk), "bias": normal(rng, 2, tq + tk - 1)}, {}, {},
        lambda query, key, value, bias: TF.scaled_dot_product_attention(
            query, key, value, attn_mask=bias[:, distance][None]
        ),
    )  # fmt: skip


def loss_cases(rng):
    target = np.array([[0, 3, -100], [4, -100, 1]])
    classes = rng.uniform(0.5, 2.0, 5)
    for reduction in ("none", "sum", "mean"):
        options = {"reduction": reduction, "label_smoothing": 0.1, "ignore_index": -100}
        yield (
            f"cross_entropy {reduction}", "cross_entropy", {"logits": normal(rng, 2, 3, 5)},
            {"target": target, "weight": classes}, options,
            lambda logits, o=options: TF.cross_entropy(
                logits.transpose(1, 2), torch.from_numpy(target), torch.from_numpy(classes), **o
            ),
        )  # fmt: skip
    wanted = normal(rng, 3, 4)
    yield (
        "mse_loss", "mse_loss", {"input": normal(rng, 3, 4)}, {"target": wanted}, {"reduction": "mean"},
        lambda input: TF.mse_loss(input, torch.from_numpy(wanted)),
    )  # fmt: skip
    soft, weight, positive = rng.random((3, 4)), rng.uniform(0.5, 2.0, (3, 4)), rng.uniform(0.5, 3.0, 4)
    yield (
        "binary_cross_entropy_with_logits", "binary_cross_entropy_with_logits", {"input": normal(rng, 3, 4, scale=2.0)},
        {"target": soft, "weight": weight, "pos_weight": positive}, {"reduction": "mean"},
        lambda input: TF.binary_cross_entropy_with_logits(
            input, torch.from_numpy(soft), torch.from_numpy(weight), pos_weight=torch.from_numpy(positive)
        ),
    )  # fmt: skip


def later_cases(rng):
    """Pairs that came later: at the end and from a generator of their own, so that older numbers stay what they are."""
    inputs = {key: normal(rng, 2, heads, 4, 3) for key, heads in (("query", 4), ("key", 2), ("value", 2))}
    yield (
        "attention grouped", "scaled_dot_product_attention", inputs, {}, {"causal": True},
        lambda query, key, value: TF.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True),
    )  # fmt: skip
    gates = {
        "glu": torch.sigmoid,
        "geglu": TF.gelu,
        "geglu_tanh": lambda x: TF.gelu(x, approximate="tanh"),
        "swiglu": TF.silu,
    }
    for op, function in gates.items():
        inputs = {"gate": normal(rng, 3, 7, scale=2.0), "up": normal(rng, 3, 7)}
        yield op, op, inputs, {}, {}, lambda gate, up, f=function: f(gate) * up
    target, classes = np.array([[0, 3, -100], [4, -100, 1]]), rng.uniform(0.5, 2.0, 5)
    for reduction in ("none", "sum", "mean"):
        yield (
            f"nll_loss {reduction}", "nll_loss", {"log_probs": np.log(rng.dirichlet(np.ones(5), (2, 3)))},
            {"target": target, "weight": classes}, {"reduction": reduction},
            lambda log_probs, r=reduction: TF.nll_loss(
                log_probs.transpose(1, 2), torch.from_numpy(target), torch.from_numpy(classes), reduction=r
            ),
        )  # fmt: skip
    positions = np.array([[0, 1, 2, 3, 4], [3, 4, 5, 6, 107]])
    for layout, function in (("half", llama_rotary), ("interleaved", gptj_rotary)):
        yield (
            f"rotary {layout}", "rotary", {"x": normal(rng, 2, 2, 5, 6)}, {"positions": positions},
            {"layout": layout, "base": 500.0}, lambda x, f=function: f(x, rotary_angles(positions, 6, 500.0)),
        )  # fmt: skip
    inputs = {"x": normal(rng, 2, 3, 4), "weight": normal(rng, 4, 5), "bias": normal(rng, 5)}
    yield (
        "linear_cross_entropy", "linear_cross_entropy", inputs, {"target": target}, {"label_smoothing": 0.1},
        lambda x, weight, bias: TF.cross_entropy(
            TF.linear(x, weight.T, bias).transpose(1, 2), torch.from_numpy(target), label_smoothing=0.1
        ),
    )  # fmt: skip
    real = torch.from_numpy(np.array([[0, 1, 1, 0], [1, 1, 1, 1]], bool))
    pools = {
        "first": lambda x: torch.stack([x[0, 1], x[1, 0]]),
        "last": lambda x: torch.stack([x[0, 2], x[1, 3]]),
        "mean": lambda x: (x * real[:, :, None]).sum(1) / real.sum(1, keepdim=True),
    }
    for how, function in pools.items():
        yield (
            f"pooling {how}", "pooling", {"x": normal(rng, 2, 4, 3)}, {"mask": real[:, None, None, :].numpy()},
            {"how": how}, function,
        )  # fmt: skip
    inputs = {"x": normal(rng, 2, 3, 4), "a": normal(rng, 4, 2), "b": normal(rng, 2, 5)}
    yield "low_rank", "low_rank", inputs, {}, {"scale": 0.75}, lambda x, a, b: 0.75 * TF.linear(TF.linear(x, a.T), b.T)


def rotary_angles(positions, width, base):
    """Position times frequency, (B, T, width / 2)."""
    return torch.from_numpy(positions)[:, :, None] * base ** (-torch.arange(0, width, 2) / width)


def llama_rotary(x, angles):
    both = torch.cat([angles, angles], -1)
    return modeling_llama.apply_rotary_pos_emb(x, x, both.cos(), both.sin())[0]


def gptj_rotary(x, angles):
    return modeling_gptj.apply_rotary_pos_emb(x.transpose(1, 2), angles.sin(), angles.cos()).transpose(1, 2)


def functional():
    rng = np.random.default_rng(1)
    arrays, cases = {}, {}
    for name, op, inputs, others, options, function in (
        *functional_cases(rng), *attention_cases(rng), *loss_cases(rng), *later_cases(np.random.default_rng(9))
    ):  # fmt: skip
        leaves = {key: torch.from_numpy(array.copy()).requires_grad_() for key, array in inputs.items()}
        dy = normal(rng, *function(**leaves).shape)
        y, gradients = differentiate(lambda f=function, v=leaves: f(**v), leaves, dy)
        cases[name] = {"op": op, "inputs": list(inputs), "arguments": list(others), "options": options}
        arrays |= {f"{name}/{key}": array for key, array in (inputs | others | {"dy": dy, "y": y}).items()}
        arrays |= {f"{name}/gradient/{key}": gradient for key, gradient in gradients.items()}
    # Both of these round to float32.
    arrays["positions/interleaved"] = create_sinusoidal_embeddings(9, 10, out=torch.empty(9, 10)).numpy()
    arrays["positions/half"] = MarianSinusoidalPositionalEmbedding(9, 10).create_weight().numpy()
    write("functional", arrays, cases=json.dumps(cases))


# --- components ------------------------------------------------------------------------------------------------------


def randomise(module, rng):
    """Give every parameter random numbers: norm weights that are not ones, biases that are not zeros."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            mean = 0.7 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(torch.from_numpy(normal(rng, *parameter.shape, scale=0.5, mean=mean)))


def component(name, module, function, inputs, others, rng, **options):
    """Write one module: its parameters under PyTorch's names, inputs, value and all gradients."""
    randomise(module, rng)
    leaves = {key: torch.from_numpy(array.copy()).requires_grad_() for key, array in inputs.items()}
    parameters = dict(module.named_parameters())
    dy = normal(rng, *function(**leaves).shape)
    y, gradients = differentiate(lambda: function(**leaves), leaves | parameters, dy)
    arrays = inputs | others | {"dy": dy, "y": y}
    arrays |= {f"parameter/{key}": value.detach().numpy() for key, value in parameters.items()}
    arrays |= {f"gradient/{key}": gradient for key, gradient in gradients.items()}
    write(name, arrays, options=json.dumps(options))


def multi_head_attention():
    rng = np.random.default_rng(2)
    width, heads = 6, 2
    module = torch.nn.MultiheadAttention(width, heads, batch_first=True)
    ignored = torch.from_numpy(np.triu(np.ones((4, 4), bool), 1))
    component(
        "self_attention", module, lambda x: module(x, x, x, attn_mask=ignored, need_weights=False)[0],
        {"x": normal(rng, 2, 4, width)}, {}, rng, width=width, num_heads=heads, causal=True,
    )  # fmt: skip
    module = torch.nn.MultiheadAttention(width, heads, batch_first=True)
    real = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    component(
        "cross_attention", module,
        lambda x, memory: module(
            x, memory, memory, key_padding_mask=~torch.from_numpy(real), need_weights=False
        )[0],
        {"x": normal(rng, 2, 3, width), "memory": normal(rng, 2, 5, width)}, {"mask": real[:, None, None, :]}, rng,
        width=width, num_heads=heads, causal=False,
    )  # fmt: skip


def blocks():
    rng = np.random.default_rng(3)
    width, heads, hidden, length = 6, 2, 10, 5
    ignored = torch.from_numpy(np.triu(np.ones((length, length), bool), 1))
    for name, norm_first in (("decoder_block", True), ("post_norm_block", False)):
        module = torch.nn.TransformerEncoderLayer(
            width, heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
        )
        component(
            name, module, lambda x, layer=module: layer(x, src_mask=ignored), {"x": normal(rng, 2, length, width)}, {},
            rng, width=width, num_heads=heads, hidden=hidden, activation="gelu",
        )  # fmt: skip


# --- a model ---------------------------------------------------------------------------------------------------------


def gpt2():
    rng = np.random.default_rng(4)
    config = transformers.GPT2Config(
        vocab_size=13, n_positions=9, n_embd=8, n_layer=2, n_head=2, n_inner=12,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 0.7 if ".ln_" in name and name.endswith("weight") else 0.0
            parameter.copy_(torch.from_numpy(normal(rng, *parameter.shape, scale=0.4, mean=mean)))
    ids = rng.integers(0, config.vocab_size, (2, 7))
    labels = ids.copy()
    labels[0, 5:] = labels[1, 2] = -100
    logits = model(torch.from_numpy(ids)).logits
    # Not the model's own loss, which rounds the logits to float32.
    loss = TF.cross_entropy(logits[:, :-1].transpose(1, 2), torch.from_numpy(labels[:, 1:]))
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    arrays = {"input_ids": ids, "labels": labels, "logits": logits.detach().numpy(), "loss": loss.detach().numpy()}
    arrays |= {f"parameter/{key}": value.detach().numpy() for key, value in parameters.items()}
    arrays |= {f"gradient/{key}": g.numpy() for key, g in zip(parameters, gradients, strict=True)}
    kept = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function",
            "layer_norm_epsilon", "initializer_range", "resid_pdrop", "embd_pdrop", "attn_pdrop",
            "tie_word_embeddings", "bos_token_id", "eos_token_id", "model_type")  # fmt: skip
    write("gpt2", arrays, config=json.dumps({key: config.to_dict()[key] for key in kept}))


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    functional()
    multi_head_attention()
    blocks()
    gpt2()
