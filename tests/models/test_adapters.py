"""Adapters of pretrained models: saved alone, opened, merged, generated with, and what is refused."""

import json
import warnings

import numpy as np
import pytest

import numtx
from numtx import LoraConfig, models, nn
from numtx.checkpoints import load_arrays, save_arrays

SIZES = {"vocab_size": 23, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = np.random.default_rng(0).integers(3, 23, (2, 6))


def bert(rng=0, **settings):
    config = models.BertConfig(**SIZES, intermediate_size=12, max_position_embeddings=12, **settings)
    return models.BertForSequenceClassification(config, rng=rng, dtype=np.float64)


def gpt2():
    config = models.GPT2Config(vocab_size=23, n_positions=16, n_embd=8, n_layer=2, n_head=2, eos_token_id=None)
    return models.GPT2LMHeadModel(config, rng=0)


def llama():
    config = models.LlamaConfig(**SIZES, intermediate_size=12, max_position_embeddings=16, eos_token_id=None)
    return models.LlamaForCausalLM(config, rng=0)


SEEN = LoraConfig(r=2, lora_alpha=16, init_lora_weights=False)  # B is drawn too


@pytest.fixture
def folders(tmp_path):
    """A base and an adapter of it, and what the two compute."""
    bert().save_pretrained(tmp_path / "base")
    model = models.BertForSequenceClassification.from_pretrained(tmp_path / "base", dtype=np.float64)
    model.add_adapter(SEEN, rng=1).save_pretrained(tmp_path / "adapter")
    return tmp_path / "base", tmp_path / "adapter", model(IDS).logits


def test_two_files_and_the_base(folders):
    base, adapter, _ = folders
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    said = json.loads((adapter / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(base)
    assert (said["peft_type"], said["task_type"], said["modules_to_save"]) == ("LORA", "SEQ_CLS", ["classifier"])
    arrays = load_arrays(adapter / "adapter_model.safetensors")
    assert len(arrays) == 2 * 2 * 2 + 2
    assert arrays["base_model.model.bert.encoder.layer.1.attention.self.value.lora_A.weight"].shape == (2, 8)


def test_an_auto_class_opens_base_and_adapter(folders):
    _, adapter, logits = folders
    model = numtx.AutoModelForSequenceClassification.from_pretrained(adapter, dtype=np.float64)
    np.testing.assert_array_equal(model(IDS).logits, logits)
    assert model.adapter.task_type == "SEQ_CLS"
    assert [name for name, _ in model.trainable_parameters() if "lora" not in name] == [
        "head.out_proj.weight", "head.out_proj.bias",
    ]  # fmt: skip


def test_a_folder_that_names_no_base(folders):
    _, adapter, _ = folders
    model = bert().add_adapter(SEEN)
    model.save_pretrained(adapter)
    with pytest.raises(ValueError, match=r"expected base_model_name_or_path in .* got none"):
        numtx.AutoModelForSequenceClassification.from_pretrained(adapter)


def test_numbers_are_taken_over_in_place(folders):
    """As a resume wants it: whoever holds the arrays goes on with them; merged ones are merged anew."""
    base, adapter, logits = folders
    model = models.BertForSequenceClassification.from_pretrained(base, dtype=np.float64).add_adapter(SEEN, rng=7)
    arrays = dict(model.named_parameters())
    nn.merge_lora(model)
    model.load_saved(adapter)
    np.testing.assert_allclose(model(IDS).logits, logits, rtol=1e-12)
    nn.unmerge_lora(model)
    np.testing.assert_array_equal(model(IDS).logits, logits)
    assert all(array is arrays[name] for name, array in model.named_parameters())


def test_a_whole_model_is_taken_over_in_place(folders):
    base, adapter, _ = folders
    model, other = bert(rng=3), bert(rng=0)
    arrays = dict(model.named_parameters())
    model.load_saved(base)
    np.testing.assert_array_equal(model(IDS).logits, other(IDS).logits)
    assert all(array is arrays[name] for name, array in model.named_parameters())
    with pytest.raises(ValueError, match=r"expected a whole model in .*, got an adapter"):
        model.load_saved(adapter)
    with pytest.raises(ValueError, match=r"expected an adapter in .*, got a whole model"):
        model.add_adapter().load_saved(base)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_generation(make):
    """With an adapter, merged and as a plain model the same is written; without it something else."""
    model = make()
    settings = {"max_new_tokens": 6, "eos_token_id": ()}
    plain = model.generate(IDS, **settings)
    model.add_adapter(LoraConfig(r=4, lora_alpha=4000, init_lora_weights=False), rng=2)
    written = model.generate(IDS, **settings)
    assert not np.array_equal(written, plain)
    one = model.generate(IDS[:1], num_beams=2, **settings)
    nn.merge_lora(model)
    np.testing.assert_array_equal(model.generate(IDS, **settings), written)
    model.merge_and_unload()
    np.testing.assert_array_equal(model.generate(IDS, **settings), written)
    np.testing.assert_array_equal(model.generate(IDS[:1], num_beams=2, **settings), one)
    assert model.adapter is None


def test_a_merged_model_is_saved_whole(folders, tmp_path):
    _, adapter, logits = folders
    model = numtx.AutoModelForSequenceClassification.from_pretrained(adapter, dtype=np.float64).merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    again = models.BertForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=np.float64)
    np.testing.assert_allclose(again(IDS).logits, logits, rtol=1e-12)


def test_what_it_learns():
    model = bert().add_adapter(LoraConfig(modules_to_save=["pooler"]))
    loss, grads = model.loss_and_grads({"input_ids": IDS, "labels": np.array([0, 1])}, rng=np.random.default_rng(0))
    learned = {name for name, _ in model.trainable_parameters()}
    assert set(nn.flatten(grads)) == learned
    assert {"body.pooler.dense.weight", "head.out_proj.bias"} < learned
    assert not any(name.startswith("body.embeddings") for name in learned)
    assert np.isfinite(loss)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target_modules": ["q_proj"]}, "BertForSequenceClassification: expected target_modules among query, key"),
        ({"target_modules": ["classifier"]}, "got 'classifier'"),  # trained in full
        ({"modules_to_save": ["score"]}, "modules_to_save among .*classifier.*, got 'score'"),
        ({"exclude_modules": ["nothing"]}, "exclude_modules among"),
        ({"exclude_modules": ["query", "value"]}, "got none that is not excluded"),
        ({"rank_pattern": {"querry": 4}}, "rank_pattern among query, value, got 'querry'; the nearest is 'query'"),
        ({"alpha_pattern": {"value": 4, "key": 4}}, "alpha_pattern among query, value, got 'key'"),
        ({"rank_pattern": {r"2\..*query": 4}}, "rank_pattern among query, value"),
        ({"init_lora_weights": "eva"}, "starts by True, False or 'gaussian'"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit(settings, said):
    model = bert()
    with pytest.raises(ValueError, match=said) as caught:
        model.add_adapter(LoraConfig(**settings))
    assert "\n" not in str(caught.value)
    assert model.adapter is None
    assert not list(model.frozen_parameters())


def test_a_shared_table_is_not_trained_in_full():
    with pytest.raises(ValueError, match="without the table that embedding and head share"):
        gpt2().add_adapter(LoraConfig(modules_to_save=["wte"]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 0}, "r as a whole number"),
        ({"lora_alpha": 0}, "lora_alpha as a positive number"),
        ({"lora_dropout": 1.5}, "lora_dropout"),
        ({"target_modules": []}, "target_modules as names"),
        ({"target_modules": [3]}, "target_modules as names"),
        ({"task_type": "CHAT"}, "a task_type of SEQ_CLS"),
        ({"rank_pattern": {"query": 0}}, "rank of query"),
        ({"init_lora_weights": "pissa"}, "which leave the base as it is"),
        ({"use_rslora": 1}, "use_rslora"),
        ({"init_lora_weights": 1}, "init_lora_weights of True, False, gaussian"),
        ({"init_lora_weights": 0}, "init_lora_weights of True, False, gaussian"),
        ({"rank_pattern": {"query": "4"}}, "rank of query"),
    ],
)
def test_settings_that_are_wrong(settings, said):
    with pytest.raises(ValueError, match=f"LoraConfig: expected .*{said}"):
        LoraConfig(**settings)


def test_once():
    model = bert().add_adapter()
    with pytest.raises(ValueError, match="expected a model without an adapter"):
        model.add_adapter()
    for method in (bert().merge_and_unload, bert().unload, bert().adapter_arrays):
        with pytest.raises(ValueError, match="expected a model with an adapter, got one without"):
            method()


def change(adapter, **entries):
    said = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(said | entries))


