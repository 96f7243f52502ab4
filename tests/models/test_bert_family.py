"""BERT, RoBERTa and DistilBERT without an oracle: what they refuse, what they count, files old and incomplete."""

import json
import mmap

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from numtx import models, nn
from numtx.checkpoints import write_json

SMALL = {
    "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 6,
    "max_position_embeddings": 9,
}  # fmt: skip
DISTIL = {"vocab_size": 11, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 6, "max_position_embeddings": 9}
SIZES = {"Bert": SMALL, "Roberta": SMALL, "DistilBert": DISTIL}
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
IDS = np.array([[2, 3, 4, 5], [6, 7, 1, 1]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
each_family = pytest.mark.parametrize("family", SIZES)


def config_of(family, **settings):
    return getattr(models, f"{family}Config")(**SIZES[family] | settings)


def made(name, dtype=np.float64, rng=0, **settings):
    family = next(family for family in ("DistilBert", "Roberta", "Bert") if name.startswith(family))
    model = getattr(models, name)(config_of(family, **settings), rng=rng, dtype=dtype)
    return randomize(model)


def randomize(model, seed=1):
    rng = np.random.default_rng(seed)
    for _, array in model.named_parameters():
        array += 0.3 * rng.standard_normal(array.shape)
    return model


def labels_for(name):
    if name.endswith("ForSequenceClassification"):
        return {"labels": np.array([1, 0])}
    if name.endswith("ForQuestionAnswering"):
        return {"start_positions": np.array([1, 0]), "end_positions": np.array([3, 2])}
    return {"labels": np.array([[1, -100, 0, 1], [-100, 0, -100, -100]])}


# --- configs ---------------------------------------------------------------------------------------------------------


@each_family
def test_config_goes_to_the_file_and_back(family):
    config = config_of(family, id2label={0: "no", 1: "yes", 2: "maybe"}, initializer_range=0.1)
    entries = json.loads(json.dumps(config.to_dict()))
    again = type(config).from_dict(entries)
    assert again == config
    assert entries["label2id"] == {"no": 0, "yes": 1, "maybe": 2}


WRONG = {
    "Bert": [
        ({"hidden_size": 7}, "heads that divide the width 7"),
        ({"hidden_act": "swiglu"}, "hidden_act to be one of gelu, .*got 'swiglu'"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers"),
        ({"type_vocab_size": 0}, "type_vocab_size"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob"),
        ({"classifier_dropout": -0.1}, "classifier_dropout"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type absolute, got relative_key"),
        ({"is_decoder": True}, "is_decoder False, got True"),
        ({"add_cross_attention": True}, "add_cross_attention False"),
        ({"model_type": "albert"}, "model_type 'bert', got 'albert'"),
        ({"layer_norm_eps": None}, "got none of layer_norm_eps"),
        ({"hidden_act": None, "hidden_size": None}, "got none of hidden_size, hidden_act"),
        ({"id2label": {"1": "a"}}, "id2label from 0 on"),
    ],
    "Roberta": [
        ({"pad_token_id": None}, "pad_token_id"),
        ({"pad_token_id": 8}, "max_position_embeddings over pad_token_id"),
        ({"model_type": "bert"}, "model_type 'roberta', got 'bert'"),
    ],
    "DistilBert": [
        ({"dim": 7}, "heads that divide the width 7"),
        ({"activation": "swiglu"}, "activation to be one of"),
        ({"seq_classif_dropout": 2}, "seq_classif_dropout"),
        ({"n_layers": None}, "got none of n_layers"),
    ],
}


@pytest.mark.parametrize(("family", "entries", "said"), [(f, *one) for f, cases in WRONG.items() for one in cases])
def test_wrong_configs(family, entries, said):
    kind = getattr(models, f"{family}Config")
    with pytest.raises(ValueError, match=said) as error:
        kind.from_dict(config_of(family).to_dict() | entries)
    assert "\n" not in str(error.value)


# --- the door --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@each_family
def test_what_does_not_fit_is_refused_at_the_door(family, head):
    model = made(family + head)
    name = family + "Model"
    wrong = [
        ({"input_ids": np.array([2, 3])}, r"input_ids \(B, T\)"),
        ({"input_ids": np.zeros((2, 0), int)}, "not empty"),
        ({"input_ids": np.array([[2.0]])}, "input_ids"),
        ({"input_ids": np.array([[11]])}, "11"),
        ({"input_ids": np.array([[-1]])}, "-1"),
        ({"input_ids": IDS, "attention_mask": MASK[:, :3]}, "attention_mask"),
        ({"input_ids": IDS, "position_ids": np.full(IDS.shape, 9)}, "positions under 9"),
        ({"input_ids": IDS, "position_ids": np.zeros((2, 3), int)}, "positions"),
    ]
    if family != "DistilBert":
        wrong += [
            ({"input_ids": IDS, "token_type_ids": np.full(IDS.shape, 2)}, "token_type_ids"),
            ({"input_ids": IDS, "token_type_ids": np.zeros((2, 3), int)}, "token_type_ids"),
        ]
    for batch, said in wrong:
        with pytest.raises(ValueError, match=said):
            model(**batch)
    too_long = np.full((1, 10), 3)
    limit = 7 if family == "Roberta" else 9
    with pytest.raises(
        ValueError, match=rf"{name}: expected input_ids of at most .* = {limit} tokens, got 10.*"
    ) as error:
        model(input_ids=too_long)
    assert f"truncation=True, max_length={limit}" in str(error.value)


@each_family
def test_backward_refuses_what_it_cannot_use(family):
    body, masked = made(f"{family}Model"), made(f"{family}ForMaskedLM")
    _, cache = body.forward(IDS, keep=None)
    with pytest.raises(ValueError, match="keep=None"):
        body.backward({}, cache)
    outputs, cache = body.forward(IDS)
    with pytest.raises(ValueError, match=r"gradients of last_hidden_state.*got logits"):
        body.backward({"logits": outputs.last_hidden_state}, cache)
    with pytest.raises(ValueError, match="the gradient of last_hidden_state"):
        body.backward({"last_hidden_state": outputs.last_hidden_state[:, :1]}, cache)
    _, cache = masked.forward(IDS, keep=None)
    with pytest.raises(ValueError, match="keep=None"):
        masked.backward({}, cache)
    with pytest.raises(ValueError, match="expected a batch of input_ids"):
        masked.loss_and_grads({"input_ids": IDS})
    with pytest.raises(ValueError, match="labels"):
        masked.loss({"input_ids": IDS, "labels": np.full(IDS.shape, 11)})


def test_a_batch_may_not_hold_what_the_model_does_not_know():
    with pytest.raises(ValueError, match="token_type_ids"):
        made("DistilBertForMaskedLM").loss({"input_ids": IDS, "token_type_ids": IDS, "labels": IDS})


# --- what is counted, kept and drawn ---------------------------------------------------------------------------------


@each_family
def test_labels_are_counted(family):
    counts = {"ForMaskedLM": 4, "ForTokenClassification": 4, "ForSequenceClassification": 2, "ForQuestionAnswering": 2}
    for head, count in counts.items():
        model = made(family + head)
        assert model.count_labels({"input_ids": IDS, **labels_for(family + head)}) == count


@pytest.mark.parametrize("head", HEADS[1:])
@each_family
def test_shards_add_and_keep_changes_no_bit(family, head):
    model = made(family + head)
    batch = {"input_ids": IDS, "attention_mask": MASK, **labels_for(family + head)}
    loss, grads = model.loss_and_grads(batch)
    again, others = model.loss_and_grads(batch, keep="inputs")
    assert loss == again == model.loss(batch)
    grads, others = nn.flatten(grads), nn.flatten(others)
    assert list(grads) == list(others) == [name for name, _ in model.named_parameters()]
    assert all(np.array_equal(grads[name], others[name]) for name in grads)
    num_items = model.count_labels(batch)
    shards = [
        model.loss_and_grads({name: array[i : i + 1] for name, array in batch.items()}, num_items=num_items)
        for i in range(2)
    ]
    assert sum(shard[0] for shard in shards) == pytest.approx(loss, rel=1e-12)
    added = {name: sum(nn.flatten(shard[1])[name] for shard in shards) for name in grads}
    largest = max(np.abs(gradient).max() for gradient in grads.values())
    assert all(np.abs(added[name] - grads[name]).max() <= 1e-12 * largest for name in grads)


@pytest.mark.parametrize("head", HEADS)
@each_family
def test_dropout_is_drawn_again_alike(family, head):
    rates = {"dropout": 0.3, "attention_dropout": 0.2} if family == "DistilBert" else {
        "hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2,
    }  # fmt: skip
    model = made(family + head, **rates)
    first, cache = model.forward(IDS, MASK, rng=np.random.default_rng(3))
    second, again = model.forward(IDS, MASK, rng=np.random.default_rng(3), keep="inputs")
    field = first.keys()[0]
    assert np.array_equal(first[field], second[field])
    assert not np.array_equal(first[field], model.forward(IDS, MASK)[0][field])
    dy = {field: np.random.default_rng(4).standard_normal(first[field].shape)}
    grads, others = (nn.flatten(model.backward(dy, one)[1]) for one in (cache, again))
    assert all(np.array_equal(grads[name], others[name]) for name in grads)


@each_family
def test_weights_start_as_the_config_says(family):
    model = getattr(models, f"{family}ForMaskedLM")(config_of(family, initializer_range=0.5), rng=0)
    state = model.state_dict()
    for name, array in state.items():
        if array.ndim == 2:
            assert 0.3 < array.std() < 0.7, name
        else:
            assert np.all(array == ("norm" in name and name.endswith("weight"))), name
    other = getattr(models, f"{family}ForMaskedLM")(config_of(family, initializer_range=0.5), rng=0)
    assert all(np.array_equal(state[name], array) for name, array in other.named_parameters())
    assert model.dtype == np.float32


def test_the_row_of_padding_does_not_learn():
    model = made("RobertaModel")
    outputs, cache = model.forward(np.array([[2, 1, 3], [4, 1, 1]]))
    dy = {"last_hidden_state": np.ones(outputs.last_hidden_state.shape)}
    grads = model.backward(dy, cache)[1]["embeddings"]
    assert not grads["words"]["weight"][1].any()
    assert not grads["positions"]["weight"][1].any()
    assert grads["positions"]["weight"][2].any()


def test_only_what_is_asked_for_is_there():
    model = made("BertForMaskedLM")
    assert model(IDS).keys() == ["logits"]
    assert model(IDS, labels=IDS).keys() == ["loss", "logits"]
    shown = model(IDS, output_hidden_states=True, output_attentions=True)
    assert shown.keys() == ["logits", "hidden_states", "attentions"]
    assert [len(shown.hidden_states), len(shown.attentions)] == [3, 2]
    np.testing.assert_allclose(shown.attentions[0].sum(axis=-1), 1, atol=1e-12)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", HEADS)
@each_family
def test_saved_and_opened_again(family, head, tied, tmp_path):
    model = made(family + head, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=np.float64)
    assert again.config == model.config
    state = again.state_dict()
    assert list(state) == [name for name, _ in model.named_parameters()]
    assert all(np.array_equal(array, state[name]) for name, array in model.named_parameters())
    assert np.array_equal(again(IDS)[0], model(IDS)[0])
    single = type(model).from_pretrained(tmp_path)
    assert single.dtype == np.float32


def rewritten(folder, change):
    """The arrays of a saved model, changed."""
    arrays = load_file(folder / "model.safetensors")
    save_file(change(arrays), folder / "model.safetensors")


def test_old_names_stray_buffers_and_missing_prefixes(tmp_path):
    model = made("BertForMaskedLM")
    model.save_pretrained(tmp_path)

    def as_of_2019(arrays):
        renamed = {}
        for name, array in arrays.items():
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            renamed[name] = array
        return renamed | {
            "bert.embeddings.position_ids": np.arange(9)[None],
            "bert.pooler.dense.weight": np.ones((8, 8)),
            "bert.pooler.dense.bias": np.ones(8),
            "cls.seq_relationship.weight": np.ones((2, 8)),
            "cls.seq_relationship.bias": np.ones(2),
            "cls.predictions.decoder.weight": arrays["bert.embeddings.word_embeddings.weight"].copy(),
        }

    rewritten(tmp_path, as_of_2019)
    again = models.BertForMaskedLM.from_pretrained(tmp_path, dtype=np.float64)
    assert np.array_equal(again(IDS).logits, model(IDS).logits)
    rewritten(tmp_path, lambda arrays: {name.removeprefix("bert."): array for name, array in arrays.items()})
    bare = models.BertModel.from_pretrained(tmp_path, dtype=np.float64)
    assert np.array_equal(bare(IDS).last_hidden_state, model.body(IDS).last_hidden_state)


def test_an_untied_bias_under_either_name(tmp_path):
    model = made("BertForMaskedLM", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    names = ("cls.predictions.bias", "cls.predictions.decoder.bias")
    whole = load_file(tmp_path / "model.safetensors")
    assert np.array_equal(whole[names[0]], whole[names[1]])
    for name in names:
        rewritten(tmp_path, lambda _, name=name: {key: array for key, array in whole.items() if key != name})
        again = models.BertForMaskedLM.from_pretrained(tmp_path, dtype=np.float64)
        assert np.array_equal(again.head.bias, model.head.bias)
    # Where they differ, the decoder's is what was computed with.
    rewritten(tmp_path, lambda _: whole | {names[0]: np.zeros(11)})
    again = models.BertForMaskedLM.from_pretrained(tmp_path, dtype=np.float64)
    assert np.array_equal(again.head.bias, model.head.bias)


@each_family
def test_a_new_head_is_drawn_with_a_warning(family, tmp_path):
    body = made(f"{family}Model")
    body.save_pretrained(tmp_path)
    for head in HEADS[1:]:
        with pytest.warns(UserWarning, match=r"has no (?!head\.)\w[\w.]+\.weight|bias, ") as warned:
            model = getattr(models, family + head).from_pretrained(tmp_path, dtype=np.float64)
        assert len(warned) == 1
        assert np.array_equal(model.body(IDS).last_hidden_state, body(IDS).last_hidden_state)
        assert np.isfinite(model(IDS)[0]).all()


def test_all_that_does_not_fit_is_listed(tmp_path):
    made("BertForTokenClassification").save_pretrained(tmp_path)

    def spoilt(arrays):
        del arrays["bert.encoder.layer.1.output.dense.bias"], arrays["bert.embeddings.LayerNorm.weight"]
        arrays["bert.encoder.layer.0.output.dense.weight"] = np.ones((3, 4))
        return arrays | {"bert.encoder.layer.2.output.dense.bias": np.ones(8), "something.else": np.ones(1)}

    rewritten(tmp_path, spoilt)
    with pytest.raises(ValueError, match="missing") as error:
        models.BertForTokenClassification.from_pretrained(tmp_path)
    said = str(error.value)
    assert "\n" not in said
    for name in (
        "bert.encoder.layer.1.output.dense.bias",
        "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.0.output.dense.weight (4, 3) for (6, 8)",
        "bert.encoder.layer.2.output.dense.bias",
        "something.else",
    ):
        assert name in said


def test_a_file_of_another_family_or_without_config(tmp_path):
    made("RobertaModel").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type 'bert', got 'roberta'"):
        models.BertModel.from_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(ValueError, match="got none of vocab_size"):
        models.BertModel.from_pretrained(tmp_path)


def test_opening_copies_nothing(tmp_path):
    made("BertModel", np.float32).save_pretrained(tmp_path)
    model = models.BertModel.from_pretrained(tmp_path)
    for name, array in model.named_parameters():
        owner = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        assert isinstance(getattr(owner, "obj", owner), mmap.mmap), name
    before = model(IDS).last_hidden_state.copy()
    model.embeddings.words.weight[...] = 0  # a weight may be changed, the file stays as it is
    assert np.array_equal(models.BertModel.from_pretrained(tmp_path)(IDS).last_hidden_state, before)
