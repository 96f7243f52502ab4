"""The ready-made transformers: outputs, losses that add up, files, what is refused, and learning."""

import json
from functools import partial

import numpy as np
import pytest
from ready_made_models import BATCHES, IDS, KINDS, SIZES, called, make

from numtx import nn
from numtx.checkpoints import load_arrays, save_arrays
from numtx.models import EncoderOnlyTransformer
from numtx.models.loss import shift_left, shift_right
from numtx.training import AdamW, ShardedGradients

each = pytest.mark.parametrize("kind", KINDS)


# --- outputs ---------------------------------------------------------------------------------------------------------


@each
def test_outputs_are_log_probabilities_of_the_dtype(kind, randomized):
    for dtype in (np.float32, np.float64):
        log_probs = called(make(kind, randomized, dtype), kind)
        assert log_probs.dtype == dtype
        np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1, rtol=1e-6)
    assert log_probs.shape == {"encoder": (3, 3), "decoder": (3, 5, 7), "both": (3, 4, 6)}[kind]


@each
def test_backward_gives_a_tree_like_the_parameters(kind, randomized):
    model = make(kind, randomized, dropout=0.3)
    loss, grads = model.loss_and_grads(BATCHES[kind], rng=np.random.default_rng(0))
    assert {name: g.shape for name, g in nn.flatten(grads).items()} == {
        name: array.shape for name, array in model.named_parameters()
    }
    assert list(grads) == list(model.children())
    assert loss != model.loss(BATCHES[kind])
    assert model.loss_and_grads(BATCHES[kind])[0] == pytest.approx(model.loss(BATCHES[kind]), rel=1e-12)


@each
def test_no_gradient_given_is_a_gradient_of_zero(kind, randomized):
    model = make(kind, randomized)
    arguments = {**BATCHES[kind]}
    labels = arguments.pop("shift_labels")
    _, cache = model.forward(**arguments, **({"labels": labels} if kind == "both" else {}))
    none, grads = model.backward({}, cache)
    assert none is None
    assert not any(gradient.any() for gradient in nn.flatten(grads).values())


def test_padding_by_its_id_or_by_a_mask(randomized):
    mask = (IDS != 0).astype(int)
    for kind in ("encoder", "both"):
        model = make(kind, randomized)
        np.testing.assert_array_equal(called(model, kind), called(model, kind, attention_mask=mask))
        everything = called(model, kind, attention_mask=np.ones_like(mask))
        assert not np.allclose(called(model, kind), everything), "a mask that is given is what counts"
    without = make("encoder", randomized, pad_token_id=None)
    np.testing.assert_array_equal(called(without, "encoder"), called(without, "encoder", attention_mask=mask * 0 + 1))


def test_a_sequence_alone_and_in_a_padded_batch(randomized):
    for kind in ("encoder", "both"):
        model = make(kind, randomized)
        alone = {"input_ids": IDS[1:2, :2], **({"labels": np.array([[5, 2, -100, -100]])} if kind == "both" else {})}
        np.testing.assert_allclose(model(**alone).log_probs, called(model, kind)[1:2], rtol=1e-12, atol=1e-12)


# --- losses ----------------------------------------------------------------------------------------------------------


@each
def test_shards_that_divide_by_the_count_of_the_whole_add_up(kind, randomized):
    model, batch = make(kind, randomized), BATCHES[kind]
    loss, grads = model.loss_and_grads(batch)
    count = model.count_labels(batch)
    assert count == int((batch["shift_labels"] != -100).sum())
    parts = [model.loss_and_grads({k: v[i : i + 1] for k, v in batch.items()}, num_items=count) for i in range(3)]
    assert sum(part for part, _ in parts) == pytest.approx(loss, rel=1e-12)
    for name, gradient in nn.flatten(grads).items():
        total = sum(nn.flatten(tree)[name] for _, tree in parts)
        np.testing.assert_allclose(total, gradient, rtol=1e-9, atol=1e-12)


