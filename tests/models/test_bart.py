"""BART and Marian: what they refuse, what they draw, what a file may lack, labels, dropout, files."""

import json
import mmap
import warnings
from itertools import combinations

import numpy as np
import pytest

from numtx import models, nn
from numtx.checkpoints import load_arrays, save_arrays
from numtx.models.bart_config import SIDES
from numtx.training import ShardedGradients

SIZES = {f"{side}_{size}": 2 for side in SIDES for size in ("layers", "attention_heads", "ffn_dim")}
SMALL = {"vocab_size": 9, "d_model": 8, "max_position_embeddings": 6, **SIZES}
IDS = np.array([[0, 3, 4, 2], [0, 5, 2, 1]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
LABELS = np.array([[0, 5, 2], [6, 2, -100]])
RATES = {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.1, "classifier_dropout": 0.4}


def make(kind=models.BartForConditionalGeneration, **settings):
    """A small model."""
    return kind(kind.config_class(**{**SMALL, **settings}), rng=0)


def marian(kind=models.MarianMTModel, **settings):
    """A small model for translation, of which id 8 is padding."""
    return make(kind, **{"pad_token_id": 8, "decoder_start_token_id": 8, "scale_embedding": True, **settings})


BATCHES = {
    "conditional generation": (make, {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}),
    "sequence": (
        lambda **s: make(models.BartForSequenceClassification, **s),
        {"input_ids": IDS, "attention_mask": MASK, "labels": np.array([2, 0])},
    ),
    "question answering": (
        lambda **s: make(models.BartForQuestionAnswering, **s),
        {"input_ids": IDS, "start_positions": np.array([1, 0]), "end_positions": np.array([2, 3])},
    ),
    "translation": (marian, {"input_ids": IDS, "labels": LABELS}),
}
each = pytest.mark.parametrize(("kind", "batch"), BATCHES.values(), ids=BATCHES)


@each
def test_kept_inputs_give_the_same_bits(kind, batch):
    model = kind(**RATES)
    (one, whole), (other, again) = (
        model.loss_and_grads(batch, rng=np.random.default_rng(3), keep=keep) for keep in ("all", "inputs")
    )
    assert one == other != model.loss(batch)
    whole, again = nn.flatten(whole), nn.flatten(again)
    assert list(whole) == list(again)
    assert all(np.array_equal(whole[name], again[name]) for name in whole)


@each
def test_every_parameter_has_a_gradient_of_its_shape_and_dtype(kind, batch):
    model = kind()
    _, grads = model.loss_and_grads(batch)
    flat = nn.flatten(grads)
    assert {name: a.shape for name, a in flat.items()} == {name: a.shape for name, a in model.named_parameters()}
    assert {array.dtype for array in flat.values()} == {np.dtype(np.float32)}


@each
def test_a_split_batch_adds_up(kind, batch):
    model = kind().astype(np.float64)
    total = model.count_labels(batch)
    parts = [{name: array[row : row + 1] for name, array in batch.items()} for row in (0, 1)]
    assert sum(model.count_labels(part) for part in parts) == total
    loss, grads = model.loss_and_grads(batch, num_items=total)
    several = [model.loss_and_grads(part, num_items=total) for part in parts]
    assert sum(one for one, _ in several) == pytest.approx(loss, rel=1e-12)
    first, second = (nn.flatten(tree) for _, tree in several)
    for name, array in nn.flatten(grads).items():
        np.testing.assert_allclose(first[name] + second[name], array, rtol=1e-9, atol=1e-12)


@each
def test_shards_of_a_run_add_up(kind, batch):
    model = kind(dropout=0.0).astype(np.float64)
    loss, grads = model.loss_and_grads(batch)
    again, sums = ShardedGradients(model, shards=2)(batch, step=0)
    assert again == pytest.approx(loss, rel=1e-12)
    for name, array in nn.flatten(grads).items():
        np.testing.assert_allclose(sums.views[name], array, rtol=1e-9, atol=1e-12)


def test_labels_are_counted():
    assert make().count_labels({"input_ids": IDS, "labels": LABELS}) == 5
    assert make(models.BartForSequenceClassification).count_labels(BATCHES["sequence"][1]) == 2


def test_what_the_decoder_reads_follows_from_the_labels():
    model = make()
    read = np.array([[2, 0, 5], [2, 6, 2]])
    given = model(IDS, MASK, read).logits
    assert np.array_equal(model(IDS, MASK, labels=LABELS).logits, given)
    assert model(IDS, MASK, read, labels=LABELS).loss == model(IDS, MASK, labels=LABELS).loss
    assert model.loss({"input_ids": IDS, "decoder_input_ids": read[:, ::-1], "labels": LABELS}) != model.loss(
        {"input_ids": IDS, "labels": LABELS}
    )
    assert np.array_equal(model.body(IDS).last_hidden_state, model.body(IDS, None, [[2, 0, 3, 4], [2, 0, 5, 2]])[0])


def test_a_large_vocabulary_needs_no_logits(monkeypatch):
    for model in (make(), make(tie_word_embeddings=False), marian(activation_function="swish")):
        model = model.astype(np.float64)
        model.head.final_logits_bias[:] = np.arange(9) / 9
        batch = {"input_ids": IDS, "labels": LABELS}
        loss, grads = model.loss_and_grads(batch)
        monkeypatch.setattr(models.seq2seq_lm, "LARGE_VOCABULARY", 9)
        again, other = model.loss_and_grads(batch)
        monkeypatch.undo()
        assert again == pytest.approx(loss, rel=1e-12)
        grads, other = nn.flatten(grads), nn.flatten(other)
        assert sorted(grads) == sorted(other)
        for name, array in grads.items():
            np.testing.assert_allclose(other[name], array, rtol=1e-9, atol=1e-12)


# --- decoding --------------------------------------------------------------------------------------------------------


def test_beams_read_one_memory():
    model = make().astype(np.float64)
    memory, kv_cache = model.encode(IDS, MASK), model.new_cache()
    first = model.decode(np.array([[2], [2]]), memory, attention_mask=MASK, kv_cache=kv_cache)
    for one in kv_cache:
        one.reorder(np.array([0, 0, 1, 1]))
    twice = np.repeat(MASK, 2, axis=0)
    new = np.array([[3], [4], [5], [6]])
    step = model.decode(new, memory, attention_mask=twice, kv_cache=kv_cache)
    read = np.concatenate([np.full((4, 1), 2), new], axis=1)
    full = model(np.repeat(IDS, 2, axis=0), twice, read).logits
    np.testing.assert_allclose(step[:, 0], full[:, 1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.repeat(first, 2, axis=0)[:, 0], full[:, 0], rtol=1e-10, atol=1e-12)


def test_padding_on_the_left_of_the_target_with_positions():
    model = make().astype(np.float64)
    memory, read, kv_cache = model.encode(IDS, MASK), np.array([[1, 2, 3], [2, 4, 5]]), model.new_cache()
    mask, positions = np.array([[0, 1, 1], [1, 1, 1]]), np.array([[0, 0, 1], [0, 1, 2]])
    settings = {"attention_mask": MASK, "kv_cache": kv_cache}
    model.decode(read[:, :2], memory, decoder_attention_mask=mask[:, :2], position_ids=positions[:, :2], **settings)
    last = model.decode(read[:, 2:], memory, decoder_attention_mask=mask, position_ids=positions[:, 2:], **settings)
    alone = model(IDS[:1], MASK[:1], read[:1, 1:]).logits[:, -1]
    np.testing.assert_allclose(last[:1, 0], alone, rtol=1e-10, atol=1e-12)


# --- weights ---------------------------------------------------------------------------------------------------------


def test_new_weights():
    model = make(init_std=0.5, d_model=64)
    for name, array in model.named_parameters():
        if array.ndim > 1:
            assert abs(array.std() / 0.5 - 1) < 4 / np.sqrt(2 * array.size), name
        else:
            assert (array == (1 if name.endswith("norm.weight") else 0)).all(), name
    assert not model.body.embedding.weight[1].any()
    assert not model.head.final_logits_bias.any()


def test_marian_adds_sines_and_then_cosines():
    """Row 1 of width 8, from the reference."""
    positions = marian().body.encoder_inputs.positions
    np.testing.assert_allclose(positions.weight[1, :5], [0.8414710, 0.0998334, 0.0099998, 0.001, 0.5403023], atol=1e-6)
    assert positions.weight[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert not any("positions" in name for name, _ in marian().named_parameters())


@pytest.mark.parametrize("model", [make(), make(tie_word_embeddings=False), marian()], ids=["tied", "untied", "marian"])
def test_saved_and_opened(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(np.array_equal(array, again.state_dict()[name]) for name, array in model.state_dict().items())
    again.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_a_file_without_a_head_is_opened_with_a_warning(tmp_path):
    make(models.BartModel).save_pretrained(tmp_path)
    with pytest.warns(
        UserWarning, match=r"BartForSequenceClassification: .* has no classification_head\.dense\.weight, .*: train"
    ):
        one = models.BartForSequenceClassification.from_pretrained(tmp_path, rng=1)
    assert one.head.out_proj.weight.std() > 0.005
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = models.BartForConditionalGeneration.from_pretrained(tmp_path)  # its head is the table
    assert np.array_equal(whole.body.embedding.weight, one.body.embedding.weight)


def test_heads_of_others_are_left_aside(tmp_path):
    make(models.BartForSequenceClassification).save_pretrained(tmp_path)
    for kind in (models.BartModel, models.BartForConditionalGeneration):
        assert kind.from_pretrained(tmp_path).config.num_labels == 3


def test_tables_that_were_one_learn_apart():
    tied = make()
    arrays = tied.to_checkpoint() | {"lm_head.weight": np.ones((9, 8), np.float32)}
    config = models.BartConfig(**SMALL, tie_word_embeddings=False)
    untied = models.BartForConditionalGeneration.from_arrays(config, arrays)
    tables = [untied.body.embedding.weight, untied.body.encoder_embedding.weight, tied.body.embedding.weight]
    assert all(np.array_equal(table, tables[2]) for table in tables)
    assert not any(np.shares_memory(*pair) for pair in combinations(tables, 2))


def test_weights_are_the_memory_of_the_file(tmp_path):
    """Transposed views of the mapped file: nothing is read before it is used."""
    make().save_pretrained(tmp_path)
    for name, array in models.BartForConditionalGeneration.from_pretrained(tmp_path).state_dict().items():
        base = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(getattr(base, "obj", base), mmap.mmap), name


def test_every_problem_of_a_file_is_told(tmp_path):
    make().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    arrays = {name: np.array(array) for name, array in load_arrays(path).items()}
    del arrays["model.decoder.layers.1.fc1.bias"]
    arrays |= {"model.shared.weight": np.zeros((9, 7), np.float32), "model.encoder.layers.2.fc1.bias": np.zeros(2)}
    save_arrays(path, arrays)
    with pytest.raises(
        ValueError,
        match=r"missing: model.decoder.layers.1.fc1.bias; unexpected: model.encoder.layers.2.fc1.bias; "
        r"of another shape: model.shared.weight \(9, 7\) for \(9, 8\)",
    ):
        models.BartForConditionalGeneration.from_pretrained(tmp_path)


# --- what is refused -------------------------------------------------------------------------------------------------

CONFIGS = {
    "no size": ({"vocab_size": None}, "BartConfig: expected the entries .*, got none of vocab_size"),
    "no scale": ({"scale_embedding": None}, "got none of scale_embedding"),
    "no activation": ({"activation_function": None}, "got none of activation_function"),
    "unknown activation": ({"activation_function": "mish"}, "expected activation_function to be one of .*, got 'mish'"),
    "heads": ({"decoder_attention_heads": 3}, "expected decoder_attention_heads that divide d_model = 8, got 3"),
    "rate": ({"dropout": 1.5}, "BartConfig: expected dropout .*, got 1.5"),
    "zero layers": ({"encoder_layers": 0}, "BartConfig: expected encoder_layers .*, got 0"),
    "family": ({"model_type": "mbart"}, "BartConfig: expected model_type 'bart', got 'mbart'"),
    "norm before": ({"normalize_before": True}, "BartConfig: expected normalize_before False, got True"),
    "no norm": ({"normalize_embedding": False}, "expected normalize_embedding True, got False"),
    "decoder alone": ({"is_encoder_decoder": False}, "expected is_encoder_decoder True, got False"),
    "sides tied": ({"tie_encoder_decoder": True}, "expected tie_encoder_decoder False, got True"),
}


@pytest.mark.parametrize(("entries", "says"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_is_refused(entries, says, tmp_path):
    make().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    with pytest.raises(ValueError, match=says):
        models.BartForConditionalGeneration.from_pretrained(tmp_path)


def test_configs_of_marian_that_are_refused():
    with pytest.raises(ValueError, match="expected a decoder_vocab_size of 9, as embeddings are shared, got 7"):
        models.MarianConfig(**SMALL, decoder_vocab_size=7)
    with pytest.raises(ValueError, match="MarianConfig: expected normalize_embedding False, got True"):
        models.MarianConfig(**SMALL, other={"normalize_embedding": True})
    with pytest.raises(ValueError, match="Embedding: expected padding_idx"):
        marian(pad_token_id=58100)


INPUTS = {
    "id out of range": ({"input_ids": IDS + 6}, r"BartModel: expected input_ids in \[0, 9\), got 11"),
    "too long": (
        {"input_ids": np.zeros((2, 7), int)},
        "BartModel: expected input_ids of at most max_position_embeddings = 6 tokens, got 7.*truncat",
    ),
    "empty": ({"input_ids": np.zeros((2, 0), int)}, r"BartModel: expected input_ids \(B, T\), not empty, got \(2, 0\)"),
    "mask": ({"input_ids": IDS, "attention_mask": MASK[:, :3]}, r"expected attention_mask \(B, T\) = \(2, 4\)"),
    "other batch": ({"input_ids": IDS, "decoder_input_ids": IDS[:1]}, r"decoder_input_ids of 2 rows, got \(1, 4\)"),
    "target mask": (
        {"input_ids": IDS, "decoder_input_ids": IDS, "decoder_attention_mask": MASK[:1]},
        r"expected decoder_attention_mask \(B, T\) = \(2, 4\), got \(1, 4\)",
    ),
    "target too long": (
        {"input_ids": IDS, "decoder_input_ids": np.zeros((2, 7), int)},
        "expected decoder_input_ids of at most max_position_embeddings = 6",
    ),
}


@pytest.mark.parametrize(("inputs", "says"), INPUTS.values(), ids=INPUTS)
def test_inputs_that_are_refused(inputs, says):
    with pytest.raises(ValueError, match=says):
        make()(**inputs)


BATCHES_REFUSED = {
    "label out of range": ({"input_ids": IDS, "labels": LABELS + 7}, "BartForConditionalGeneration: expected labels"),
    "labels of another batch": ({"input_ids": IDS, "labels": LABELS[:1]}, r"expected labels \(2, 3\), got \(1, 3\)"),
    "one label": ({"input_ids": IDS, "labels": np.array([1, 2])}, r"expected labels \(B, T\), not empty, got \(2,\)"),
    "no labels": ({"input_ids": IDS}, "expected a batch of input_ids, .* and labels, got input_ids"),
    "unknown": ({"input_ids": IDS, "labels": LABELS, "position_ids": IDS}, "expected a batch of .*position_ids"),
    "labels beside the target": (
        {"input_ids": IDS, "labels": LABELS, "decoder_input_ids": IDS},
        r"expected .*labels.*\(2, 4\), got .*\(2, 3\)",
    ),
}


@pytest.mark.parametrize("limit", [8192, 1], ids=["logits", "no logits"])
@pytest.mark.parametrize(("batch", "says"), BATCHES_REFUSED.values(), ids=BATCHES_REFUSED)
def test_batches_that_are_refused(batch, says, limit, monkeypatch):
    monkeypatch.setattr(models.seq2seq_lm, "LARGE_VOCABULARY", limit)
    with pytest.raises(ValueError, match=says):
        make().loss_and_grads(batch)


def test_a_sequence_without_an_end_token():
    model = make(models.BartForSequenceClassification)
    with pytest.raises(ValueError, match="expected an end token, eos_token_id = 2, in each row, got none in row 1"):
        model(np.array([[0, 2], [0, 3]]))
    with pytest.raises(ValueError, match=r"decoder_input_ids of the shape of input_ids, \(2, 4\), got \(2, 3\)"):
        model(IDS, decoder_input_ids=IDS[:, :3])
    with pytest.raises(ValueError, match="expected input_ids, whose end tokens say where to read, got None"):
        model(decoder_input_ids=IDS, encoder_outputs=model.body.encode(IDS))
    several = model(np.array([[0, 3, 2, 4], [2, 3, 2, 4]]))  # not as many in each row: theirs refuses, ours need not
    assert np.isfinite(several.logits).all()


def test_what_cannot_be_differentiated():
    model = make()
    outputs, cache = model.forward(IDS, decoder_input_ids=IDS, encoder_outputs=model.encode(IDS))
    with pytest.raises(ValueError, match="backward after a forward with keep=None"):
        model.backward({"logits": np.ones_like(outputs.logits)}, cache)
    outputs, cache = model.body.forward(IDS)
    with pytest.raises(ValueError, match="gradients of last_hidden_state, encoder_last_hidden_state, got logits"):
        model.body.backward({"logits": outputs.last_hidden_state}, cache)


def test_layers_that_are_left_out_are_refused_in_training_alone():
    model = make(decoder_layerdrop=0.1)
    batch = {"input_ids": IDS, "labels": LABELS}
    assert np.isfinite(model.loss_and_grads(batch)[0])
    with pytest.raises(ValueError, match=r"BartModel: expected decoder_layerdrop 0 for dropout, got 0\.1"):
        model.loss_and_grads(batch, rng=np.random.default_rng(0))


def test_marian_has_to_be_told_what_the_decoder_reads():
    with pytest.raises(ValueError, match=r"MarianModel: expected decoder_input_ids \(B, T\), got None"):
        marian()(IDS)
    with pytest.raises(ValueError, match="expected decoder_input_ids, or a config with decoder_start_token_id"):
        marian(decoder_start_token_id=None)(IDS, labels=LABELS)


def test_another_memory_in_the_middle_is_refused():
    model, step = make(), np.array([[2], [2]])
    memory, kv_cache = model.encode(IDS), model.new_cache()
    model.decode(step, memory, kv_cache=kv_cache)
    with pytest.raises(ValueError, match="expected the very memory"):
        model.decode(step, memory.copy(), kv_cache=kv_cache)
