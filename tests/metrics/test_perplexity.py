"""Perplexity beside its definition: every token's probability looked up, window by window."""

import math

import numpy as np
import pytest

from numtx.metrics import load
from numtx.metrics.perplexity import strided_windows
from numtx.models import DecoderOnlyTransformer, EncoderOnlyTransformer, GPT2Config, GPT2LMHeadModel
from numtx.text import ByteTokenizer, CharTokenizer

CONTEXT = 8


def gpt2(dtype=np.float64):
    config = GPT2Config(vocab_size=11, n_positions=CONTEXT, n_embd=8, n_layer=1, n_head=2, initializer_range=0.5)
    return GPT2LMHeadModel(config, rng=0, dtype=dtype)


def log_probs(model, ids):
    """log p of each token but the first of one window, (T - 1,)."""
    outputs = model(np.asarray(ids)[None, :-1])
    scores = outputs.log_probs[0] if hasattr(outputs, "log_probs") else outputs.logits[0]
    scores = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return scores[np.arange(len(ids) - 1), ids[1:]]


def loop(model, ids, length, stride):
    """The loop in Transformers' documentation, with labels of -100 for what a window has seen before."""
    total, weight, done = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        new = end - done
        labels = np.array(ids[begin:end])
        labels[: len(labels) - new] = -100
        shifted = labels[1:]
        if np.any(shifted != -100):
            mean = -log_probs(model, ids[begin:end])[shifted != -100].mean()
            total += mean * (new - 1)
        weight += new - 1
        done = end
        if end == len(ids):
            break
    return math.exp(total / weight)


def exact(model, ids, length, stride):
    """Every token but the first once, in the window that is the first to hold it."""
    nats = []
    for begin, first, end in strided_windows(len(ids), length, stride):
        begin = begin - 1 if begin == first > 0 else begin
        for place in range(max(first, 1), end):
            nats.append(-log_probs(model, ids[begin : place + 1])[-1])
    assert len(nats) == len(ids) - 1
    return math.exp(np.mean(nats))


@pytest.mark.parametrize("length", [2, 5, 8])
@pytest.mark.parametrize("tokens", [2, 3, 7, 8, 9, 16, 29])
def test_both_weightings_are_their_definitions(tokens, length):
    model = gpt2()
    ids = np.random.default_rng(tokens).integers(11, size=tokens)
    compared = 0
    for stride in range(1, length + 1):
        given = {"predictions": [ids], "model": model, "max_length": length, "stride": stride}
        for batch_size in (1, 3):
            found = load("perplexity").compute(**given, batch_size=batch_size)
            assert found["perplexity"] == pytest.approx(exact(model, ids, length, stride), rel=1e-10)
            assert (found["tokens"], found["perplexities"]) == (tokens - 1, [found["perplexity"]])
            if min(length, tokens) < 3 and stride == 1 and tokens > length:
                continue
            hf = load("perplexity").compute(**given, batch_size=batch_size, weighting="hf")
            assert hf["perplexity"] == pytest.approx(loop(model, ids, length, stride), rel=1e-10)
            compared += tokens > length > stride and abs(hf["loss"] - found["loss"]) > 1e-6
    assert compared or tokens <= length or length == 2  # where windows overlap, the two differ


