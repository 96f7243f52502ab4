"""Where generate() has its settings from, when it stops, and what it starts from, beside Transformers'."""

import json
import warnings

import numpy as np
import pytest

pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
pytest.importorskip("tokenizers", reason="stop strings need it: pip install 'numtx[hub]'")
import torch
import transformers
from family_parity import in_double, random_model
from generation_draws import BOS, CONTEXT, DECODER_ONLY, EOS, FAMILIES, VOCAB, exact_frequencies, writers
from their_version import OLD

import numtx
from numtx import models
from numtx.generation import GenerationConfig
from numtx.generation.stopping import StopStrings

transformers.logging.set_verbosity_error()
rng = np.random.default_rng(5)
IDS = rng.integers(6, VOCAB, (2, 4))
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def _quiet():
    """Both libraries warn of settings without effect."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def theirs_writes(theirs, ids, **settings):
    with in_double(), torch.no_grad():
        ids = None if ids is None else torch.from_numpy(ids)
        return theirs.generate(ids, **settings).numpy()


def opened(family, folder, change_config=(), generation=None):
    """Both models from one folder, in which files have been changed; `generation` None: without its file."""
    writers(family)[0].save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | dict(change_config)
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / "generation_config.json"
    if generation is None:
        file.unlink()
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | generation))
    name = FAMILIES[family][0]
    with exact_frequencies():
        theirs = getattr(transformers, name).from_pretrained(folder, dtype=torch.float64).eval()
    return theirs, getattr(models, name).from_pretrained(folder, dtype=np.float64)


@each_family
def test_without_a_word_twenty_tokens_are_written(family):
    theirs, ours = writers(family)
    got = ours.generate(IDS, eos_token_id=None)
    np.testing.assert_array_equal(got, theirs_writes(theirs, IDS, eos_token_id=None))
    assert got.shape[1] == (IDS.shape[1] if family in DECODER_ONLY else 1) + 20


@pytest.mark.parametrize("family", DECODER_ONLY)
def test_the_default_length_ends_at_the_context(family):
    theirs, ours = writers(family)
    ids = np.random.default_rng(0).integers(6, VOCAB, (1, CONTEXT - 5))
    got = ours.generate(ids, eos_token_id=None)
    assert got.shape[1] == CONTEXT
    if family != "gpt2" or not OLD:
        np.testing.assert_array_equal(got, theirs_writes(theirs, ids, eos_token_id=None))


@pytest.mark.parametrize("family", DECODER_ONLY)
def test_without_a_prompt_the_start_token_is_one(family):
    theirs, ours = writers(family)
    got = ours.generate(max_new_tokens=6)
    np.testing.assert_array_equal(got, theirs_writes(theirs, None, max_new_tokens=6))
    assert got[0, 0] == BOS


GENERATION = {
    "lengths": {"max_length": 9, "min_length": 8},
    "more ends": {"eos_token_id": [7, 9, 11], "max_new_tokens": 14},
    "penalties": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "max_new_tokens": 10},
    "beams": {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0, "max_length": 12},
    "words": {
        "bad_words_ids": [[8], [9, 10]],
        "suppress_tokens": [11, 12],
        "forced_eos_token_id": EOS,
        "max_length": 9,
    },
    "no padding": {"pad_token_id": None, "eos_token_id": [7, 9, 11, 13], "max_new_tokens": 14},
    "unknown": {"max_length": 8, "something_else": [1]},
}


@pytest.mark.parametrize("entries", GENERATION.values(), ids=GENERATION)
@each_family
def test_the_settings_of_the_folder_hold(family, entries, tmp_path):
    theirs, ours = opened(family, tmp_path, generation=entries)
    np.testing.assert_array_equal(ours.generate(IDS), theirs_writes(theirs, IDS))
    np.testing.assert_array_equal(ours.generate(IDS, max_length=10), theirs_writes(theirs, IDS, max_length=10))


@each_family
def test_settings_go_before_a_config_and_that_before_the_folder(family, tmp_path):
    entries = {"no_repeat_ngram_size": 1, "max_new_tokens": 9, "repetition_penalty": 1.5}
    theirs, ours = opened(family, tmp_path, generation=entries)
    said = {"max_new_tokens": 7, "suppress_tokens": [8, 9]}
    settings = {"repetition_penalty": 1.1, "suppress_tokens": [10]}
    got = ours.generate(IDS, generation_config=GenerationConfig(**said), **settings)
    expected = theirs_writes(theirs, IDS, generation_config=transformers.GenerationConfig(**said), **settings)
    np.testing.assert_array_equal(got, expected)


@each_family
def test_none_switches_off_what_the_folder_says(family, tmp_path):
    entries = {"eos_token_id": [7, 9, 11, 13], "suppress_tokens": [8, 12], "max_new_tokens": 9}
    theirs, ours = opened(family, tmp_path, generation=entries)
    settings = {"eos_token_id": None, "suppress_tokens": None}
    np.testing.assert_array_equal(ours.generate(IDS, **settings), theirs_writes(theirs, IDS, **settings))


# Older folders have no generation_config.json, and settings in config.json.
IN_CONFIG = {
    "bart": {"forced_bos_token_id": 5, "no_repeat_ngram_size": 1, "max_length": 12, "min_length": 6, "num_beams": 2},
    "marian": {"bad_words_ids": [[0]], "num_beams": 3, "max_length": 11},
    "t5": {"max_length": 9, "repetition_penalty": 1.4},
    "gpt2": {
        "max_length": 11,
        "no_repeat_ngram_size": 2,
        "task_specific_params": {"text-generation": {"max_length": 7}},
    },
    "llama": {"max_new_tokens": 5},
}


@each_family
def test_an_older_folder_says_it_in_its_config(family, tmp_path):
    entries = IN_CONFIG[family]
    theirs, ours = opened(family, tmp_path, change_config=entries)
    for name, value in theirs.generation_config.to_dict().items():
        if name in entries and not isinstance(value, dict):
            assert getattr(ours.generation_config, name) == value, name
    np.testing.assert_array_equal(ours.generate(IDS), theirs_writes(theirs, IDS))


@each_family
def test_the_settings_go_into_a_folder_and_out(family, tmp_path):
    _, ours = opened(family, tmp_path / "theirs", generation=GENERATION["penalties"] | {"something_else": [1]})
    ours.generation_config.max_new_tokens = 6
    ours.save_pretrained(tmp_path / "ours")
    again = type(ours).from_pretrained(tmp_path / "ours", dtype=np.float64)
    assert again.generation_config == ours.generation_config
    back = transformers.GenerationConfig.from_pretrained(tmp_path / "ours")
    assert (back.max_new_tokens, back.repetition_penalty, back.something_else) == (6, 1.7, [1])
    assert GenerationConfig.from_pretrained(tmp_path / "ours") == ours.generation_config


@each_family
def test_auto_classes_read_the_settings_too(family, tmp_path):
    opened(family, tmp_path, generation={"max_new_tokens": 3})
    auto = numtx.AutoModelForCausalLM if family in DECODER_ONLY else numtx.AutoModelForSeq2SeqLM
    assert auto.from_pretrained(tmp_path).generation_config.max_new_tokens == 3


@each_family
def test_in_float32(family, tmp_path):
    theirs, _ = writers(family)
    theirs.save_pretrained(tmp_path)
    name = FAMILIES[family][0]
    torch.set_default_dtype(torch.float32)
    single = getattr(transformers, name).from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours = getattr(models, name).from_pretrained(tmp_path)
    wanted = {"return_dict_in_generate": True, "output_scores": True, "max_new_tokens": 10, "repetition_penalty": 1.3}
    with torch.no_grad():
        expected = single.generate(torch.from_numpy(IDS), **wanted)
    got = ours.generate(IDS, **wanted)
    np.testing.assert_array_equal(got.sequences, expected.sequences.numpy())
    for mine, reference in zip(got.scores, expected.scores, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, reference.numpy(), rtol=1e-4, atol=1e-4)


# --- stop strings


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """A byte-level BPE whose tokens overlap in many ways, and say characters in parts."""
    import tokenizers

    folder = tmp_path_factory.mktemp("tokenizer")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<pad>", "<s>", "</s>"]
    )
    made.train_from_iterator(["the stopper stops at the top, stop it. stopping topper pped las st op é"] * 3, trainer)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")
    theirs.save_pretrained(folder)
    return folder


STOPS = ["stop", "p", " to", "top,", ["it", "pp"], "e st", "é", "opper stops", "zq"]


@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_stop_strings(stop, tokenizer_folder):
    theirs = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    ours = numtx.AutoTokenizer.from_pretrained(tokenizer_folder)
    criterion = transformers.generation.StopStringCriteria(theirs, stop)
    mine = StopStrings(stop, ours)
    draws = np.random.default_rng(0)
    text = theirs("the stopper stops at the top, stop it. stopping topper é zq")["input_ids"]
    rows = [draws.integers(0, len(ours), draws.integers(1, 9)) for _ in range(60)]
    rows += [np.array(text[:end]) for end in range(1, len(text) + 1)]
    stopped = 0
    for row in rows:
        if OLD and "\N{REPLACEMENT CHARACTER}" in ours.decode(row.tolist()):
            continue  # 4.57 knows no parts of characters
        expected = bool(criterion(torch.from_numpy(row[None]), None)[0])
        assert mine(row[None])[0] == expected, f"{stop!r}: {ours.decode(row.tolist())!r}"
        stopped += expected
    assert stopped or OLD


def test_stop_strings_end_rows(tokenizer_folder, tmp_path):
    theirs_tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    ours_tokenizer = numtx.AutoTokenizer.from_pretrained(tokenizer_folder)
    config = transformers.GPT2Config(
        vocab_size=len(ours_tokenizer), n_positions=40, n_embd=12, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
    )
    config.tie_word_embeddings = False  # such a model does not repeat itself
    theirs = random_model(transformers.GPT2LMHeadModel, config, std=1.0, seed=3)
    theirs.save_pretrained(tmp_path)
    ours = models.GPT2LMHeadModel.from_pretrained(tmp_path, dtype=np.float64)
    ids = np.random.default_rng(1).integers(3, len(ours_tokenizer), (4, 3))
    free = ours.generate(ids, max_new_tokens=12)
    words = [ours_tokenizer.decode([int(token)]) for token in free[:, 6]]
    words = [word for word in words if "\N{REPLACEMENT CHARACTER}" not in word]
    assert words
    for ends in ({}, {"eos_token_id": None}):
        settings = {"max_new_tokens": 12, "stop_strings": words, **ends}
        got = ours.generate(ids, tokenizer=ours_tokenizer, **settings)
        np.testing.assert_array_equal(got, theirs_writes(theirs, ids, tokenizer=theirs_tokenizer, **settings))
    stopped = ours.generate(ids, tokenizer=ours_tokenizer, max_new_tokens=12, stop_strings=words)
    assert not np.array_equal(stopped, free)
