"""BART beside Transformers: outputs, hidden states, attentions, losses, gradients, files, dropout, decoding."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
import torch
import transformers
from family_parity import (
    PADDINGS,
    check_family,
    check_saving,
    compare_dropout,
    compare_gradients,
    compare_outputs,
    draw_batch,
    in_double,
    random_model,
    same_bits,
    tensors,
)
from their_version import OLD

from numtx import models, nn
from numtx.checkpoints import load_arrays, save_arrays

PAD, START, END = 1, 2, 2
SMALL = {
    "vocab_size": 19,
    "max_position_embeddings": 11,
    "d_model": 12,
    "encoder_layers": 2,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 14,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 10,
}
UNTIED = pytest.param(
    {"tie_word_embeddings": False},
    marks=pytest.mark.skipif(OLD, reason="Transformers 4 loses the embeddings of an untied BART that it has saved"),
)
CONFIGS = {
    "plain": {},
    "scaled": {"scale_embedding": True, "activation_function": "gelu_new"},
    "relu": {"activation_function": "relu", "encoder_layers": 1, "decoder_layers": 3},
    "silu": {"activation_function": "silu", "d_model": 15, "encoder_attention_heads": 5, "decoder_attention_heads": 1},
}
KINDS = {
    "body": (models.BartModel, "BartModel"),
    "conditional generation": (models.BartForConditionalGeneration, "BartForConditionalGeneration"),
    "sequence": (models.BartForSequenceClassification, "BartForSequenceClassification"),
    "question answering": (models.BartForQuestionAnswering, "BartForQuestionAnswering"),
}
TARGET_MASKS = {
    "none": None,
    "right": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]),
    "left": np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]),
}


def make(name, **settings):
    """A random model of Transformers."""
    return random_model(getattr(transformers, name), transformers.BartConfig(**{**SMALL, **settings}))


def target_of(padding="none", seed=5):
    """Ids for the decoder, of another length than the source, and their mask."""
    ids, mask = np.random.default_rng(seed).integers(3, 19, (3, 5)), TARGET_MASKS[padding]
    if mask is None:
        return {"decoder_input_ids": ids}
    return {"decoder_input_ids": np.where(mask == 1, ids, PAD), "decoder_attention_mask": mask}


def batch_of(kind, padding="none"):
    """Arguments and labels of a kind of model."""
    batch = draw_batch(19, padding=padding, pad=PAD, first=3)
    if kind == "body":
        return batch | target_of("right" if padding == "right" else "none")
    if kind == "conditional generation":
        labels = np.random.default_rng(6).integers(3, 19, (3, 5))
        labels[0, 3:] = labels[1, 1] = -100
        return batch | {"labels": labels}
    if kind == "sequence":
        for row, at in enumerate(([5, 6], [2, 4], [3, 1])):  # two ends in each row, of which the last one counts
            batch["input_ids"][row, at] = END
        return batch | {"labels": np.array([2, 0, 1])}
    return batch | {"start_positions": np.array([1, 0, 6]), "end_positions": np.array([3, 9, -1])}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_and_padding(kind, padding, tmp_path):
    ours, theirs = KINDS[kind]
    check_family(ours, make(theirs), batch_of(kind, padding), tmp_path)


@pytest.mark.parametrize("settings", [*CONFIGS.values(), UNTIED], ids=[*CONFIGS, "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_config(kind, settings, tmp_path):
    ours, theirs = KINDS[kind]
    check_family(ours, make(theirs, **settings), batch_of(kind), tmp_path)


@pytest.mark.parametrize("padding", TARGET_MASKS)
def test_padding_of_the_target(padding, tmp_path):
    """Where a row of the decoder is padding, theirs sees all keys and ours none: no label may stand there."""
    theirs = make("BartForConditionalGeneration")
    batch = draw_batch(19, padding="both", pad=PAD, first=3) | target_of(padding)
    mask = TARGET_MASKS[padding]
    labels = np.random.default_rng(7).integers(0, 19, (3, 5))
    batch["labels"] = labels if mask is None else np.where(mask == 1, labels, -100)
    check_family(models.BartForConditionalGeneration, theirs, batch, tmp_path)


def test_the_decoder_reads_the_source_where_nothing_is_given(tmp_path):
    theirs = make("BartModel")
    check_family(models.BartModel, theirs, draw_batch(19, padding="right", pad=PAD, first=3), tmp_path)


@pytest.mark.parametrize(
    ("number", "labels"), [(1, [0.5, -1.0, 2.0]), (4, np.eye(4)[:3])], ids=["regression", "several"]
)
def test_labels_of_a_sequence(number, labels, tmp_path):
    theirs = make("BartForSequenceClassification", num_labels=number)
    batch = batch_of("sequence", "left") | {"labels": np.array(labels, np.float64)}
    check_family(models.BartForSequenceClassification, theirs, batch, tmp_path)


def test_places_in_a_target_of_another_length(tmp_path):
    """Those behind its end are ignored, wherever the source ends."""
    theirs = make("BartForQuestionAnswering")
    labels = {"start_positions": np.array([1, 5, 3]), "end_positions": np.array([4, 6, 2])}
    batch = draw_batch(19, padding="right", pad=PAD, first=3) | target_of() | labels
    check_family(models.BartForQuestionAnswering, theirs, batch, tmp_path)
    longer = {"decoder_input_ids": np.random.default_rng(8).integers(3, 19, (3, 9)), "start_positions": np.full(3, 8)}
    check_family(models.BartForQuestionAnswering, theirs, batch | longer, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout(kind, tmp_path):
    ours, name = KINDS[kind]
    rates = {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.4, "classifier_dropout": 0.1}
    theirs = make(name, **rates)
    theirs.save_pretrained(tmp_path)
    opened = ours.from_pretrained(tmp_path, dtype=np.float64)
    compare_dropout(opened, theirs, batch_of(kind, "right"), draws=2 + 2 * 4 + 2 * 6 + 2 * (kind == "sequence"))


# --- decoding --------------------------------------------------------------------------------------------------------


def test_decoding_step_by_step_is_what_theirs_gives_at_once(tmp_path):
    theirs = make("BartForConditionalGeneration", scale_embedding=True)
    theirs.save_pretrained(tmp_path)
    ours = models.BartForConditionalGeneration.from_pretrained(tmp_path, dtype=np.float64)
    batch = draw_batch(19, padding="left", pad=PAD, first=3) | target_of()
    with torch.no_grad(), in_double():
        expected = theirs(**tensors(batch)).logits.numpy()
    mask, ids = batch["attention_mask"], batch["decoder_input_ids"]
    memory, kv_cache = ours.encode(batch["input_ids"], mask), ours.new_cache()
    steps = [
        ours.decode(ids[:, a:b], memory, attention_mask=mask, kv_cache=kv_cache) for a, b in ((0, 1), (1, 3), (3, 5))
    ]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), expected, rtol=1e-10, atol=1e-10)
    again = ours(attention_mask=mask, decoder_input_ids=ids, encoder_outputs=memory).logits
    np.testing.assert_allclose(again, expected, rtol=1e-10, atol=1e-10)


def test_outputs_of_the_encoder_are_taken_and_handed_on(tmp_path):
    theirs = make("BartModel")
    theirs.save_pretrained(tmp_path)
    ours = models.BartModel.from_pretrained(tmp_path, dtype=np.float64)
    batch = draw_batch(19, padding="right", pad=PAD, first=3) | target_of()
    asked = {"output_hidden_states": True, "output_attentions": True}
    first = ours(**batch, **asked)
    given = models.output.BaseModelOutput(
        first.encoder_last_hidden_state, first.encoder_hidden_states, first.encoder_attentions
    )
    del batch["input_ids"]
    for outputs in (given, given.to_tuple()):
        again = ours(**batch, encoder_outputs=outputs, **asked)
        assert again.keys() == first.keys()
        assert np.array_equal(again.last_hidden_state, first.last_hidden_state)
        assert again.encoder_attentions is given.attentions


# --- files -----------------------------------------------------------------------------------------------------------


def rewritten(folder, change, **entries):
    """A folder whose weights went through `change`, and whose config got other entries."""
    path = folder / "model.safetensors"
    arrays = change({name: np.array(array) for name, array in load_arrays(path).items()})
    save_arrays(path, arrays)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def test_other_names_of_the_one_table(tmp_path):
    """Files hold the table under any of four names, or under all."""
    theirs = make("BartForConditionalGeneration")
    theirs.save_pretrained(tmp_path)
    kind = models.BartForConditionalGeneration
    whole = kind.from_pretrained(tmp_path)
    first = "model.shared.weight"
    others = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"]
    for names in ([first, *others], others[1:2], others[2:], others):
        rewritten(tmp_path, lambda arrays, names=names: renamed(arrays, [first, *others], names))
        assert same_bits(kind.from_pretrained(tmp_path), whole)


def renamed(arrays, old, new):
    """The array that stands under one of the old names or several, under the new ones alone."""
    array = next(arrays[name] for name in old if name in arrays)
    rest = {name: other for name, other in arrays.items() if name not in old}
    return rest | dict.fromkeys(new, array)


def test_a_file_without_the_final_bias_or_the_prefix(tmp_path):
    """Of the bare model a model with a head can be made, with a bias of zeros and no warning."""
    theirs = make("BartModel")
    theirs.save_pretrained(tmp_path)
    ours = models.BartForConditionalGeneration.from_pretrained(tmp_path)
    assert not ours.head.final_logits_bias.any()
    assert same_bits(ours.body, models.BartModel.from_pretrained(tmp_path))


def test_a_table_for_each_side(tmp_path):
    """Version 4 shares the table of both sides where the head is its own; its files hold it once."""
    theirs = make("BartForConditionalGeneration")
    theirs.save_pretrained(tmp_path)
    head = np.random.default_rng(9).standard_normal((19, 12)).astype(np.float32)
    rewritten(tmp_path, lambda arrays: arrays | {"lm_head.weight": head}, tie_word_embeddings=False)
    ours = models.BartForConditionalGeneration.from_pretrained(tmp_path)
    one, other = ours.body.embedding.weight, ours.body.encoder_embedding.weight
    assert np.array_equal(one, other)
    assert np.array_equal(one, ours.body.shared)
    assert not np.shares_memory(one, other)  # they learn apart
    batch = batch_of("conditional generation")
    with torch.no_grad():
        theirs.lm_head.weight = torch.nn.Parameter(torch.from_numpy(head).double())
    compare_outputs(ours.astype(np.float64), theirs, batch)
    _, grads = ours.loss_and_grads(batch)
    theirs.zero_grad()
    theirs(**tensors(batch)).loss.backward()
    both = grads["body"]["embedding"]["weight"] + grads["body"]["encoder_embedding"]["weight"]
    np.testing.assert_allclose(both, theirs.model.shared.weight.grad.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grads["decoder"], theirs.lm_head.weight.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, UNTIED], ids=["tied", "untied"])
def test_a_large_vocabulary(settings, tmp_path, monkeypatch):
    """The same loss and gradients where the logits are never held."""
    theirs = make("BartForConditionalGeneration", **settings)
    theirs.save_pretrained(tmp_path)
    ours = models.BartForConditionalGeneration.from_pretrained(tmp_path, dtype=np.float64)
    monkeypatch.setattr(models.seq2seq_lm, "LARGE_VOCABULARY", 19)
    batch = batch_of("conditional generation", "right")
    compare_gradients(ours, theirs, batch)
    assert ours.loss(batch, num_items=3) * 3 == pytest.approx(ours.loss(batch) * 12, rel=1e-12)


def test_what_is_saved_after_training(tmp_path):
    """A model that numtx made and changed opens with Transformers, bits and outputs."""
    ours = models.BartForConditionalGeneration(models.BartConfig(**SMALL), rng=0, dtype=np.float64)
    ours.save_pretrained(tmp_path / "numtx")
    theirs = transformers.BartForConditionalGeneration.from_pretrained(
        tmp_path / "numtx", dtype=torch.float64, attn_implementation="eager"
    )
    compare_outputs(ours, theirs, batch_of("conditional generation", "left"))
    theirs.save_pretrained(tmp_path / "theirs")
    check_saving(ours, theirs, batch_of("conditional generation"), tmp_path)
    assert not nn.flatten(ours.state_dict())["body.embedding.weight"][PAD].any()
