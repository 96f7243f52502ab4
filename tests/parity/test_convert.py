"""What `numtx convert` writes, opened by Transformers: nothing missing, nothing unexpected, the same numbers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gguf_writer import Llama  # noqa: E402

from numtx.cli import main  # noqa: E402

SMALL = {"vocab_size": 24, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}


def bert():
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, max_position_embeddings=16))


def roberta():
    return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SMALL, max_position_embeddings=18))


def distilbert():
    sizes = {"vocab_size": 24, "dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 24}
    return transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**sizes, max_position_embeddings=16))


def gpt2():
    config = transformers.GPT2Config(vocab_size=24, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(config)


def t5():
    sizes = {"vocab_size": 24, "d_model": 16, "d_kv": 5, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))


def bart():
    sizes = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(
        vocab_size=24, d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=16, **sizes
    )
    return transformers.BartForConditionalGeneration(config)


def llama(tied=False):
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=1, tie_word_embeddings=tied)
    return transformers.LlamaForCausalLM(config)


def opened(kind, folder):
    """Open a folder with Transformers, and see that it fits."""
    model, said = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not said["missing_keys"]
    assert not said["mismatched_keys"]
    return model.eval(), set(said["unexpected_keys"])


def logits(model):
    ids = torch.tensor([[5, 6, 7, 8, 2]])
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **decoder).logits


@pytest.mark.parametrize("source", ["archive", "legacy", "safetensors", "shards"])
@pytest.mark.parametrize("make", [bert, roberta, distilbert, gpt2, t5, bart, llama, lambda: llama(tied=True)])
def test_every_family_from_every_file(tmp_path, make, source):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    theirs = make().eval()
    theirs.save_pretrained(tmp_path / "model", max_shard_size="5KB" if source == "shards" else "1GB")
    if source in ("archive", "legacy"):
        (tmp_path / "model/model.safetensors").unlink()
        zipped = source == "archive"
        torch.save(theirs.state_dict(), tmp_path / "model/pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "out")]) == 0
    again, unexpected = opened(type(theirs), tmp_path / "out")
    assert not unexpected
    assert torch.equal(logits(again), logits(theirs))
    if source in ("archive", "legacy"):  # a tied weight is not written again for each of its names
        written = (tmp_path / "out/model.safetensors").stat().st_size
        theirs.save_pretrained(tmp_path / "own", max_shard_size="1GB")
        assert written <= (tmp_path / "own/model.safetensors").stat().st_size + 600


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_as_pytorch_rounds(tmp_path, dtype):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    theirs = bert()
    theirs.save_pretrained(tmp_path / "model")
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "out"), "--dtype", dtype]) == 0
    again = type(theirs).from_pretrained(tmp_path / "out", dtype="auto")
    assert again.dtype == getattr(torch, dtype)
    for name, weight in theirs.named_parameters():
        assert torch.equal(again.get_parameter(name), weight.to(again.dtype)), name


@pytest.mark.parametrize("tied", [True, False])
def test_gguf(tmp_path, tied):
    model = Llama(tied=tied)
    path = model.write(tmp_path / "small.gguf")
    assert main(["convert", str(path), str(tmp_path / "out")]) == 0
    again, unexpected = opened(transformers.LlamaForCausalLM, tmp_path / "out")
    assert not unexpected
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(again.get_parameter(name).numpy(force=True), weight)
