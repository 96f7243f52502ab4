"""Frozen parameters: by pattern, without gradients, without products, and the backward that stops above them."""

from dataclasses import replace

import numpy as np
import pytest

from numtx import functional as F
from numtx import models, nn
from numtx.models import tasks
from numtx.testing import SPECS, Drawer, battery
from numtx.testing.freezing import freezing
from numtx.testing.op import Op
from tests.small_families import FAMILIES


def trainable(module):
    return [name for name, _ in module.trainable_parameters()]


def frozen(module):
    return [name for name, _ in module.frozen_parameters()]


def encoder(num_layers=3, **settings):
    settings = {"d_model": 8, "nhead": 2, "dim_feedforward": 6, "num_layers": num_layers, **settings}
    return models.EncoderOnlyTransformer(vocab_size=7, num_classes=3, rng=0, dtype=np.float64, **settings)


BATCH = {"input_ids": np.array([[1, 2, 3], [4, 5, 6]]), "labels": np.array([2, 0])}


# --- which ----------------------------------------------------------------------------------------------------------


def test_patterns():
    model = nn.FeedForward(4, 8, rng=0)
    assert nn.freeze(model, "up.*", "*.bias") == ["up.weight", "up.bias", "down.bias"]
    assert trainable(model) == ["down.weight"]
    assert nn.unfreeze(model, "up.bias") == ["up.bias"]
    assert frozen(model) == ["up.weight", "down.bias"]
    assert [name for name, _ in model.named_parameters()] == ["up.weight", "up.bias", "down.weight", "down.bias"]
    assert model.is_frozen("up.weight")
    assert not model.is_frozen("up.bias")


def test_no_pattern_is_all_and_a_part_can_be_given():
    model = encoder()
    nn.freeze(model.stack.layers[1])
    assert all(name.startswith("stack.layers.1.") for name in frozen(model))
    assert not model.stack.layers[1].learns()
    assert model.stack.learns()
    nn.freeze(model)
    assert not model.learns()
    nn.unfreeze(model)
    assert not frozen(model)


def test_digits_and_ranges():
    model = encoder()
    nn.freeze(model, "stack.layers.[01].*")
    assert {name.split(".")[2] for name in frozen(model)} == {"0", "1"}


def test_one_module_does_not_freeze_another():
    first, second = nn.Linear(2, 3, rng=0), nn.Linear(2, 3, rng=0)
    nn.freeze(first)
    assert trainable(second) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("pattern", "near"), [("stack", r"stack\.\*"), ("body.*", "embedding"), ("head.out_prj.*", r"head\.out_proj\.\*")]
)
@pytest.mark.parametrize("function", [nn.freeze, nn.unfreeze])
def test_a_pattern_that_matches_nothing(function, pattern, near):
    model = encoder()
    nn.freeze(model, "head.*")
    before = frozen(model)
    with pytest.raises(ValueError, match=rf"^{function.__name__}: expected a pattern .* got '.*'; .*{near}") as error:
        function(model, "embedding.*", pattern)
    assert "\n" not in str(error.value)
    assert frozen(model) == before


def test_what_it_says_of_itself():
    model = nn.FeedForward(2, 3, rng=0)
    assert "frozen" not in model.summary()
    nn.freeze(model, "up.*")
    assert model.num_parameters(only_trainable=True) == 8
    assert model.num_parameters() == 17
    lines = model.summary().splitlines()
    assert [line.endswith("frozen") for line in lines[:4]] == [True, True, False, False]
    assert lines[-1].endswith("17  8 trainable")


def test_everything_but_gradients_goes_on():
    model = encoder()
    nn.freeze(model, "stack.*")
    state = model.state_dict()
    assert len(state) == len(list(model.named_parameters()))
    model.load_state_dict({name: array + 1 for name, array in state.items()})
    assert model.astype(np.float32).is_frozen("stack.norm.weight")


# --- gradients ------------------------------------------------------------------------------------------------------


