"""Folders of adapters at the command line: opened over their base, or refused in one line that says what to do."""

import json
import warnings

import numpy as np
import pytest
from finetune_models import rows_of, write_model

import numtx as package
from numtx import LoraConfig

pytest.importorskip("tokenizers", reason="real tokenizers need the package tokenizers")
SEEN = LoraConfig(r=2, init_lora_weights=False)  # B is drawn too
AUTO = {"gpt2": package.AutoModelForCausalLM, "bert": package.AutoModelForSequenceClassification}


@pytest.fixture
def adapter(numtx, tmp_path):
    """An adapter of a kind in `adapter`, of the model in `base`; the same merged in `merged`."""

    def made(kind):
        write_model(tmp_path / "base", kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the head is drawn
            labels = {} if kind == "gpt2" else {"id2label": {0: "bad", 1: "good"}}
            model = AUTO[kind].from_pretrained("base", rng=0, **labels)
        model.add_adapter(SEEN, rng=1).save_pretrained("adapter")
        write_model(tmp_path / "merged", kind)
        model.merge_and_unload().save_pretrained("merged")
        return "adapter"

    return made


def test_it_writes_and_is_measured_as_the_merged_model(numtx, adapter, tmp_path):
    adapter("gpt2")
    (tmp_path / "text.txt").write_text("the red house is good, the green tree is bad")
    written = [
        numtx("generate", name, "--prompt", "the tree", "--tokens", 12, "--greedy")
        for name in ("adapter", "merged", "base")
    ]
    assert (written[0].code, written[0].err) == (0, ""), written[0]
    assert written[0].out == written[1].out != written[2].out
    found = []
    for name in ("adapter", "merged", "base"):
        ran = numtx("evaluate", "perplexity", "--model", name, "--predictions", "text.txt", "--json")
        assert ran.code == 0, ran
        found.append(json.loads(ran.out)["mean_perplexity"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] != pytest.approx(found[2], rel=1e-3)


REFUSED = {
    "info": ("adapter",),
    "convert": ("adapter", "out"),
    "eval": ("adapter", "--data", "text.txt"),
}
WAYS = {"info": "name that model", "convert": "merge_and_unload", "eval": "numtx evaluate perplexity --model"}


@pytest.mark.parametrize("command", REFUSED)
def test_what_needs_a_whole_model_says_so(numtx, adapter, tmp_path, command):
    adapter("gpt2")
    (tmp_path / "text.txt").write_text("the red house")
    ran = numtx(command, *REFUSED[command])
    ran.refused(1, f"{command}: expected a whole model, got the adapter 'adapter' of 'base'", WAYS[command])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def rows(tmp_path):
    lines = [json.dumps(row) + "\n" for row in rows_of("text-classification")]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    return ["--task", "text-classification", "--data", "rows.jsonl", "--out", "out", "--steps", 4, "--threads", 1]


def test_it_is_trained_on_and_kept_alone_and_merged(numtx, adapter, rows, tmp_path):
    ran = numtx("finetune", adapter("bert"), *rows, "--eval-every", 4, "--lr", 1e-2)
    assert (ran.code, ran.err) == (0, ""), ran
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "adapter"} <= files
    assert "adapter_config.json" not in files  # Transformers would put it into the merged model again
    opener, ids = package.AutoModelForSequenceClassification.from_pretrained, np.array([[2, 7, 9, 3]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole, alone, before = (opener(name) for name in ("out", "out/adapter", "adapter"))
    np.testing.assert_allclose(whole(ids).logits, alone(ids).logits, rtol=1e-4, atol=1e-5)
    assert np.abs(alone(ids).logits - before(ids).logits).max() > 1e-3
    assert whole.config.id2label == {0: "bad", 1: "good"}


def test_no_adapter_upon_an_adapter(numtx, adapter, rows, tmp_path):
    numtx("finetune", adapter("bert"), *rows, "--lora", 2).refused(2, "--lora: expected it with a whole model")
    assert not (tmp_path / "out").exists()
