"""PyTorch's names without PyTorch: what they are, what is refused, and that nothing is copied or changed by halves."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch_names import ATTENTION, BLOCK, LINEAR, NORM, under

from numtx import nn

CROSS_BLOCK = (
    {name: other.replace("norm2", "norm3") for name, other in BLOCK.items()}
    | under("cross_attention.norm", "norm2", NORM)
    | under("cross_attention.sublayer", "multihead_attn", ATTENTION)
)
STACK = under("norm", "norm", NORM)
for _i in range(11):
    STACK |= under(f"layers.{_i}", f"layers.{_i}", BLOCK)


def stack(layers=11):
    return nn.Stack([nn.TransformerEncoderLayer(4, 2, 6, rng=i) for i in range(layers)], nn.LayerNorm(4))


MODULES = {
    "Linear": (lambda: nn.Linear(5, 3, rng=0), LINEAR),
    "LayerNorm": (lambda: nn.LayerNorm(4), NORM),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(4, 2, rng=0), ATTENTION),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 6, rng=0), BLOCK),
    "DecoderBlock": (lambda: nn.DecoderBlock(4, 2, 6, rng=0), BLOCK),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(4, 2, 6, rng=0), CROSS_BLOCK),
    "Stack": (stack, STACK),
    "FeedForward": (lambda: nn.FeedForward(4, 6, rng=0), under("up", "up", LINEAR) | under("down", "down", LINEAR)),
}


@pytest.mark.parametrize(("make", "names"), MODULES.values(), ids=MODULES)
def test_names_and_layouts(make, names):
    module = make()
    got, own = module.torch_state_dict(), module.state_dict()
    assert set(got) == {theirs.removesuffix(".T") for theirs in names.values()}
    assert set(own) == set(names)
    for ours, theirs in names.items():
        array = got[theirs.removesuffix(".T")]
        np.testing.assert_array_equal(array, own[ours].T if theirs.endswith(".T") else own[ours])
        assert array.flags.c_contiguous
        assert not np.shares_memory(array, own[ours])


def test_a_file_of_them_holds_what_they_say(tmp_path):
    """A writer that takes a view's memory as it lies would turn a transposed view into another matrix."""
    got = nn.TransformerDecoderLayer(4, 2, 6, rng=0).torch_state_dict()
    save_file(got, tmp_path / "layer.safetensors")
    for name, array in load_file(tmp_path / "layer.safetensors").items():
        np.testing.assert_array_equal(array, got[name], err_msg=name)


def test_a_load_copies_and_converts():
    module = nn.TransformerDecoderLayer(4, 2, 6, rng=0)
    before = module.state_dict()
    sent = {name: array.astype(np.float64) + 1 for name, array in module.torch_state_dict().items()}
    module.load_torch_state_dict(sent)
    assert all(array is before[name] for name, array in module.named_parameters()), "the same live arrays"
    for name, array in module.torch_state_dict().items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, sent[name].astype(np.float32))
        assert not np.shares_memory(array, sent[name])


