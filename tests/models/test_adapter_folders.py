"""Folders of adapters: beside whole models, over bases without their head, and opened by whatever opens a model."""

import json
import shutil
import warnings

import numpy as np
import pytest
from pipeline_questions import TOKENIZERS
from small_families import FAMILIES

import numtx
from numtx import LoraConfig, models
from numtx.checkpoints import load_arrays

IDS = np.random.default_rng(0).integers(3, 11, (2, 6))
SEEN = LoraConfig(r=2, init_lora_weights=False)  # B is drawn too


def saved(kind, config, folder):
    kind(config, rng=0).save_pretrained(folder)
    return folder


def bert(folder):
    kind, config = FAMILIES["bert"]
    return saved(kind, config, folder)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_of_the_two_to_a_folder(tmp_path):
    """A folder with both would be opened as the model alone here, and as both by Transformers."""
    model = models.BertForSequenceClassification.from_pretrained(bert(tmp_path / "base"))
    model.add_adapter(SEEN, rng=1).save_pretrained(tmp_path / "adapter")
    before = names(tmp_path / "base"), names(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"save_adapter: expected a folder without a whole model, got .* with config"):
        model.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")  # over its own
    with pytest.raises(ValueError, match=r"save_pretrained: expected a folder without an adapter, got .* with adapter"):
        model.merge_and_unload().save_pretrained(tmp_path / "adapter")
    assert (names(tmp_path / "base"), names(tmp_path / "adapter")) == before


def test_a_folder_with_both_that_others_made_is_opened_as_the_model_with_a_warning(tmp_path):
    base = bert(tmp_path / "base")
    model = models.BertForSequenceClassification.from_pretrained(base)
    plain = model(IDS).logits
    model.add_adapter(SEEN, rng=1).save_pretrained(tmp_path / "adapter")
    shutil.copytree(tmp_path / "adapter", base, dirs_exist_ok=True)
    with pytest.warns(UserWarning, match="holds a whole model and an adapter; the model is opened without it"):
        again = numtx.AutoModelForSequenceClassification.from_pretrained(base)
    np.testing.assert_array_equal(again(IDS).logits, plain)
    np.testing.assert_array_equal(again.load_adapter(base)(IDS).logits, model(IDS).logits)


HEADLESS = {
    "bert": (models.BertModel, models.BertForSequenceClassification),
    "roberta": (models.RobertaModel, models.RobertaForTokenClassification),
    "distilbert": (models.DistilBertModel, models.DistilBertForSequenceClassification),
    "gpt2": (models.GPT2Model, models.GPT2ForSequenceClassification),
    "bart": (models.BartModel, models.BartForSequenceClassification),
    "llama": (models.LlamaModel, models.LlamaForTokenClassification),
    "t5": (models.T5Model, models.T5ForSequenceClassification),
}


NEEDED = {"gpt2": {"pad_token_id": 0}, "t5": {"decoder_start_token_id": 0}}  # to read rows of several lengths


def auto_of(kind):
    task = "Sequence" if "Sequence" in kind.__name__ else "Token"
    return getattr(numtx, f"AutoModelFor{task}Classification")


def scores(model):
    end = getattr(model.config, "eos_token_id", None)  # where BART and T5 read
    return model(np.concatenate([IDS, np.full((2, 1), 2 if end in (None, 50256) else end)], axis=1)).logits


@pytest.mark.parametrize("family", HEADLESS)
def test_a_new_head_over_a_base_without_one(family, tmp_path):
    """The classes are those of the adapter's head, and nothing is said to be drawn, for the adapter holds it."""
    body, kind = HEADLESS[family]
    saved(body, FAMILIES[family][1].changed(**NEEDED.get(family, {})), tmp_path / "base")
    with pytest.warns(UserWarning, match="drawn anew"):
        model = kind.from_pretrained(tmp_path / "base", num_labels=3)
    model.add_adapter(LoraConfig(r=2, init_lora_weights=False), rng=1).save_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = [opener.from_pretrained(tmp_path / "adapter") for opener in (kind, auto_of(kind))]
    for again in opened:
        assert again.config.num_labels == 3
        np.testing.assert_array_equal(scores(again), scores(model))


def test_an_adapter_of_another_task_is_told(tmp_path):
    """A head of the same shape takes the numbers of another; who asked for it hears of it."""
    model = models.BertForSequenceClassification.from_pretrained(bert(tmp_path / "base"))
    model.add_adapter(SEEN, rng=1).save_pretrained(tmp_path / "adapter")
    with pytest.warns(UserWarning, match=r"expected an adapter of .* task, TOKEN_CLS, in .*, got one of SEQ_CLS"):
        numtx.AutoModelForTokenClassification.from_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numtx.AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter")


