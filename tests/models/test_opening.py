"""What opening a model asks of its file and of its caller, and what it gives: one line for each thing that is wrong."""

import json
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from small_families import BERT, FAMILIES, GPT2

import numtx
from numtx import models, nn
from numtx.checkpoints import load_arrays, save_arrays
from numtx.models.opening import GivenOut

IDS = np.array([[1, 2, 3, 2]])


def saved(folder, family="bert"):
    kind, config = FAMILIES[family]
    model = kind(config, rng=0)
    model.save_pretrained(folder)
    return model


def rewritten(folder, change=None, **entries):
    """Change the arrays of a folder, or entries of its config."""
    if change is not None:
        arrays = load_arrays(folder / "model.safetensors")
        save_arrays(folder / "model.safetensors", change(arrays) or arrays)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


# --- settings of the caller -------------------------------------------------------------------------------------------


class TestSettings:
    @pytest.fixture
    def body(self, tmp_path):
        models.BertModel(FAMILIES["bert"][1], rng=0).save_pretrained(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        "opener",
        [models.BertForSequenceClassification, numtx.AutoModelForSequenceClassification],
        ids=["class", "auto"],
    )
    def test_a_body_opens_with_a_number_of_classes(self, opener, body):
        with pytest.warns(UserWarning, match=r"has no classifier\.weight, classifier\.bias; drawn anew"):
            model = opener.from_pretrained(body, num_labels=5, problem_type="multi_label_classification")
        assert model(IDS).logits.shape == (1, 5)
        assert model.config.id2label == {i: f"LABEL_{i}" for i in range(5)}
        assert model.config.problem_type == "multi_label_classification"
        loss = model(IDS, labels=np.ones((1, 5))).loss
        assert np.isfinite(loss)
        model.save_pretrained(body / "again")
        assert opener.from_pretrained(body / "again").config == model.config

    def test_names_of_classes(self, body):
        names = {0: "no", 1: "yes", 2: "maybe"}
        by_name = {name: i for i, name in names.items()}
        for settings in ({"id2label": names}, {"label2id": by_name}, {"id2label": names, "label2id": by_name,
                                                                      "num_labels": 3}):  # fmt: skip
            config = numtx.AutoConfig.from_pretrained(body, **settings)
            assert (config.id2label, config.label2id) == (names, by_name)
        assert numtx.AutoConfig.from_pretrained(body, id2label={"0": "a"}).id2label == {0: "a"}

    def test_a_number_that_is_the_files_keeps_its_names(self, body):
        rewritten(body, id2label={"0": "no", "1": "yes"})
        assert numtx.AutoConfig.from_pretrained(body, num_labels=2).id2label == {0: "no", 1: "yes"}
        assert numtx.AutoConfig.from_pretrained(body, num_labels=1).id2label == {0: "LABEL_0"}

    def test_other_settings_and_those_of_the_hub(self, body):
        model = numtx.AutoModel.from_pretrained(
            body, hidden_dropout_prob=0.3, layer_norm_eps=1e-3, local_files_only=True, revision=None
        )
        assert (model.config.hidden_dropout_prob, model.config.layer_norm_eps) == (0.3, 1e-3)

    @pytest.mark.parametrize("opener", [models.BertModel, numtx.AutoModel, numtx.AutoConfig])
    @pytest.mark.parametrize("name", ["revison", "torch_dtype", "other"])
    def test_an_unknown_one_is_refused_with_those_that_are_known(self, opener, name, body):
        (body / "model.safetensors").unlink()  # before the weights are looked for
        with pytest.raises(
            ValueError,
            match=rf"^(BertModel|AutoConfig): expected config, dtype, rng, revision, [^\n]*hidden_dropout_prob"
            rf"[^\n]*num_labels[^\n]*, got {name}$",
        ):
            opener.from_pretrained(body, **{name: "x"})

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_labels": 2, "id2label": {0: "a"}}, "expected num_labels of the 1 names in id2label, got 2"),
            ({"id2label": {0: "a"}, "label2id": {"b": 0}}, "expected label2id as id2label turned round, got {'b': 0}"),
            ({"num_labels": 0}, "expected num_labels as a whole number of at least 1, got 0"),
            ({"hidden_dropout_prob": 1.5}, r"expected hidden_dropout_prob in \[0, 1\), got 1.5"),
            ({"label2id": 3}, "expected id2label as a dict from numbers to names, got 3"),
        ],
    )
    def test_wrong_ones(self, settings, message, body):
        with pytest.raises(ValueError, match=f"^BertConfig: {message}$"):
            numtx.AutoModel.from_pretrained(body, **settings)

    def test_a_config_of_ones_own(self, body):
        config = models.BertConfig(**BERT, layer_norm_eps=1e-2, id2label={0: "one"})
        for opener in (models.BertForSequenceClassification, numtx.AutoModelForSequenceClassification):
            with pytest.warns(UserWarning, match="drawn anew"):
                model = opener.from_pretrained(body, config=config)
            assert model.config == config
            with pytest.warns(UserWarning, match="drawn anew"):
                assert opener.from_pretrained(body, config=config, num_labels=4).config.num_labels == 4
        assert config.num_labels == 1

    @pytest.mark.parametrize(
        ("config", "got"), [("bert", "str"), (models.GPT2Config(**GPT2), "GPT2Config"), ({"a": 1}, "dict")]
    )
    def test_a_config_of_another_family(self, config, got, body):
        with pytest.raises(
            ValueError, match=f"^BertModel: expected config to be a (Pretrained|Bert)Config, got {got}$"
        ):
            models.BertModel.from_pretrained(body, config=config)

    @pytest.mark.parametrize("dtype", ["bfloat16", np.float16, int, "x", 3])
    def test_a_dtype_that_nothing_computes_in(self, dtype, body):
        with pytest.raises(ValueError, match=r"^BertModel: expected dtype float32 or float64, got [^\n]*$"):
            numtx.AutoModel.from_pretrained(body, dtype=dtype)


