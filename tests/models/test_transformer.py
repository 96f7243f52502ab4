"""The transformer on embeddings: masks in their forms, what is refused, and what recomputation changes."""

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn
from numtx.models import Transformer

OPTIONS = {
    "d_model": 6,
    "nhead": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "dim_feedforward": 8,
}


@pytest.fixture
def model(randomized):
    return randomized(Transformer(**OPTIONS, dropout=0.0, rng=0, dtype=np.float64))


@pytest.fixture
def inputs():
    rng = np.random.default_rng(1)
    return rng.standard_normal((2, 5, 6)), rng.standard_normal((2, 4, 6))


def gradients(model, inputs, **settings):
    y, cache = model.forward(*inputs, **settings)
    dinputs, grads = model.backward(np.cos(np.arange(y.size)).reshape(y.shape), cache)
    return y, [*dinputs, *nn.flatten(grads).values()]


def test_parts_and_names(model):
    assert list(model.children()) == ["encoder", "decoder"]
    names = [name for name, _ in model.named_parameters()]
    _, cache = model.forward(np.ones((1, 2, 6)), np.ones((1, 3, 6)))
    assert list(nn.flatten(model.backward(np.ones((1, 3, 6)), cache)[1])) == names


def test_two_axes_and_four_say_the_same(model, inputs):
    rng = np.random.default_rng(2)
    masks = {"src_mask": rng.random((5, 5)) < 0.6, "tgt_mask": rng.random((4, 4)) < 0.6}
    masks["memory_mask"] = rng.random((4, 5)) < 0.6
    two, four = (
        gradients(model, inputs, **{name: mask[index] for name, mask in masks.items()}) for index in (..., (None, None))
    )
    np.testing.assert_array_equal(two[0], four[0])
    for a, b in zip(two[1], four[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_padding_of_the_source_changes_nothing(model, inputs):
    """A padded batch gives what each sequence gives alone, and padding gets no gradient."""
    src, tgt = inputs
    real = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    seen = F.padding_mask(real)
    y, (dsrc, *_) = gradients(model, inputs, src_mask=seen, memory_mask=seen)
    np.testing.assert_allclose(y[:1], model(src[:1, :3], tgt[:1]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(y[1:], model(src[1:], tgt[1:]), rtol=1e-12, atol=1e-12)
    assert not dsrc[0, 3:].any()
    changed = src.copy()
    changed[0, 3:] = 7.0
    np.testing.assert_array_equal(model(changed, tgt, seen, None, seen), y)


def test_a_source_that_nobody_sees(model, inputs):
    mask = np.ones((2, 1, 1, 5), bool)
    mask[0] = False
    y, (dsrc, dtgt, *others) = gradients(model, inputs, memory_mask=mask)
    assert np.isfinite(y).all()
    assert not dsrc[0].any()
    assert dsrc[1].any()
    assert dtgt[0].any()
    assert all(np.isfinite(gradient).all() for gradient in others)


def test_causal_by_construction_equals_causal_by_mask(model, inputs):
    other = Transformer(**OPTIONS, causal=True, dropout=0.0, rng=0, dtype=np.float64)
    other.load_state_dict(model.state_dict())
    masked = model(*inputs, tgt_mask=np.tri(4, dtype=bool))
    np.testing.assert_allclose(other(*inputs), masked, rtol=1e-12, atol=1e-14)
    assert not np.allclose(model(*inputs), masked)
    padded = np.array([[0, 1, 1, 1], [1, 1, 1, 1]], bool)[:, None, None]
    both = np.tri(4, dtype=bool) & padded
    np.testing.assert_allclose(other(*inputs, tgt_mask=padded), model(*inputs, tgt_mask=both), rtol=1e-12, atol=1e-14)
    assert (model.causal, other.causal) == (False, True)


def test_encode_and_decode_are_the_halves_of_the_call(model, inputs):
    src, tgt = inputs
    mask = F.padding_mask(np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    memory = model.encode(src, mask)
    np.testing.assert_array_equal(
        model.decode(tgt, memory, np.tri(4, dtype=bool), mask), model(src, tgt, mask, np.tri(4, dtype=bool), mask)
    )


PIECES = ((0, 2), (2, 3), (3, 4))
SEEN = F.padding_mask(np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))


@pytest.mark.parametrize("memory_mask", [None, SEEN, np.tri(4, 5, dtype=bool)], ids=["all", "padded", "two axes"])
def test_decoding_with_a_cache_equals_decoding_at_once(memory_mask, model, inputs):
    other = Transformer(**OPTIONS, causal=True, dropout=0.0, rng=0, dtype=np.float64)
    other.load_state_dict(model.state_dict())
    src, tgt = inputs
    memory = model.encode(src)
    full = other.decode(tgt, memory, memory_mask=memory_mask)
    assert memory_mask is None or not np.allclose(full, other.decode(tgt, memory))
    causal = np.tri(4, dtype=bool)
    for of, tgt_mask in ((other, None), (model, causal), (model, causal[None, None])):
        kv_cache = [nn.KVCache() for _ in range(2)]
        steps = []
        for a, b in PIECES:
            rows = memory_mask if memory_mask is None or memory_mask.ndim == 4 else memory_mask[a:b]
            seen = None if tgt_mask is None else tgt_mask[..., a:b, :b]
            steps.append(of.decode(tgt[:, a:b], memory, seen, rows, kv_cache=kv_cache))
        np.testing.assert_allclose(np.concatenate(steps, axis=1), full, rtol=1e-12, atol=1e-12)


def test_a_padded_target_with_a_cache(model, inputs):
    """A mask of two axes would pass over what one row has and another has not: four axes say so, old places too."""
    src, tgt = inputs
    memory, kv_cache = model.encode(src), [nn.KVCache() for _ in range(2)]
    mask = np.tri(4, dtype=bool)[None, None] & np.array([[0, 1, 1, 1], [1, 1, 0, 1]], bool)[:, None, None]
    steps = [model.decode(tgt[:, a:b], memory, mask[..., a:b, :b], kv_cache=kv_cache) for a, b in PIECES]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), model.decode(tgt, memory, mask), rtol=1e-12, atol=1e-12)


def test_new_places_would_see_what_old_ones_have_not(model, inputs):
    """Several places at once need a mask, or a model that is causal; one place has nothing after it."""
    src, tgt = inputs
    memory, kv_cache = model.encode(src), [nn.KVCache() for _ in range(2)]
    message = r"^Transformer: expected causal=True or a tgt_mask for 2 places with a kv_cache, got neither$"
    with pytest.raises(ValueError, match=message):
        model.decode(tgt[:, :2], memory, kv_cache=kv_cache)
    steps = [model.decode(tgt[:, t : t + 1], memory, kv_cache=kv_cache) for t in range(3)]
    causal = model.decode(tgt[:, :3], memory, np.tri(3, dtype=bool))
    np.testing.assert_allclose(np.concatenate(steps, axis=1), causal, rtol=1e-12, atol=1e-12)
    for wrong in (np.ones((1, 1), bool), np.ones((1, 3), bool), np.ones((1, 4))):
        with pytest.raises(ValueError, match=r"^Transformer: expected a boolean tgt_mask \(1, 4\), or of four axes"):
            model.decode(tgt[:, 3:], memory, wrong, kv_cache=kv_cache)
    assert [len(cache) for cache in kv_cache] == [3, 3]


def test_attention_weights_are_read_through_a_trace(model, inputs):
    """Of every attention, with the masks that it was given: rows sum to one, or to zero where nothing is seen."""
    src_mask, memory_mask = SEEN, np.broadcast_to(SEEN, (2, 1, 4, 5)).copy()
    memory_mask[1, :, 2] = False
    with nn.trace(model) as seen:
        model.forward(*inputs, src_mask, np.tri(4, dtype=bool), memory_mask, rng=np.random.default_rng(0))
    names = [name for name in seen if name.endswith("/scaled_dot_product_attention")]
    assert len(names) == 2 + 2 * 2
    for name in names:
        site = seen[name]
        weights = F.attention_weights(F.scaled_dot_product_attention(*site.inputs, **site.settings)[1])
        keys, where = (5, src_mask) if "encoder" in name else (4, np.tri(4, dtype=bool))
        if "cross" in name:
            keys, where = 5, memory_mask
        assert weights.shape == (2, 2, site.inputs[0].shape[2], keys)
        assert not weights[~np.broadcast_to(where, weights.shape)].any()
        np.testing.assert_allclose(weights.sum(axis=-1), np.broadcast_to(where, weights.shape).any(axis=-1), rtol=1e-12)
        # What the attention gave is these weights times its values.
        np.testing.assert_allclose(weights @ site.inputs[2], site.output, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_recomputed_equals_kept(dropout, inputs):
    model = Transformer(**OPTIONS, dropout=dropout, rng=0, dtype=np.float64)
    kept, recomputed = (gradients(model, inputs, rng=np.random.default_rng(3), keep=keep) for keep in ("all", "inputs"))
    np.testing.assert_array_equal(kept[0], recomputed[0])
    for a, b in zip(kept[1], recomputed[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_dropout_needs_a_generator_and_the_call_has_none(inputs):
    model = Transformer(**OPTIONS, dropout=0.5, rng=0, dtype=np.float64)
    np.testing.assert_array_equal(model(*inputs), model.forward(*inputs)[0])
    a, b, again = (model.forward(*inputs, rng=np.random.default_rng(seed))[0] for seed in (0, 1, 0))
    assert not np.allclose(a, b)
    np.testing.assert_array_equal(a, again)


def test_float32_stays(inputs):
    model = Transformer(**OPTIONS, rng=0)
    single = [array.astype(np.float32) for array in inputs]
    y, cache = model.forward(*single, tgt_mask=np.tri(4, dtype=bool), rng=np.random.default_rng(0))
    dinputs, grads = model.backward(y, cache)
    assert {array.dtype for array in (y, *dinputs, *nn.flatten(grads).values())} == {np.dtype(np.float32)}


def test_backward_needs_what_forward_kept(model, inputs):
    _, cache = model.forward(*inputs, keep=None)
    with pytest.raises(ValueError, match=r"^Transformer: backward after a forward with keep=None"):
        model.backward(np.ones((2, 4, 6)), cache)


def bad(src=(2, 5, 6), tgt=(2, 4, 6), **masks):
    return [np.ones(src), np.ones(tgt)], masks


REFUSED = {
    "batches differ": (
        bad(tgt=(3, 4, 6)),
        r"expected src and tgt \(B, T, 6\), got src \(2, 5, 6\) and tgt \(3, 4, 6\)",
    ),
    "width": (bad(src=(2, 5, 4)), r"expected src and tgt \(B, T, 6\), got src \(2, 5, 4\)"),
    "axes": (bad(tgt=(4, 6)), r"expected src and tgt \(B, T, 6\)"),
    "empty": (bad(src=(2, 0, 6)), r"expected sequences that are not empty, got src \(2, 0, 6\)"),
    "memory mask's length": (
        bad(memory_mask=np.ones((2, 1, 1, 4), bool)),
        r"expected a boolean memory_mask \(4, 5\), or of four axes that broadcast to \(2, 2, 4, 5\), "
        r"got bool \(2, 1, 1, 4\)",
    ),
    "memory mask turned round": (
        bad(memory_mask=np.ones((5, 4), bool)),
        r"expected a boolean memory_mask \(4, 5\).*got bool",
    ),
    "padding in two axes": (
        bad(src_mask=np.ones((2, 5), bool)),
        r"expected a boolean src_mask \(5, 5\).*got bool \(2, 5\)",
    ),
    "numbers": (bad(tgt_mask=np.tri(4)), r"expected a boolean tgt_mask .*got float64"),
    "a list": (bad(tgt_mask=[[True]]), r"expected a boolean tgt_mask .*got list"),
    "three axes": (bad(src_mask=np.ones((2, 5, 5), bool)), r"expected a boolean src_mask .*got bool \(2, 5, 5\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_the_door(case, model):
    (inputs, masks), message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^Transformer: {message}") as error:
        model.forward(*inputs, **masks)
    assert "\n" not in str(error.value)


def test_refused_when_built():
    with pytest.raises(ValueError, match="heads that divide the width 6, got 4"):
        Transformer(6, 4, 1, 1)
    with pytest.raises(ValueError, match=r"^Transformer: expected num_decoder_layers as a whole number of at least 1"):
        Transformer(6, 2, 1, 0)
    with pytest.raises(ValueError, match="expected an activation"):
        Transformer(6, 2, 1, 1, activation="selu")


def test_a_state_of_pytorch_that_does_not_fit(model):
    state = model.torch_state_dict()
    wrong = {**state, "decoder.norm.scale": np.ones(6), "encoder.norm.bias": np.ones(5)}
    del wrong["encoder.layers.0.linear1.weight"]
    with pytest.raises(ValueError, match=r"^Transformer: ") as error:
        model.load_torch_state_dict(wrong)
    said = str(error.value)
    for name in ("encoder.layers.0.linear1.weight", "decoder.norm.scale", "encoder.norm.bias"):
        assert name in said
    assert "\n" not in said
