"""The fast form of Llama's step for one row: it is what the components compute."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numtx import nn
from numtx.models import LlamaConfig, LlamaForCausalLM
from numtx.models.llama_step import LlamaStep, joined, lay_side_by_side

LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = (None, {"rope_type": "linear", "factor": 2.0}, {**LLAMA3, "original_max_position_embeddings": 16})


def made(heads=4, kv_heads=2, head_dim=None, dtype=np.float64, **more):
    """A model whose matrices lie as those of files do, (out, in)."""
    sizes = {"vocab_size": 19, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
    model = LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=64, **more), rng=0, dtype=dtype)
    model.draw(np.random.default_rng(1), 0.3)
    rng = np.random.default_rng(2)
    for name, array in model.named_parameters():
        if array.ndim == 1:
            array[...] = rng.uniform(0.5, 1.5, array.shape)
        assert np.abs(array).max() > 0, name
    for _, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.weight = module.weight.T.copy().T
    return model


def logits_by_components(model, ids):
    return model(ids[None]).logits[0]  # (T, V)


def logits_by_steps(model, ids, prompt):
    kv_cache = model.body.new_cache()
    model.body.forward(ids[None, :prompt], kv_cache=kv_cache, keep=None)
    step = model.row_step(kv_cache)
    assert isinstance(step, LlamaStep)
    return np.concatenate([step(int(token)) for token in ids[prompt:]])  # (T - prompt, V)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(4, 4, None), (4, 2, None), (4, 1, 6), (2, 2, 10)]),
    gate=st.sampled_from(["silu", "gelu", "gelu_new"]),
    scaling=st.sampled_from(SCALINGS),
    tied=st.booleans(),
    packed=st.booleans(),
    prompt=st.integers(1, 20),
    new=st.integers(1, 20),
    seed=st.integers(0, 999),
)
def test_as_the_components_have_it(shape, gate, scaling, tied, packed, prompt, new, seed):
    more = {"hidden_act": gate, "rope_scaling": scaling, "tie_word_embeddings": tied, "rms_norm_eps": 1e-3}
    model = made(*shape, **more)
    ids = np.random.default_rng(seed).integers(19, size=prompt + new)
    expected = logits_by_components(model, ids)[prompt:]
    if packed:
        lay_side_by_side(model.body)
    got = logits_by_steps(model, ids, prompt)
    assert got.dtype == expected.dtype
    assert np.max(np.abs(got - expected)) <= 1e-12 * np.max(np.abs(expected))


def test_single_precision_stays_and_large_numbers_stay_finite():
    model = made(dtype=np.float32)
    model.body.stack.layers[0].feed_forward.sublayer.gate.weight[...] *= 1e4
    ids = np.arange(12)
    expected, got = logits_by_components(model, ids)[4:], logits_by_steps(model, ids, 4)
    assert got.dtype == np.float32
    assert np.max(np.abs(got - expected)) <= 1e-5 * np.max(np.abs(expected))


def test_the_cache_goes_on_either_way():
    """Steps of both forms in turn, over one cache."""
    model, ids = made(), np.arange(10)
    kv_cache = model.body.new_cache()
    step = model.row_step(kv_cache)
    got = []
    for i, token in enumerate(ids):
        if i % 2:
            got.append(step(int(token))[0])
        else:
            hidden, _ = model.body.forward(np.array([[token]]), kv_cache=kv_cache, keep=None)
            got.append(model.head(hidden.last_hidden_state[:, -1], model._lent())[0])
    np.testing.assert_allclose(got, logits_by_components(model, ids), atol=1e-12)


def test_generate_takes_it_for_one_row_alone(monkeypatch):
    taken, model = [], made()
    real = LlamaStep.__call__
    monkeypatch.setattr(LlamaStep, "__call__", lambda self, token: taken.append(token) or real(self, token))
    ids = np.array([[3, 4, 5]])
    alone = model.generate(ids, max_new_tokens=6, eos_token_id=())
    assert taken == alone[0, 3:-1].tolist()
    taken.clear()
    both = model.generate(np.repeat(ids, 2, axis=0), max_new_tokens=6, eos_token_id=())
    model.generate(ids, attention_mask=np.array([[0, 1, 1]]), max_new_tokens=6, eos_token_id=())
    model.generate(ids, num_beams=2, max_new_tokens=6, eos_token_id=())
    assert not taken
    assert both.tolist() == [alone[0].tolist()] * 2


def test_what_it_does_not_compute():
    for more in ({"attention_bias": True}, {"mlp_bias": True}):
        assert made(**more).row_step([]) is None
    model = made()
    with nn.trace(model):
        assert model.row_step([]) is None
    model.body.stack.layers[1].attention.sublayer.v_proj = type("Adapter", (nn.Linear,), {})(16, 8, False, rng=0)
    assert model.row_step([]) is None


class TestSideBySide:
    def test_the_weights_stay_the_models(self):
        model = made()
        before = {name: array.copy() for name, array in model.named_parameters()}
        assert len(model.row_step(model.body.new_cache()).layers[1].qkv) == 3
        lay_side_by_side(model.body)
        for name, array in model.named_parameters():
            np.testing.assert_array_equal(array, before[name], err_msg=name)
        step = model.row_step(model.body.new_cache())
        assert len(step.layers[1].qkv) == len(step.layers[1].gate_up) == 1
        attention = model.body.stack.layers[1].attention.sublayer
        attention.k_proj.weight[2, 3] = 7  # columns of q come first
        assert step.layers[1].qkv[0][2, attention.q_proj.weight.shape[1] + 3] == 7
        assert not step.layers[1].qkv[0].flags.writeable

    def test_a_files_memory_stays_where_it_is(self, tmp_path):
        made(dtype=np.float32).save_pretrained(tmp_path)
        model = LlamaForCausalLM.from_pretrained(tmp_path)
        assert len(model.row_step(model.body.new_cache()).layers[0].qkv) == 3
        base = model.body.stack.layers[0].attention.sublayer.q_proj.weight
        while isinstance(base, np.ndarray):
            base = base.base
        assert base is not None
        moved = LlamaForCausalLM.from_pretrained(tmp_path, dtype=np.float64)  # those were made anew anyway
        assert len(moved.row_step(moved.body.new_cache()).layers[0].qkv) == 1

    def test_neighbours_by_chance_are_no_one_matrix(self):
        memory = np.ones((6, 2))
        assert len(joined([memory[:3].T, memory[3:].T])) == 1
        assert len(joined([memory[:3].T, memory[2:].T])) == 2  # overlap
        assert len(joined([memory[3:].T, memory[:3].T])) == 2  # the wrong way round
        assert len(joined([memory[:3], memory[3:]])) == 2  # (in, out)

    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    def test_dtypes(self, kind):
        model = made(dtype=kind)
        lay_side_by_side(model.body)
        assert {array.dtype for _, array in model.named_parameters()} == {np.dtype(kind)}