def test_which_labels_are_shifted(randomized):
    """A decoder alone is asked for the next token; the others are asked for their labels where they stand."""
    for kind in KINDS:
        model, batch = make(kind, randomized), BATCHES[kind]
        named = {"input_ids": batch["input_ids"], "labels": batch["shift_labels"]}
        assert (model.loss(named) == model.loss(batch)) == (kind != "decoder")
        assert (model.count_labels(named) == model.count_labels(batch)) == (kind != "decoder")
    shifted = np.full(IDS.shape, -100)
    shifted[:, :-1] = IDS[:, 1:]
    model = make("decoder", randomized)
    assert model.loss({"input_ids": IDS, "labels": IDS}) == model.loss({"input_ids": IDS, "shift_labels": shifted})
    assert model.count_labels({"input_ids": IDS, "labels": IDS}) == 12


def test_a_batch_without_a_real_label_costs_nothing(randomized):
    model = make("both", randomized)
    loss, grads = model.loss_and_grads({"input_ids": IDS, "labels": np.full((3, 4), -100)})
    assert loss == 0
    assert not any(gradient.any() for gradient in nn.flatten(grads).values())


@each
def test_shards_that_keep_all_and_shards_that_recompute_give_the_same(kind):
    model = make(kind, dropout=0.2)
    kept, gradients = ShardedGradients(model, 2, seed=1)(BATCHES[kind], 0)
    recomputed, others = ShardedGradients(model, 2, seed=1, recompute=True)(BATCHES[kind], 0)
    assert kept == recomputed
    np.testing.assert_allclose(gradients.buffer, others.buffer, rtol=1e-9, atol=1e-14)


@each
def test_it_learns_a_batch_by_heart(kind):
    model = make(kind, dtype=np.float32)
    optimizer = AdamW(model, lr=0.02)
    shards = ShardedGradients(optimizer.flat, 2)
    losses = []
    for step in range(60):
        loss, gradients = shards(BATCHES[kind], step)
        optimizer.step(gradients)
        losses.append(loss)
    assert losses[0] > 1
    assert losses[-1] < 0.05
    if kind == "both":
        np.testing.assert_array_equal(model.generate(IDS), [[3, 4, 5, 2], [5, 2, 0, 0], [3, 3, 2, 0]])


# --- files -----------------------------------------------------------------------------------------------------------


@each
def test_a_model_comes_back_bit_for_bit(kind, tmp_path, randomized):
    settings = {"positions": "learned", "norm_first": True, "activation": "gelu", "layer_norm_eps": 1e-3}
    model = make(kind, randomized, np.float32, **settings)
    model.save_pretrained(tmp_path / "new" / "folder")
    again = type(model).from_pretrained(tmp_path / "new" / "folder")
    assert again.config == model.config
    np.testing.assert_array_equal(called(again, kind), called(model, kind))
    again.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "new" / "folder" / name).read_bytes()
    assert type(model).from_pretrained(tmp_path / "again", dtype=np.float64).dtype == np.float64


@each
def test_names_of_pytorch_there_and_back(kind, randomized):
    model = make(kind, randomized)
    other = make(kind)
    other.load_torch_state_dict({name: np.array(array) for name, array in model.torch_state_dict().items()})
    np.testing.assert_array_equal(called(other, kind), called(model, kind))
    names = list(model.torch_state_dict())
    stack = "transformer.decoder" if kind == "both" else "stack"
    assert f"{stack}.layers.1.self_attn.in_proj_weight" in names
    assert names[-2:] == ["head.out_proj.weight", "head.out_proj.bias"]


