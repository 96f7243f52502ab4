"""T5 and Llama without an oracle: what they refuse, what they count, files old and incomplete."""

import json

import numpy as np
import pytest

from numtx import models, nn
from numtx.checkpoints import load_arrays, save_arrays, write_json
from numtx.models.output import BaseModelOutput

T5 = {
    "vocab_size": 11, "d_model": 6, "d_kv": 4, "d_ff": 5, "num_layers": 2, "num_heads": 2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "decoder_start_token_id": 0,
}  # fmt: skip
LLAMA = {
    "vocab_size": 11, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 9, "pad_token_id": 0,
}  # fmt: skip
SIZES = {"T5": T5, "Llama": LLAMA}
CLASSES = (
    "T5Model", "T5EncoderModel", "T5ForConditionalGeneration", "LlamaModel", "LlamaForCausalLM",
    "LlamaForSequenceClassification", "LlamaForTokenClassification", "LlamaForQuestionAnswering",
)  # fmt: skip
IDS = np.array([[2, 3, 4, 5], [6, 7, 0, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
LABELS = np.array([[2, -100, 0, 1], [-100, 0, -100, -100]])


def config_of(family, **settings):
    return getattr(models, f"{family}Config")(**SIZES[family] | settings)


def made(name, dtype=np.float64, **settings):
    family = "T5" if name.startswith("T5") else "Llama"
    model = getattr(models, name)(config_of(family, **settings), rng=0, dtype=dtype)
    rng = np.random.default_rng(1)
    for _, array in model.named_parameters():
        array += 0.3 * rng.standard_normal(array.shape)
    return model


def batch_for(name):
    """A batch with labels, if there are some to be asked for."""
    batch = {"input_ids": IDS, "attention_mask": MASK}
    if name == "T5Model":
        batch |= {"decoder_input_ids": IDS[:, :3]}
    elif name.endswith("ForConditionalGeneration"):
        batch |= {"labels": LABELS[:, :3]}
    elif name.endswith("ForSequenceClassification"):
        batch |= {"labels": np.array([1, 0])}
    elif name.endswith("ForQuestionAnswering"):
        batch |= {"start_positions": np.array([1, 0]), "end_positions": np.array([3, 2])}
    elif "For" in name:
        batch |= {"labels": np.minimum(LABELS, 1) if "Token" in name else LABELS}
    return batch


# --- configs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("T5", {}),
        ("T5", {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 3}),
        ("T5", {"tie_word_embeddings": False, "scale_decoder_outputs": True, "decoder_start_token_id": None}),
        ("Llama", {}),
        ("Llama", {"head_dim": 6, "tie_word_embeddings": True, "eos_token_id": [3, 4]}),
        ("Llama", {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "mlp_bias": True}),
    ],
)
def test_config_goes_to_the_file_and_back(family, settings):
    config = config_of(family, id2label={0: "no", 1: "yes", 2: "maybe"}, **settings)
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_scaling_that_is_none():
    for scaling in (None, {"rope_type": "default"}, {"type": "default"}):
        assert config_of("Llama", rope_scaling=scaling).rope_scaling is None


def test_what_t5_says_of_its_networks():
    said = {"relu": (False, "relu"), "gelu": (False, "gelu"), "gelu_new": (False, "gelu_tanh")}
    said |= {"gated-gelu": (True, "geglu_tanh"), "gated-silu": (True, "swiglu"), "gated-gelu_new": (True, "geglu_tanh")}
    for setting, expected in said.items():
        assert config_of("T5", feed_forward_proj=setting).bend() == expected


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WRONG = [
    ("T5", {"feed_forward_proj": "swiglu"}, "feed_forward_proj .*'swiglu'"),
    ("T5", {"feed_forward_proj": "gated-relu"}, "'gated-relu'"),
    ("T5", {"feed_forward_proj": "my-gated-gelu"}, "'my-gated-gelu'"),
    ("T5", {"feed_forward_proj": 3}, "feed_forward_proj"),
    ("T5", {"relative_attention_num_buckets": 3}, "relative_attention_num_buckets"),
    ("T5", {"relative_attention_max_distance": 2}, "relative_attention_max_distance"),
    ("T5", {"num_decoder_layers": 0}, "num_decoder_layers"),
    ("T5", {"d_kv": 1.5}, "d_kv"),
    ("T5", {"dropout_rate": 1.0}, "dropout_rate"),
    ("T5", {"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon"),
    ("T5", {"initializer_factor": -1.0}, "initializer_factor"),
    ("T5", {"is_decoder": True}, "is_decoder False, got True"),
    ("T5", {"d_kv": None, "num_heads": None}, "got none of d_kv, num_heads"),
    ("T5", {"model_type": "mt5"}, "model_type 't5', got 'mt5'"),
    ("Llama", {"num_attention_heads": 3}, "num_key_value_heads that divide the 3 heads"),
    ("Llama", {"num_attention_heads": 6}, "heads that divide the width 8"),
    ("Llama", {"num_key_value_heads": 0}, "num_key_value_heads"),
    ("Llama", {"head_dim": 3}, "even head_dim, numbers in pairs, got 3"),
    ("Llama", {"hidden_act": "swiglu"}, "hidden_act .*'swiglu'"),
    ("Llama", {"hidden_act": "relu"}, "hidden_act silu, gelu or gelu_new, got 'relu'"),
    ("Llama", {"hidden_act": None}, "got none of hidden_act"),
    ("Llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps"),
    ("Llama", {"attention_dropout": 1.5}, "attention_dropout"),
    ("Llama", {"classifier_dropout": -0.1}, "classifier_dropout"),
    ("Llama", {"rope_theta": 0}, "rope_theta"),
    (
        "Llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        "rope_type of default, linear, llama3, got 'yarn'",
    ),
    ("Llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
    ("Llama", {"rope_scaling": LLAMA3}, "llama3 scaling with"),
    ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": -2.0}}, "above 0"),
    ("Llama", {"rope_scaling": 2.0}, "scaling as a dict"),
    ("Llama", {"rope_parameters": [1]}, "rope_parameters as a dict"),
    (
        "Llama",
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor of 1, got 0.5",
    ),
    ("Llama", {"model_type": "mistral"}, "model_type 'llama', got 'mistral'"),
]


@pytest.mark.parametrize(("family", "entries", "said"), WRONG)
def test_wrong_configs(family, entries, said):
    kind = getattr(models, f"{family}Config")
    with pytest.raises(ValueError, match=said) as error:
        kind.from_dict(config_of(family).to_dict() | entries)
    assert str(error.value).startswith(f"{family}Config: ")
    assert "\n" not in str(error.value)


def test_padding_that_is_counted_from_the_end_as_old_files_do():
    model = made("LlamaModel", pad_token_id=-1)
    assert model.embedding.padding_idx == 10


# --- the door --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_what_does_not_fit_is_refused_at_the_door(name):
    model, batch = made(name), batch_for(name)
    wrong = [
        ({"input_ids": np.array([2, 3])}, r"input_ids \(B, T\)"),
        ({"input_ids": np.zeros((2, 0), int)}, "not empty"),
        ({"input_ids": np.array([[2.0, 1], [1, 1]])}, "input_ids"),
        ({"input_ids": np.full((2, 4), 11)}, "11"),
        ({"input_ids": np.full((2, 4), -1)}, "-1"),
        ({"attention_mask": MASK[:, :3]}, "attention_mask"),
    ]
    if name.startswith("Llama"):
        long = {"input_ids": np.ones((2, 10), int), "attention_mask": None}
        wrong += [
            (long, r"max_position_embeddings = 9 tokens, got 10.*truncation=True, max_length=9"),
            ({"position_ids": np.zeros((2, 3), int)}, "position_ids"),
            ({"position_ids": np.zeros((2, 4))}, "position_ids"),
            ({"position_ids": np.full((2, 4), -1)}, "position_ids of at least 0"),
        ]
    if name == "T5Model":
        wrong += [
            ({"decoder_input_ids": None}, "decoder_input_ids"),
            ({"decoder_input_ids": np.full((2, 3), 11)}, "decoder_input_ids"),
            ({"decoder_input_ids": np.array([[1]])}, "expected"),
            ({"decoder_attention_mask": MASK}, r"decoder_attention_mask \(B, T\) = \(2, 3\), got \(2, 4\)"),
        ]
    for entries, said in wrong:
        given = {
            key: value
            for key, value in (batch | entries).items()
            if key not in ("labels", "start_positions", "end_positions")
        }
        if "decoder" not in str(entries) and name.endswith("ForConditionalGeneration"):
            given |= {"decoder_input_ids": IDS[:, :3]}
        with pytest.raises(ValueError, match=said) as error:
            model(**given)
        assert "\n" not in str(error.value)


def test_an_input_of_any_length_is_no_trouble_to_t5():
    """Positions are distances."""
    ids = np.ones((1, 600), int)
    assert made("T5EncoderModel", np.float32)(ids).last_hidden_state.shape == (1, 600, 6)


@pytest.mark.parametrize(
    ("name", "entries", "said"),
    [
        ("LlamaForCausalLM", {"labels": LABELS[:, :3]}, "labels"),
        ("LlamaForCausalLM", {"labels": np.full((2, 4), 11)}, "labels"),
        ("LlamaForTokenClassification", {"labels": np.full((2, 4), 2)}, "labels"),
        ("LlamaForSequenceClassification", {"labels": np.array([1])}, "labels"),
        ("LlamaForQuestionAnswering", {"end_positions": None}, "end_positions"),
        ("T5ForConditionalGeneration", {"labels": np.array([1, 2])}, "labels"),
        ("T5ForConditionalGeneration", {"labels": np.full((2, 3), 11)}, "labels"),
        ("T5ForConditionalGeneration", {"token_type_ids": IDS}, "token_type_ids"),
        ("T5ForConditionalGeneration", {"labels": None}, "labels"),
    ],
)
def test_wrong_labels(name, entries, said):
    with pytest.raises(ValueError, match=said):
        made(name).loss_and_grads(batch_for(name) | entries)


def test_labels_of_a_t5_that_has_no_start_token():
    model = made("T5ForConditionalGeneration", decoder_start_token_id=None)
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        model.loss_and_grads(batch_for("T5ForConditionalGeneration"))
    given = batch_for("T5ForConditionalGeneration") | {"decoder_input_ids": IDS[:, :3]}
    assert np.isfinite(model.loss(given))


def test_the_last_token_of_a_batch_needs_a_padding_id():
    model = made("LlamaForSequenceClassification", pad_token_id=None)
    with pytest.raises(ValueError, match="pad_token_id for a batch of 2"):
        model(IDS)
    assert model(IDS[:1]).logits.shape == (1, 2)


@pytest.mark.parametrize("name", CLASSES)
def test_backward_needs_what_forward_kept(name):
    model, batch = made(name), batch_for(name)
    given = {key: value for key, value in batch.items() if key in model.arguments}
    if name.endswith("ForConditionalGeneration"):
        given["decoder_input_ids"] = IDS[:, :3]
    _, cache = model.forward(**given, keep=None)
    with pytest.raises(ValueError, match="backward after a forward with keep=None"):
        model.backward({}, cache)
    outputs, cache = model.forward(**given)
    field = outputs.keys()[0]
    for wrong in (
        {"other": outputs[field]},
        {field: outputs[field][..., :1]},
        {field: outputs[field].astype(np.float32)},
        [1],
    ):
        with pytest.raises(ValueError, match="expected"):
            model.backward(wrong, cache)


# --- what is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CLASSES if "For" in name])
def test_keep_inputs_gives_the_same_bits(name):
    model = made(name, **({"dropout_rate": 0.3} if name.startswith("T5") else {"attention_dropout": 0.3}))
    for seed in (None, 3):
        rngs = [None if seed is None else np.random.default_rng(seed) for _ in range(2)]
        one, other = (
            model.loss_and_grads(batch_for(name), rng, keep=keep)
            for rng, keep in zip(rngs, ("all", "inputs"), strict=True)
        )
        assert one[0] == other[0]
        flat, again = nn.flatten(one[1]), nn.flatten(other[1])
        assert set(flat) == {key for key, _ in model.named_parameters()}
        assert all(np.array_equal(flat[key], again[key]) for key in flat)


def test_counted_labels():
    counts = {
        "T5ForConditionalGeneration": 3, "LlamaForCausalLM": 3, "LlamaForTokenClassification": 4,
        "LlamaForSequenceClassification": 2, "LlamaForQuestionAnswering": 2,
    }  # fmt: skip
    for name, expected in counts.items():
        assert made(name).count_labels(batch_for(name)) == expected, name


def test_shards_add_to_the_whole():
    for name in ("T5ForConditionalGeneration", "LlamaForCausalLM", "LlamaForSequenceClassification"):
        model, batch = made(name), batch_for(name)
        loss, grads = model.loss_and_grads(batch)
        total = model.count_labels(batch)
        parts = [
            model.loss_and_grads({key: value[k : k + 1] for key, value in batch.items()}, num_items=total)
            for k in (0, 1)
        ]
        assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-12)
        for key, gradient in nn.flatten(grads).items():
            summed = sum(nn.flatten(part[1])[key] for part in parts)
            np.testing.assert_allclose(summed, gradient, rtol=1e-9, atol=1e-13, err_msg=key)


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "LlamaForCausalLM"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_large_vocabulary_changes_nothing(name, tied, monkeypatch):
    """Loss and gradients without all logits are those with them, the head's scale included."""
    model, batch = made(name, tie_word_embeddings=tied), batch_for(name)
    loss, grads = model.loss_and_grads(batch)
    for module in ("causal_lm", "seq2seq_lm"):
        monkeypatch.setattr(f"numtx.models.{module}.LARGE_VOCABULARY", 2)
    again, others = model.loss_and_grads(batch)
    assert again == pytest.approx(loss, rel=1e-12)
    assert model.loss(batch) == pytest.approx(loss, rel=1e-12)
    others = nn.flatten(others)
    for key, gradient in nn.flatten(grads).items():
        np.testing.assert_allclose(others[key], gradient, rtol=1e-9, atol=1e-13, err_msg=key)


def test_encoder_outputs_take_the_encoders_place():
    model = made("T5ForConditionalGeneration")
    ids = IDS[:, :3]
    whole = model(IDS, MASK, ids, output_hidden_states=True)
    memory = model.encode(IDS, MASK)
    output = BaseModelOutput(memory)
    for given in (memory, (memory,), output):
        got = model(attention_mask=MASK, decoder_input_ids=ids, encoder_outputs=given)
        np.testing.assert_array_equal(got.logits, whole.logits)
    _, cache = model.forward(attention_mask=MASK, decoder_input_ids=ids, encoder_outputs=memory)
    assert cache is None


def test_positions_are_differences():
    """Rotary positions from anywhere give the same result; and left padding the same as none."""
    model = made("LlamaForCausalLM")
    ids = IDS[:1]
    plain = model(ids).logits
    np.testing.assert_allclose(model(ids, position_ids=np.arange(100, 104)).logits, plain, rtol=1e-9, atol=1e-12)
    padded = model(np.pad(ids, ((0, 0), (3, 0))), attention_mask=np.array([[0, 0, 0, 1, 1, 1, 1]])).logits
    np.testing.assert_allclose(padded[:, 3:], plain, rtol=1e-9, atol=1e-12)
    beside = made("T5EncoderModel")
    np.testing.assert_allclose(
        beside(np.pad(ids, ((0, 0), (3, 0))), np.array([[0, 0, 0, 1, 1, 1, 1]])).last_hidden_state[:, 3:],
        beside(ids).last_hidden_state, rtol=1e-9, atol=1e-12,
    )  # fmt: skip


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CLASSES)
def test_saved_and_opened_it_is_the_same_model(name, dtype, tmp_path):
    model = made(name, dtype)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=dtype)
    assert again.config == model.config
    for (key, array), (other, opened) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert key == other
        assert opened.dtype == dtype
        np.testing.assert_array_equal(opened, array)


