"""The ready-made transformers: outputs, losses that add up, writing, files, what is refused, and learning."""

import json

import numpy as np
import pytest

from numtx import nn
from numtx.checkpoints import load_arrays, save_arrays
from numtx.models import DecoderOnlyTransformer, EncoderDecoderTransformer, EncoderOnlyTransformer
from numtx.training import AdamW, ShardedGradients

SIZES = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, "max_length": 9, "dropout": 0.0}
KINDS = {
    "encoder": (EncoderOnlyTransformer, {"vocab_size": 7, "num_classes": 3, "pad_token_id": 0}),
    "decoder": (DecoderOnlyTransformer, {"vocab_size": 7}),
    "both": (EncoderDecoderTransformer, {"src_vocab_size": 7, "tgt_vocab_size": 6}),
}
IDS = np.array([[3, 4, 1, 2, 0], [5, 1, 0, 0, 0], [2, 2, 6, 1, 5]])
BATCHES = {
    "encoder": {"input_ids": IDS, "shift_labels": np.array([2, 0, 1])},
    "decoder": {"input_ids": IDS, "shift_labels": np.where(IDS == 0, -100, IDS)},
    "both": {"input_ids": IDS, "shift_labels": np.array([[3, 4, 5, 2], [5, 2, -100, -100], [3, 3, 2, -100]])},
}
each = pytest.mark.parametrize("kind", KINDS)


def make(kind, randomized=None, dtype=np.float64, **settings):
    cls, own = KINDS[kind]
    model = cls(**{**SIZES, **own, **settings}, rng=0, dtype=dtype)
    return model if randomized is None else randomized(model)


def called(model, kind, **changed):
    """The log-probabilities of the call."""
    inputs = {"input_ids": IDS, **({"labels": BATCHES["both"]["shift_labels"]} if kind == "both" else {}), **changed}
    return model(**inputs).log_probs


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
        model, batch = make(kind, randomized), dict(BATCHES[kind])
        named = {"input_ids": batch["input_ids"], "labels": batch["shift_labels"]}
        same = model.loss(named) == model.loss(batch)
        assert same == (kind != "decoder")
    shifted = np.full(IDS.shape, -100)
    shifted[:, :-1] = named["labels"][:, 1:] if kind == "decoder" else IDS[:, 1:]
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


# --- writing ---------------------------------------------------------------------------------------------------------


def test_decoder_writes_what_is_likeliest_after_a_full_reading(randomized):
    model = make("decoder", randomized)
    written = model.generate(IDS[:, :2], max_new_tokens=12)  # longer than the context: the window slides
    assert written.shape == (3, 14)
    for t in range(2, 14):
        read = written[:, max(0, t - 9) : t]
        np.testing.assert_array_equal(model(read).log_probs[:, -1].argmax(axis=-1), written[:, t])
    streamed = np.stack(list(model.stream(IDS[:, :2], max_new_tokens=12)), axis=1)
    np.testing.assert_array_equal(streamed, written[:, 2:])


def test_a_cache_of_several_tokens_at_a_time(randomized):
    model = make("decoder", randomized)
    kv_cache = [nn.KVCache() for _ in range(2)]
    steps = [model(IDS[:, a:b], kv_cache=kv_cache).log_probs for a, b in ((0, 2), (2, 3), (3, 5))]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), model(IDS).log_probs, rtol=1e-12, atol=1e-13)
    _, cache = model.forward(IDS[:, :1], kv_cache=kv_cache)
    with pytest.raises(ValueError, match=r"^DecoderOnlyTransformer: backward after a forward with keep=None or a kv_"):
        model.backward({}, cache)


def test_translator_writes_from_nothing_to_an_end(randomized):
    model = make("both", randomized)
    written = model.generate(IDS, eos_token_id=())
    assert written.shape == (3, 9), "max_length, where nothing ends it"
    for t in range(1, 10):  # what it writes is what it finds likeliest when it is taught what it wrote
        taught = model(IDS, written[:, :t]).log_probs[:, -1]
        np.testing.assert_array_equal(taught.argmax(axis=-1), written[:, t - 1])
    end = int(written[0, 1])
    ended = model.generate(IDS, eos_token_id=end)
    for row, whole in zip(ended, written, strict=True):
        where = np.flatnonzero(whole == end)
        length = where[0] + 1 if where.size else len(row)
        np.testing.assert_array_equal(row[:length], whole[:length])
        assert not row[length:].any(), "padding after the end"
    few = model.generate(IDS, max_new_tokens=2, do_sample=True, seed=1, eos_token_id=())
    assert few.shape == (3, 2)
    np.testing.assert_array_equal(few, model.generate(IDS, max_new_tokens=2, do_sample=True, seed=1, eos_token_id=()))


def test_translator_masks_padding_while_it_writes(randomized):
    model = make("both", randomized)
    np.testing.assert_array_equal(model.generate(IDS)[1:2, :3], model.generate(IDS[1:2, :2])[:, :3])
    mask = (IDS != 0).astype(int)
    np.testing.assert_array_equal(model.generate(IDS, mask), model.generate(IDS))


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
        ({"tie": True}, "expected the entries .*, got tie"),
        ({"nhead": 3}, "expected heads that divide the width 8, got 3"),
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
        "input_ids and labels of one batch size, got 3 and 2",
    ),
    "labels' axes": ("both", {"input_ids": IDS, "labels": LABELS[0]}, r"expected labels \(B, T\), got \(4,\)"),
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
        with pytest.raises(ValueError, match='expected a dict with the gradient of "log_probs", float64'):
            model.backward(doutputs, cache)
    with pytest.raises(ValueError, match="backward after a forward with keep=None"):
        model.backward({}, model.forward(**arguments, keep=None)[1])


def test_settings_that_are_refused():
    for kind, changed, message in (
        ("encoder", {"d_model": 7, "nhead": 1}, "sinusoidal_positions: expected an even width, got 7"),
        ("encoder", {"nhead": 3}, "expected heads that divide the width 8, got 3"),
        (
            "encoder",
            {"num_classes": 0},
            "EncoderOnlyConfig: expected num_classes as a whole number of at least 1, got 0",
        ),
        ("encoder", {"pooling": "max"}, "expected a pooling of first, last, mean or None, got 'max'"),
        ("decoder", {"dropout": 1.0}, r"DecoderOnlyConfig: expected dropout in \[0, 1\), got 1.0"),
        ("decoder", {"positions": "rotary"}, "expected positions 'sinusoidal' or 'learned', got 'rotary'"),
        ("both", {"decoder_start_token_id": 6}, "expected ids under tgt_vocab_size = 6, got decoder_start_token_id 6"),
        ("both", {"pad_token_id": -1}, "expected pad_token_id as a whole number of at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            make(kind, **changed)
    model = make("both")
    with pytest.raises(ValueError, match=r"generate: expected max_new_tokens of at most max_length = 9, got 10"):
        model.generate(IDS, max_new_tokens=10)
    with pytest.raises(ValueError, match=r"^EncoderDecoderTransformer.generate: expected the settings .*, got beams"):
        model.generate(IDS, beams=2)
    with pytest.raises(ValueError, match="max_new_tokens as a whole number of at least 1, got 0"):
        model.generate(IDS, max_new_tokens=0)
