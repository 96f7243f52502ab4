"""The settings of a model are of the kind that they should be, or one line says which is not."""

import re

import numpy as np
import pytest
from refusals import one_line
from small_families import FAMILIES

from numtx.models import GPT2LMHeadModel
from numtx.models.config import PretrainedConfig, shortened

BOOLS = [
    ("bert", "tie_word_embeddings"), ("bart", "scale_embedding"), ("gpt2", "scale_attn_weights"),
    ("gpt2", "scale_attn_by_inverse_layer_idx"), ("distilbert", "sinusoidal_pos_embds"), ("llama", "attention_bias"),
    ("marian", "share_encoder_decoder_embeddings"), ("t5", "scale_decoder_outputs"), ("llama", "mlp_bias"),
]  # fmt: skip
NUMBERS = [
    ("bert", "layer_norm_eps"), ("gpt2", "layer_norm_epsilon"), ("llama", "rms_norm_eps"), ("llama", "rope_theta"),
    ("t5", "initializer_factor"), ("bart", "init_std"), ("bert", "hidden_dropout_prob"),
]  # fmt: skip


def opened(family, **entries):
    config = FAMILIES[family][1]
    return type(config).from_dict(config.to_dict() | entries)


@pytest.mark.parametrize(("family", "entry"), BOOLS)
@pytest.mark.parametrize("value", ["false", "x", 1, 0, 1.5, [1], {}, None])
def test_what_is_no_bool(family, entry, value):
    if value is None and entry in ("scale_decoder_outputs", "scale_embedding"):  # may be, and must be there
        return
    with pytest.raises(ValueError, match=rf"^\w+Config: expected {entry} as True or False( or None)?, got [^\n]*$"):
        opened(family, **{entry: value})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("entry", ["eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id"])
@pytest.mark.parametrize("value", ["x", 1.5, {}, True, ["x"], [True]])
def test_what_is_no_token_id(family, entry, value):
    if not hasattr(FAMILIES[family][1], entry):
        return
    with pytest.raises(ValueError, match=rf"^\w+Config: expected {entry} as a whole number[^\n]*, got [^\n]*$"):
        opened(family, **{entry: value})


@pytest.mark.parametrize("family", FAMILIES)
def test_several_ends_and_none(family):
    assert opened(family, eos_token_id=[1, 2]).eos_token_id == [1, 2]
    assert opened(family, eos_token_id=None).eos_token_id is None


@pytest.mark.parametrize("end", [-1, [1, -1]])
def test_an_end_that_is_no_token_is_refused_where_it_would_end_something(end):
    config = opened("gpt2", eos_token_id=end)  # files on the hub have it for none, and Transformers opens them
    model = GPT2LMHeadModel(config, rng=0)
    assert model(np.array([[1, 2]])).logits.shape == (1, 2, config.vocab_size)
    with one_line(rf"GenerationConfig: expected eos_token_id as a token id or several, got {re.escape(str(end))}$"):
        model.generate(np.array([[1, 2]]), max_new_tokens=2)


@pytest.mark.parametrize(("family", "entry"), NUMBERS)
@pytest.mark.parametrize("value", [True, "1", None, [1.0], float("nan"), float("inf"), 10**400, -1])
def test_what_is_no_number(family, entry, value):
    with pytest.raises(ValueError, match=rf"^\w+Config: [^\n]*{entry}[^\n]*, got [^\n]*$"):
        opened(family, **{entry: value})


@pytest.mark.parametrize("entry", ["relative_attention_max_distance", "decoder_start_token_id"])
def test_a_whole_number_that_no_array_holds(entry):
    with pytest.raises(ValueError, match=rf"^T5Config: expected {entry} as a whole number[^\n]*, got 10[^\n]*$"):
        opened("t5", **{entry: 10**400})


def test_zero_is_a_number():
    assert opened("bert", layer_norm_eps=0, initializer_range=0).layer_norm_eps == 0


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"0": "a", "01": "b", "1": "c"}, "as a dict from numbers to names"),
        ({"0": "a", 0: "b", "1": "c"}, "from 0 on, each number once"),
        ({"٠": "a", "1_0": "b"}, "as a dict from numbers to names"),
        ({"0": "a", "2": "b"}, "from 0 on"),
        ({"-1": "a"}, "as a dict from numbers to names"),
        ({"0" * 5000: "a"}, "as a dict from numbers to names"),
        ({"9" * 5000: "a"}, "as a dict from numbers to names"),
        ({True: "a"}, "as a dict from numbers to names"),
        ({}, "from 0 on"),
        (["a"], "as a dict from numbers to names"),
    ],
)
def test_names_of_classes_that_are_none(said, message):
    with pytest.raises(ValueError, match=rf"^BertConfig: expected id2label {message}, .*got [^\n]{{1,110}}$|{message}"):
        opened("bert", id2label=said)


def test_a_number_of_classes_beside_other_names():
    with pytest.raises(ValueError, match=r"^BertConfig: expected num_labels of the 2 names in id2label, got 7$"):
        opened("bert", id2label={"0": "a", "1": "b"}, num_labels=7)
    assert opened("bert", id2label={"0": "a", "1": "b"}, num_labels=2).num_labels == 2


def test_too_many_classes():
    with pytest.raises(ValueError, match="expected at most 1,000,000 num_labels, got 1099511627776"):
        opened("bert", num_labels=2**40)


def test_settings_that_are_made_in_code():
    with pytest.raises(ValueError, match=r"^PretrainedConfig: expected id2label as a dict of int to str or None, got"):
        PretrainedConfig(id2label={"0": "a"})
    with pytest.raises(ValueError, match=r"^PretrainedConfig: expected settings of pad_token_id, .*, got foo$"):
        PretrainedConfig().changed(foo=1)
    assert PretrainedConfig().changed().num_labels == 2
    assert len(shortened("x" * 10**6)) == 100
