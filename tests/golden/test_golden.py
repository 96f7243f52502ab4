"""numtx beside the golden files: what PyTorch and Transformers computed, compared without either."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch_names import ATTENTION, BLOCK, LINEAR, NORM, under

from numtx import functional as F
from numtx import nn
from numtx.models import (
    DecoderOnlyTransformer,
    EncoderDecoderTransformer,
    EncoderOnlyTransformer,
    GPT2LMHeadModel,
    Transformer,
)

HERE = Path(__file__).parent
FILES = sorted(path.stem for path in HERE.glob("*.safetensors"))


def read(name):
    """The arrays of a file and its metadata."""
    path = HERE / f"{name}.safetensors"
    with safe_open(path, "numpy") as file:
        return load_file(path), file.metadata()


def below(arrays, prefix):
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def in_our_layout(arrays, names):
    return {
        name: arrays[other.removesuffix(".T")].T if other.endswith(".T") else arrays[other]
        for name, other in names.items()
    }


def test_the_files_are_all_there_and_say_what_made_them():
    others = ["cross_attention", "decoder_block", "functional", "gpt2", "post_norm_block", "self_attention"]
    assert sorted([*others, *TRANSFORMERS, *COMPONENTS, *READY_MADE, "attention_of_three_widths", "tables"]) == FILES
    for name in FILES:
        assert {"torch", "transformers", "numpy"} <= set(read(name)[1])


# The files of make_golden_models.py: what goes in, and by which names its masks.
WHOLE = (("src", "tgt"), ("src_mask", "tgt_mask", "memory_mask"))
TRANSFORMERS = {
    "transformer_encoder": (("x",), ("mask",)),
    "transformer_decoder": (("x", "memory"), ("mask", "memory_mask")),
    "transformer_post_norm": WHOLE,
    "transformer_pre_norm": WHOLE,
}

FUNCTIONAL, METADATA = read("functional")
CASES = json.loads(METADATA["cases"])


def test_every_pair_has_a_golden_case():
    pairs = {name for name in dir(F) if hasattr(F, f"{name}_backward")}
    # Dropout is random: no file can say what it gives. Attention's cases are for both of its forms.
    assert pairs - {case["op"] for case in CASES.values()} == {"dropout", "tiled_attention"}


SHARED = [name for name, case in CASES.items() if case["op"] == "scaled_dot_product_attention"]


@pytest.mark.parametrize(
    ("name", "op"),
    [*((name, case["op"]) for name, case in CASES.items()), *((name, "tiled_attention") for name in SHARED)],
)
def test_pair(name, op, agree):
    case = CASES[name]
    arrays = below(FUNCTIONAL, f"{name}/")
    arguments = {key: arrays[key] for key in case["inputs"] + case["arguments"]}
    y, cache = getattr(F, op)(**arguments, **case["options"])
    gradients = getattr(F, f"{op}_backward")(arrays["dy"], cache)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    ours = dict(zip(case["inputs"], (g for g in gradients if g is not None), strict=True))
    theirs = below(arrays, "gradient/")
    agree(name, ({"y": y}, ours), ({"y": arrays["y"]}, {key: theirs[key] for key in ours}))


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_positions(layout):
    theirs = FUNCTIONAL[f"positions/{layout}"]
    ours = F.sinusoidal_positions(*theirs.shape, layout=layout, dtype=np.float64)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=6e-8)  # theirs were rounded to float32


def check_component(agree, name, component, names, inputs, **settings):
    arrays, _ = read(name)
    parameters, expected = below(arrays, "parameter/"), below(arrays, "gradient/")
    component.load_state_dict(in_our_layout(parameters, names))
    y, cache = component.forward(*(arrays[key] for key in inputs), **settings)
    dinputs, grads = component.backward(arrays["dy"], cache)
    dinputs = [d for d in (dinputs if isinstance(dinputs, tuple) else (dinputs,)) if d is not None]
    flat = nn.flatten(grads)
    assert sorted(flat) == sorted(names)
    ours = dict(zip(inputs, dinputs, strict=True)) | {key: flat[key] for key in names}
    theirs = {key: expected[key] for key in inputs} | in_our_layout(expected, names)
    agree(name, ({"y": y}, ours), ({"y": arrays["y"]}, theirs))


@pytest.mark.parametrize(("name", "inputs"), [("self_attention", ["x"]), ("cross_attention", ["x", "memory"])])
def test_multi_head_attention(name, inputs, agree):
    arrays, metadata = read(name)
    component = nn.MultiHeadAttention(**json.loads(metadata["options"]), dtype=np.float64)
    check_component(agree, name, component, ATTENTION, inputs, mask=arrays.get("mask"))


def test_decoder_block(agree):
    options = json.loads(read("decoder_block")[1]["options"])
    check_component(agree, "decoder_block", nn.DecoderBlock(**options, dtype=np.float64), BLOCK, ["x"])


class PostNormBlock(nn.Module):
    """The layer of the original transformer's encoder."""

    def __init__(self, width, num_heads, hidden, activation):
        def norm():
            return nn.LayerNorm(width, dtype=np.float64)

        attention = nn.MultiHeadAttention(width, num_heads, causal=True, dtype=np.float64)
        self.attention = nn.PostNorm(norm(), attention)
        self.feed_forward = nn.PostNorm(norm(), nn.FeedForward(width, hidden, activation, dtype=np.float64))

    def forward(self, x):
        h, attention = self.attention.forward(x)
        y, feed_forward = self.feed_forward.forward(h)
        return y, (attention, feed_forward)

    def backward(self, dy, cache):
        dh, g_feed_forward = self.feed_forward.backward(dy, cache[1])
        (dx, _, _), g_attention = self.attention.backward(dh, cache[0])
        return dx, {"attention": g_attention, "feed_forward": g_feed_forward}