@pytest.mark.parametrize(
    ("body", "head", "drawn"),
    [
        ("LlamaModel", "LlamaForCausalLM", ["lm_head.weight"]),
        ("LlamaModel", "LlamaForSequenceClassification", ["score.weight"]),
        ("LlamaModel", "LlamaForTokenClassification", ["score.weight", "score.bias"]),
        ("LlamaForCausalLM", "LlamaForSequenceClassification", ["score.weight"]),
    ],
)
def test_a_new_head_is_drawn_with_a_warning(body, head, drawn, tmp_path):
    model = made(body)
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=", ".join(drawn)):
        opened = getattr(models, head).from_pretrained(tmp_path, dtype=np.float64)
    hidden = model(IDS).last_hidden_state if body == "LlamaModel" else model.body(IDS).last_hidden_state
    np.testing.assert_array_equal(opened.body(IDS).last_hidden_state, hidden)


def test_a_body_of_t5_opens_as_a_tied_language_model(tmp_path):
    made("T5Model", tie_word_embeddings=True).save_pretrained(tmp_path)
    assert models.T5ForConditionalGeneration.from_pretrained(tmp_path).config.tie_word_embeddings


def test_what_older_files_hold_besides(tmp_path):
    """Copies of the shared table, a bias of cross-attention, frequencies, a tied head."""
    model = made("T5ForConditionalGeneration")
    model.save_pretrained(tmp_path)
    arrays = load_arrays(tmp_path / "model.safetensors")
    table = arrays["shared.weight"]
    stray = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    copies = {
        name: table.copy() for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    }
    save_arrays(tmp_path / "model.safetensors", arrays | copies | {stray: np.zeros((8, 2))})
    for kind in (models.T5ForConditionalGeneration, models.T5Model, models.T5EncoderModel):
        opened = kind.from_pretrained(tmp_path, dtype=np.float64)
        np.testing.assert_array_equal(opened.state_dict()[next(iter(opened.state_dict()))], table)
    del arrays["shared.weight"]
    save_arrays(tmp_path / "model.safetensors", arrays | {"encoder.embed_tokens.weight": table})
    opened = models.T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=np.float64)
    np.testing.assert_array_equal(opened.body.embedding.weight, table)

    model = made("LlamaForCausalLM", tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "llama")
    arrays = load_arrays(tmp_path / "llama" / "model.safetensors")
    arrays |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.zeros(1) for i in range(2)}
    arrays |= {"lm_head.weight": arrays["model.embed_tokens.weight"].copy()}
    save_arrays(tmp_path / "llama" / "model.safetensors", arrays)
    opened = models.LlamaForCausalLM.from_pretrained(tmp_path / "llama", dtype=np.float64)
    np.testing.assert_array_equal(opened(IDS).logits, model(IDS).logits)


def test_everything_that_does_not_fit_is_listed(tmp_path):
    made("LlamaForCausalLM").save_pretrained(tmp_path)
    arrays = load_arrays(tmp_path / "model.safetensors")
    del arrays["model.norm.weight"], arrays["model.layers.1.mlp.up_proj.weight"]
    arrays["model.layers.0.self_attn.q_proj.weight"] = np.zeros((4, 8))
    arrays["model.layers.0.self_attn.q_proj.bias"] = np.zeros(8)
    save_arrays(tmp_path / "model.safetensors", arrays)
    with pytest.raises(ValueError, match=r"missing: .*norm\.weight") as error:
        models.LlamaForCausalLM.from_pretrained(tmp_path)
    said = str(error.value)
    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight", "q_proj.bias"):
        assert name in said
    assert "\n" not in said


def test_a_folder_of_another_family(tmp_path):
    made("T5Model").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type 'llama', got 't5'"):
        models.LlamaModel.from_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "t5"})
    with pytest.raises(ValueError, match="got none of vocab_size, d_model, d_kv"):
        models.T5Model.from_pretrained(tmp_path)
