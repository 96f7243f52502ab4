"""Llama and its heads beside Transformers': outputs, loss, every gradient, dropout, decoding, files both ways."""

import json

import numpy as np
import pytest

from numtx import models

transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
import torch  # noqa: E402
from family_parity import (  # noqa: E402 - it needs PyTorch
    PADDINGS,
    check_family,
    compare_dropout,
    compare_gradients,
    compare_outputs,
    draw_batch,
    draw_labels,
    in_double,
    random_model,
    run_theirs,
)
from their_version import CACHE  # noqa: E402
from transformers import modeling_rope_utils  # noqa: E402
from transformers.models.llama import modeling_llama  # noqa: E402

SMALL = {
    "vocab_size": 19, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 9, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
VARIANTS = {
    "untied": {},
    "tied": {"tie_word_embeddings": True, "num_hidden_layers": 1},
    "grouped": {"num_attention_heads": 6, "num_key_value_heads": 2, "rms_norm_eps": 1e-3, "rope_theta": 100.0},
    "one key": {"num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 3},
    "wide heads": {"head_dim": 10, "num_key_value_heads": 1, "attention_bias": True},
    "biases": {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
    "gelu_new": {"hidden_act": "gelu_new", "mlp_bias": True, "pad_token_id": 4, "tie_word_embeddings": True},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "llama 3": {"rope_theta": 50.0, "rope_scaling": LLAMA3, "head_dim": 8, "max_position_embeddings": 512},
}
HEADS = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
each_head = pytest.mark.parametrize("head", HEADS)


@pytest.fixture(autouse=True)
def _exact_frequencies(monkeypatch):
    """Transformers makes its table of frequencies in float32, whatever the model's dtype; here in float64."""

    def exact(function):
        def made(*inputs, **settings):
            with in_double():
                return function(*inputs, **settings)

        return made

    for kind, function in list(modeling_rope_utils.ROPE_INIT_FUNCTIONS.items()):
        monkeypatch.setitem(modeling_rope_utils.ROPE_INIT_FUNCTIONS, kind, exact(function))
    rotary = modeling_llama.LlamaRotaryEmbedding
    if hasattr(rotary, "compute_default_rope_parameters"):  # Transformers 5
        before = rotary.compute_default_rope_parameters
        monkeypatch.setattr(rotary, "compute_default_rope_parameters", staticmethod(exact(before)))


def pair(head, std=0.3, **settings):
    """Theirs at random, and our class."""
    config = transformers.LlamaConfig(**SMALL | settings)
    return random_model(getattr(transformers, f"Llama{head}"), config, std=std), getattr(models, f"Llama{head}")


def batch_for(head, padding="right", classes=3, pad=0, **settings):
    """A batch with the labels that the head is trained on; the padding id stands at padding alone."""
    batch = draw_batch(SMALL["vocab_size"], padding=padding, pad=pad, first=pad + 1)
    rng = np.random.default_rng(5)
    rows = len(batch["input_ids"])
    if head == "ForCausalLM":
        batch["labels"] = draw_labels(batch, SMALL["vocab_size"])
        if "attention_mask" in batch:  # what follows padding is asked of padding
            batch["labels"][:, 1:][batch["attention_mask"][:, :-1] == 0] = -100
    elif head == "ForTokenClassification":
        batch["labels"] = draw_labels(batch, classes)
    elif head == "ForSequenceClassification":
        batch["labels"] = rng.integers(0, classes, rows)
    elif head == "ForQuestionAnswering":
        batch |= {"start_positions": rng.integers(0, 7, rows), "end_positions": np.array([6, 11, 2])}
    return batch | settings


def options_for(head, classes=3):
    return {"num_labels": classes} if head in ("ForSequenceClassification", "ForTokenClassification") else {}


def opened(head, folder, **settings):
    """Theirs, and ours opened from their files."""
    theirs, kind = pair(head, **settings, **options_for(head))
    theirs.save_pretrained(folder)
    return theirs, kind.from_pretrained(folder, dtype=np.float64)


@each_head
@pytest.mark.parametrize("variant", VARIANTS)
def test_everything(variant, head, tmp_path):
    theirs, kind = pair(head, **VARIANTS[variant], **options_for(head))
    check_family(kind, theirs, batch_for(head, pad=VARIANTS[variant].get("pad_token_id", 0)), tmp_path)


@each_head
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_and_positions(padding, head, tmp_path):
    theirs, ours = opened(head, tmp_path, num_key_value_heads=1)
    mask = PADDINGS[padding]
    counted = np.arange(7) + np.zeros((3, 1), int) if mask is None else np.maximum(mask.cumsum(axis=1) - 1, 0)
    # A span's loss asks the scores at padding too, and what left padding sees is nothing: theirs is an average then.
    outputs_alone = head == "ForQuestionAnswering" and padding in ("left", "both")
    for more in ({}, {"position_ids": np.arange(2, 9)[None]}, {"position_ids": counted}):
        batch = batch_for("Model" if outputs_alone else head, padding, **more)
        compare_outputs(ours, theirs, batch)
        if not outputs_alone:
            compare_gradients(ours, theirs, batch)


@each_head
def test_scales(head, tmp_path):
    for std in (0.02, 1.0):
        theirs, ours = opened(head, tmp_path / str(std), std=std)
        compare_outputs(ours, theirs, batch_for(head))
        compare_gradients(ours, theirs, batch_for(head))


@each_head
def test_dropout(head, tmp_path):
    theirs, ours = opened(head, tmp_path, attention_dropout=0.3, num_attention_heads=6, num_key_value_heads=2)
    compare_dropout(ours, theirs, batch_for(head), draws=2 + (head == "ForTokenClassification"))


def test_the_dropout_of_a_classifier_of_tokens(tmp_path):
    theirs, ours = opened("ForTokenClassification", tmp_path, classifier_dropout=0.4)
    compare_dropout(ours, theirs, batch_for("ForTokenClassification"), draws=1)


def test_cached_decoding_gives_their_logits(tmp_path):
    theirs, ours = opened("ForCausalLM", tmp_path, **VARIANTS["grouped"])
    batch = batch_for("ForCausalLM", "left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    kv_cache, past = ours.body.new_cache(), transformers.DynamicCache(config=theirs.config)
    for start, end in ((0, 4), (4, 5), (5, 7)):
        step = {
            "input_ids": ids[:, start:end],
            "attention_mask": mask[:, :end],
            "position_ids": positions[:, start:end],
        }
        got = ours(**step, kv_cache=kv_cache).logits
        expected = run_theirs(theirs, step, **{CACHE: past}, use_cache=True).logits.detach().numpy()
        real = mask[:, start:end] == 1
        np.testing.assert_allclose(got[real], expected[real], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", ["tied", "grouped", "llama 3"])
def test_greedy_generation_token_by_token(variant, tmp_path):
    theirs, ours = opened("ForCausalLM", tmp_path, **VARIANTS[variant] | {"max_position_embeddings": 16})
    for seed in range(5):
        prompt = np.random.default_rng(seed).integers(3, SMALL["vocab_size"], (2, 3))
        with in_double():
            expected = theirs.generate(
                torch.from_numpy(prompt), attention_mask=torch.ones(2, 3, dtype=torch.long), max_new_tokens=9,
                do_sample=False, pad_token_id=0,
            ).numpy()  # fmt: skip
        got = ours.generate(prompt, max_new_tokens=9)
        ends = [np.flatnonzero(row == 2)[:1] for row in expected[:, 3:]]
        for mine, reference, end in zip(got[:, 3:], expected[:, 3:], ends, strict=True):
            length = int(end[0]) + 1 if len(end) else len(reference)
            np.testing.assert_array_equal(mine[:length], reference[:length])


@pytest.mark.parametrize("form", ["4", "4, with type", "5"])
@pytest.mark.parametrize("variant", ["untied", "linear", "llama 3"])
def test_positions_as_either_version_writes_them(form, variant, tmp_path):
    theirs, ours = opened("Model", tmp_path, **VARIANTS[variant])
    entries = json.loads((tmp_path / "config.json").read_text())
    base = VARIANTS[variant].get("rope_theta", 10000.0)
    scaling = VARIANTS[variant].get("rope_scaling", {"rope_type": "default"} if form == "5" else None)
    for name in ("rope_parameters", "rope_theta", "rope_scaling"):
        entries.pop(name, None)
    if form == "5":
        entries["rope_parameters"] = {"rope_theta": base, **scaling}
    elif form == "4" or scaling is None:
        entries |= {"rope_theta": base, "rope_scaling": scaling}
    else:
        rest = {name: value for name, value in scaling.items() if name != "rope_type"}
        entries |= {"rope_theta": base, "rope_scaling": {"type": scaling["rope_type"], **rest}}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    again = models.LlamaModel.from_pretrained(tmp_path, dtype=np.float64)
    assert again.config == ours.config
    compare_outputs(again, theirs, batch_for("Model"))


def test_a_body_opens_what_a_model_with_a_head_saved_and_the_other_way(tmp_path):
    theirs, _ = opened("ForCausalLM", tmp_path)
    batch = batch_for("Model")
    compare_outputs(models.LlamaModel.from_pretrained(tmp_path, dtype=np.float64), theirs.model, batch)
    theirs.model.save_pretrained(tmp_path / "body")
    with pytest.warns(UserWarning, match="lm_head.weight; drawn anew"):
        ours = models.LlamaForCausalLM.from_pretrained(tmp_path / "body", dtype=np.float64)
    compare_outputs(ours.body, theirs.model, batch)


def test_their_auto_classes_open_what_ours_saved(tmp_path):
    config = models.LlamaConfig(**SMALL, num_key_value_heads=1, rope_theta=100.0, rope_scaling=LLAMA3)
    ours = models.LlamaForCausalLM(config, rng=0, dtype=np.float64)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager"
    )
    compare_outputs(ours, theirs, batch_for("ForCausalLM"))