def test_all_causal_models_have_one():
    ready = DecoderOnlyTransformer(
        vocab_size=11, d_model=8, nhead=2, dim_feedforward=16, max_length=CONTEXT, rng=0, dtype=np.float64
    )
    ids = np.random.default_rng(0).integers(11, size=21)
    found = load("perplexity").compute(predictions=[ids], model=ready)
    assert found["perplexity"] == pytest.approx(exact(ready, ids, CONTEXT, CONTEXT // 2), rel=1e-10)


def test_several_texts_count_by_their_tokens():
    model, rng = gpt2(), np.random.default_rng(1)
    texts = [rng.integers(11, size=n) for n in (3, 20, 9)]
    each = [load("perplexity").compute(predictions=[one], model=model) for one in texts]
    both = load("perplexity").compute(predictions=texts, model=model, bootstrap=30)
    assert both["perplexities"] == [one["perplexity"] for one in each]
    assert both["mean_perplexity"] == pytest.approx(np.mean(both["perplexities"]))
    nats = sum(one["loss"] * one["tokens"] for one in each)
    assert both["perplexity"] == pytest.approx(math.exp(nats / (2 + 19 + 8)))
    assert set(both["confidence_intervals"]) == {"perplexity", "mean_perplexity", "loss"}


def test_texts_are_tokenized():
    text = "abcabd" * 4
    tokenizer = CharTokenizer.from_text(text + "efghijk")
    model = gpt2()
    ids = tokenizer.encode(text)
    found = load("perplexity").compute(predictions=[text], model=model, tokenizer=tokenizer)
    assert found == load("perplexity").compute(predictions=[ids], model=model)


def test_a_start_token_makes_the_first_token_one_that_is_predicted():
    class Tokenizer:
        bos_token_id = 10

        def encode(self, text):
            return [int(one) for one in text]

    model = gpt2()
    given = {"model": model, "tokenizer": Tokenizer(), "add_start_token": True}
    found = load("perplexity").compute(predictions=["123", "7"], **given)
    expected = load("perplexity").compute(predictions=[np.array([10, 1, 2, 3]), np.array([10, 7])], model=model)
    assert found == expected
    ids = np.array([10, 1, 2, 3])
    assert load("perplexity").compute(predictions=[ids], **given)["tokens"] == 3  # it is there already
    with pytest.raises(ValueError, match=r"^perplexity: expected a tokenizer with a bos token for add_start_token"):
        load("perplexity").compute(predictions=["ab"], model=model, tokenizer=ByteTokenizer(), add_start_token=True)


def test_a_model_may_be_a_folder(tmp_path):
    pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
    model = gpt2(np.float32)
    model.save_pretrained(tmp_path)
    CharTokenizer.from_text("abcdefghijk").save(tmp_path)
    given = {"predictions": ["abacabadabacaba"]}
    tokenizer = CharTokenizer.from_text("abcdefghijk")
    found = load("perplexity").compute(**given, model=str(tmp_path))
    assert found == load("perplexity").compute(**given, model=model, tokenizer=tokenizer)


def test_the_perplexity_of_one_who_knows_nothing_is_the_size_of_the_vocabulary():
    model = gpt2()
    for _, array in model.named_parameters():
        array[...] = 0
    found = load("perplexity").compute(predictions=[np.arange(11)], model=model)
    assert found["perplexity"] == pytest.approx(11)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": None}, "a model, got none: pass model=, a causal language model or its folder"),
        ({"model": 3}, "a causal language model, got int"),
        ({"predictions": ["text"]}, "a tokenizer for texts, got none"),
        ({"predictions": [np.array([1.0, 2.0])]}, r"a text or integer ids \(T,\) as prediction 0, got float64 \(2,\)"),
        (
            {"predictions": [np.array([1, 2]), np.array([1])]},
            "at least 2 tokens, got 1 in text 1: add_start_token=True",
        ),
        ({"predictions": [np.array([], int)]}, "at least 2 tokens, got 0 in text 0"),
        ({"stride": 0}, "stride of at least 1, got 0"),
        ({"stride": 9}, "stride up to the length of a window, 8, got 9"),
        ({"stride": 2.0}, "stride of at least 1, got 2.0"),
        ({"max_length": 9}, "max_length up to the context of the model, 8, got 9"),
        ({"max_length": 1}, "max_length of at least 2, got 1"),
        ({"weighting": "token"}, "weighting exact or hf, got 'token'"),
        ({"batch_size": 0}, "batch_size of at least 1, got 0"),
    ],
)
def test_bad_input(changed, words):
    with pytest.raises(ValueError, match=rf"^perplexity: expected .*{words}") as caught:
        load("perplexity").compute(**{"predictions": [np.arange(5)], "model": gpt2(), **changed})
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_write_is_refused():
    encoder = EncoderOnlyTransformer(
        vocab_size=11, num_classes=2, d_model=8, nhead=2, dim_feedforward=16, max_length=CONTEXT, rng=0
    )
    with pytest.raises(ValueError, match=r"^perplexity: expected a causal language model, got EncoderOnlyTransformer$"):
        load("perplexity").compute(predictions=[np.arange(5)], model=encoder)