def family(name, tied=True):
    cls, config = FAMILIES[name]
    layers = {"decoder_start_token_id": 0, "num_layers": 2} if name.startswith("t5") else {}
    model = cls(replace(config, tie_word_embeddings=tied, **layers), rng=0, dtype=np.float64)
    rng = np.random.default_rng(1)
    ids = rng.integers(3, 10, (2, 6))
    ids[:, -1] = 1  # an end token
    if issubclass(cls, tasks.QuestionAnswering):
        return model, {"input_ids": ids, "start_positions": np.array([1, 2]), "end_positions": np.array([3, 4])}
    if issubclass(cls, tasks.SequenceClassification):
        return model, {"input_ids": ids, "labels": np.array([0, 1])}
    if issubclass(cls, tasks.Seq2SeqLM):
        return model, {"input_ids": ids, "labels": rng.integers(3, 10, (2, 5))}
    classified = issubclass(cls, tasks.TokenClassification) and not issubclass(cls, tasks.MaskedLM | tasks.Seq2SeqLM)
    return model, {"input_ids": ids, "labels": ids % 2 if classified else ids}


def gradients(model, batch, **settings):
    loss, grads = model.loss_and_grads(batch, rng=np.random.default_rng(3), **settings)
    return loss, nn.flatten(grads)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_others_keep_their_gradients(name, tied):
    model, batch = family(name, tied)
    loss, free = gradients(model, batch)
    names, rng = [name for name, _ in model.named_parameters()], np.random.default_rng(0)
    largest = max(abs(gradient).max() for gradient in free.values())
    parts = sorted({one[:i] for one in names for i in range(len(one)) if one[i] == "."})
    trials = [{one for one in names if one.startswith(f"{part}.")} for part in parts]  # each part
    trials += [set(names) - trial for trial in trials]  # all but a part
    trials = [trials[i] for i in rng.permutation(len(trials))[:40]]
    trials += [set(names) - {names[i]} for i in rng.choice(len(names), 12)]
    trials += [{one for one in names if rng.random() < share} for share in (0.3, 0.7) for _ in range(3)]
    trials = [trial for trial in trials if trial]  # no pattern would be all
    for keep, trial in [("all", trial) for trial in trials] + [("inputs", trial) for trial in trials[:9]]:
        nn.unfreeze(model)
        nn.freeze(model, *trial)
        again, grads = gradients(model, batch, keep=keep)
        assert again == loss  # dropout drew the same
        assert set(grads) == set(names) - trial
        for one, gradient in grads.items():
            np.testing.assert_allclose(gradient, free[one], rtol=1e-11, atol=1e-13 * largest, err_msg=one)


@pytest.mark.parametrize("name", ["Linear", "Stack", "MultiHeadAttention", "BertModel"])
def test_the_battery_asks_for_it(name):
    spec = SPECS[name]
    case = spec.draw(Drawer(0))
    checks = {finding.check for finding in battery(spec, case)}
    assert {"frozen: the result", "frozen: no gradient", "frozen: the others' gradients"} <= checks


def entry_left(layer, dy, cache):
    dx, grads = right_linear(layer, dy, cache)
    return dx, {"weight": np.zeros_like(layer.weight)} | grads


def cut_with_the_parameters(layer, dy, cache):
    dx, grads = right_linear(layer, dy, cache)
    return (np.zeros_like(dx) if layer.frozen else dx), grads


def cut_too_early(stack, memory, bias, frozen):
    return min(len(stack.layers), right_lowest(stack, memory, bias, frozen) + bool(frozen))


right_linear, right_lowest = nn.Linear.backward, nn.Stack._lowest


@pytest.mark.parametrize(
    ("owner", "method", "wrong", "check"),
    [
        (nn.Linear, "backward", entry_left, "frozen: no gradient"),
        (nn.Linear, "backward", cut_with_the_parameters, "frozen: the others' gradients"),
        (nn.Stack, "_lowest", cut_too_early, "frozen: the others' gradients"),
    ],
)
def test_planted_mistakes_are_caught(monkeypatch, owner, method, wrong, check):
    spec = SPECS["BertModel"]
    monkeypatch.setattr(owner, method, wrong)
    failed = set()
    for seed in range(6):
        case = spec.draw(Drawer(seed))
        op = Op(spec.pair(), spec.gradient_names(case))
        failed |= {finding.check for finding in freezing(op, case, np.random.default_rng(seed)) if not finding.ok}
    assert failed == {check}


