"""GPT-2, bare and with each head, beside Transformers."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
import transformers
from family_parity import PADDINGS, check_family, compare_dropout, draw_batch, draw_labels, random_model

from numtx import models

SMALL = {"vocab_size": 19, "n_positions": 9, "n_embd": 12, "n_layer": 2, "n_head": 3, "pad_token_id": 0}
SMALL |= {"bos_token_id": 1, "eos_token_id": 2}
VARIANTS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "relu, inner width": {"activation_function": "relu", "n_inner": 7},
    "exact gelu, one head": {"activation_function": "gelu", "n_head": 1},
    "silu, large eps": {"activation_function": "silu", "layer_norm_epsilon": 1e-2},
    "tanh": {"activation_function": "tanh"},
    "gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "scores by layer": {"scale_attn_by_inverse_layer_idx": True},
    "scores as they are": {"scale_attn_weights": False},
}


def theirs(name, **settings):
    return random_model(getattr(transformers, name), transformers.GPT2Config(**{**SMALL, **settings}))


def first_not_asked(batch, labels):
    """Labels without that of the first token after padding, which only a padded place could predict."""
    first = np.diff(batch["attention_mask"], axis=1, prepend=1) == 1
    return np.where(first, -100, labels)


def positions(batch):
    """Positions that count real tokens, as left padding needs them."""
    mask = batch.get("attention_mask")
    return {} if mask is None else {"position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0)}


@pytest.mark.parametrize("padding", PADDINGS)
def test_body(padding, tmp_path):
    batch = draw_batch(19, padding=padding)
    check_family(models.GPT2Model, theirs("GPT2Model"), batch | positions(batch), tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_language_model(variant, tmp_path):
    batch = draw_batch(19, padding="left")
    batch |= positions(batch) | {"labels": first_not_asked(batch, draw_labels(batch, 19))}
    check_family(models.GPT2LMHeadModel, theirs("GPT2LMHeadModel", **VARIANTS[variant]), batch, tmp_path)


@pytest.mark.parametrize("padding", ["none", "right"])
@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        (np.array([2, 0, 1]), {"num_labels": 3}),
        (np.array([0.5, -1.0, 2.0]), {"num_labels": 1}),
        (np.array([[1.0, 0, 1], [0, 0, 1], [1, 1, 0]]), {"num_labels": 3}),
        (np.array([[0.5, 2], [-1, 0], [3, 1]]), {"num_labels": 2, "problem_type": "regression"}),
    ],
    ids=["classes", "number", "several classes", "numbers"],
)
def test_sequence_classifier(labels, settings, padding, tmp_path):
    batch = draw_batch(19, padding=padding, first=1) | {"labels": labels}
    ours = models.GPT2ForSequenceClassification
    check_family(ours, theirs("GPT2ForSequenceClassification", **settings), batch, tmp_path)


def test_token_classifier(tmp_path):
    batch = draw_batch(19, padding="right")
    batch |= {"labels": draw_labels(batch, 5)}
    ours = models.GPT2ForTokenClassification
    check_family(ours, theirs("GPT2ForTokenClassification", num_labels=5), batch, tmp_path)


def test_question_answering(tmp_path):
    batch = draw_batch(19, padding="right") | {"start_positions": np.array([1, 9, 0])}
    batch |= {"end_positions": np.array([3, 8, 1])}
    ours = models.GPT2ForQuestionAnswering
    check_family(ours, theirs("GPT2ForQuestionAnswering"), batch, tmp_path)


def test_dropout_stands_where_theirs_does(tmp_path):
    batch = draw_batch(19, padding="right")
    batch |= {"labels": draw_labels(batch, 5)}
    model = theirs("GPT2ForTokenClassification", num_labels=5, attn_pdrop=0.2, resid_pdrop=0.3, embd_pdrop=0.1)
    model.save_pretrained(tmp_path)
    compare_dropout(models.GPT2ForTokenClassification.from_pretrained(tmp_path, dtype=np.float64), model, batch)