BAD = {
    "missing": (lambda s: s.pop("norm1.bias"), r"missing norm1\.bias$"),
    "two missing": (
        lambda s: (s.pop("norm1.bias"), s.pop("linear1.weight")),
        r"missing linear1\.weight; missing norm1",
    ),
    "extra": (lambda s: s.update({"norm4.bias": np.zeros(4)}), r"unexpected norm4\.bias$"),
    "of our layout": (
        lambda s: s.update({"linear1.weight": s["linear1.weight"].T}),
        r"linear1\.weight: expected \(6, 4\), got \(4, 6\)$",
    ),
    "integers": (
        lambda s: s.update({"norm1.bias": np.zeros(4, int)}),
        r"norm1\.bias: expected an array of floating .*int64$",
    ),
    "a list": (lambda s: s.update({"norm1.bias": [0.0] * 4}), r"norm1\.bias: expected an array of floating .*list$"),
    "all at once": (lambda s: (s.clear(), s.update({"x": np.ones(1)})), r"missing .* and \d+ more$"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused_and_nothing_changed(spoil, message):
    module = nn.TransformerEncoderLayer(4, 2, 6, rng=0)
    before = {name: array.copy() for name, array in module.named_parameters()}
    state = {name: array + 1 for name, array in module.torch_state_dict().items()}
    spoil(state)
    with pytest.raises(ValueError, match=rf"^TransformerEncoderLayer: state does not fit: [^\n]*{message}"):
        module.load_torch_state_dict(state)
    for name, array in module.named_parameters():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("state", [None, [np.ones(3)], "file"])
def test_what_is_no_state_is_refused(state):
    module = nn.Linear(3, 2, rng=0)
    for load in (module.load_torch_state_dict, module.load_state_dict):
        with pytest.raises(ValueError, match=r"^Linear: expected a state of arrays by name, got \w+$"):
            load(state)
    with pytest.raises(ValueError, match=r"^Linear: expected a tree of arrays by name, got (list|str)$"):
        module.torch_state_dict(state if state is not None else "tree")


def test_a_tree_may_lack_what_is_not_trained():
    module = nn.TransformerEncoderLayer(4, 2, 6, rng=0)
    tree = {"attention": {"sublayer": {"out_proj": {"weight": np.ones((4, 4))}}}}
    assert list(module.torch_state_dict(tree)) == ["self_attn.out_proj.weight"]
    assert module.torch_state_dict({}) == {}


@pytest.mark.parametrize("tree", [{"up": {"weight": np.ones((4, 4))}}, {"attention.norm.weight": np.ones(5)}])
def test_a_tree_of_another_module_is_refused(tree):
    with pytest.raises(
        ValueError, match=r"^TransformerEncoderLayer: [^\n]*(unexpected up\.weight|\(4,\), got \(5,\))$"
    ):
        nn.TransformerEncoderLayer(4, 2, 6, rng=0).torch_state_dict(tree)


GROUPED = {
    "of one width": ({}, {"in_proj_weight": (12, 4), "in_proj_bias": (12,)}),
    "of three widths": (
        {"widths": nn.AttentionWidths(memory=3, value=5)},
        {"q_proj_weight": (4, 4), "k_proj_weight": (4, 3), "v_proj_weight": (4, 5), "in_proj_bias": (12,)},
    ),
}


@pytest.mark.parametrize(("widths", "shapes"), GROUPED.values(), ids=GROUPED)
def test_three_projections_where_pytorch_has_one(widths, shapes):
    """Queries, keys and values stand one below the other."""
    attention = nn.GroupedQueryAttention(4, 2, **widths, rng=0)
    own = {name: array.copy() for name, array in attention.state_dict().items()}
    got = attention.torch_state_dict()
    assert {name: array.shape for name, array in got.items()} == {
        **shapes, "out_proj.weight": (4, 4), "out_proj.bias": (4,)
    }  # fmt: skip
    for i, part in enumerate(("q_proj", "k_proj", "v_proj")):
        rows = slice(4 * i, 4 * i + 4)
        weight = got["in_proj_weight"][rows] if not widths else got[f"{part}_weight"]
        np.testing.assert_array_equal(weight, own[f"{part}.weight"].T)
        np.testing.assert_array_equal(got["in_proj_bias"][rows], own[f"{part}.bias"])
    attention.load_torch_state_dict({name: array + 1 for name, array in got.items()})
    for name, array in attention.state_dict().items():
        np.testing.assert_array_equal(array, own[name] + 1, err_msg=name)
    with pytest.raises(ValueError, match=r"^GroupedQueryAttention: state does not fit: in_proj_bias: .*\(12,\), got"):
        attention.load_torch_state_dict(got | {"in_proj_bias": np.zeros(8)})


def test_a_part_of_what_pytorch_has_as_one_is_no_tree():
    attention = nn.GroupedQueryAttention(4, 2, rng=0)
    tree = {"out_proj": {"bias": np.zeros(4)}, "q_proj": {"bias": np.zeros(4)}, "k_proj": {"bias": np.zeros(4)}}
    message = r"^GroupedQueryAttention: expected all parts of in_proj_bias or none, got no v_proj\.bias$"
    with pytest.raises(ValueError, match=message):
        attention.torch_state_dict(tree)
    assert list(attention.torch_state_dict({"out_proj": {"bias": np.zeros(4)}})) == ["out_proj.bias"]


ANOTHER = {
    "grouped heads": {"num_kv_heads": 1},
    "heads that do not fill the width": {"widths": nn.AttentionWidths(3)},
    "values of another width": {"widths": nn.AttentionWidths(value_head=3)},
    "no bias at the end": {"bias": "qkv"},
}


@pytest.mark.parametrize("options", ANOTHER.values(), ids=ANOTHER)
def test_attention_that_pytorch_has_not(options):
    with pytest.raises(ValueError, match=r"^GroupedQueryAttention: expected parts that PyTorch's layer has .*k_proj"):
        nn.GroupedQueryAttention(4, 2, **options, rng=0).torch_state_dict()


def test_parts_that_pytorch_has_not():
    """A layer of theirs has linear1 and linear2, and no third matrix."""
    feed_forward = nn.FeedForward(4, 6, rng=0)
    feed_forward.gate = nn.Linear(4, 6, rng=0)
    attention = nn.PreNorm(nn.RMSNorm(4), nn.MultiHeadAttention(4, 2, rng=0))
    layer = nn.EncoderLayer(attention, nn.PreNorm(nn.RMSNorm(4), feed_forward))
    with pytest.raises(ValueError, match=r"^EncoderLayer: [^\n]*feed_forward\.sublayer\.gate\.bias, [^\n]*weight$"):
        layer.torch_state_dict()
