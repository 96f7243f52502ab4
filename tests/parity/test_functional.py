"""Every pair beside PyTorch's own: values and the gradient of every differentiable input, in float64 and float32."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from numtx import functional as F

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
TF = torch.nn.functional

SCALES = (0.02, 0.5, 1.0, 4.0)
SEEDS = range(4)

# The differentiable arguments in forward's order: backward gives one gradient for each.
SIGNATURES = {
    "linear": ("x", "weight", "bias"),
    "low_rank": ("x", "a", "b"),
    "embedding": ("weight",),
    "layer_norm": ("x", "weight", "bias"),
    "rms_norm": ("x", "weight"),
    "scaled_dot_product_attention": ("query", "key", "value", "bias"),
    "pooling": ("x",),
    "cross_entropy": ("logits",),
    "linear_cross_entropy": ("x", "weight", "bias"),
    "mse_loss": ("input",),
    "binary_cross_entropy_with_logits": ("input",),
}


class Case(NamedTuple):
    """One call: the differentiable inputs in forward's order, the rest of the arguments, and PyTorch's version."""

    op: str
    inputs: dict[str, np.ndarray]
    oracle: Callable[..., Any]  # takes the inputs as tensors by name
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)


CASES: dict[str, Callable[[np.random.Generator, float], Case]] = {}


def case(*variants: Any):
    """Register a maker of cases, once a variant: `make(rng, scale)` or `make(rng, scale, variant)`."""

    def register(make):
        if not variants:
            CASES[make.__name__] = make
        for variant in variants:
            label = variant if isinstance(variant, str) else "-".join(map(str, variant))
            CASES[f"{make.__name__}[{label}]"] = lambda rng, scale, v=variant: make(rng, scale, v)
        return make

    return register


def normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0, mean: float = 0.0) -> np.ndarray:
    """Normal numbers that float32 holds exactly, so that both precisions start from the same point."""
    return (mean + scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(0.2, 3.0, shape).astype(np.float32).astype(np.float64)


def sizes(rng: np.random.Generator, count: int, low: int = 1, high: int = 7) -> list[int]:
    return [int(n) for n in rng.integers(low, high, count, endpoint=True)]


def leading(rng: np.random.Generator) -> tuple[int, ...]:
    """Zero to three batch axes."""
    return tuple(sizes(rng, int(rng.integers(0, 4)), 1, 5))


def tensor(array: np.ndarray | None):
    """A tensor of the default dtype where it is a floating one: the oracles run in float64 and float32."""
    if array is None:
        return None
    return torch.tensor(np.array(array), dtype=torch.get_default_dtype() if array.dtype.kind == "f" else None)


# --- the cases -------------------------------------------------------------------------------------------------------


@case("bias", "no-bias")
def linear(rng, scale, variant):
    width, out = sizes(rng, 2)
    inputs = {"x": normal(rng, (*leading(rng), width), scale), "weight": normal(rng, (width, out), scale)}
    if variant == "bias":
        inputs["bias"] = normal(rng, (out,), scale)
    return Case("linear", inputs, lambda x, weight, bias=None: TF.linear(x, weight.T, bias))


@case()
def embedding(rng, scale):
    vocabulary, width = sizes(rng, 2, 2)
    ids = rng.integers(0, vocabulary, (*leading(rng), 9))  # nine of at most seven: some repeat, and must accumulate
    return Case(
        "embedding",
        {"weight": normal(rng, (vocabulary, width), scale)},
        lambda weight: weight[tensor(ids)],
        {"ids": ids},
    )


# Lambdas give the argument our name; PyTorch calls it `input`.
ACTIVATIONS = {
    "relu": lambda x: TF.relu(x),
    "gelu": lambda x: TF.gelu(x),
    "gelu_tanh": lambda x: TF.gelu(x, approximate="tanh"),
    "silu": lambda x: TF.silu(x),
    "tanh": lambda x: torch.tanh(x),
    "sigmoid": lambda x: torch.sigmoid(x),
}


@case(*ACTIVATIONS)
def activation(rng, scale, variant):
    return Case(variant, {"x": normal(rng, (*leading(rng), 11), scale)}, ACTIVATIONS[variant])


@case(*((op, axis) for op in ("softmax", "log_softmax") for axis in (-1, 0, 1)))
def normalised(rng, scale, variant):
    op, axis = variant
    shape = tuple(sizes(rng, 3, 4, 8))
    theirs = getattr(torch, op)
    return Case(op, {"x": normal(rng, shape, scale)}, lambda x: theirs(x, axis), {"axis": axis})


@case(*((bias, eps) for bias in ("bias", "no-bias") for eps in (1e-12, 1e-5, 0.1)))
def layer_norm(rng, scale, variant):
    bias, eps = variant
    (width,) = sizes(rng, 1, 4, 12)
    x = normal(rng, (*leading(rng), width), scale, mean=scale)
    inputs = {"x": x, "weight": normal(rng, (width,), 1.0, mean=0.5)}
    if bias == "bias":
        inputs["bias"] = normal(rng, (width,), scale)
    return Case(
        "layer_norm",
        inputs,
        lambda x, weight, bias=None: TF.layer_norm(x, (width,), weight, bias, eps),
        {"eps": eps},
    )


@case((1e-12,), (1e-6,), (0.1,))
def rms_norm(rng, scale, variant):
    (eps,) = variant
    (width,) = sizes(rng, 1, 4, 12)
    inputs = {"x": normal(rng, (*leading(rng), width), scale), "weight": normal(rng, (width,), 1.0, mean=0.5)}
    return Case("rms_norm", inputs, lambda x, weight: TF.rms_norm(x, (width,), weight, eps), {"eps": eps})


REDUCTIONS = ("none", "sum", "mean")
CROSS_ENTROPY = {
    "plain": {},
    "weight": {"weight": True},
    "ignore-default": {"ignored": -100},
    "ignore-class": {"ignored": 2},
    "ignore-other": {"ignored": -7},
    "smoothing": {"label_smoothing": 0.1},
    "smoothing-one": {"label_smoothing": 1.0},
    "smoothing-weight": {"label_smoothing": 0.3, "weight": True},
    "smoothing-ignore": {"label_smoothing": 0.3, "ignored": -100},
    "everything": {"label_smoothing": 0.2, "ignored": 1, "weight": True},
}


@case(*((name, reduction) for name in CROSS_ENTROPY for reduction in REDUCTIONS))
def cross_entropy(rng, scale, variant):
    name, reduction = variant
    settings = CROSS_ENTROPY[name]
    (classes,) = sizes(rng, 1, 4, 9)
    shape = (*leading(rng), 6)
    target = rng.integers(0, classes, shape)
    options: dict[str, Any] = {"reduction": reduction}
    if "ignored" in settings:
        options["ignore_index"] = settings["ignored"]
        target[rng.random(shape) < 0.4] = settings["ignored"]
        target.flat[0] = 3  # one real label at least: PyTorch's mean over none is NaN
    if "label_smoothing" in settings:
        options["label_smoothing"] = settings["label_smoothing"]
    weight = positive(rng, (classes,)) if "weight" in settings else None

    def oracle(logits):
        loss = TF.cross_entropy(logits.reshape(-1, classes), tensor(target.ravel()), tensor(weight), **options)
        return loss.reshape(shape) if reduction == "none" else loss

    return Case(
        "cross_entropy", {"logits": normal(rng, (*shape, classes), scale)}, oracle,
        {"target": target, "weight": weight, **options},
    )  # fmt: skip


@case(*((how, padded) for how in ("first", "last", "mean") for padded in ("whole", "padded")))
def pooling(rng, scale, variant):
    """PyTorch has no op of this name: a gather at the token's place, or a sum over the real ones by their number."""
    how, padded = variant
    batch, length, width = sizes(rng, 3, 2)
    real = np.ones((batch, length), bool) if padded == "whole" else rng.random((batch, length)) < 0.6
    real[:, rng.integers(length)] = True
    place = real.argmax(axis=1) if how == "first" else length - 1 - real[:, ::-1].argmax(axis=1)

    def oracle(x):
        if how == "mean":
            weights = tensor(real.astype(np.float64)).to(x.dtype)[:, :, None]
            return (x * weights).sum(1) / weights.sum(1)
        return torch.gather(x, 1, tensor(place)[:, None, None].expand(-1, 1, width))[:, 0]

    mask = None if padded == "whole" else real[:, None, None, :]
    return Case("pooling", {"x": normal(rng, (batch, length, width), scale)}, oracle, {"how": how, "mask": mask})