def rewrite(adapter, function):
    arrays = load_arrays(adapter / "adapter_model.safetensors")
    save_arrays(adapter / "adapter_model.safetensors", function(dict(arrays)))


def without(end):
    return lambda arrays: {name: array for name, array in arrays.items() if not name.endswith(end)}


BROKEN = {
    "another kind": (lambda a: change(a, peft_type="IA3"), "expected peft_type 'LORA', got 'IA3'"),
    "weights of another kind": (lambda a: change(a, use_dora=True), "expected no use_dora, got True"),
    "another rank": (lambda a: change(a, r=4), "expected rank 4 of bert.* got 2"),
    "no B": (lambda a: rewrite(a, without("0.attention.self.query.lora_B.weight")), "expected A and B of each module"),
    "half a head": (lambda a: rewrite(a, lambda x: x | {f"base_model.model.{n}": v for n, v in {"classifier.weight": np.ones((5, 8))}.items()}), "of another shape"),  # noqa: E501
    "another model": (lambda a: rewrite(a, lambda x: {n.replace("query", "q_lin"): v for n, v in x.items()}), "of the modules that this model has"),  # noqa: E501
    "other names": (lambda a: rewrite(a, lambda x: {n.removeprefix("base_model."): v for n, v in x.items()}), "names that begin with base_model.model."),  # noqa: E501
    "another width": (lambda a: rewrite(a, lambda x: {n: v[:, :4] if n.endswith("A.weight") else v for n, v in x.items()}), "does not fit"),  # noqa: E501
    "no weights": (lambda a: (a / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "no settings": (lambda a: (a / "adapter_config.json").unlink(), "adapter_config.json"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files(what, folders):
    base, adapter, _ = folders
    spoil, said = BROKEN[what]
    spoil(adapter)
    model = models.BertForSequenceClassification.from_pretrained(base, dtype=np.float64)
    logits = model(IDS).logits
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        model.load_adapter(adapter)
    assert "\n" not in str(caught.value)
    assert model.adapter is None
    assert not nn.lora_layers(model)
    np.testing.assert_array_equal(model(IDS).logits, logits)


def test_no_warning_where_all_is_there(folders):
    _, adapter, _ = folders
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numtx.AutoModelForSequenceClassification.from_pretrained(adapter)


@pytest.mark.parametrize("other", [{"lora_alpha": 4}, {"use_rslora": True}, {"lora_dropout": 0.25}])
def test_numbers_of_other_settings_are_not_taken_over(folders, other):
    _, adapter, _ = folders
    model = bert().add_adapter(LoraConfig(**{"r": 2, "lora_alpha": 16, **other}), rng=5)
    before = {name: array.copy() for name, array in model.named_parameters()}
    with pytest.raises(ValueError, match="expected an adapter of the model's rank, alpha, rslora and dropout"):
        model.load_adapter(adapter)
    for name, array in model.named_parameters():
        np.testing.assert_array_equal(array, before[name])


def test_what_the_files_would_lose_is_refused(tmp_path):
    model = bert().add_adapter(SEEN)
    nn.unfreeze(model, "*norm*")
    with pytest.raises(ValueError, match=r"expected only the adapter to be trained, got .*norm.* unfrozen"):
        model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_base_that_is_an_adapter(folders):
    _, adapter, _ = folders
    said = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": str(adapter)}))
    with pytest.raises(ValueError, match="expected a whole model as the base"):
        numtx.AutoModelForSequenceClassification.from_pretrained(adapter)


def test_a_pattern_that_is_no_expression():
    with pytest.raises(ValueError, match=r"expected a regular expression in rank_pattern, got '\("):
        LoraConfig(rank_pattern={"(": 2})


def test_ranks_of_numpy_are_written(tmp_path):
    model = bert().add_adapter(LoraConfig(r=np.int64(4), rank_pattern={"value": np.int32(3)}))
    model.save_pretrained(tmp_path / "adapter")
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (said["r"], said["rank_pattern"]) == (4, {"value": 3})


def test_a_pattern_in_a_file_that_matches_nothing_is_left_alone(folders):
    """As PEFT leaves it."""
    base, adapter, logits = folders
    change(adapter, rank_pattern={"key": 7}, alpha_pattern={"key": 7})
    model = models.BertForSequenceClassification.from_pretrained(base, dtype=np.float64).load_adapter(adapter)
    np.testing.assert_array_equal(model(IDS).logits, logits)


@pytest.mark.parametrize("what", ["another width", "half a head"])
def test_what_was_frozen_before_a_load_that_failed_is_frozen_after_it(what, folders):
    _, adapter, _ = folders
    BROKEN[what][0](adapter)
    model = bert()
    frozen = nn.freeze(model, "body.*")
    with pytest.raises(ValueError, match=BROKEN[what][1]):
        model.load_adapter(adapter)
    assert [name for name, _ in model.frozen_parameters()] == frozen


def test_what_is_trained_in_full_has_no_update_though_it_is_packed():
    """GPT-2's queries, keys and values are one matrix, under a name of its own."""
    for module in ("attn", "c_attn"):
        with pytest.raises(ValueError, match=r"target_modules among .*c_fc.*, got 'c_attn'"):
            gpt2().add_adapter(LoraConfig(modules_to_save=[module]))
    model = gpt2().add_adapter(LoraConfig(modules_to_save=["h.0"]))
    assert list(nn.lora_layers(model)) == ["body.stack.layers.1.attention.sublayer"]
