"""LoRA beside PEFT: outputs, gradients and dropout of every family, and adapters saved by either and opened by both."""

import copy
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
peft = pytest.importorskip("peft", reason="the parity of LoRA needs PEFT: pip install 'numtx[parity]'")

from family_parity import agree, compare_outputs, draw_batch, draw_labels, random_model, run_theirs  # noqa: E402
from planted_dropout import planted_in_numtx, planted_in_torch  # noqa: E402

import numtx  # noqa: E402
from numtx import LoraConfig, nn  # noqa: E402
from numtx.checkpoints import load_arrays  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft.*")
VOCAB = 23
ENCODER = {
    "vocab_size": VOCAB, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 16, "pad_token_id": 0, "num_labels": 3,
}  # fmt: skip
SIDES = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
BART = SIDES | {
    "vocab_size": VOCAB, "d_model": 8, "encoder_ffn_dim": 12, "decoder_ffn_dim": 10, "max_position_embeddings": 16,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
GPT2 = {"vocab_size": VOCAB, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2, "eos_token_id": 1, "bos_token_id": 1, "pad_token_id": 0, "num_labels": 3}  # fmt: skip  # noqa: E501
LLAMA = {
    "vocab_size": VOCAB, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 16, "pad_token_id": 0, "num_labels": 3,
}  # fmt: skip
T5 = {
    "vocab_size": VOCAB, "d_model": 8, "d_kv": 3, "d_ff": 12, "num_layers": 2, "num_heads": 2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "decoder_start_token_id": 0,
}  # fmt: skip
DISTILBERT = {
    "vocab_size": VOCAB, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12, "max_position_embeddings": 16,
    "num_labels": 3,
}  # fmt: skip
MARIAN = BART | {"pad_token_id": 22, "decoder_start_token_id": 22, "eos_token_id": 0, "forced_eos_token_id": 0}

LIN = ["q_lin", "v_lin"]

# class, its config, settings; PEFT's task, and targets where PEFT has none for the family.
FAMILIES = {
    "bert": ("BertForSequenceClassification", "BertConfig", ENCODER, "SEQ_CLS", None),
    "bert-tokens": ("BertForTokenClassification", "BertConfig", ENCODER, "TOKEN_CLS", None),
    "bert-answers": ("BertForQuestionAnswering", "BertConfig", ENCODER | {"num_labels": 2}, "QUESTION_ANS", None),
    "bert-masked": ("BertForMaskedLM", "BertConfig", ENCODER, None, None),
    "bert-body": ("BertModel", "BertConfig", ENCODER, None, None),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig", DISTILBERT, "SEQ_CLS", LIN),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", ENCODER | {"pad_token_id": 1}, "SEQ_CLS", None),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2, "CAUSAL_LM", None),
    "gpt2-classes": ("GPT2ForSequenceClassification", "GPT2Config", GPT2, "SEQ_CLS", None),
    "bart": ("BartForConditionalGeneration", "BartConfig", BART, "SEQ_2_SEQ_LM", None),
    "marian": ("MarianMTModel", "MarianConfig", MARIAN, "SEQ_2_SEQ_LM", ["q_proj", "v_proj"]),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5, "SEQ_2_SEQ_LM", None),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA, "CAUSAL_LM", None),
}  # fmt: skip
# PEFT would put updates beside new heads that it also trains in full, and fails.
NOT_ALL = ("bert-tokens", "bert-answers", "distilbert")
each = pytest.mark.parametrize("family", FAMILIES)
THEIRS = [(family, targets) for family in FAMILIES for targets in (None, "all-linear") if not targets or family not in NOT_ALL]  # fmt: skip  # noqa: E501


def base_of(family, **settings):
    """Transformers' random model."""
    kind, config, own, *_ = FAMILIES[family]
    return random_model(getattr(transformers, kind), getattr(transformers, config)(**own | settings))


def with_peft(theirs, family, targets=None, seed=9, **settings):
    """PEFT's model over a copy of theirs, everything of the adapter drawn."""
    *_, task, own = FAMILIES[family]
    chosen = {"r": 3, "lora_alpha": 2, "target_modules": targets or own, "task_type": task} | settings
    model = peft.get_peft_model(copy.deepcopy(theirs), peft.LoraConfig(**chosen)).double().eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _, array in sorted(learned(model).items()):
            array.copy_(torch.from_numpy((0.3 * rng.standard_normal(array.shape)).astype(np.float32)))
    return model


def learned(model):
    """What PEFT trains, by the names in its files without their prefix."""
    trained = {name: array for name, array in model.named_parameters() if array.requires_grad}
    return {
        name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", ""): array
        for name, array in trained.items()
    }