@case(*((name, r) for name in ("plain", "bias", "smoothing", "everything") for r in ("sum", "mean")))
def linear_cross_entropy(rng, scale, variant):
    name, reduction = variant
    width, classes = sizes(rng, 2, 3, 9)
    shape = (*leading(rng), 6)
    target = rng.integers(0, classes, shape)
    options: dict[str, Any] = {"reduction": reduction}
    if name in ("smoothing", "everything"):
        options["label_smoothing"] = 0.2
    if name == "everything":
        target[rng.random(shape) < 0.4] = -100
        target.flat[0] = 2
    inputs = {"x": normal(rng, (*shape, width), scale), "weight": normal(rng, (width, classes), scale)}
    if name in ("bias", "everything"):
        inputs["bias"] = normal(rng, (classes,), scale)

    def oracle(x, weight, bias=None):
        logits = TF.linear(x, weight.T, bias).reshape(-1, classes)
        return TF.cross_entropy(logits, tensor(target.ravel()), **options)

    return Case("linear_cross_entropy", inputs, oracle, {"target": target, **options})


@case()
def low_rank(rng, scale):
    width, rank, out = sizes(rng, 3)
    inputs = {"x": normal(rng, (*leading(rng), width), scale), "a": normal(rng, (width, rank), scale)}
    factor = float(rng.choice([0.25, 1.0, 3.0]))
    return Case(
        "low_rank", inputs | {"b": normal(rng, (rank, out), scale)},
        lambda x, a, b: factor * TF.linear(TF.linear(x, a.T), b.T), {"scale": factor},
    )  # fmt: skip


