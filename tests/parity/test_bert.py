"""BERT and its heads beside Transformers': outputs, loss, every gradient, dropout, and files in both directions."""

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
    random_model,
    with_labels,
)

SMALL = {
    "vocab_size": 19, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 10,
    "max_position_embeddings": 9,
}  # fmt: skip
VARIANTS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False, "num_hidden_layers": 1},
    "gelu_new": {"hidden_act": "gelu_new", "num_attention_heads": 1, "layer_norm_eps": 1e-3},
    "relu": {"hidden_act": "relu", "hidden_size": 10, "num_attention_heads": 2, "type_vocab_size": 3},
    "silu": {"hidden_act": "silu", "num_hidden_layers": 3, "pad_token_id": 4, "max_position_embeddings": 7},
}
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
each_head = pytest.mark.parametrize("head", HEADS)


def theirs_at_random(head, std=0.3, **settings):
    return random_model(getattr(transformers, f"Bert{head}"), transformers.BertConfig(**SMALL | settings), std=std)


def both(folder, head, std=0.3, **settings):
    """Theirs at random, and ours opened from its files."""
    theirs = theirs_at_random(head, std, **settings)
    theirs.save_pretrained(folder)
    return theirs, getattr(models, f"Bert{head}").from_pretrained(folder, dtype=np.float64)


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
    # Transformers 5 computes an untied head with the decoder's bias, and has another that it leaves alone.
    unused = ["cls.predictions.bias"] if variant == "untied" else []
    check_family(getattr(models, f"Bert{head}"), theirs, batch_for(head, pad=pad), tmp_path, unused=unused)


@each_head
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_types_and_positions(padding, head, tmp_path):
    theirs, ours = both(tmp_path, head, **options_for(head))
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


LABELS = {
    "one number": (1, np.array([0.3, -1.2, 2.0]), None),
    "numbers": (2, np.array([[0.3, 1.0], [-1.2, 0.1], [2.0, 0.7]]), "regression"),
    "several classes": (4, np.array([[0.0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]), None),
    "one class": (4, np.array([3, 0, 1]), "single_label_classification"),
}


@pytest.mark.parametrize("labels", LABELS)
def test_what_a_sequence_classifier_learns(labels, tmp_path):
    classes, asked, problem = LABELS[labels]
    theirs, ours = both(tmp_path, "ForSequenceClassification", num_labels=classes, problem_type=problem)
    batch = draw_batch(SMALL["vocab_size"], padding="left") | {"labels": asked}
    compare_outputs(ours, theirs, batch)
    compare_gradients(ours, theirs, batch)


@each_head
def test_dropout(head, tmp_path):
    rates = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}
    if head != "Model":
        rates |= {"classifier_dropout": 0.4}
    theirs, ours = both(tmp_path, head, **rates, **options_for(head))
    classified = head in ("ForSequenceClassification", "ForTokenClassification")
    compare_dropout(ours, theirs, batch_for(head), draws=1 + 2 * 3 + classified)


def test_the_dropout_of_a_classifier_is_that_of_the_layers_unless_it_has_its_own(tmp_path):
    theirs, ours = both(tmp_path, "ForSequenceClassification", hidden_dropout_prob=0.3, num_labels=3)
    compare_dropout(ours, theirs, batch_for("ForSequenceClassification"))


def test_a_body_opens_what_a_model_with_a_head_saved_and_the_other_way(tmp_path):
    theirs = theirs_at_random("ForPreTraining")
    theirs.save_pretrained(tmp_path)
    batch = draw_batch(SMALL["vocab_size"], padding="right")
    body = models.BertModel.from_pretrained(tmp_path, dtype=np.float64)
    compare_outputs(body, theirs.bert, batch)
    masked = models.BertForMaskedLM.from_pretrained(tmp_path, dtype=np.float64)
    expected = theirs(**{name: torch.from_numpy(array) for name, array in batch.items()}).prediction_logits
    np.testing.assert_allclose(masked(**batch).logits, expected.detach().numpy(), atol=1e-12)
    theirs.bert.save_pretrained(tmp_path / "body")
    with pytest.warns(UserWarning, match="classifier.* drawn anew"):
        classifier = models.BertForSequenceClassification.from_pretrained(tmp_path / "body", dtype=np.float64)
    compare_outputs(classifier.body, theirs.bert, batch)


def test_auto_classes_of_theirs_open_what_ours_saved(tmp_path):
    config = models.BertConfig(**SMALL, id2label={0: "bad", 1: "fair", 2: "good"})
    models.BertForSequenceClassification(config, rng=0, dtype=np.float64).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager"
    )
    assert theirs.config.id2label == config.id2label
    ours = models.BertForSequenceClassification.from_pretrained(tmp_path, dtype=np.float64)
    compare_outputs(ours, theirs, {"input_ids": np.array([[1, 2, 3]])})
