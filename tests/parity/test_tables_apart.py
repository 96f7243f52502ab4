"""Files whose config says that tables are one, and which hold two of different numbers: as Transformers 5 takes them.

Transformers 4 drops all but one of the tables, which is asserted too: it is the other version that is known.
"""

import json

import numpy as np
import pytest

from numtx import AutoModel, models
from numtx.checkpoints import load_arrays, save_arrays

transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
from family_parity import compare_gradients, compare_outputs, in_double, random_model  # noqa: E402 - it needs PyTorch
from their_version import OLD  # noqa: E402

V = 19
BART = {
    "vocab_size": V, "max_position_embeddings": 11, "d_model": 12, "encoder_layers": 1, "encoder_attention_heads": 3,
    "encoder_ffn_dim": 14, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 10,
}  # fmt: skip
BERT = {
    "vocab_size": V, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 10,
    "max_position_embeddings": 9,
}  # fmt: skip
# A model, its config, the table, and the name that should be of the same numbers.
HEADS = {
    "gpt2": (
        "GPT2LMHeadModel", "GPT2Config", {"vocab_size": V, "n_positions": 9, "n_embd": 12, "n_layer": 1, "n_head": 3},
        "transformer.wte.weight", "lm_head.weight",
    ),
    "bert": (
        "BertForMaskedLM", "BertConfig", BERT, "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.weight",
    ),
    "roberta": (
        "RobertaForMaskedLM", "RobertaConfig", BERT, "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.weight",
    ),
    "distilbert": (
        "DistilBertForMaskedLM", "DistilBertConfig",
        {"vocab_size": V, "dim": 12, "n_layers": 1, "n_heads": 3, "hidden_dim": 10, "max_position_embeddings": 9},
        "distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight",
    ),
    "llama": (
        "LlamaForCausalLM", "LlamaConfig",
        {"vocab_size": V, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 1, "num_attention_heads": 2,
         "max_position_embeddings": 9, "pad_token_id": 0, "tie_word_embeddings": True},
        "model.embed_tokens.weight", "lm_head.weight",
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", BART, "model.shared.weight", "lm_head.weight"),
    "marian": (
        "MarianMTModel", "MarianConfig", {**BART, "pad_token_id": 18, "decoder_start_token_id": 18},
        "model.shared.weight", "lm_head.weight",
    ),
    "t5": (
        "T5ForConditionalGeneration", "T5Config",
        {"vocab_size": V, "d_model": 10, "d_kv": 3, "d_ff": 7, "num_layers": 1, "num_heads": 2,
         "decoder_start_token_id": 0},
        "shared.weight", "lm_head.weight",
    ),
}  # fmt: skip
ONE_TABLE = ("bart", "marian")  # encoder and decoder read it too, and are given one each


@pytest.fixture(autouse=True)
def _double():
    with in_double():
        yield


def written(family, folder, copy=None, bare=False):
    """Write a file of two tables; return the class, its batch, and the arrays."""
    name, config, sizes, table, head = HEADS[family]
    model = random_model(getattr(transformers, name), getattr(transformers, config)(**sizes))
    model.save_pretrained(folder)
    arrays = load_arrays(folder / "model.safetensors")
    other = np.random.default_rng(7).normal(size=arrays[table].shape)
    arrays[copy or head] = other.astype(np.float32).astype(np.float64)
    save_arrays(folder / "model.safetensors", arrays)
    ids = np.random.default_rng(1).integers(3, V - 1, (2, 6))
    batch = {"input_ids": ids, "labels": ids[:, ::-1].copy()}
    return name, batch, arrays


def theirs_of(name, folder):
    model = getattr(transformers, name).from_pretrained(folder, attn_implementation="eager")
    return model.double().eval()


@pytest.mark.parametrize("family", HEADS)
def test_a_head_of_other_numbers_than_the_embedding(family, tmp_path):
    name, batch, arrays = written(family, tmp_path)
    theirs = theirs_of(name, tmp_path)
    table, head = (arrays[key] for key in HEADS[family][3:])
    if OLD:
        with torch.no_grad():
            kept = theirs.get_output_embeddings().weight.numpy()
        # Bit for bit it is one of the two, for encoder and head alike.
        assert np.array_equal(theirs.get_input_embeddings().weight.detach().numpy(), kept)
        assert any(np.array_equal(kept, one) for one in (table, head))
        return
    if family == "t5":  # its files say so as a rule
        ours = getattr(models, name).from_pretrained(tmp_path, dtype=np.float64)
    else:
        with pytest.warns(UserWarning, match=rf"^{name}: .*{HEADS[family][4]}.*each is kept, as in Transformers 5"):
            ours = getattr(models, name).from_pretrained(tmp_path, dtype=np.float64)
    assert not ours.config.tie_word_embeddings
    assert np.array_equal(ours.decoder, head)
    compare_outputs(ours, theirs, batch)
    if family not in ONE_TABLE:
        compare_gradients(ours, theirs, batch)
    ours.save_pretrained(tmp_path / "again")
    compare_outputs(getattr(models, name).from_pretrained(tmp_path / "again", dtype=np.float64), theirs, batch)
    compare_outputs(ours, theirs_of(name, tmp_path / "again"), batch)


@pytest.mark.skipif(OLD, reason="Transformers 4 drops the tables of encoder and decoder")
@pytest.mark.parametrize("family", ONE_TABLE)
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_side_of_other_numbers_than_the_shared_table(family, side, tmp_path):
    copy = f"model.{side}.embed_tokens.weight"
    name, batch, arrays = written(family, tmp_path, copy)
    theirs = theirs_of(name, tmp_path)
    with pytest.warns(UserWarning, match=copy):
        ours = getattr(models, name).from_pretrained(tmp_path, dtype=np.float64)
    compare_outputs(ours, theirs, batch)
    assert np.array_equal(ours.decoder, arrays["model.shared.weight"])
    assert not np.shares_memory(ours.decoder, ours.body.embedding.weight)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_t5_has_one_table(side, tmp_path):
    copy = f"{side}.embed_tokens.weight"
    name, *_ = written("t5", tmp_path, copy)
    with pytest.raises(ValueError, match=rf"^{name}: expected one table for encoder and decoder in .*{copy}$"):
        getattr(models, name).from_pretrained(tmp_path)


@pytest.mark.parametrize("family", HEADS)
def test_equal_numbers_are_one_table(family, tmp_path):
    name, batch, arrays = written(family, tmp_path)
    table, head = HEADS[family][3:]
    save_arrays(tmp_path / "model.safetensors", arrays | {head: arrays[table]})
    ours = getattr(models, name).from_pretrained(tmp_path, dtype=np.float64)
    assert ours.config.tie_word_embeddings
    compare_outputs(ours, theirs_of(name, tmp_path), batch)


@pytest.mark.filterwarnings("ignore:.*pooler.*drawn anew")
@pytest.mark.parametrize("family", HEADS)
def test_to_a_body_the_head_is_another_models(family, tmp_path):
    written(family, tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    assert body.config.tie_word_embeddings == json.loads((tmp_path / "config.json").read_text()).get(
        "tie_word_embeddings", True
    )


@pytest.mark.skipif(OLD, reason="Transformers 4 has one bias under both names")
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_bias_of_other_numbers_under_its_second_name(family, tmp_path):
    name = HEADS[family][0]
    bias = "cls.predictions.decoder.bias" if family == "bert" else "lm_head.decoder.bias"
    _, batch, arrays = written(family, tmp_path)
    save_arrays(
        tmp_path / "model.safetensors",
        {key: array for key, array in arrays.items() if key != HEADS[family][4]} | {bias: np.arange(float(V))},
    )
    ours = getattr(models, name).from_pretrained(tmp_path, dtype=np.float64)
    assert np.array_equal(ours.head.bias, np.arange(V))
    compare_outputs(ours, theirs_of(name, tmp_path), batch)
    ours.save_pretrained(tmp_path / "again")
    compare_outputs(ours, theirs_of(name, tmp_path / "again"), batch)