@case(*((reduction,) for reduction in REDUCTIONS))
def mse_loss(rng, scale, variant):
    (reduction,) = variant
    shape = (*leading(rng), 5)
    target = normal(rng, shape, scale)
    return Case(
        "mse_loss", {"input": normal(rng, shape, scale)},
        lambda input: TF.mse_loss(input, tensor(target), reduction=reduction),
        {"target": target, "reduction": reduction},
    )  # fmt: skip


@case(*((name, r) for name in ("plain", "soft", "weight", "pos_weight", "both") for r in REDUCTIONS))
def binary_cross_entropy(rng, scale, variant):
    name, reduction = variant
    shape = (*leading(rng), 4, 6)
    target = (rng.random(shape) < 0.5).astype(np.float64)
    if name in ("soft", "both"):
        target = rng.random(shape, dtype=np.float32).astype(np.float64)
    weight = positive(rng, shape) if name in ("weight", "both") else None
    pos_weight = positive(rng, (6,)) if name in ("pos_weight", "both") else None
    return Case(
        "binary_cross_entropy_with_logits", {"input": normal(rng, shape, scale)},
        lambda input: TF.binary_cross_entropy_with_logits(
            input, tensor(target), tensor(weight), reduction=reduction, pos_weight=tensor(pos_weight)
        ),
        {"target": target, "weight": weight, "pos_weight": pos_weight, "reduction": reduction},
    )  # fmt: skip


# --- the comparison --------------------------------------------------------------------------------------------------


def run_numtx(case: Case, dy: np.ndarray, dtype: type, order: Any = "C") -> tuple[dict, dict]:
    """`(values, gradients)` of our pair, all floating arrays in `dtype`, in memory order "C" or "F"."""
    inputs = {name: array.astype(dtype, order=order) for name, array in case.inputs.items()}
    options = {
        name: value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        for name, value in case.options.items()
    }
    y, cache = getattr(F, case.op)(**inputs, **options)
    gradients = getattr(F, f"{case.op}_backward")(dy.astype(dtype, order=order), cache)
    signature = SIGNATURES.get(case.op, ("x",))
    if len(signature) == 1:
        gradients = (gradients,)
    assert len(gradients) == len(signature)
    by_name = dict(zip(signature, gradients, strict=True))
    assert all((by_name[name] is None) == (name not in inputs) for name in signature), "None for what was not given"
    return {"y": y}, {name: by_name[name] for name in inputs}


def incoming(case: Case, rng: np.random.Generator) -> np.ndarray:
    """A random gradient of the result's shape: one of ones hides what sums to zero."""
    shape = case.oracle(**{name: tensor(array) for name, array in case.inputs.items()}).shape
    return normal(rng, tuple(shape))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", CASES)
def test_float64_equals_torch(name, scale, agree, differentiate):
    for seed in SEEDS:
        rng = np.random.default_rng([seed, *name.encode()])
        drawn = CASES[name](rng, scale)
        dy = incoming(drawn, rng)
        theirs = differentiate(drawn.oracle, drawn.inputs, dy)
        order = "CF"[seed % 2]  # a transposed view is as good an input as any
        agree(f"{name}, scale {scale}, seed {seed}", run_numtx(drawn, dy, np.float64, order), theirs)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", CASES)