def test_names_of_the_classes_are_given_and_their_number_may_be(tmp_path):
    saved(models.BertModel, FAMILIES["bert"][1], tmp_path / "base")
    with pytest.warns(UserWarning, match="drawn anew"):
        model = models.BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    model.add_adapter(SEEN, rng=1).save_pretrained(tmp_path / "adapter")
    opener = numtx.AutoModelForSequenceClassification.from_pretrained
    labels = {0: "sad", 1: "so-so", 2: "glad"}
    assert opener(tmp_path / "adapter", id2label=labels).config.id2label == labels
    assert opener(tmp_path / "adapter", num_labels=3).config.num_labels == 3
    with pytest.raises(ValueError, match=r"classifier\.weight \(8, 3\) for \(8, 2\)"):
        opener(tmp_path / "adapter", num_labels=2)


def test_what_the_adapter_does_not_hold_is_still_said(tmp_path):
    """A head that is neither in the base nor in the adapter: drawn, and the user is told."""
    saved(models.BertModel, FAMILIES["bert"][1], tmp_path / "base")
    body = models.BertModel.from_pretrained(tmp_path / "base").add_adapter(SEEN, rng=1)
    body.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    renamed = {name.replace("base_model.model.", "base_model.model.bert."): array for name, array in load_arrays(path).items()}  # fmt: skip  # noqa: E501
    numtx.checkpoints.save_arrays(path, renamed)
    with pytest.warns(UserWarning, match=r"has no classifier\.weight, classifier\.bias; drawn anew"):
        numtx.AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter")


@pytest.fixture
def with_tokenizer(tmp_path):
    """A base with its tokenizer but without a head, an adapter with one, and the model."""
    pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
    config = models.BertConfig(**{**vars_of("bert"), "vocab_size": 512, "max_position_embeddings": 64})
    saved(models.BertModel, config, tmp_path / "base")
    shutil.copytree(TOKENIZERS / "bert", tmp_path / "base", dirs_exist_ok=True)
    with pytest.warns(UserWarning, match="drawn anew"):
        model = models.BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    model.add_adapter(SEEN, rng=1).save_pretrained(tmp_path / "adapter")
    return tmp_path / "base", tmp_path / "adapter", model


def vars_of(family):
    config = FAMILIES[family][1]
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {name: getattr(config, name) for name in sizes}


def test_settings_tokenizer_and_pipeline_through_the_base(with_tokenizer):
    base, adapter, model = with_tokenizer
    assert numtx.AutoConfig.from_pretrained(adapter) == numtx.AutoConfig.from_pretrained(base)
    text = "Alice and Bob don't co-operate"
    tokenizer, own = (numtx.AutoTokenizer.from_pretrained(folder) for folder in (adapter, base))
    assert tokenizer(text)["input_ids"] == own(text)["input_ids"]
    classify = numtx.pipeline("text-classification", model=adapter)
    expected = numtx.pipeline("text-classification", model=model, tokenizer=own)
    assert classify(text, top_k=None) == expected(text, top_k=None)
    assert len(classify(text, top_k=None)) == 3
    with pytest.raises(ValueError, match="fill-mask expects a model with a trained head"):
        numtx.pipeline("fill-mask", model=adapter)


def test_a_tokenizer_of_its_own_counts_first(with_tokenizer):
    base, adapter, _ = with_tokenizer
    tokenizer = numtx.AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(adapter)
    opened = numtx.AutoTokenizer.from_pretrained(adapter)
    assert len(opened.get_vocab()) == len(numtx.AutoTokenizer.from_pretrained(base).get_vocab()) + 1


def test_a_folder_that_names_no_base(with_tokenizer):
    _, adapter, _ = with_tokenizer
    said = json.loads((adapter / "adapter_config.json").read_text())
    for base, got in ((None, "got none: open the model it is of"), (str(adapter), "got the adapter")):
        (adapter / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": base}))
        openers = (
            numtx.AutoConfig.from_pretrained,
            numtx.AutoTokenizer.from_pretrained,
            numtx.AutoModel.from_pretrained,
        )
        for opener in (*openers, lambda folder: numtx.pipeline("text-classification", model=folder)):
            with pytest.raises(ValueError, match=got):
                opener(adapter)
