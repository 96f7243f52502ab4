"""DistilBERT and its heads beside Transformers': outputs, loss, every gradient, dropout, files in both directions."""

import inspect

import numpy as np
import pytest

from numtx import models

transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
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
    "vocab_size": 19, "dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 10, "max_position_embeddings": 9,
}  # fmt: skip
VARIANTS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False, "n_layers": 1},
    "gelu_new": {"activation": "gelu_new", "n_heads": 1},
    "relu": {"activation": "relu", "dim": 10, "n_heads": 2, "pad_token_id": 4},
    "silu": {"activation": "silu", "n_layers": 3, "max_position_embeddings": 7},
}
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
each_head = pytest.mark.parametrize("head", HEADS)


def theirs_at_random(head, std=0.3, **settings):
    config = transformers.DistilBertConfig(**SMALL | settings)
    return random_model(getattr(transformers, f"DistilBert{head}"), config, std=std)


def both(folder, head, std=0.3, **settings):
    """Theirs at random, and ours opened from its files."""
    theirs = theirs_at_random(head, std, **settings)
    theirs.save_pretrained(folder)
    return theirs, getattr(models, f"DistilBert{head}").from_pretrained(folder, dtype=np.float64)


def batch_for(head, padding="right", pad=0, **more):
    batch = draw_batch(SMALL["vocab_size"], padding=padding, pad=pad)
    return with_labels(head, batch, SMALL["vocab_size"]) | more


def options_for(head, classes=3):
    return {"num_labels": classes} if head in ("ForSequenceClassification", "ForTokenClassification") else {}


@each_head
@pytest.mark.parametrize("variant", VARIANTS)
def test_everything(variant, head, tmp_path):
    theirs = theirs_at_random(head, **VARIANTS[variant], **options_for(head))
    pad = VARIANTS[variant].get("pad_token_id", 0)
    check_family(getattr(models, f"DistilBert{head}"), theirs, batch_for(head, pad=pad), tmp_path)


@each_head
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_and_positions(padding, head, tmp_path):
    theirs, ours = both(tmp_path, head, **options_for(head))
    positions = np.random.default_rng(6).integers(0, 9, (3, 7))
    given = [{}]
    if "position_ids" in inspect.signature(theirs.forward).parameters:  # not in Transformers 4
        given += [{"position_ids": positions[:1]}, {"position_ids": positions}]
    for more in given:
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
    rates = {"dropout": 0.3, "attention_dropout": 0.2, "qa_dropout": 0.15, "seq_classif_dropout": 0.4}
    theirs, ours = both(tmp_path, head, **rates, **options_for(head))
    of_the_head = head in ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    compare_dropout(ours, theirs, batch_for(head), draws=1 + 2 * 2 + of_the_head)


def test_positions_that_start_from_sines(tmp_path):
    config = models.DistilBertConfig(**SMALL, sinusoidal_pos_embds=True)
    ours = models.DistilBertForMaskedLM(config, rng=0)
    theirs = transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**SMALL, sinusoidal_pos_embds=True))
    table = theirs.distilbert.embeddings.position_embeddings.weight.detach().numpy()
    np.testing.assert_allclose(ours.body.embeddings.positions.weight, table, atol=1e-6)
    alone = models.DistilBertModel(config, rng=0).embeddings.positions.weight
    np.testing.assert_allclose(alone, table, atol=1e-6)


def test_a_body_opens_what_a_model_with_a_head_saved_and_the_other_way(tmp_path):
    theirs, _ = both(tmp_path, "ForMaskedLM")
    batch = draw_batch(SMALL["vocab_size"], padding="right")
    compare_outputs(models.DistilBertModel.from_pretrained(tmp_path, dtype=np.float64), theirs.distilbert, batch)
    theirs.distilbert.save_pretrained(tmp_path / "body")
    with pytest.warns(UserWarning, match="classifier.* drawn anew"):
        classifier = models.DistilBertForSequenceClassification.from_pretrained(tmp_path / "body", dtype=np.float64)
    compare_outputs(classifier.body, theirs.distilbert, batch)
