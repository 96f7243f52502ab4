"""Module: the tree of parameters, dotted names, state, and what is printed of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import nn


def block(**settings):
    return nn.DecoderBlock(4, 2, 8, rng=0, **settings)


BLOCK_NAMES = [
    "attention.norm.weight",
    "attention.norm.bias",
    "attention.sublayer.in_proj_weight",
    "attention.sublayer.in_proj_bias",
    "attention.sublayer.out_proj.weight",
    "attention.sublayer.out_proj.bias",
    "feed_forward.norm.weight",
    "feed_forward.norm.bias",
    "feed_forward.sublayer.up.weight",
    "feed_forward.sublayer.up.bias",
    "feed_forward.sublayer.down.weight",
    "feed_forward.sublayer.down.bias",
]


def test_parameters_by_dotted_name_in_the_order_of_the_wiring():
    assert [name for name, _ in block().named_parameters()] == BLOCK_NAMES
    stack = nn.Decoder([block(), block()], nn.LayerNorm(4))
    assert [name for name, _ in stack.named_parameters()] == [
        *(f"layers.{i}.{name}" for i in (0, 1) for name in BLOCK_NAMES),
        "norm.weight",
        "norm.bias",
    ]


def test_modules_by_dotted_name_the_module_itself_first():
    stack = nn.Decoder([block()], nn.LayerNorm(4))
    modules = dict(stack.named_modules())
    assert list(modules)[:4] == ["", "layers", "layers.0", "layers.0.attention"]
    assert modules[""] is stack
    assert modules["layers.0.attention.sublayer.out_proj"] is stack.layers[0].attention.sublayer.out_proj
    assert modules["norm"] is stack.norm


def test_names_give_the_live_arrays():
    layer = nn.Linear(2, 3, rng=0)
    dict(layer.named_parameters())["weight"][...] = 7
    layer.state_dict()["bias"][...] = 8
    assert (layer.weight == 7).all()
    assert (layer.bias == 8).all()
    assert layer.get_parameter("weight") is layer.weight


def test_a_parameter_is_an_array_without_leading_underscore_and_a_part_is_a_module():
    class Part(nn.Module):
        def __init__(self):
            self.weight = np.zeros(2)
            self.bias = None
            self._table = np.zeros(3)
            self.sizes = (2, 3)
            self.inner = nn.ModuleList([nn.LayerNorm(4)])

    assert [name for name, _ in Part().named_parameters()] == ["weight", "inner.0.weight", "inner.0.bias"]
    assert Part().num_parameters() == 10


def test_what_has_no_bias_has_no_name_for_it():
    layer = nn.Linear(2, 3, bias=False, rng=0)
    assert list(layer.state_dict()) == ["weight"]
    y, cache = layer.forward(np.ones((1, 2), np.float32))
    assert list(layer.backward(y, cache)[1]) == ["weight"]


def test_a_module_list_counts_and_iterates():
    parts = [nn.Linear(2, 2, rng=i) for i in range(3)]
    modules = nn.ModuleList(parts)
    assert len(modules) == 3
    assert list(modules) == parts
    assert modules[-1] is parts[-1]


def test_a_bare_module_has_no_forward():
    with pytest.raises(TypeError, match="ModuleList has no forward"):
        nn.ModuleList([])(1)
    with pytest.raises(TypeError, match="ModuleList has no backward"):
        nn.ModuleList([]).backward(1, ())


# State ------------------------------------------------------------------------------------------------------------


def test_state_goes_from_one_model_to_another(randomized):
    source, target = randomized(block(), seed=1), randomized(block(), seed=2)
    arrays = dict(target.named_parameters())
    target.load_state_dict(source.state_dict())
    for name, array in target.named_parameters():
        assert array is arrays[name], "loading copies into the arrays that are there"
        assert not np.shares_memory(array, source.get_parameter(name))
        np.testing.assert_array_equal(array, source.get_parameter(name))


def test_state_of_another_dtype_is_converted():
    layer = nn.Linear(2, 3, rng=0)
    layer.load_state_dict({"weight": np.full((2, 3), 1 / 3), "bias": np.arange(3.0)})
    assert layer.dtype == np.float32
    np.testing.assert_array_equal(layer.weight, np.float32(1 / 3))
    np.testing.assert_array_equal(layer.bias, [0, 1, 2])


BAD_STATES = [
    (lambda s: s.pop("down.bias"), "missing down.bias"),
    (lambda s: s.update({"down.scale": np.zeros(2)}), "unexpected down.scale"),
    (lambda s: s.update({"up.weight": np.zeros((8, 4))}), r"up.weight: expected \(4, 8\), got \(8, 4\)"),
    (lambda s: s.update({"up.bias": np.zeros((1, 8))}), r"up.bias: expected \(8,\), got \(1, 8\)"),
    (lambda s: s.update({"down.bias": np.zeros(())}), r"down.bias: expected \(4,\), got \(\)"),
    (lambda s: s.update({"down.bias": [0.0, 0.0, 0.0, 0.0]}), "down.bias"),
    (lambda s: s.update({"down.bias": np.array(["a"] * 4)}), "down.bias"),
    (lambda s: s.update({"down.bias": np.array([None] * 4)}), "down.bias"),
    (lambda s: s.update({"down.bias": np.ones(4, complex)}), "down.bias"),
    (lambda s: s.update({"down.bias": np.ones(4, int)}), "down.bias: expected an array of floating numbers, got int64"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_STATES, ids=[m for _, m in BAD_STATES])
def test_a_state_that_does_not_fit_changes_nothing(spoil, message):
    model = nn.FeedForward(4, 8, rng=0)
    before = {name: array.copy() for name, array in model.named_parameters()}
    state = {name: array + 1 for name, array in before.items()}
    spoil(state)
    with pytest.raises(ValueError, match=rf"^FeedForward: .*{message}[^\n]*$"):
        model.load_state_dict(state)
    for name, array in model.named_parameters():
        np.testing.assert_array_equal(array, before[name])


def test_all_problems_of_a_state_stand_in_one_line():
    model = nn.FeedForward(4, 8, rng=0)
    with pytest.raises(ValueError, match=r"missing up.weight; missing up.bias; .*unexpected a[^\n]* and 1 more$"):
        model.load_state_dict({"a": np.zeros(1), "b": np.zeros(1)})


def test_set_parameter_rebinds_without_a_copy():
    model = nn.FeedForward(4, 8, rng=0)
    new = np.ones((4, 8), np.float32)
    model.set_parameter("up.weight", new)
    assert model.up.weight is new
    assert model.get_parameter("up.weight") is new


@pytest.mark.parametrize(
    "name", ["", "up", "weight", "up.weights", "up.weight.x", "middle.weight", "activation", "up."]
)
def test_an_unknown_parameter_is_named(name):
    model = nn.FeedForward(4, 8, rng=0)
    with pytest.raises(ValueError, match=f"^FeedForward: has no parameter '{name}'$"):
        model.get_parameter(name)
    with pytest.raises(ValueError, match=f"^FeedForward: has no parameter '{name}'$"):
        model.set_parameter(name, np.zeros(1))


@pytest.mark.parametrize(
    "array", [np.zeros((8, 4), np.float32), np.zeros((4, 8), int), [[0.0] * 8] * 4], ids=["shape", "dtype", "list"]
)
def test_set_parameter_refuses_what_does_not_fit(array):
    model = nn.FeedForward(4, 8, rng=0)
    before = model.up.weight
    with pytest.raises(ValueError, match=r"^FeedForward: [^\n]*up\.weight[^\n]*$"):
        model.set_parameter("up.weight", array)
    assert model.up.weight is before


# Dtype, count, what is printed ------------------------------------------------------------------------------------


def test_astype_converts_every_parameter_in_place_and_gives_the_module(randomized):
    model = randomized(block())
    before = model.state_dict()
    assert model.dtype == np.float32
    assert model.astype(np.float64) is model
    assert {array.dtype for _, array in model.named_parameters()} == {np.dtype(np.float64)}
    for name, array in model.named_parameters():
        np.testing.assert_array_equal(array, before[name])
    assert model(np.ones((1, 2, 4))).dtype == np.float64


@pytest.mark.parametrize("dtype", ["int64", "complex128", "float16"])
def test_astype_takes_the_dtypes_that_one_can_work_in(dtype):
    model = nn.Linear(2, 3, rng=0)
    with pytest.raises(ValueError, match=rf"^\w+: expected [^\n]*, got {dtype}$"):
        model.astype(dtype)
    assert model.dtype == np.float32


def test_no_parameters_no_dtype():
    assert nn.Dropout(0.1).num_parameters() == 0
    with pytest.raises(ValueError, match=r"^Dropout: has no parameters"):
        _ = nn.Dropout(0.1).dtype


def test_num_parameters_counts_numbers():
    assert nn.Linear(2, 3).num_parameters() == 9
    assert block().num_parameters() == 2 * 8 + (4 * 12 + 12) + (16 + 4) + (32 + 8) + (32 + 4)


def test_a_small_model_reads_well():
    stack = nn.Decoder([block(dropout=0.1, attention_dropout=0.2)], nn.LayerNorm(4, eps=1e-6))
    expected = """\