# --- what is not computed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "weight"), [(F.linear, (3, 4)), (F.layer_norm, (3,)), (F.rms_norm, (3,))], ids=lambda one: str(one)[:20]
)
@pytest.mark.parametrize("names", [("weight",), ("bias",), ("weight", "bias")])
def test_pairs_leave_out_what_is_frozen(pair, weight, names):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((2, 5, 3)), "weight": rng.standard_normal(weight)}
    if pair is not F.rms_norm:
        arrays["bias"] = rng.standard_normal(weight[-1:])
    back = getattr(F, f"{pair.__name__}_backward")
    y, cache = pair(**arrays)
    dy = rng.standard_normal(y.shape)
    free = dict(zip(arrays, back(dy, cache), strict=True))
    again, cache = pair(**arrays, frozen=names)
    np.testing.assert_array_equal(again, y)
    for name, gradient in zip(arrays, back(dy, cache), strict=True):
        assert gradient is None if name in names else np.array_equal(gradient, free[name])


def test_a_frozen_linear_keeps_no_input():
    x = np.ones((2, 3))
    assert not any(part is x for part in F.linear(x, np.ones((3, 4)), frozen=("weight",))[1])


@pytest.mark.parametrize("names", [("weight",), ("bias",), ("weight", "bias")])
@pytest.mark.parametrize("dy", [1.0, 0.5])
def test_linear_cross_entropy_leaves_out_what_is_frozen(names, dy):
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(shape) for shape in ((6, 3), (3, 9), (9,)))
    target = rng.integers(9, size=6)
    loss, cache = F.linear_cross_entropy(x, weight, target, bias)
    free = dict(zip(("x", "weight", "bias"), F.linear_cross_entropy_backward(dy, cache), strict=True))
    again, cache = F.linear_cross_entropy(x, weight, target, bias, frozen=names)
    assert again == loss
    for name, gradient in zip(free, F.linear_cross_entropy_backward(dy, cache), strict=True):
        assert gradient is None if name in names else np.array_equal(gradient, free[name])


def went_back(model, batch):
    with nn.trace(model) as t:
        model.loss_and_grads(batch, rng=np.random.default_rng(0))
    return {name: site for name, site in t.sites.items() if site.doutput is not None}


def test_a_frozen_body_is_not_gone_back_through():
    model, batch = family("bert")
    nn.freeze(model, "body.*")
    assert all(not name.startswith("body") for name in went_back(model, batch))
    _, cache = model.forward(batch["input_ids"], rng=np.random.default_rng(0))
    assert cache[0] == ()  # and leaves nothing


def test_it_stops_below_the_lowest_layer_that_learns():
    model = encoder()
    nn.freeze(model, "embedding.*", "stack.layers.[01].*")
    layers = {name.split("/")[0] for name in went_back(model, BATCH) if name.startswith(("stack.layers", "embedding"))}
    assert layers
    assert all(name.startswith("stack.layers.2") for name in layers)
    _, (_, (_, (_, kept, *_), _)) = model.forward(BATCH["input_ids"])
    assert [one is None for one in kept] == [True, True, False]
    nn.unfreeze(model, "embedding.*")  # below all layers: none is left out
    assert any(name.startswith("stack.layers.0") for name in went_back(model, BATCH))


def test_a_frozen_encoder_is_not_gone_back_through():
    model, batch = family("bart")
    nn.freeze(model, "body.embedding.*", "body.encoder*")
    assert all(not name.startswith("body.encoder") for name in went_back(model, batch))


def test_no_product_for_a_frozen_weight():
    model = encoder()
    nn.freeze(model, "stack.*weight")
    sites = went_back(model, BATCH)
    linear = [site for name, site in sites.items() if name.startswith("stack") and name.endswith("/linear")]
    norms = [site for name, site in sites.items() if name.startswith("stack") and name.endswith("/layer_norm")]
    assert len(linear) == 12
    assert len(norms) == 7
    for site in linear + norms:
        dx, dweight, dbias = site.dinputs
        assert dweight is None
        assert dx is not None
        assert dbias is not None


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_a_frozen_table_costs_the_head_no_product(monkeypatch, tied, large):
    if large:
        monkeypatch.setattr("numtx.models.causal_lm.LARGE_VOCABULARY", 2)
    model, batch = family("gpt2", tied)
    nn.freeze(model, "body.embedding.weight" if tied else "decoder")
    sites = went_back(model, batch)
    (site,) = [
        site for name, site in sites.items() if name.endswith("/linear_cross_entropy" if large else "head/linear")
    ]
    assert site.dinputs[1] is None
    assert site.dinputs[0] is not None


def test_dropout_goes_on_in_a_frozen_body():
    model, batch = family("bert")
    free, _ = gradients(model, batch)
    nn.freeze(model, "body.*")
    assert gradients(model, batch)[0] == free
    assert model.loss_and_grads(batch)[0] != free