def test_a_file_that_does_not_fit(tmp_path):
    model = make("encoder")
    model.save_pretrained(tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    for changed, message in (
        ({"model_type": "gpt2"}, "expected model_type 'encoder_only_transformer', got 'gpt2'"),
        ({"tie": True}, "^EncoderOnlyConfig: expected the settings .*, got tie"),
        ({"nhead": 3}, "^EncoderOnlyConfig: expected heads that divide the width 8, got nhead 3"),
        ({"num_classes": 4}, "head.out_proj.weight: expected"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(entries | changed))
        with pytest.raises(ValueError, match=message):
            EncoderOnlyTransformer.from_pretrained(tmp_path)
    del entries["vocab_size"]
    (tmp_path / "config.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="got no vocab_size"):
        EncoderOnlyTransformer.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    arrays = load_arrays(tmp_path / "model.safetensors")
    arrays.pop("stack.norm.weight")
    save_arrays(tmp_path / "model.safetensors", arrays)
    with pytest.raises(ValueError, match=r"missing stack\.norm\.weight"):
        EncoderOnlyTransformer.from_pretrained(tmp_path)


# --- what is refused -------------------------------------------------------------------------------------------------

LABELS = BATCHES["both"]["shift_labels"]
REFUSED = {
    "ids of one axis": ("encoder", {"input_ids": IDS[0]}, r"expected input_ids \(B, T\), not empty, got \(5,\)"),
    "no ids": ("decoder", {"input_ids": IDS[:0]}, r"expected input_ids \(B, T\), not empty, got \(0, 5\)"),
    "too long": ("decoder", {"input_ids": np.ones((1, 10), int)}, r"at most max_length = 9 tokens, got 10"),
    "out of the vocabulary": ("encoder", {"input_ids": IDS + 3}, r"expected input_ids in \[0, 7\), got 9"),
    "no integers": ("decoder", {"input_ids": IDS / 2}, "expected integer input_ids, got float64"),
    "mask's shape": (
        "encoder",
        {"input_ids": IDS, "attention_mask": np.ones((3, 4), int)},
        r"expected attention_mask \(B, T\) = \(3, 5\), got \(3, 4\)",
    ),
    "batches": (
        "both",
        {"input_ids": IDS, "labels": LABELS[:2]},
        r"expected labels \(3, 4\), got \(2, 4\)",
    ),
    "labels' axes": (
        "both",
        {"input_ids": IDS, "labels": LABELS[0]},
        r"expected labels \(B, T\), not empty, got \(4,\)",
    ),
    "labels' range": ("both", {"input_ids": IDS, "labels": LABELS + 3}, r"expected labels in \[0, 6\), got -97"),
    "labels too long": (
        "both",
        {"input_ids": IDS, "labels": np.ones((3, 10), int)},
        "expected labels of at most max_length = 9 tokens, got 10",
    ),
    "decoder's mask": (
        "both",
        {"input_ids": IDS, "labels": LABELS, "decoder_attention_mask": np.ones((3, 5), int)},
        r"expected decoder_attention_mask \(B, T\) = \(3, 4\), got \(3, 5\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_the_door(case):
    kind, arguments, message = REFUSED[case]
    model = make(kind)
    with pytest.raises(ValueError, match=f"^{type(model).__name__}: .*{message}") as error:
        model(**arguments)
    assert "\n" not in str(error.value)


SHAPES = {"encoder": r"\(3,\)", "decoder": r"\(3, 5\)", "both": r"\(3, 4\)"}
LIMITS = {"encoder": 3, "decoder": 7, "both": 6}


@pytest.mark.parametrize("name", ["labels", "shift_labels"])
@each
def test_labels_are_refused_before_anything_is_computed(kind, name, monkeypatch):
    """As they were given: a shift would drop one of them, or cut a number off."""
    model, labels = make(kind), BATCHES[kind]["shift_labels"]
    monkeypatch.setattr(nn.Embedding, "forward", None)
    last = labels.copy()
    last[..., -1] = LIMITS[kind]
    first = labels.copy()
    first[0] = -1
    cases = [
        (labels + 0.5, f"expected integer {name}, got float64"),
        (labels > 1, f"expected integer {name}, got bool"),
        (last, rf"expected {name} in \[0, {LIMITS[kind]}\), got {LIMITS[kind]}"),
        (first, rf"expected {name} in \[0, {LIMITS[kind]}\), got -1"),
        (labels[:2], rf"expected {name} {SHAPES[kind]}, got \(2,.*\)"),
        (labels[..., None], rf"expected {name} .*, got \(3,.* 1\)"),
    ]
    for wrong, message in cases:
        batch = {"input_ids": IDS, name: wrong}
        for call in (model.loss, model.loss_and_grads, model.count_labels):
            with pytest.raises(ValueError, match=rf"^{type(model).__name__}: {message}$"):
                call(batch)


def test_shifts_take_whole_numbers_alone():
    for shift in (shift_left, partial(shift_right, start=1, pad=0)):
        with pytest.raises(ValueError, match=r"^shift_\w+: expected integer labels, got float64$"):
            shift(np.array([[1.0, 2.9]]))


@each
def test_batches_that_are_refused(kind):
    model, batch = make(kind), BATCHES[kind]
    for wrong in (
        {"input_ids": IDS},
        {**batch, "labels": batch["shift_labels"]},
        {**batch, "token_type_ids": IDS},
        {"shift_labels": batch["shift_labels"]},
    ):
        with pytest.raises(ValueError, match=rf"^{type(model).__name__}: expected a batch of input_ids, .* got "):
            model.loss_and_grads(wrong)
    arguments = {"input_ids": IDS, **({"labels": LABELS} if kind == "both" else {})}
    outputs, cache = model.forward(**arguments)
    wrong = ({"logits": outputs.log_probs}, {"log_probs": outputs.log_probs[:1]}, outputs.log_probs)
    for doutputs in (*wrong, {"log_probs": outputs.log_probs.astype(np.float32)}):
        said = "(a dict of|) ?gradients of log_probs, got (ndarray|logits)|the gradient of log_probs, float64"
        with pytest.raises(ValueError, match=rf"^{type(model).__name__}: expected ({said})"):
            model.backward(doutputs, cache)
    with pytest.raises(ValueError, match="backward after a forward with keep=None"):
        model.backward({}, model.forward(**arguments, keep=None)[1])


SETTINGS = {
    "odd width": ("encoder", {"d_model": 7, "nhead": 1}, "expected an even d_model for sinusoidal positions, got 7"),
    "heads": ("decoder", {"nhead": 3}, "expected heads that divide the width 8, got nhead 3"),
    "classes": ("encoder", {"num_classes": 0}, "expected num_classes as a whole number of at least 1, got 0"),
    "pooling": ("encoder", {"pooling": "max"}, "expected pooling of first, last, mean, None, got 'max'"),
    "activation": ("both", {"activation": "selu"}, "expected activation of relu, .*tanh, got 'selu'"),
    "positions": ("decoder", {"positions": "rotary"}, "expected positions of sinusoidal, learned, got 'rotary'"),
    "dropout": ("decoder", {"dropout": 1.0}, r"expected dropout in \[0, 1\), got 1.0"),
    "pad": ("encoder", {"pad_token_id": 7}, "expected ids under vocab_size = 7, got pad_token_id 7"),
    "end": ("decoder", {"eos_token_id": 7}, "expected ids under vocab_size = 7, got eos_token_id 7"),
    "start": (
        "both",
        {"decoder_start_token_id": 6},
        "expected ids under tgt_vocab_size = 6, got decoder_start_tok.* 6",
    ),
    "negative": ("both", {"pad_token_id": -1}, "expected pad_token_id as a whole number of at least 0, got -1"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_cannot_be(case):
    """By the config, so that none is ever made."""
    kind, changed, message = SETTINGS[case]
    cls, own = KINDS[kind]
    config_class = cls.config_class
    for call in (config_class, cls):
        with pytest.raises(ValueError, match=f"^{config_class.__name__}: {message}$"):
            call(**{**SIZES, **own, **changed})


@each
def test_settings_by_config_or_by_keyword(kind):
    cls, own = KINDS[kind]
    config = cls.config_class(**SIZES, **own)
    one, other = cls(config, rng=0), cls(**SIZES, **own, rng=0)
    assert one.config is config
    assert one.config == other.config
    assert config.context == config.max_length == 9
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    required = "src_vocab_size" if kind == "both" else "vocab_size"
    for call, got in (
        (lambda: cls(**SIZES, **own, heads=2, layers=3), "heads, layers"),
        (lambda: cls(**SIZES), f".*no {required}"),
        (lambda: cls(config, d_model=8), f"{type(config).__name__}, d_model"),
        (lambda: cls(SIZES), "dict"),
    ):
        with pytest.raises(ValueError, match=rf"^{cls.__name__}: expected [^\n]*, got {got}$"):
            call()
