"""GPT-2's wiring: outputs, seeds, initial scales, gradients handed in and out, many calls at once, and bad inputs."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn
from numtx.models import CausalLMOutput, GPT2Config, GPT2LMHeadModel

VOCAB, CONTEXT = 11, 8
IDS = np.array([[1, 2, 3, 1], [4, 5, 6, 10]])


def config(**settings):
    sizes = {"vocab_size": VOCAB, "n_positions": CONTEXT, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return GPT2Config(**sizes | settings)


@pytest.fixture(scope="module")
def model(randomized):
    return randomized(GPT2LMHeadModel(config(), dtype=np.float64))


def test_logits_by_the_formula_of_the_paper(model):
    """The whole forward once more, from pairs alone."""
    p = model.state_dict()
    x = p["body.embedding.weight"][IDS] + p["body.positions.weight"][: IDS.shape[1]]
    for i in range(2):
        at = f"body.stack.layers.{i}."

        def norm(x, name, at=at):
            return F.layer_norm(x, p[f"{at}{name}.norm.weight"], p[f"{at}{name}.norm.bias"], 1e-5)[0]

        qkv = norm(x, "attention") @ p[at + "attention.sublayer.in_proj_weight"]
        qkv += p[at + "attention.sublayer.in_proj_bias"]
        heads = qkv.reshape(2, 4, 3, 2, 4).transpose(2, 0, 3, 1, 4)  # (3, B, H, T, D)
        mixed = F.scaled_dot_product_attention(*heads, mask=F.causal_mask(4))[0].transpose(0, 2, 1, 3).reshape(2, 4, 8)
        x = x + mixed @ p[at + "attention.sublayer.out_proj.weight"] + p[at + "attention.sublayer.out_proj.bias"]
        up = norm(x, "feed_forward") @ p[at + "feed_forward.sublayer.up.weight"]
        bent = F.gelu_tanh(up + p[at + "feed_forward.sublayer.up.bias"])[0]
        x = x + bent @ p[at + "feed_forward.sublayer.down.weight"] + p[at + "feed_forward.sublayer.down.bias"]
    x = F.layer_norm(x, p["body.stack.norm.weight"], p["body.stack.norm.bias"], 1e-5)[0]
    np.testing.assert_allclose(model(IDS).logits, x @ p["body.embedding.weight"].T, rtol=1e-10, atol=1e-12)


def test_a_call_is_forward_without_its_cache(model):
    outputs = model(IDS)
    assert isinstance(outputs, CausalLMOutput)
    assert outputs.logits.shape == (2, 4, VOCAB)
    np.testing.assert_array_equal(outputs.logits, model.forward(IDS)[0].logits)
    np.testing.assert_array_equal(model(IDS.tolist()).logits, outputs.logits)
    with pytest.raises(AttributeError):
        outputs.logits = None


def test_positions_by_default_and_given(model):
    expected = model(IDS).logits
    for positions in (np.arange(4), np.tile(np.arange(4), (2, 1))):
        np.testing.assert_array_equal(model(IDS, None, positions).logits, expected)
    assert (model(IDS, None, np.arange(1, 5)).logits != expected).any()


def test_a_seed_gives_the_weights():
    single, double = GPT2LMHeadModel(config(), rng=3), GPT2LMHeadModel(config(), rng=3, dtype=np.float64)
    generated = GPT2LMHeadModel(config(), rng=np.random.default_rng(3))
    other = GPT2LMHeadModel(config(), rng=4)
    assert {array.dtype for _, array in single.named_parameters()} == {np.dtype(np.float32)}
    assert {array.dtype for _, array in double.named_parameters()} == {np.dtype(np.float64)}
    for name, array in single.named_parameters():
        np.testing.assert_array_equal(array, double.get_parameter(name).astype(np.float32), err_msg=name)
        np.testing.assert_array_equal(array, generated.get_parameter(name), err_msg=name)
        if array.ndim == 2:
            assert (array != other.get_parameter(name)).all(), name


def test_initial_scales():
    model = GPT2LMHeadModel(GPT2Config(500, 300, 64, n_layer=8, n_head=2, tie_word_embeddings=False), rng=0)
    for name, array in model.named_parameters():
        if array.ndim == 1:
            assert (array == (1 if name.endswith("norm.weight") else 0)).all(), name
        else:
            expected = 0.02 / 4 if name.endswith(("out_proj.weight", "down.weight")) else 0.02
            assert abs(array.std() / expected - 1) < 0.05, name


# Gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_mirror_the_parameters(tied, randomized):
    model = randomized(GPT2LMHeadModel(config(tie_word_embeddings=tied)))
    _, grads = model.loss_and_grads({"input_ids": IDS, "labels": IDS})
    flat, parameters = nn.flatten(grads), model.state_dict()
    assert list(flat) == list(parameters)
    for name, gradient in flat.items():
        assert gradient.shape == parameters[name].shape, name
        assert gradient.dtype == np.float32, name
        assert gradient.any(), name


def test_backward_gives_none_for_the_ids_and_is_linear(model):
    outputs, cache = model.forward(IDS)
    one, two = np.random.default_rng(0).normal(size=(2, *outputs.logits.shape))
    results = []
    for dlogits in (one, two, one - 3 * two):
        dinputs, grads = model.backward({"logits": dlogits}, cache)
        assert dinputs is None
        results.append(nn.flatten(grads))
    largest = max(np.linalg.norm(gradient) for gradient in results[2].values())
    for name, gradient in results[2].items():
        expected = results[0][name] - 3 * results[1][name]
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12 * largest, err_msg=name)


def test_a_field_without_gradient_means_zero(model):
    _, cache = model.forward(IDS)
    assert not any(gradient.any() for gradient in nn.flatten(model.backward({}, cache)[1]).values())


def test_backward_after_a_call_that_kept_nothing_is_refused(model):
    outputs, cache = model.forward(IDS, keep=None)
    assert cache is None
    with pytest.raises(ValueError, match=r"^GPT2LMHeadModel: backward after a forward with keep=None[^\n]*$"):
        model.backward({"logits": outputs.logits}, cache)
    with pytest.raises(ValueError, match=r"^GPT2LMHeadModel: backward after a forward with keep=None[^\n]*$"):
        model.loss_and_grads({"input_ids": IDS, "labels": IDS}, keep=None)


GRADIENTS = {
    "another field": {"logit": np.ones((2, 4, VOCAB))},
    "another shape": {"logits": np.ones((2, 4, 1))},
    "another dtype": {"logits": np.ones((2, 4, VOCAB), np.float32)},
    "no dict": np.ones((2, 4, VOCAB)),
    "nothing": None,
    "a number": {"logits": 1.0},
}


@pytest.mark.parametrize("doutputs", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_that_do_not_fit_are_refused(model, doutputs):
    _, cache = model.forward(IDS)
    with pytest.raises(ValueError, match=r"^GPT2LMHeadModel: expected [^\n]*got [^\n]*$"):
        model.backward(doutputs, cache)


# Many calls at once -----------------------------------------------------------------------------------------------


def result_of(model, ids, seed, keep="all"):
    loss, grads = model.loss_and_grads({"input_ids": ids, "labels": ids}, rng=np.random.default_rng(seed), keep=keep)
    return {"loss": loss, **nn.flatten(grads)}


def assert_same_bits(got, expected):
    assert list(got) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_two_forwards_then_two_backwards(model):
    calls = [(IDS, 1), (IDS[:1, :3], 2)]
    alone, forwards = [], []
    for ids, seed in calls:
        outputs, cache = model.forward(ids, rng=np.random.default_rng(seed))
        alone.append(nn.flatten(model.backward({"logits": outputs.logits}, cache)[1]))
    forwards = [model.forward(ids, rng=np.random.default_rng(seed)) for ids, seed in calls]
    for (outputs, cache), expected in zip(forwards, alone, strict=True):
        assert_same_bits(nn.flatten(model.backward({"logits": outputs.logits}, cache)[1]), expected)


def test_threads_give_the_bits_of_one_after_another(randomized):
    model = randomized(GPT2LMHeadModel(config()))
    batches = [np.random.default_rng(k).integers(0, VOCAB, (1 + k % 3, 2 + k % 6)) for k in range(24)]

    def step(k):
        return result_of(model, batches[k], seed=k, keep=("all", "inputs")[k % 2])

    sequential = [step(k) for k in range(len(batches))]
    ready = threading.Barrier(4)
    with ThreadPoolExecutor(4, initializer=ready.wait) as pool:
        for got, expected in zip(pool.map(step, range(len(batches))), sequential, strict=True):
            assert_same_bits(got, expected)


def test_nothing_is_left_on_the_model(model):
    before = {id(module): dict(vars(module)) for _, module in model.named_modules()}
    model.loss_and_grads({"input_ids": IDS, "labels": IDS}, rng=np.random.default_rng(0))
    model.generate(IDS, max_new_tokens=2)
    for _, module in model.named_modules():
        assert vars(module).keys() == before[id(module)].keys()
        assert all(value is before[id(module)][name] for name, value in vars(module).items())


# Bad inputs -------------------------------------------------------------------------------------------------------

INPUTS = {
    "one axis": ({"input_ids": IDS[0]}, r"GPT2Model: expected input_ids \(B, T\).*got \(4,\).*"),
    "three axes": ({"input_ids": IDS[None]}, r"GPT2Model: expected input_ids \(B, T\).*got \(1, 2, 4\)"),
    "no rows": ({"input_ids": IDS[:0]}, r"GPT2Model: expected .*not empty, got \(0, 4\)"),
    "no tokens": ({"input_ids": IDS[:, :0]}, r"GPT2Model: expected .*not empty, got \(2, 0\)"),
    "too long": ({"input_ids": np.zeros((1, 9), int)}, r"GPT2Model: .*n_positions = 8 .*got 9.*"),
    "ids over": ({"input_ids": IDS + 1}, r"GPT2Model: expected input_ids in \[0, 11\), got 11 .*tokenizer\?\)"),
    "ids under": ({"input_ids": IDS - 2}, r"GPT2Model: expected input_ids in \[0, 11\), got -1"),
    "float ids": ({"input_ids": IDS * 1.0}, r"GPT2Model: expected integer input_ids, got float64"),
    "truths": ({"input_ids": IDS > 1}, r"GPT2Model: expected integer input_ids, got bool"),
    "mask too short": (
        {"input_ids": IDS, "attention_mask": np.ones((2, 3), int)},
        r"GPT2Model: expected attention_mask \(B, T\) = \(2, 4\).*got .*\(2, 3\)",
    ),
    "mask of one row": (
        {"input_ids": IDS, "attention_mask": np.ones((1, 4), int)},
        r"GPT2Model: expected attention_mask .*\(2, 4\).*got .*\(1, 4\)",
    ),
    "mask of one column": (
        {"input_ids": IDS, "attention_mask": np.ones((2, 1), int)},
        r"GPT2Model: expected attention_mask .*\(2, 4\).*got .*\(2, 1\)",
    ),
    "mask of four axes": (
        {"input_ids": IDS, "attention_mask": np.ones((2, 1, 1, 4), bool)},
        r"GPT2Model: expected attention_mask .*\(2, 4\).*got .*\(2, 1, 1, 4\)",
    ),
    "mask of other numbers": (
        {"input_ids": IDS, "attention_mask": np.full((2, 4), 2)},
        r"\w+: expected only 0 and 1 in the attention mask",
    ),
    "mask to be added": (
        {"input_ids": IDS, "attention_mask": np.zeros((2, 4))},
        r"\w+: expected .*attention.mask.*got float64.*",
    ),
    "float positions": (
        {"input_ids": IDS, "position_ids": np.zeros((2, 4))},
        r"LearnedPositions: expected integer positions .*got float64 \(2, 4\)",
    ),
    "positions of one row": (
        {"input_ids": IDS, "position_ids": np.zeros((1, 4), int)},
        r"LearnedPositions: expected .*got int64 \(1, 4\)",
    ),
    "positions over": (
        {"input_ids": IDS, "position_ids": np.array([0, 1, 2, 8])},
        r"LearnedPositions: expected positions .*got 8",
    ),
    "positions under": (
        {"input_ids": IDS, "position_ids": np.array([-1, 0, 1, 2])},
        r"LearnedPositions: expected positions .*got -1",
    ),
    "unknown keep": ({"input_ids": IDS, "keep": "some"}, r"Decoder: expected keep .*got 'some'"),
}


@pytest.mark.parametrize(("inputs", "message"), INPUTS.values(), ids=INPUTS)
def test_inputs_that_do_not_fit_are_refused_in_one_line(model, inputs, message):
    with pytest.raises(ValueError, match=rf"^{message}$"):
        model.forward(**inputs)


BATCHES = {
    "an unknown entry": {"input_ids": IDS, "label": IDS},
    "no ids": {"labels": IDS},
    "nothing": {},
    "no labels": {"input_ids": IDS},
    "both labels": {"input_ids": IDS, "labels": IDS, "shift_labels": IDS},
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_a_batch_says_what_it_lacks(model, batch):
    for call in (model.loss, model.loss_and_grads, model.count_labels):
        with pytest.raises(ValueError, match=r"^GPT2LMHeadModel: expected a batch of input_ids, [^\n]*$"):
            call(batch)


LABELS = {
    "floats": (IDS + 0.5, "expected integer (shift_)?labels, got float64"),
    "too short": (IDS[:, :3], r"expected (shift_)?labels \(2, 4\), got \(2, 3\)"),
    "over": (IDS + 1, r"expected (shift_)?labels in \[0, 11\), got 11"),
    "under": (np.full((2, 4), -1), r"expected (shift_)?labels in \[0, 11\), got -1"),
}


@pytest.mark.parametrize("name", ["labels", "shift_labels"])
@pytest.mark.parametrize(("labels", "message"), LABELS.values(), ids=LABELS)
def test_labels_are_refused_by_the_model_before_it_computes(model, name, labels, message, monkeypatch):
    monkeypatch.delattr(type(model.body), "forward")
    for call in (model.loss, model.loss_and_grads, model.count_labels):
        with pytest.raises(ValueError, match=rf"^GPT2LMHeadModel: {message}$"):
            call({"input_ids": IDS, name: labels})


def test_labels_are_counted_where_they_are_asked_for(model):
    labels = IDS.copy()
    labels[0, 2] = labels[1, 1] = -100
    for name, asked in (("labels", labels[:, 1:]), ("shift_labels", labels)):
        assert model.count_labels({"input_ids": IDS, name: labels}) == np.count_nonzero(asked != -100)
    assert model.config.context == model.config.n_positions == 8


@pytest.mark.parametrize("heads", [3, 16])
def test_heads_must_divide(heads):
    with pytest.raises(ValueError, match=rf"^GPT2Config: expected heads that divide the width 8, got {heads}$"):
        config(n_head=heads)
