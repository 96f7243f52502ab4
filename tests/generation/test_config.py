"""The settings of generate: what is refused, what holds, and files."""

import json
import warnings

import numpy as np
import pytest

from numtx.generation import GenerationConfig
from numtx.generation.config import DEFAULTS, SETTINGS
from numtx.generation.config_checks import RULES

WRONG = {
    "max_length": (0, -1, 2.5, True, "3"),
    "max_new_tokens": (0, -4),
    "min_length": (-1, 1.5),
    "num_beams": (0, -1, 1.5),
    "num_return_sequences": (0,),
    "temperature": (-0.1, float("nan"), float("inf"), "hot"),
    "top_k": (-1, 2.5),
    "top_p": (0, 0.0, 1.1, -0.5),
    "typical_p": (0.0, 1.5),
    "min_p": (-0.1, 1.1),
    "epsilon_cutoff": (-0.1, 1.0),
    "repetition_penalty": (0, -1.0),
    "length_penalty": (float("inf"), "long"),
    "no_repeat_ngram_size": (-1,),
    "bad_words_ids": ([], [[]], [1], [[-1]], [["a"]], 3),
    "sequence_bias": ([], [[[1]]], {(): 1.0}, {(1,): "x"}),
    "early_stopping": ("always", 3),
    "eos_token_id": (-1, "2", [2, -1], 2.0),
    "pad_token_id": (-2, "0"),
    "forced_bos_token_id": ([1], -1),
    "suppress_tokens": (3, [-1]),
    "exponential_decay_length_penalty": ((1,), (-1, 1.0), (1, 0.0)),
    "stop_strings": ("", [], ["a", ""], [1]),
    "do_sample": (1, "yes"),
    "max_time": (0, -1.0),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_out_of_range_is_refused_in_one_line(name, value):
    with pytest.raises(ValueError, match=rf"^GenerationConfig: expected {name} as [^\n]*, got [^\n]*$"):
        GenerationConfig(**{name: value})


def test_every_setting_has_a_rule():
    assert set(RULES) == set(SETTINGS) - {"other"}


@pytest.mark.parametrize(("name", "near"), [("max_new_token", "max_new_tokens"), ("beams", "num_beams"), ("xyz", None)])
def test_an_unknown_setting_is_refused_with_the_nearest(name, near):
    nearest = f"; the nearest is '{near}'" if near else ""
    with pytest.raises(ValueError, match=rf"^GenerationConfig: expected a setting of generate, got '{name}'{nearest}$"):
        GenerationConfig(**{name: 1})


CONTRADICTIONS = {
    "rows of nothing": {"num_return_sequences": 2},
    "more rows than beams": {"num_beams": 2, "num_return_sequences": 3},
    "zero temperature": {"do_sample": True, "temperature": 0.0},
    "lengths": {"min_length": 9, "max_length": 8},
    "new lengths": {"min_new_tokens": 9, "max_new_tokens": 8},
    "forced and suppressed": {"forced_eos_token_id": 3, "suppress_tokens": [2, 3]},
}


@pytest.mark.parametrize("settings", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_are_refused_in_one_line(settings):
    with pytest.raises(ValueError, match=r"^GenerationConfig: expected [^\n]*, got [^\n]*$"):
        GenerationConfig().merged(None, settings)
    with pytest.raises(ValueError, match=r"^GenerationConfig: expected [^\n]*, got [^\n]*$"):
        GenerationConfig(**settings).merged()


NO_EFFECT = {
    "temperature": {"temperature": 0.5},
    "top_k": {"top_k": 5},
    "length_penalty": {"length_penalty": 2.0},
    "early_stopping": {"early_stopping": "never"},
    "output_scores": {"output_scores": True},
    "max_length": {"max_length": 9, "max_new_tokens": 3},
}


@pytest.mark.parametrize(("name", "settings"), NO_EFFECT.items(), ids=NO_EFFECT)
def test_what_has_no_effect_is_told(name, settings):
    with pytest.warns(UserWarning, match=rf"^GenerationConfig: .*{name}"):
        GenerationConfig().merged(None, settings)
    with warnings.catch_warnings():  # of what a model's folder says nobody is told
        warnings.simplefilter("error")
        if name != "output_scores":
            GenerationConfig().merged(GenerationConfig(**settings))


def test_settings_before_config_before_base_before_defaults():
    base = GenerationConfig(top_k=1, top_p=0.1, min_p=0.1, num_beams=2, other={"a": 1, "b": 2})
    config = GenerationConfig(top_p=0.2, min_p=0.2, other={"b": 3})
    holds = config.merged(base, {"min_p": 0.3, "do_sample": True})
    assert (holds.top_k, holds.top_p, holds.min_p, holds.num_beams, holds.typical_p) == (1, 0.2, 0.3, 2, 1.0)
    assert holds.other == {"a": 1, "b": 3}
    assert holds.said == {"top_p", "min_p", "do_sample"}
    assert base == GenerationConfig(top_k=1, top_p=0.1, min_p=0.1, num_beams=2, other={"a": 1, "b": 2})


def test_none_switches_off():
    base = GenerationConfig(top_k=1, eos_token_id=3, num_beams=4, repetition_penalty=2.0)
    holds = GenerationConfig().merged(base, dict.fromkeys(("top_k", "eos_token_id", "num_beams", "repetition_penalty")))
    assert (holds.top_k, holds.eos_token_id, holds.num_beams, holds.repetition_penalty) == (None, None, 1, 1.0)


def test_defaults_are_those_of_transformers():
    holds = GenerationConfig().merged()
    assert {name: getattr(holds, name) for name in DEFAULTS} == DEFAULTS
    assert (holds.top_k, holds.max_length) == (50, None)


def test_a_file_may_ask_for_what_is_not_here():
    config = GenerationConfig.from_dict({"num_beam_groups": 1, "penalty_alpha": None, "guidance_scale": 1.0})
    config.merged()
    config = GenerationConfig.from_dict({"penalty_alpha": 0.6})
    with pytest.raises(
        ValueError, match=r"^GenerationConfig: expected penalty_alpha 0\.0, as it is not here, got 0\.6$"
    ):
        GenerationConfig().merged(config)


def test_files(tmp_path):
    entries = {"eos_token_id": [2, 3], "max_length": 9, "something": {"a": 1}, "top_p": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(entries | {"_from_model_config": True}))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "max_length": 7, "n_embd": 4}')
    config = GenerationConfig.from_pretrained(tmp_path)
    assert config == GenerationConfig(eos_token_id=[2, 3], max_length=9, other={"something": {"a": 1}})
    config.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert again == {"eos_token_id": [2, 3], "max_length": 9, "something": {"a": 1}}
    (tmp_path / "generation_config.json").unlink()
    assert GenerationConfig.from_pretrained(tmp_path) == GenerationConfig(max_length=7)


@pytest.mark.parametrize("text", ["{", "[1]", '{"top_p": 3}', ""])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]*generation_config\.json[^\n]*$"):
        GenerationConfig.from_pretrained(tmp_path)


