"""RoBERTa and its heads beside Transformers': positions from the padding id, outputs, gradients, dropout and files."""

import numpy as np
import pytest

from numtx import models
from numtx.models.roberta import positions_of

transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
from family_parity import (  # noqa: E402 - it needs PyTorch
    PADDINGS,
    check_family,
    compare_dropout,
    compare_gradients,
    compare_outputs,
    draw_batch,
    random_model,
    with_labels,
)

SMALL = {
    "vocab_size": 19, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 10,
    "max_position_embeddings": 9, "type_vocab_size": 1,
}  # fmt: skip
VARIANTS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False, "num_hidden_layers": 1},
    "gelu_new": {"hidden_act": "gelu_new", "num_attention_heads": 1, "layer_norm_eps": 1e-3},
    "relu": {"hidden_act": "relu", "hidden_size": 10, "num_attention_heads": 2, "type_vocab_size": 2},
    "silu": {"hidden_act": "silu", "pad_token_id": 4, "max_position_embeddings": 12},
    "pad 0": {"pad_token_id": 0, "max_position_embeddings": 8, "num_hidden_layers": 3},
}
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
each_head = pytest.mark.parametrize("head", HEADS)


def theirs_at_random(head, std=0.3, **settings):
    config = transformers.RobertaConfig(**SMALL | settings)
    return random_model(getattr(transformers, f"Roberta{head}"), config, std=std)


def both(folder, head, std=0.3, **settings):
    """Theirs at random, and ours opened from its files."""
    theirs = theirs_at_random(head, std, **settings)
    theirs.save_pretrained(folder)
    return theirs, getattr(models, f"Roberta{head}").from_pretrained(folder, dtype=np.float64)


def batch_for(head, padding="right", pad=1, **more):
    """Among the tokens there is the padding id now and then: positions go by the ids, not by the mask."""
    batch = draw_batch(SMALL["vocab_size"], padding=padding, pad=pad)
    batch["input_ids"][1, 2] = pad
    return with_labels(head, batch, SMALL["vocab_size"]) | more


def options_for(head, classes=3):
    return {"num_labels": classes} if head in ("ForSequenceClassification", "ForTokenClassification") else {}


@each_head
@pytest.mark.parametrize("variant", VARIANTS)
def test_everything(variant, head, tmp_path):
    theirs = theirs_at_random(head, **VARIANTS[variant], **options_for(head))
    pad = VARIANTS[variant].get("pad_token_id", 1)
    # Transformers 5 computes an untied head with the decoder's bias, and has another that it leaves alone.
    unused = ["lm_head.bias"] if variant == "untied" else []
    check_family(getattr(models, f"Roberta{head}"), theirs, batch_for(head, pad=pad), tmp_path, unused=unused)


@each_head
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_types_and_positions(padding, head, tmp_path):
    theirs, ours = both(tmp_path, head, type_vocab_size=2, **options_for(head))
    rng = np.random.default_rng(6)
    types, positions = rng.integers(0, 2, (3, 7)), rng.integers(0, 9, (3, 7))
    for more in ({}, {"token_type_ids": types}, {"position_ids": positions[:1]}, {"position_ids": positions}):
        batch = batch_for(head, padding, **more)
        compare_outputs(ours, theirs, batch)
        compare_gradients(ours, theirs, batch)


@each_head
def test_scales(head, tmp_path):
    for std in (0.02, 1.0):
        theirs, ours = both(tmp_path, head, std, **options_for(head))
        compare_outputs(ours, theirs, batch_for(head))
        compare_gradients(ours, theirs, batch_for(head))


@each_head
def test_dropout(head, tmp_path):
    rates = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.4}
    theirs, ours = both(tmp_path, head, **rates, **options_for(head))
    of_the_head = {"ForSequenceClassification": 2, "ForTokenClassification": 1}.get(head, 0)
    compare_dropout(ours, theirs, batch_for(head), draws=1 + 2 * 3 + of_the_head)


def test_positions():
    ids = np.random.default_rng(0).integers(0, 4, (6, 9))
    for pad in range(4):
        embeddings = transformers.models.roberta.modeling_roberta
        if hasattr(embeddings, "create_position_ids_from_input_ids"):  # of Transformers 4
            expected = embeddings.create_position_ids_from_input_ids(torch.from_numpy(ids), pad)
        else:
            expected = embeddings.RobertaEmbeddings.create_position_ids_from_input_ids(torch.from_numpy(ids), pad)
        assert np.array_equal(positions_of(ids, pad), expected.numpy())


def test_a_padded_sequence_may_be_longer_than_the_context(tmp_path):
    theirs, ours = both(tmp_path, "ForMaskedLM")
    ids = np.full((2, 10), 1)  # nine positions, of which the first two belong to no token
    ids[0, :7], ids[1, 3:] = 5, 6
    batch = {"input_ids": ids, "attention_mask": (ids != 1).astype(int), "token_type_ids": np.zeros_like(ids)}
    compare_outputs(ours, theirs, batch)


def test_a_body_opens_what_a_model_with_a_head_saved_and_the_other_way(tmp_path):
    theirs = theirs_at_random("ForMaskedLM")
    theirs.save_pretrained(tmp_path)
    batch = draw_batch(SMALL["vocab_size"], padding="right", pad=1)
    with pytest.warns(UserWarning, match="pooler"):
        body = models.RobertaModel.from_pretrained(tmp_path, dtype=np.float64)
    expected = theirs.roberta(**{name: torch.from_numpy(array) for name, array in batch.items()}).last_hidden_state
    real = batch["attention_mask"] == 1
    got = body(**batch).last_hidden_state
    np.testing.assert_allclose(got[real], expected.detach().numpy()[real], atol=1e-12)
    transformers.RobertaModel(theirs.config).save_pretrained(tmp_path / "body")
    with pytest.warns(UserWarning, match="classifier.* drawn anew"):
        models.RobertaForSequenceClassification.from_pretrained(tmp_path / "body")