def test_post_norm_block(agree):
    options = json.loads(read("post_norm_block")[1]["options"])
    check_component(agree, "post_norm_block", PostNormBlock(**options), BLOCK, ["x"])


# The files of make_golden_components.py, but for attention of three widths: the component, PyTorch's names of its
# parameters, what goes in, and what else is given.
PROJECTIONS = under("q_proj", "q_proj", LINEAR) | under("k_proj", "k_proj", LINEAR) | under("v_proj", "v_proj", LINEAR)
COMPONENTS = {
    "grouped_attention": (
        nn.GroupedQueryAttention, PROJECTIONS | under("out_proj", "o_proj", LINEAR), ["x"], ["positions"]
    ),
    "gated_feed_forward": (
        nn.GatedFeedForward,
        under("gate", "gate_proj", LINEAR) | under("up", "up_proj", LINEAR) | under("down", "down_proj", LINEAR),
        ["x"], [],
    ),
    "sequence_head": (
        nn.SequenceClassificationHead,
        under("pooler.dense", "pooler.dense", LINEAR) | under("out_proj", "classifier", LINEAR), ["x"], [],
    ),
    "mean_head": (nn.ClassifierHead, under("out_proj", "classifier", LINEAR), ["x"], ["mask"]),
    "masked_head": (
        nn.MaskedLMHead,
        under("dense", "transform.dense", LINEAR) | under("norm", "transform.LayerNorm", NORM) | {"bias": "bias"},
        ["x", "weight"], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPONENTS)
def test_component(name, agree):
    kind, names, inputs, others = COMPONENTS[name]
    arrays, metadata = read(name)
    options = json.loads(metadata["options"])
    for option, part in (("rotary", nn.Rotary), ("widths", nn.AttentionWidths)):
        if option in options:
            options[option] = part(**options[option])
    component = kind(**options, dtype=np.float64)
    check_component(agree, name, component, names, inputs, **{key: arrays[key] for key in others})


def test_attention_of_three_widths(agree):
    """PyTorch's names and layouts, both ways; and the weights of each head."""
    arrays, metadata = read("attention_of_three_widths")
    options = json.loads(metadata["options"])
    widths = nn.AttentionWidths(**options.pop("widths"))
    component = nn.GroupedQueryAttention(**options, widths=widths, dtype=np.float64)
    component.load_torch_state_dict(below(arrays, "parameter/"))
    inputs = [arrays[key] for key in ("x", "memory", "values")]
    (y, weights), cache = component.forward(*inputs, mask=arrays["mask"], need_weights=True)
    (*dinputs, dbias), grads = component.backward(arrays["dy"], cache)
    assert dbias is None
    ours = dict(zip(("x", "memory", "values"), dinputs, strict=True)) | component.torch_state_dict(grads)
    theirs = below(arrays, "gradient/")
    assert sorted(ours) == sorted(theirs)
    expected = {"y": arrays["y"], "weights": arrays["weights"]}
    agree("three widths", ({"y": y, "weights": weights}, {key: ours[key] for key in theirs}), (expected, theirs))


TABLES, TABLES_METADATA = read("tables")


@pytest.mark.parametrize("sides", ["bidirectional", "unidirectional"])
def test_buckets(sides):
    settings = {"bidirectional": sides == "bidirectional", "num_buckets": 16, "max_distance": 30}
    ours = F.relative_position_bucket(TABLES["distance"], **settings)
    np.testing.assert_array_equal(ours, TABLES[f"buckets {sides}"])


@pytest.mark.parametrize("num_heads", [4, 6])
def test_alibi(num_heads):
    np.testing.assert_allclose(F.alibi(num_heads, 1, 7), TABLES[f"alibi {num_heads}"], rtol=3e-7)


@pytest.mark.parametrize("name", ["linear", "llama3"])
def test_scaled_rotary_frequencies(name):
    ours = F.rotary_frequencies(64, scaling=json.loads(TABLES_METADATA["scalings"])[name])
    np.testing.assert_array_max_ulp(ours, TABLES[f"rotary {name}"], maxulp=1)


def transformer(name, options):
    """The model of a file, without dropout."""
    options = {**options, "dropout": 0.0, "rng": 0, "dtype": np.float64}
    if TRANSFORMERS[name] is WHOLE:
        return Transformer(**options)
    kind = nn.TransformerEncoderLayer if name == "transformer_encoder" else nn.TransformerDecoderLayer
    return nn.Stack([kind(**options) for _ in range(2)], nn.LayerNorm(options["d_model"], dtype=np.float64))


@pytest.mark.parametrize("keep", ["all", "inputs"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer(name, keep, agree):
    arrays, metadata = read(name)
    inputs, masks = TRANSFORMERS[name]
    model = transformer(name, json.loads(metadata["options"]))
    model.load_torch_state_dict(below(arrays, "parameter/"))
    y, cache = model.forward(*(arrays[key] for key in inputs), **{key: arrays[key] for key in masks}, keep=keep)
    dinputs, grads = model.backward(arrays["dy"], cache)
    given = [gradient for gradient in dinputs if gradient is not None]
    ours = dict(zip(inputs, given, strict=True)) | model.torch_state_dict(grads)
    theirs = below(arrays, "gradient/")
    assert sorted(ours) == sorted(theirs)
    agree(f"{name} {keep}", ({"y": y}, {key: ours[key] for key in theirs}), ({"y": arrays["y"]}, theirs))
    if "memory_mask" in masks:
        assert not arrays["memory_mask"][1, :, 2].any(), "a target that sees nothing is among them"


# The files of make_golden_ready_made.py.
READY_MADE = {
    "encoder_only": EncoderOnlyTransformer,
    "decoder_only": DecoderOnlyTransformer,
    "encoder_decoder": EncoderDecoderTransformer,
}


@pytest.mark.parametrize("keep", ["all", "inputs"])
@pytest.mark.parametrize("name", READY_MADE)
def test_ready_made(name, keep, agree):
    """Padding of the source is where its id stands; labels are the shifted ones."""
    arrays, metadata = read(name)
    model = READY_MADE[name](**json.loads(metadata["options"]), rng=0, dtype=np.float64)
    model.load_torch_state_dict(below(arrays, "parameter/"))
    ids, labels = arrays["input_ids"], arrays["shift_labels"]
    log_probs = model(ids, *([labels] if name == "encoder_decoder" else [])).log_probs
    loss, grads = model.loss_and_grads({"input_ids": ids, "shift_labels": labels}, keep=keep)
    ours, theirs = model.torch_state_dict(grads), below(arrays, "gradient/")
    assert sorted(ours) == sorted(theirs)
    values = {"log_probs": log_probs, "loss": loss}, {key: ours[key] for key in theirs}
    agree(f"{name} {keep}", values, ({key: arrays[key] for key in values[0]}, theirs))


def test_gpt2(tmp_path, agree):
    arrays, metadata = read("gpt2")
    # Opened as a checkpoint of Transformers, from its names.
    (tmp_path / "config.json").write_text(metadata["config"], encoding="utf-8")
    save_file(below(arrays, "parameter/"), tmp_path / "model.safetensors")
    model = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=np.float64)
    theirs = below(arrays, "gradient/")
    for keep in ("all", "inputs"):
        batch = {"input_ids": arrays["input_ids"], "labels": arrays["labels"]}
        loss, grads = model.loss_and_grads(batch, keep=keep)
        # Gradients go where weights go: into a model, and out under the names of its files.
        twin = GPT2LMHeadModel(model.config, dtype=np.float64)
        twin.load_state_dict(nn.flatten(grads))
        ours = twin.to_checkpoint()
        assert sorted(ours) == sorted(theirs)
        values = {"logits": model(arrays["input_ids"]).logits, "loss": loss}
        expected = {"logits": arrays["logits"], "loss": arrays["loss"]}
        agree("gpt2", (values, {key: ours[key] for key in theirs}), (expected, theirs))