Decoder(
  (layers): ModuleList(
    (0): DecoderBlock(
      (attention): PreNorm(dropout=0.1
        (norm): LayerNorm(4, eps=1e-05)
        (sublayer): MultiHeadAttention(4, num_heads=2, causal=True, dropout=0.2
          (out_proj): Linear(4 -> 4)
        )
      )
      (feed_forward): PreNorm(dropout=0.1
        (norm): LayerNorm(4, eps=1e-05)
        (sublayer): FeedForward(gelu_tanh
          (up): Linear(4 -> 8)
          (down): Linear(8 -> 4)
        )
      )
    )
  )
  (norm): LayerNorm(4, eps=1e-06)
)"""
    assert repr(stack) == expected


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.Linear(2, 3, bias=False), "Linear(2 -> 3, bias=False)"),
        (nn.LayerNorm(4, bias=False), "LayerNorm(4, eps=1e-05, bias=False)"),
        (nn.RMSNorm(4), "RMSNorm(4, eps=1e-06)"),
        (nn.Dropout(0.5), "Dropout(p=0.5)"),
        (nn.Embedding(7, 4), "Embedding(7, 4)"),
        (nn.LearnedPositions(8, 4), "LearnedPositions(8, 4)"),
        (nn.SinusoidalPositions(4, layout="half"), "SinusoidalPositions(4, layout='half')"),
        (nn.TiedLMHead(), "TiedLMHead()"),
        (nn.ModuleList([]), "ModuleList()"),
    ],
)
def test_leaves_say_their_sizes_and_settings(module, text):
    assert repr(module) == text


def test_what_is_set_is_shown():
    text = repr(nn.MultiHeadAttention(4, 2, causal=True, window=3, dropout=0.1))
    assert "MultiHeadAttention(4, num_heads=2, causal=True, window=3, dropout=0.1" in text
    assert "FeedForward(relu, dropout=0.1" in repr(nn.FeedForward(4, 8, "relu", dropout=0.1))
    assert "PostNorm(dropout=0.1" in repr(nn.PostNorm(nn.LayerNorm(4), nn.FeedForward(4, 8), 0.1))


def test_summary_is_a_table_that_adds_up():
    assert nn.FeedForward(4, 800, rng=0).summary() == (
        "up.weight    4x800    3,200\n"
        "up.bias      800        800\n"
        "down.weight  800x4    3,200\n"
        "down.bias    4            4\n"
        "---------------------------\n"
        "total        float32  7,204"
    )
    assert nn.Dropout().summary().split() == ["-" * len("total    0"), "total", "0"]


class Shifted(nn.Module):
    buffers = ("shift",)

    def __init__(self):
        self.weight, self.shift = np.ones(2, np.float32), np.full(3, 2, np.float32)


def test_a_buffer_belongs_to_the_state_and_is_no_parameter():
    module = Shifted()
    assert list(dict(module.named_parameters())) == ["weight"]
    assert list(dict(module.named_arrays())) == list(module.state_dict()) == ["weight", "shift"]
    assert module.num_parameters() == 2
    module.load_state_dict({"weight": np.zeros(2), "shift": np.arange(3.0)})
    assert module.shift.tolist() == [0, 1, 2]
    module.set_parameter("shift", np.ones(3))
    assert module.get_parameter("shift").tolist() == [1, 1, 1]
    assert module.astype(np.float64).shift.dtype == np.float64
    with pytest.raises(ValueError, match="missing shift"):
        module.load_state_dict({"weight": np.zeros(2)})


def test_undrawn_weights_draw_nothing_and_afterwards_all_is_as_before():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with nn.init.undrawn():
        layer = nn.Linear(3, 2, rng=rng)
        table = nn.Embedding(5, 4, rng=rng, dtype=np.float64)
        assert not nn.init.draws()
    assert rng.bit_generator.state == before
    assert (layer.weight.shape, layer.weight.dtype) == ((3, 2), np.float32)
    assert (table.weight.shape, table.weight.dtype) == ((5, 4), np.float64)
    assert nn.init.draws()
    np.testing.assert_array_equal(nn.Linear(3, 2, rng=0).weight, nn.Linear(3, 2, rng=0).weight)
    with pytest.raises(ZeroDivisionError), nn.init.undrawn():
        1 / 0  # noqa: B018
    assert nn.init.draws()


# Trees ------------------------------------------------------------------------------------------------------------

NAMES = st.text("abcdefgh_01", min_size=1, max_size=4)
TREES = st.recursive(
    st.dictionaries(NAMES, st.integers(), min_size=1, max_size=3),
    lambda trees: st.dictionaries(NAMES, trees | st.integers(), min_size=1, max_size=3),
    max_leaves=10,
)


@given(tree=TREES)
def test_flatten_and_unflatten_are_each_others_inverse(tree):
    flat = nn.flatten(tree)
    assert nn.unflatten(flat) == tree
    assert nn.flatten(nn.unflatten(flat)) == flat
    assert not any(isinstance(value, dict) for value in flat.values())


def test_gradients_mirror_the_parameters(randomized):
    """The same names, in the same order, so that the two can be walked side by side."""
    stack = randomized(nn.Decoder([block() for _ in range(11)], nn.LayerNorm(4)))
    y, cache = stack.forward(np.random.default_rng(0).normal(size=(1, 3, 4)).astype(np.float32))
    gradients = nn.flatten(stack.backward(y, cache)[1])
    parameters = stack.state_dict()
    assert gradients.keys() == parameters.keys()
    assert {n: g.shape for n, g in gradients.items()} == {n: a.shape for n, a in parameters.items()}
    assert list(gradients) == list(parameters)