def test_float32_is_within_rounding_noise(name, scale, within_noise):
    rng = np.random.default_rng([99, *name.encode()])
    drawn = CASES[name](rng, scale)
    dy = incoming(drawn, rng)
    within_noise(f"{name}, scale {scale}", run_numtx(drawn, dy, np.float32), drawn.oracle, drawn.inputs, dy)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_with_nothing_to_predict_is_zero(reduction):
    # PyTorch's mean is 0/0 here; its sum and none are the zeros that numtx gives in all three.
    rng = np.random.default_rng(5)
    logits, target = normal(rng, (2, 3, 5)), np.full((2, 3), -100)
    for options in ({}, {"label_smoothing": 0.1}, {"weight": positive(rng, (5,))}):
        loss, cache = F.cross_entropy(logits, target, reduction=reduction, **options)
        dlogits = F.cross_entropy_backward(np.ones_like(loss), cache)
        assert np.shape(loss) == ((2, 3) if reduction == "none" else ())
        assert np.all(np.asarray(loss) == 0)
        assert dlogits.shape == logits.shape
        assert np.all(dlogits == 0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_dropout_with_the_same_mask(p, dtype):
    rng = np.random.default_rng(3)
    x, dy = normal(rng, (4, 5, 6)).astype(dtype), normal(rng, (4, 5, 6)).astype(dtype)
    ones, _ = F.dropout(np.ones_like(x), p=p, rng=np.random.default_rng(11))
    y, cache = F.dropout(x, p=p, rng=np.random.default_rng(11))
    dx = F.dropout_backward(dy, cache)
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    # PyTorch's dropout is this product with a mask of its own generator.
    theirs = leaf * torch.from_numpy(ones != 0) / (1 - p)
    theirs.backward(torch.from_numpy(dy))
    assert 0 < np.mean(ones != 0) < 1
    assert y.dtype == dx.dtype == dtype
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=tolerance)
    np.testing.assert_allclose(dx, leaf.grad.numpy(), rtol=tolerance)


def test_dropout_without_a_generator_is_the_identity():
    x = normal(np.random.default_rng(0), (3, 4))
    y, cache = F.dropout(x, p=0.5)
    np.testing.assert_array_equal(y, TF.dropout(tensor(x), 0.5, training=False).numpy())
    np.testing.assert_array_equal(F.dropout_backward(x, cache), x)


def test_positions_equal_those_of_transformers():
    pytest.importorskip("transformers", reason="parity tests need Transformers: pip install 'numtx[parity]'")
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
    from transformers.models.xlm.modeling_xlm import create_sinusoidal_embeddings

    length, width = 40, 10
    # Transformers 4 only fills the table it is given, 5 returns it too.
    interleaved, marian = torch.empty(length, width), MarianSinusoidalPositionalEmbedding(length, width)
    create_sinusoidal_embeddings(length, width, out=interleaved)
    half = marian.create_weight() if hasattr(marian, "create_weight") else marian._init_weight()
    interleaved, half = interleaved.numpy(), (marian.weight.detach() if half is None else half).numpy()
    for layout, theirs in (("interleaved", interleaved), ("half", half)):
        # Both round to float32 on the way, so that is how near one can be.
        ours = F.sinusoidal_positions(length, width, layout=layout, dtype=np.float64)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=6e-8)
        later = F.sinusoidal_positions(5, width, layout=layout, offset=12)
        np.testing.assert_allclose(later, theirs[12:17], rtol=0, atol=6e-8)
    # Marian's position 1 at width 8, in numbers.
    row = F.sinusoidal_positions(2, 8, layout="half")[1]
    np.testing.assert_allclose(row, [0.8415, 0.0998, 0.01, 0.001, 0.5403, 0.995, 1, 1], atol=6e-5)


def test_masks_equal_torchs():
    for tq, tk in ((4, 4), (2, 5), (5, 2), (1, 3)):
        ours = F.causal_mask(tq, tk)
        assert ours.shape == (1, 1, tq, tk)
        np.testing.assert_array_equal(ours[0, 0], torch.ones(tq, tk, dtype=torch.bool).tril(tk - tq).numpy())
    # nn.Transformer's masks say the opposite: -inf or True where one may not attend.
    blocked = torch.nn.Transformer.generate_square_subsequent_mask(6).numpy()
    np.testing.assert_array_equal(F.causal_mask(6)[0, 0], blocked == 0)