# --- a config that its file cannot fill -------------------------------------------------------------------------------

LARGE = [
    ("bert", "num_hidden_layers", 20_000), ("bert", "num_hidden_layers", 10**7), ("bert", "hidden_size", 10**7),
    ("bert", "vocab_size", 2**40), ("bert", "intermediate_size", 2**40), ("bert", "max_position_embeddings", 2**40),
    ("bert", "type_vocab_size", 2**40), ("bert", "num_labels", 2**40), ("roberta", "num_hidden_layers", 10**7),
    ("distilbert", "n_layers", 10**7), ("distilbert", "hidden_dim", 2**40), ("gpt2", "n_layer", 10**7),
    ("gpt2", "n_inner", 2**40), ("gpt2", "n_positions", 2**40), ("bart", "encoder_layers", 10**7),
    ("bart", "decoder_layers", 10**7), ("bart", "d_model", 2**40), ("bart", "decoder_ffn_dim", 2**40),
    ("marian", "max_position_embeddings", 10**7), ("marian", "vocab_size", 2**40), ("llama", "head_dim", 2**40),
    ("llama", "num_hidden_layers", 10**7), ("llama", "intermediate_size", 2**40), ("t5", "num_layers", 10**7),
    ("t5", "num_decoder_layers", 10**7), ("t5", "d_kv", 2**40), ("t5", "relative_attention_num_buckets", 2**40),
]  # fmt: skip


@pytest.mark.parametrize(("family", "entry", "number"), LARGE)
def test_large_numbers_are_refused_before_anything_is_built(family, entry, number, tmp_path):
    saved(tmp_path, family)
    rewritten(tmp_path, **{entry: number})
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(ValueError, match=rf"{entry}|decoder_vocab_size|max_distance") as error:
        FAMILIES[family][0].from_pretrained(tmp_path)
    seconds, most = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert seconds < 0.5
    assert most < 2e6


def test_a_model_that_is_a_little_off_is_told_every_name(tmp_path):
    saved(tmp_path)
    rewritten(tmp_path, hidden_size=16, num_hidden_layers=2)
    with pytest.raises(ValueError, match="missing") as error:
        numtx.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    said = str(error.value)
    assert said.count("encoder.layer.1.") == 16
    assert said.count(") for (") == 23


def test_many_names_end_with_how_many_more_there_are(tmp_path):
    saved(tmp_path)
    rewritten(tmp_path, num_hidden_layers=100)
    with pytest.raises(ValueError, match=r"missing: bert\.encoder\.layer\.1\.[^\n]* and 1,\d\d\d more$") as error:
        numtx.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert 2000 < len(str(error.value)) < 2500


def test_names_of_the_file_cannot_break_the_line(tmp_path):
    saved(tmp_path)
    rewritten(tmp_path, lambda arrays: arrays | {"a\nb": np.ones(1, np.float32), "c" * 5000: np.ones(1, np.float32)})
    with pytest.raises(ValueError, match=r"^[^\n]*unexpected: [^\n]*'a\\nb'[^\n]*$") as error:
        numtx.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert len(str(error.value)) < 500


# --- what the numbers are ---------------------------------------------------------------------------------------------