def batch_of(family):
    """Ids, padding where the family takes it, and labels."""
    kind = FAMILIES[family][0]
    rng = np.random.default_rng(4)
    batch = draw_batch(VOCAB - 3, padding="right", first=3, pad=FAMILIES[family][2].get("pad_token_id", 0))
    if kind.endswith("Model") and "MT" not in kind and "LMHead" not in kind:
        return batch
    if "SequenceClassification" in kind:
        return batch | {"labels": rng.integers(0, 3, 3)}
    if "QuestionAnswering" in kind:
        return batch | {"start_positions": rng.integers(0, 2, 3), "end_positions": rng.integers(0, 2, 3)}
    if "ConditionalGeneration" in kind or "MT" in kind:
        return batch | {"labels": rng.integers(3, VOCAB - 3, (3, 5))}
    return batch | {"labels": draw_labels(batch, 3 if "TokenClassification" in kind else VOCAB)}


def gradients_of_peft(model, batch):
    """(loss, {name: gradient}); of a body, the sum of its outputs for the loss."""
    model.zero_grad()
    outputs = run_theirs(model, batch)
    learns = "labels" in batch or "start_positions" in batch
    value = outputs.loss if learns else outputs.last_hidden_state.sum() + outputs.pooler_output.sum()
    value.backward()
    return value.detach().numpy(), {(name,): array.grad.numpy() for name, array in learned(model).items()}


def gradients_here(ours, batch, **settings):
    if "labels" in batch or "start_positions" in batch:
        value, grads = ours.loss_and_grads(batch, **settings)
    else:
        outputs, cache = ours.forward(**batch, **settings)
        ones = {name: np.ones_like(outputs[name]) for name in ("last_hidden_state", "pooler_output")}
        value, grads = sum(outputs[name].sum() for name in ones), ours.backward(ones, cache)[1]
    return value, ours.adapter_arrays(grads)


def opened(family, theirs, folder):
    theirs.save_pretrained(folder)
    return getattr(numtx.models, FAMILIES[family][0]).from_pretrained(folder, dtype=np.float64)


