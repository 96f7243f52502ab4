"""Marian beside Transformers: what is not as in BART, which shares its wiring."""

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
    compare_dropout,
    compare_outputs,
    draw_batch,
    random_model,
)
from their_version import OLD

from numtx import models
from numtx.checkpoints import load_arrays, save_arrays

PAD = 18
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
    "scale_embedding": True,
    "activation_function": "swish",
    "pad_token_id": PAD,
    "decoder_start_token_id": PAD,
}
# Transformers 4 makes the decoder's table as large as the encoder's, whatever the config says.
TWO = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 19 if OLD else 23}
CONFIGS = {
    "plain": {},
    "not scaled": {"scale_embedding": False, "activation_function": "gelu"},
    "relu": {"activation_function": "relu", "d_model": 10, "encoder_attention_heads": 5, "encoder_layers": 1},
    "two vocabularies": TWO,
    "two vocabularies, untied": {**TWO, "tie_word_embeddings": False},
    "untied": pytest.param(
        {"tie_word_embeddings": False},
        marks=pytest.mark.skipif(OLD, reason="Transformers 4 has one table there for encoder and decoder"),
    ),
}


def make(name, **settings):
    """A random model of Transformers."""
    return random_model(getattr(transformers, name), transformers.MarianConfig(**{**SMALL, **settings}))


def batch_of(kind, padding="none", vocabulary=18):
    """Arguments and labels."""
    batch = draw_batch(18, padding=padding, pad=PAD)
    labels = np.random.default_rng(6).integers(0, vocabulary, (3, 5))
    if kind == "MarianModel":
        return batch | {"decoder_input_ids": labels}
    labels[0, 3:] = labels[1, 1] = -100
    return batch | {"labels": labels}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", ["MarianModel", "MarianMTModel"])
def test_every_padding(kind, padding, tmp_path):
    check_family(getattr(models, kind), make(kind), batch_of(kind, padding), tmp_path)


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("kind", ["MarianModel", "MarianMTModel"])
def test_every_config(kind, settings, tmp_path):
    theirs = make(kind, **settings)
    check_family(getattr(models, kind), theirs, batch_of(kind, vocabulary=theirs.config.decoder_vocab_size), tmp_path)


def test_dropout(tmp_path):
    theirs = make("MarianMTModel", dropout=0.2, attention_dropout=0.3, activation_dropout=0.4)
    theirs.save_pretrained(tmp_path)
    ours = models.MarianMTModel.from_pretrained(tmp_path, dtype=np.float64)
    compare_dropout(ours, theirs, batch_of("MarianMTModel", "right"), draws=2 + 2 * 4 + 2 * 6)


def test_a_table_of_sines_that_a_file_holds(tmp_path):
    """Of half precision, say: Transformers adds what stands there, and so do we; it is not written again."""
    theirs = make("MarianMTModel")
    theirs.save_pretrained(tmp_path)
    path, arrays = tmp_path / "model.safetensors", {}
    for side in ("encoder", "decoder"):
        positions = getattr(theirs.model, side).embed_positions
        rough = positions.weight.detach().numpy().astype(np.float16).astype(np.float32)
        arrays[f"model.{side}.embed_positions.weight"] = rough
        positions.weight.data = torch.from_numpy(rough).double()
    save_arrays(path, {name: np.array(array) for name, array in load_arrays(path).items()} | arrays)
    ours = models.MarianMTModel.from_pretrained(tmp_path, dtype=np.float64)
    compare_outputs(ours, theirs, batch_of("MarianMTModel", "left"))
    assert not [name for name in ours.to_checkpoint() if "embed_positions" in name]


def test_old_files_that_tell_the_architecture(tmp_path):
    """What the first converted files say of themselves is what is computed, or is refused."""
    theirs = make("MarianMTModel")
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    entries = json.loads(path.read_text())
    said = {"static_position_embeddings": True, "normalize_embedding": False, "add_final_layer_norm": False}
    path.write_text(json.dumps({**entries, **said, "normalize_before": False}))
    compare_outputs(models.MarianMTModel.from_pretrained(tmp_path), theirs, batch_of("MarianMTModel"))
    path.write_text(json.dumps({**entries, "normalize_before": True}))
    with pytest.raises(ValueError, match="MarianConfig: expected normalize_before False, got True"):
        models.MarianMTModel.from_pretrained(tmp_path)