QUERY = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.mark.parametrize("kind", [np.int32, np.int8, np.uint8, bool])
def test_whole_numbers_are_no_weights(kind, tmp_path):
    saved(tmp_path)
    rewritten(tmp_path, lambda arrays: arrays | {QUERY: arrays[QUERY].astype(kind)})
    expected = rf"^BertForSequenceClassification: .*not of floating-point numbers: {QUERY} {np.dtype(kind)}$"
    with pytest.raises(ValueError, match=expected):
        numtx.AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_numbers_that_are_too_large_for_float32(tmp_path):
    saved(tmp_path)
    rewritten(tmp_path, lambda arrays: arrays | {QUERY: np.full((8, 8), 1e300)})
    with pytest.raises(ValueError, match=rf"expected numbers that float32 holds in {QUERY}, got 1e\+300$"):
        numtx.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert numtx.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_two_weights_are_one_memory(dtype):
    """As in a file of PyTorch whose tied tables share their storage, while the config says that they are two."""
    config = models.GPT2Config(**GPT2, tie_word_embeddings=False)
    arrays = models.GPT2LMHeadModel(config, rng=0, dtype=dtype).to_checkpoint()
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"]
    arrays["transformer.ln_f.bias"] = arrays["transformer.h.0.ln_1.bias"] = np.broadcast_to(dtype(0), 8)
    model = models.GPT2LMHeadModel.from_arrays(config, arrays, dtype=dtype)
    before = {name: array.copy() for name, array in model.named_parameters()}
    for name, array in model.named_parameters():
        array += 1
        for other, now in model.named_parameters():
            assert np.array_equal(now, before[other] + (other == name)), (name, other)
        array -= 1
        array[...] = before[name]


def test_who_has_memory_of_its_own():
    given, whole = GivenOut(), np.arange(12.0).reshape(3, 4)
    assert given.alone(whole[1]).base is not None
    assert np.shares_memory(given.alone(whole[0]), whole)  # beside it
    assert np.shares_memory(given.alone(whole[2]), whole)
    for part in (whole, whole[0, 1:2], whole.T, whole[::2]):
        copy = given.alone(part)
        assert not np.shares_memory(copy, whole)
        assert np.array_equal(copy, part)
    assert given.alone(np.zeros((0, 3))).shape == (0, 3)


# --- what may be missing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "gone"),
    [
        ("bert", "classifier.bias"), ("bert", "classifier.weight"), ("bert", "bert.pooler.dense.bias"),
        ("roberta", "lm_head.dense.weight"), ("roberta", "lm_head.bias"), ("distilbert", "qa_outputs.bias"),
    ],
)  # fmt: skip
def test_half_a_head_is_no_new_head(family, gone, tmp_path):
    model = saved(tmp_path, family)
    rewritten(tmp_path, lambda arrays: arrays.pop(gone) is None)
    with pytest.raises(ValueError, match=rf"^{type(model).__name__}: expected the .*got missing: {gone}$"):
        type(model).from_pretrained(tmp_path)


def test_a_whole_part_may_be_new_and_is_called_as_in_files(tmp_path):
    saved(tmp_path)
    rewritten(tmp_path, lambda arrays: {name: array for name, array in arrays.items() if "pooler" not in name})
    with pytest.warns(
        UserWarning, match=r"has no bert\.pooler\.dense\.weight, bert\.pooler\.dense\.bias; drawn"
    ) as warned:
        models.BertForSequenceClassification.from_pretrained(tmp_path)
    assert warned[0].filename == __file__


# --- saving -----------------------------------------------------------------------------------------------------------


def test_saving_holds_one_array_at_a_time(tmp_path):
    config = models.BertConfig(**BERT | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8})
    model = models.BertModel(config, rng=0)
    whole = sum(array.nbytes for _, array in model.named_parameters())
    tracemalloc.start()
    model.save_pretrained(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < whole / 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = models.BertModel.from_pretrained(tmp_path)
    assert all(np.array_equal(array, again.get_parameter(name)) for name, array in model.named_parameters())
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("opener", [numtx.AutoModel, numtx.AutoConfig, numtx.AutoTokenizer, models.BertModel])
@pytest.mark.parametrize("name", [None, 3, b"gpt2"])
def test_what_is_no_name_is_refused_in_one_line(opener, name):
    with pytest.raises(ValueError, match=rf"^hub: expected a folder, a file, or a name, got {type(name).__name__}$"):
        opener.from_pretrained(name)


def test_nothing_is_saved_in_the_place_of_a_file(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(
        ValueError, match=r"^save_pretrained: expected a folder, or a new name, got '.*', which is a file$"
    ):
        models.BertModel(FAMILIES["bert"][1], rng=0).save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("family", ["bert", "distilbert", "llama"])
def test_padding_that_is_counted_from_the_end(family):
    """As older files say it: the last row of the table does not learn."""
    kind, config = FAMILIES[family]
    model = kind(config.changed(pad_token_id=-1), rng=0)
    (row,) = {one.padding_idx for _, one in model.named_modules() if isinstance(one, nn.Embedding)} - {None}
    assert row == config.vocab_size - 1