@pytest.mark.parametrize(("family", "targets"), THEIRS)
def test_an_adapter_of_theirs(family, targets, tmp_path):
    """Opened here it gives the same outputs, loss and gradients; saved here it is what it was, bit for bit."""
    theirs = base_of(family)
    settings = {"use_rslora": True} if targets else {}
    model, batch = with_peft(theirs, family, targets, **settings), batch_of(family)
    model.save_pretrained(tmp_path / "theirs")
    ours = opened(family, theirs, tmp_path / "base").load_adapter(tmp_path / "theirs")
    compare_outputs(ours, model, batch)
    expected = gradients_of_peft(model, batch)
    for keep in ("all", "inputs"):
        agree(f"keep={keep}", gradients_here(ours, batch, keep=keep), expected)
    ours.save_pretrained(tmp_path / "ours")
    before, after = (load_arrays(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours"))
    assert sorted(before) == sorted(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@each
@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_an_adapter_of_ours(family, targets, tmp_path):
    """PEFT puts it beside the same modules as it would itself, and computes the same."""
    theirs = base_of(family)
    ours = opened(family, theirs, tmp_path / "base")
    before = {name: array.copy() for name, array in ours.named_parameters()}
    asked = LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False)
    ours.add_adapter(asked, rng=0).save_pretrained(tmp_path / "ours")
    model = peft.PeftModel.from_pretrained(copy.deepcopy(theirs), tmp_path / "ours").double().eval()
    compare_outputs(ours, model, batch_of(family))
    if not (targets and family in NOT_ALL):
        assert set(learned(with_peft(theirs, family, targets, r=2))) == set(ours.adapter_arrays())
    ours.unload()
    assert all(np.array_equal(array, before[name]) for name, array in ours.named_parameters())


@each
def test_merged(family, tmp_path):
    """Merged and saved, it is a model that Transformers opens without PEFT, and computes the same."""
    theirs = base_of(family)
    model = with_peft(theirs, family)
    model.save_pretrained(tmp_path / "theirs")
    ours = opened(family, theirs, tmp_path / "base").load_adapter(tmp_path / "theirs").merge_and_unload()
    ours.save_pretrained(tmp_path / "merged")
    again = type(theirs).from_pretrained(tmp_path / "merged", dtype=torch.float64, attn_implementation="eager")
    batch = batch_of(family)
    compare_outputs(ours, again, batch)
    compare_outputs(ours, model, batch)


@pytest.mark.parametrize("family", ["bert", "bert-masked", "gpt2", "t5", "llama", "bart"])
@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_dropout(family, targets, tmp_path):
    """The same places, rates, shapes and order, and under the same masks the same loss and gradients."""
    theirs, batch = base_of(family), batch_of(family)
    model = with_peft(theirs, family, targets, lora_dropout=0.25)
    model.save_pretrained(tmp_path / "theirs")
    ours = opened(family, theirs, tmp_path / "base").load_adapter(tmp_path / "theirs")
    with planted_in_torch() as expected:
        wanted = gradients_of_peft(model.train(), batch)
    with planted_in_numtx() as got:
        found = gradients_here(ours, batch, rng=np.random.default_rng(0))
    assert sum(rate == 0.25 for rate, _ in got.drawn) > 1
    assert got.drawn == expected.drawn
    agree("dropout", found, wanted)


def test_ranks_and_layers_of_their_own(tmp_path):
    """Patterns of ranks and alphas, excluded modules, some of the layers, an old file: as PEFT reads them."""
    theirs = base_of("bert")
    settings = {
        "rank_pattern": {"layer.0.attention.self.query": 5}, "alpha_pattern": {r"1\..*value": 7},
        "exclude_modules": ["layer.0.attention.self.value"],
    }  # fmt: skip
    model, batch = with_peft(theirs, "bert", ["query", "value", "intermediate.dense"], **settings), batch_of("bert")
    model.save_pretrained(tmp_path / "theirs", safe_serialization=False)
    assert (tmp_path / "theirs" / "adapter_model.bin").exists()
    ours = opened("bert", theirs, tmp_path / "base").load_adapter(tmp_path / "theirs")
    compare_outputs(ours, model, batch)
    mine = LoraConfig(r=3, lora_alpha=2, target_modules=["query", "value", "intermediate.dense"], **settings)
    other = opened("bert", theirs, tmp_path / "base").add_adapter(mine)
    shapes = {name: array.shape for name, array in other.adapter_arrays().items()}
    assert shapes == {name: tuple(array.shape) for name, array in learned(model).items()}
    scales = {path: layer.lora_scale for path, layer in nn.lora_layers(other).items()}
    assert scales == {path: layer.lora_scale for path, layer in nn.lora_layers(ours).items()}
    some = with_peft(theirs, "bert", layers_to_transform=[1])
    some.save_pretrained(tmp_path / "some")
    compare_outputs(opened("bert", theirs, tmp_path / "base").load_adapter(tmp_path / "some"), some, batch)


def test_a_packed_matrix_in_full_has_no_update(tmp_path):
    """One layer of GPT-2 trained in full: PEFT puts updates beside the others alone, and opens what is saved."""
    theirs, settings = base_of("gpt2"), {"modules_to_save": ["h.0"]}
    ours = opened("gpt2", theirs, tmp_path / "base")
    ours.add_adapter(LoraConfig(r=2, lora_alpha=3, init_lora_weights=False, **settings), rng=0)
    assert set(learned(with_peft(theirs, "gpt2", r=2, **settings))) == set(ours.adapter_arrays())
    ours.save_pretrained(tmp_path / "ours")
    model = peft.PeftModel.from_pretrained(copy.deepcopy(theirs), tmp_path / "ours").double().eval()
    compare_outputs(ours, model, batch_of("gpt2"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"use_dora": True}, "use_dora"), ({"bias": "all"}, "bias"), ({"lora_bias": True}, "lora_bias")],
)
def test_what_is_not_computed_here_is_refused(settings, said, tmp_path):
    theirs = base_of("bert")
    with_peft(theirs, "bert", **settings).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match=f"LoraConfig: expected .*{said}"):
        opened("bert", theirs, tmp_path / "base").load_adapter(tmp_path / "theirs")


def test_a_fresh_adapter_starts_as_theirs():
    """A is drawn within their bounds, B is zero: over many numbers the same spread."""
    torch.manual_seed(0)
    theirs = peft.get_peft_model(base_of("gpt2", n_embd=64), peft.LoraConfig(r=16, task_type="CAUSAL_LM"))
    a = np.concatenate([p.detach().numpy().ravel() for n, p in theirs.named_parameters() if "lora_A" in n])
    layer = nn.LoRALinear(64, 192, r=16, rng=0)
    assert abs(np.abs(a).max() - np.abs(layer.lora_A).max()) < 1e-3
    assert abs(a.std() - layer.lora_A.std()) < 0.05 * a.std()
    assert not layer.lora_B.any()


def test_their_settings_are_ours():
    """What a file of PEFT says and numtx does not know is no more than what is listed as indifferent."""
    entries = json.loads(json.dumps(peft.LoraConfig(target_modules=["q"]).to_dict(), default=sorted))
    entries["peft_type"] = "LORA"
    assert LoraConfig.from_dict(entries).target_modules == ["q"]