def test_arrays_are_ids_too():
    config = GenerationConfig(eos_token_id=np.array([1, 2]), pad_token_id=np.int64(3))
    assert json.loads(json.dumps(config.to_dict())) == {"pad_token_id": 3, "eos_token_id": [1, 2]}


def test_numbers_inside_of_lists_are_plain_ones(tmp_path):
    settings = {"bad_words_ids": [[np.int64(3)], np.array([4, 5])], "suppress_tokens": [np.int32(2)]}
    GenerationConfig(**settings, sequence_bias={(3, np.int64(4)): np.float32(1.5)}).save_pretrained(tmp_path)
    again = json.loads((tmp_path / "generation_config.json").read_text())
    assert again == {"bad_words_ids": [[3], [4, 5]], "suppress_tokens": [2], "sequence_bias": [[[3, 4], 1.5]]}
    assert GenerationConfig.from_pretrained(tmp_path) == GenerationConfig(**again)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_new_token", 3, "a setting of generate, got 'max_new_token'; the nearest is 'max_new_tokens'"),
        ("temperatur", 0.3, "a setting of generate, got 'temperatur'; the nearest is 'temperature'"),
        ("temperature", -1, "temperature as a number of at least 0, got -1"),
    ],
)
def test_a_setting_is_checked_when_it_is_changed_too(name, value, message):
    config = GenerationConfig(top_k=3)
    with pytest.raises(ValueError, match=f"^GenerationConfig: expected {message}$"):
        setattr(config, name, value)
    assert config == GenerationConfig(top_k=3)
    config.top_k, config.eos_token_id = None, np.array([2, 3])
    assert config == GenerationConfig(eos_token_id=[2, 3])


def test_a_warning_names_the_line_that_asked():
    with pytest.warns(UserWarning, match="has no effect") as told:
        GenerationConfig(temperature=0.5).merged()
    assert told[0].filename == __file__
