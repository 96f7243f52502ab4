"""The trace: every call by its place, what went in and came out, where a NaN was born, and nothing left behind."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import numtx
from numtx import functional as F
from numtx import nn
from numtx.models import GPT2Config, GPT2LMHeadModel

IDS = np.array([[1, 2, 3, 1], [4, 0, 5, 6]])
BATCH = {"input_ids": IDS, "labels": IDS}
PAIRS = [name for name in F.__all__ if f"{name}_backward" in F.__all__]


def model_of(layers=2, dropout=0.0, **settings):
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    config = GPT2Config(vocab_size=7, n_positions=8, n_embd=4, n_layer=layers, n_head=2, **rates, **settings)
    return GPT2LMHeadModel(config, rng=0)


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """After every test all pairs are the functions that they were."""
    before = {name: getattr(F, name) for name in F.__all__}
    yield
    assert {name: getattr(F, name) for name in F.__all__} == before


def assert_untouched(model):
    for path, module in model.named_modules():
        assert not {"forward", "backward", "loss_and_grads"} & set(vars(module)), path


SITES = [
    "body.embedding/embedding",
    "body.embedding",
    "body.positions/embedding",
    "body.positions",
    "body.embedding_dropout/dropout",
    "body.embedding_dropout",
    "body.stack.layers.0.attention.norm/layer_norm",
    "body.stack.layers.0.attention.norm",
    "body.stack.layers.0.attention.sublayer/linear",
    "body.stack.layers.0.attention.sublayer/scaled_dot_product_attention",
    "body.stack.layers.0.attention.sublayer.out_proj/linear",
    "body.stack.layers.0.attention.sublayer.out_proj",
    "body.stack.layers.0.attention.sublayer",
    "body.stack.layers.0.attention/dropout",
    "body.stack.layers.0.attention",
    "body.stack.layers.0.feed_forward.norm/layer_norm",
    "body.stack.layers.0.feed_forward.norm",
    "body.stack.layers.0.feed_forward.sublayer.up/linear",
    "body.stack.layers.0.feed_forward.sublayer.up",
    "body.stack.layers.0.feed_forward.sublayer/gelu_tanh",
    "body.stack.layers.0.feed_forward.sublayer/dropout",
    "body.stack.layers.0.feed_forward.sublayer.down/linear",
    "body.stack.layers.0.feed_forward.sublayer.down",
    "body.stack.layers.0.feed_forward.sublayer",
    "body.stack.layers.0.feed_forward/dropout",
    "body.stack.layers.0.feed_forward",
    "body.stack.layers.0",
    "body.stack.norm/layer_norm",
    "body.stack.norm",
    "body.stack",
    "body",
    "head/linear",
    "head",
    "GPT2LMHeadModel",
]
LOSS = "GPT2LMHeadModel/cross_entropy"  # what no component computes: `loss_and_grads` does, after the forward


def test_sites_are_named_by_their_path_in_the_order_in_which_they_ended():
    model = model_of(layers=1)
    with numtx.trace(model) as t:
        model.loss_and_grads(BATCH)
    assert list(t) == [*SITES, LOSS]
    assert len(t) == len(SITES) + 1
    assert [t[name].name for name in t] == [*SITES, LOSS]


def test_a_loss_that_overflows_from_finite_logits_has_a_place():
    model = model_of(layers=1, tie_word_embeddings=False)
    with nn.trace(model) as t:
        model.loss_and_grads(BATCH)
        F.cross_entropy(np.zeros((1, 2)), np.zeros(1, int))  # somebody else's: no site
        assert t.first_nonfinite() is None
    assert [name for name in t if "cross_entropy" in name] == [LOSS]
    assert t[LOSS].doutput is not None
    weight = np.zeros_like(model.decoder)  # (V, C)
    weight[:2, 0] = 1.9e38, -1.9e38  # two logits that float32 holds, and whose difference it does not
    model.set_parameter("decoder", weight)
    with nn.trace(model) as t, np.errstate(all="ignore"):
        loss, _ = model.loss_and_grads({"input_ids": IDS, "shift_labels": np.array([[0, 1, 0, 1], [0, 1, 1, 0]])})
        assert loss == np.inf
        assert np.isfinite(t["GPT2LMHeadModel"].output.logits).all()
        assert t.first_nonfinite() == (LOSS, "output")


def test_a_site_holds_what_went_in_and_came_out():
    model = model_of()
    with nn.trace(model) as t:
        outputs, cache = model.forward(IDS, rng=np.random.default_rng(0))
        dlogits = np.ones_like(outputs.logits)
        _, grads = model.backward({"logits": dlogits}, cache)
    top = t["GPT2LMHeadModel"]
    assert top.inputs[0] is IDS
    assert list(top.settings) == ["rng"]
    assert top.output is outputs
    assert top.doutput["logits"] is dlogits
    assert top.dinputs is None
    assert list(top.grads) == list(nn.flatten(grads))
    layer = t["body.stack.layers.0"]
    assert layer.inputs[0] is t["body.stack"].inputs[0]
    np.testing.assert_array_equal(layer.output, t["body.stack.layers.1"].inputs[0])
    np.testing.assert_array_equal(t["body.stack.layers.1"].dinputs[0], layer.doutput)
    np.testing.assert_array_equal(t["body.stack"].dinputs, layer.dinputs[0])
    norm = t["body.stack.norm/layer_norm"]
    assert norm.inputs[1] is model.body.stack.norm.weight
    assert [g.shape for g in norm.dinputs] == [layer.output.shape, (4,), (4,)]
    assert norm.grads == {}
    np.testing.assert_array_equal(t["body.stack.norm"].grads["weight"], norm.dinputs[1])


def test_every_site_has_its_gradients_or_none_without_backward():
    model = model_of()
    with nn.trace(model) as t:
        model.forward(IDS)
    assert all(t[name].doutput is None and t[name].dinputs is None for name in t)
    with nn.trace(model) as t:
        model.loss_and_grads(BATCH)
    assert all(t[name].doutput is not None for name in t)


def test_tracing_changes_no_bit():
    model = model_of(dropout=0.3)
    results = []
    for traced in (False, True):
        if traced:
            with nn.trace(model):
                results.append(model.loss_and_grads(BATCH, rng=np.random.default_rng(0)))
        else:
            results.append(model.loss_and_grads(BATCH, rng=np.random.default_rng(0)))
    (loss, grads), (traced_loss, traced_grads) = results
    assert loss == traced_loss
    for name, gradient in nn.flatten(grads).items():
        np.testing.assert_array_equal(nn.flatten(traced_grads)[name], gradient, err_msg=name)


def test_a_second_call_gets_a_number():
    layer = nn.Linear(2, 2, rng=0)
    with nn.trace(layer) as t:
        calls = [layer.forward(np.full((1, 2), k, np.float32)) for k in range(3)]
        for k in (1, 0, 2):
            layer.backward(np.full((1, 2), k, np.float32), calls[k][1])
    assert list(t) == [f"{name}{tail}" for tail in ("", "#1", "#2") for name in ("Linear/linear", "Linear")]
    for k, tail in enumerate(("", "#1", "#2")):
        for name in ("Linear", "Linear/linear"):
            assert t[name + tail].inputs[0][0, 0] == k
            assert t[name + tail].doutput[0, 0] == k


def test_what_is_computed_a_second_time_in_backward_has_the_gradients():
    model = model_of()
    with nn.trace(model) as t:
        model.loss_and_grads(BATCH, keep="inputs")
    for i in range(2):
        first, second = t[f"body.stack.layers.{i}"], t[f"body.stack.layers.{i}#1"]
        np.testing.assert_array_equal(first.output, second.output)
        assert first.doutput is None
        assert second.doutput is not None
        assert f"body.stack.layers.{i}.feed_forward.sublayer/gelu_tanh#1" in t.sites
    assert "stack#1" not in t.sites


def test_pairs_called_from_outside_the_model_are_not_sites():
    model = model_of(layers=1)
    with nn.trace(model) as t:
        y, cache = F.relu(np.array([-1.0, 1.0]))
        assert F.relu_backward(y, cache).tolist() == [0, 1]
        nn.Linear(2, 2, rng=0)(np.ones((1, 2), np.float32))
        assert list(t) == []
        model(IDS)
    assert list(t) == SITES


def test_a_cache_from_before_is_understood_inside():
    model = model_of()
    outputs, cache = model.forward(IDS)
    expected = nn.flatten(model.backward({"logits": outputs.logits}, cache)[1])
    with nn.trace(model) as t:
        got = nn.flatten(model.backward({"logits": outputs.logits}, cache)[1])
    assert list(t) == []
    for name, gradient in expected.items():
        np.testing.assert_array_equal(got[name], gradient, err_msg=name)


def test_attention_weights_can_be_read_inside():
    attention = nn.MultiHeadAttention(8, 2, causal=True, rng=0)
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
    _, weights = attention(x, need_weights=True)
    with nn.trace(attention):
        _, traced = attention(x, need_weights=True)
    np.testing.assert_array_equal(traced, weights)


def test_a_cache_of_nothing_still_means_nothing_inside():
    model = model_of()
    with nn.trace(model):
        outputs, cache = model.forward(IDS, keep=None)
        with pytest.raises(ValueError, match="GPT2LMHeadModel: backward after"):
            model.backward({"logits": outputs.logits}, cache)
        x = np.ones((1, 2, 4), np.float32)
        y, cache = model.body.stack.forward(x, kv_cache=[nn.KVCache(), nn.KVCache()])
        with pytest.raises(ValueError, match="Decoder: backward after"):
            model.body.stack.backward(y, cache)
        attention = model.body.stack.layers[0].attention.sublayer
        y, cache = attention.forward(x, kv_cache=nn.KVCache())
        with pytest.raises(ValueError, match="MultiHeadAttention: backward after"):
            attention.backward(y, cache)


class Slow(dict):
    """Gives way to other threads between looking a name up and taking it."""

    def __contains__(self, name):
        found = super().__contains__(name)
        time.sleep(1e-5)
        return found


def test_threads_each_at_its_own_place():
    model = model_of()
    names = [name for name in SITES if not name.startswith("body.stack.layers")]
    with nn.trace(model) as t, ThreadPoolExecutor(4) as pool:
        t.sites = Slow()

        def step(k):
            outputs, cache = model.forward(np.full((1, 4), k))
            model.backward({"logits": np.full_like(outputs.logits, k)}, cache)

        list(pool.map(step, range(7)))
    tails = ["", *(f"#{k}" for k in range(1, 7))]
    assert {name for name in t if name.split("#")[0] in names} == {name + tail for name in names for tail in tails}
    whole = [t["GPT2LMHeadModel" + tail] for tail in tails]
    assert sorted(site.inputs[0][0, 0] for site in whole) == list(range(7))
    for site in whole:
        assert (site.doutput["logits"] == site.inputs[0][0, 0]).all()
    for tail in tails:
        site = t["body.stack.layers.0.feed_forward.sublayer.up/linear" + tail]
        np.testing.assert_array_equal(site.output, site.inputs[0] @ site.inputs[1] + site.inputs[2])
        np.testing.assert_allclose(site.dinputs[0], site.doutput @ site.inputs[1].T, rtol=1e-5, atol=1e-6)


# Everything as it was ---------------------------------------------------------------------------------------------


def test_everything_is_restored():
    model = model_of()
    with nn.trace(model):
        assert "forward" in vars(model.body.stack)
    assert_untouched(model)


def test_everything_is_restored_after_an_error():
    model = model_of()
    with pytest.raises(KeyError), nn.trace(model):
        raise KeyError
    assert_untouched(model)
    with pytest.raises(ValueError, match="LearnedPositions"), nn.trace(model):
        model(IDS, position_ids=np.full(IDS.shape, 99))
    assert_untouched(model)


def test_an_error_in_a_call_leaves_the_places_right():
    model = model_of(layers=1)
    with nn.trace(model) as t:
        table = model.body.embedding.weight
        for wrong in (table[:1], table.astype(int)):
            model.body.embedding.weight = wrong
            with pytest.raises(ValueError, match="embedding"):
                model(IDS)
        model.body.embedding.weight = table
        assert F.relu(np.ones(1))[0] == 1  # not inside the model any more, so not a site
        assert list(t) == []
        model(IDS)
    assert list(t) == SITES


def test_a_second_trace_is_refused_and_does_not_spoil_the_first():
    model, other = model_of(layers=1), nn.Linear(2, 2, rng=0)
    with nn.trace(model) as t:
        for second in (model, other):
            with pytest.raises(ValueError, match=r"^trace: expected no other trace [^\n]*$"), nn.trace(second):
                pass
        model.loss_and_grads(BATCH)
    assert list(t) == [*SITES, LOSS]
    assert_untouched(model)
    with nn.trace(model) as again:
        model(IDS)
    assert list(again) == SITES


# Where a NaN was born ---------------------------------------------------------------------------------------------

PARAMETERS = [name for name, _ in model_of(tie_word_embeddings=False).named_parameters()]


def test_all_finite_is_none():
    model = model_of()
    with nn.trace(model) as t:
        model.loss_and_grads(BATCH)
    assert t.first_nonfinite() is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_bad_weight_is_found_in_the_component_that_owns_it(name, bad):
    model = model_of(tie_word_embeddings=False)
    model.get_parameter(name).flat[0] = bad  # of the embedding it is row 0, which the ids use
    with np.errstate(invalid="ignore"), nn.trace(model) as t:
        model.forward(IDS)
    assert t.first_nonfinite() == (name.rpartition(".")[0] or "GPT2LMHeadModel", "output")


def test_a_bad_input_is_found_where_it_enters():
    stack = model_of().body.stack
    x = np.ones((1, 2, 4), np.float32)
    x[0, 0, 0] = np.nan
    with np.errstate(invalid="ignore"), nn.trace(stack) as t:
        stack.forward(x)
    name, kind = t.first_nonfinite()
    assert name.startswith("layers.0.attention.norm")
    assert kind == "output"


FIRST_BACKWARD = {
    "linear": "head/linear",
    "layer_norm": "body.stack.norm/layer_norm",
    "dropout": "body.stack.layers.1.feed_forward/dropout",
    "gelu_tanh": "body.stack.layers.1.feed_forward.sublayer/gelu_tanh",
    "scaled_dot_product_attention": "body.stack.layers.1.attention.sublayer/scaled_dot_product_attention",
    "embedding": "body.positions/embedding",
}


def spoilt(backward, at=0):
    """A backward whose call number `at` gives a NaN."""
    calls = iter(range(1000))

    def wrong(dy, cache):
        gradients = backward(dy, cache)
        if next(calls) != at:
            return gradients
        first = gradients[0] if isinstance(gradients, tuple) else gradients
        first = np.where(np.arange(first.size).reshape(first.shape) == 0, np.nan, first).astype(first.dtype)
        return (first, *gradients[1:]) if isinstance(gradients, tuple) else first

    return wrong


@pytest.mark.parametrize(("pair", "site"), FIRST_BACKWARD.items())
def test_a_nan_of_a_backward_is_found_in_its_pair(pair, site, monkeypatch):
    model = model_of()
    with monkeypatch.context() as patch:
        patch.setattr(F, f"{pair}_backward", spoilt(getattr(F, f"{pair}_backward")))
        with nn.trace(model) as t:
            model.loss_and_grads(BATCH)
    assert t.first_nonfinite() == (site, "gradient")


def test_a_nan_of_a_later_call_is_found_there(monkeypatch):
    model = model_of(layers=3)
    with monkeypatch.context() as patch:
        patch.setattr(F, "gelu_tanh_backward", spoilt(F.gelu_tanh_backward, at=2))
        with nn.trace(model) as t:
            model.loss_and_grads(BATCH)
    assert t.first_nonfinite() == ("body.stack.layers.0.feed_forward.sublayer/gelu_tanh", "gradient")


def test_a_nan_of_a_forward_is_found_in_its_pair(monkeypatch):
    model = model_of()

    def wrong(x):
        y, cache = F.gelu(x)
        return y + np.float32(np.inf), cache

    with monkeypatch.context() as patch:
        patch.setattr(F, "gelu_tanh", wrong)
        with np.errstate(invalid="ignore"), nn.trace(model) as t:
            model.forward(IDS)
    assert t.first_nonfinite() == ("body.stack.layers.0.feed_forward.sublayer/gelu_tanh", "output")


def test_every_pair_is_wrapped():
    class Any(nn.Module):
        def forward(self, call):
            return call()

    x, two = np.ones((2, 2)), np.ones((1, 1, 2, 2))
    calls = {
        "linear": lambda: F.linear(x, x),
        "low_rank": lambda: F.low_rank(x, x, x),
        "embedding": lambda: F.embedding(np.array([1]), x),
        "layer_norm": lambda: F.layer_norm(x, x[0]),
        "rms_norm": lambda: F.rms_norm(x, x[0]),
        "dropout": lambda: F.dropout(x),
        "scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(two, two, two),
        "tiled_attention": lambda: F.tiled_attention(two, two, two),
        "cross_entropy": lambda: F.cross_entropy(x, np.array([0, 1])),
        "mse_loss": lambda: F.mse_loss(x, x),
        "binary_cross_entropy_with_logits": lambda: F.binary_cross_entropy_with_logits(x, x),
        "nll_loss": lambda: F.nll_loss(x, np.array([0, 1])),
        "linear_cross_entropy": lambda: F.linear_cross_entropy(x, x, np.array([0, 1])),
        "rotary": lambda: F.rotary(two, layout="half"),
        "pooling": lambda: F.pooling(two[0], how="mean"),
        **{pair: lambda pair=pair: getattr(F, pair)(x, x) for pair in ("glu", "geglu", "geglu_tanh", "swiglu")},
    }
    for pair in PAIRS:
        module = Any()
        with nn.trace(module) as t:
            module(calls.get(pair, lambda pair=pair: getattr(F, pair)(x)))
        assert list(t) == [f"Any/{pair}", "Any"]


def test_what_is_no_model_leaves_the_way_free():
    with pytest.raises((AttributeError, ValueError)), nn.trace("model"):
        pass
    model = model_of(layers=1)
    with nn.trace(model) as t:
        model(IDS)
    assert list(t) == SITES
