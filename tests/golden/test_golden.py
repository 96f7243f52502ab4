"""numtx beside the golden files: what PyTorch and Transformers computed, compared without either."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch_names import ATTENTION, BLOCK

from numtx import functional as F
from numtx import nn
from numtx.models import GPT2LMHeadModel, Transformer

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
    assert sorted([*others, *TRANSFORMERS]) == FILES
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
    assert pairs - {case["op"] for case in CASES.values()} == {"dropout"}  # random: no file can say what it gives


@pytest.mark.parametrize("name", CASES)
def test_pair(name, agree):
    case = CASES[name]
    arrays = below(FUNCTIONAL, f"{name}/")
    arguments = {key: arrays[key] for key in case["inputs"] + case["arguments"]}
    y, cache = getattr(F, case["op"])(**arguments, **case["options"])
    gradients = getattr(F, f"{case['op']}_backward")(arrays["dy"], cache)
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
        ours = twin.checkpoint_arrays()
        assert sorted(ours) == sorted(theirs)
        values = {"logits": model(arrays["input_ids"]).logits, "loss": loss}
        expected = {"logits": arrays["logits"], "loss": arrays["loss"]}
        agree("gpt2", (values, {key: ours[key] for key in theirs}), (expected, theirs))
