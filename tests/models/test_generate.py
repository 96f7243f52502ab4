"""generate() of pretrained models: decoding with caches as without, padding, where it starts, what it refuses."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx.generation import GenerateOutput, GenerationConfig
from numtx.models import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

V, CONTEXT, PAD, BOS, EOS = 13, 20, 0, 1, 2
TOKENS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
SIDES = {f"{side}_{size}": 2 for side in ("encoder", "decoder") for size in ("layers", "attention_heads", "ffn_dim")}
SHAPES = {
    "gpt2": {"n_positions": CONTEXT, "n_embd": 8, "n_layer": 2, "n_head": 2},
    "llama": {
        "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": CONTEXT,
    },
    "bart": {"d_model": 8, "max_position_embeddings": CONTEXT, "decoder_start_token_id": EOS, **SIDES},
    "t5": {
        "d_model": 8, "d_kv": 3, "d_ff": 6, "num_layers": 2, "num_heads": 2, "tie_word_embeddings": False,
        "decoder_start_token_id": PAD, "bos_token_id": None,
    },
}  # fmt: skip
CLASSES = {
    "gpt2": (GPT2LMHeadModel, GPT2Config),
    "llama": (LlamaForCausalLM, LlamaConfig),
    "bart": (BartForConditionalGeneration, BartConfig),
    "t5": (T5ForConditionalGeneration, T5Config),
}
ON, FROM = ("gpt2", "llama"), ("bart", "t5")
SHOWN = {"return_dict_in_generate": True, "output_logits": True, "eos_token_id": None}


each_family = pytest.mark.parametrize("family", CLASSES)


def make(family):
    kind, config = CLASSES[family]
    return kind(config(vocab_size=V, **TOKENS | SHAPES[family]), dtype=np.float64)


@pytest.fixture(scope="module")
def models(randomized):
    return {family: randomized(make(family), seed=4, scale=0.7) for family in CLASSES}


def full_logits(model, family, ids, source, mask):
    """The logits after each token, everything computed anew and at once."""
    if family in FROM:
        return model(source, mask, decoder_input_ids=ids).logits
    if mask is None:
        return model(ids).logits
    mask = np.concatenate([mask, np.ones((len(mask), ids.shape[1] - mask.shape[1]), int)], axis=1)
    return model(ids, mask, np.maximum(mask.cumsum(axis=1) - 1, 0)).logits


@each_family
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 6),
    new=st.integers(1, 8),
    each=st.integers(1, 3),
    padded=st.booleans(),
    seed=st.integers(0, 999),
)
def test_cached_decoding_equals_the_full_forward(models, family, batch, length, new, each, padded, seed):
    rng = np.random.default_rng(seed)
    ids, mask = rng.integers(3, V, (batch, length)), None
    if padded:
        mask = (np.arange(length) >= rng.integers(0, length, batch)[:, None]).astype(int)
    settings = {"do_sample": True, "num_return_sequences": each, "max_new_tokens": new, "seed": seed, **SHOWN}
    got = models[family].generate(ids, attention_mask=mask, **settings)
    repeated = [None if one is None else np.repeat(one, each, axis=0) for one in (ids, mask)]
    full = full_logits(models[family], family, got.sequences, *repeated)[:, -new - 1 : -1]
    np.testing.assert_allclose(np.stack(got.logits, axis=1), full, rtol=1e-8, atol=1e-9)


@each_family
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 999), infer=st.booleans())
def test_a_row_of_a_padded_batch_is_what_it_is_alone(models, family, lengths, seed, infer):
    model, rng, longest = models[family], np.random.default_rng(seed), max(lengths)
    alone = [rng.integers(3, V, length) for length in lengths]
    padding = [np.full(longest - length, PAD) for length in lengths]
    sides = [(pad, row) if family in ON else (row, pad) for pad, row in zip(padding, alone, strict=True)]
    ids = np.stack([np.concatenate(parts) for parts in sides])
    mask = None if infer and family in ON else (ids != PAD).astype(int)
    settings = {"max_new_tokens": 6, "repetition_penalty": 1.4, "return_dict_in_generate": True, "output_scores": True}
    together = model.generate(ids, attention_mask=mask, **settings)
    start = longest if family in ON else 1
    for i, row in enumerate(alone):
        single = model.generate(row[None], **settings)
        got, expected = together.sequences[i, start:], single.sequences[0, len(row) if family in ON else 1 :]
        assert got[: len(expected)].tolist() == expected.tolist()
        assert set(got[len(expected) :]) <= {PAD}
        scores = [one[i] for one in together.scores[: len(expected)]]
        np.testing.assert_allclose(scores, [one[0] for one in single.scores], rtol=1e-8, atol=1e-9)


@each_family
def test_chance_is_decided_by_the_seed(models, family):
    def text(**chance):
        return models[family].generate(np.array([[5, 6]]), do_sample=True, max_new_tokens=12, **chance).tolist()

    assert text(seed=1) == text(seed=1) == text(rng=np.random.default_rng(1))
    assert text(seed=1) != text(seed=2)
    rng = np.random.default_rng(1)
    assert text(rng=rng) != text(rng=rng)


@each_family
def test_inputs_and_settings_stay_as_they_were(models, family):
    ids, mask = np.array([[PAD, 5, 6], [7, 8, 9]]), np.array([[0, 1, 1], [1, 1, 1]])
    config = GenerationConfig(max_new_tokens=3, bad_words_ids=[[4]])
    before = ids.copy(), mask.copy(), config.to_dict(), dict(vars(models[family]))
    models[family].generate(ids, attention_mask=mask, generation_config=config)
    np.testing.assert_array_equal(ids, before[0])
    np.testing.assert_array_equal(mask, before[1])
    assert config.to_dict() == before[2]
    assert vars(models[family]).keys() == before[3].keys()


@each_family
def test_beams_share_the_front_door(models, family):
    got = models[family].generate(np.array([[5, 6]]), num_beams=3, num_return_sequences=2, max_new_tokens=4)
    assert got.shape[0] == 2
    with pytest.raises(ValueError, match=r"^\w+\.generate: expected no streamer where 3 beams decide at the end"):
        models[family].generate(np.array([[5, 6]]), num_beams=3, streamer=print)


@pytest.mark.parametrize("family", ON)
def test_an_empty_prompt_is_the_start_token(models, family):
    expected = models[family].generate(np.array([[BOS]]), max_new_tokens=5)
    np.testing.assert_array_equal(models[family].generate(max_new_tokens=5), expected)
    np.testing.assert_array_equal(models[family].generate(np.zeros((1, 0), int), max_new_tokens=5), expected)


def test_the_start_of_an_answer(models):
    source = np.array([[5, 6], [7, 8]])
    model = models["bart"]
    assert model.generate(source, max_new_tokens=2)[:, 0].tolist() == [EOS, EOS]
    assert model.generate(source, max_new_tokens=2, decoder_start_token_id=[3, 4])[:, 0].tolist() == [3, 4]
    begun = model.generate(source, max_new_tokens=2, decoder_input_ids=np.array([[9], [9]]))
    assert begun[:, :2].tolist() == [[EOS, 9], [EOS, 9]]
    already = model.generate(source, max_new_tokens=2, decoder_input_ids=np.array([[EOS, 9], [EOS, 9]]))
    np.testing.assert_array_equal(already, begun)
    mixed = model.generate(source, max_new_tokens=2, decoder_input_ids=np.array([[EOS, 9], [9, 9]]))
    assert mixed[:, :2].tolist() == [[EOS, 9], [9, 9]]  # as in Transformers: one row that has it is enough


def test_padding_on_the_right_is_told(models):
    with pytest.warns(UserWarning, match=r"^GPT2LMHeadModel\.generate: expected prompts padded on the left"):
        models["gpt2"].generate(np.array([[5, 6]]), attention_mask=np.array([[1, 0]]), max_new_tokens=2)


def test_an_output_on_request(models):
    got = models["t5"].generate(np.array([[5, 6]]), max_new_tokens=2, return_dict_in_generate=True, output_scores=True)
    assert isinstance(got, GenerateOutput)
    assert [scores.shape for scores in got.scores] == [(1, V)] * (got.sequences.shape[1] - 1)


REFUSED = {
    "one axis": (ON + FROM, {"input_ids": [5, 6]}, r"input_ids \(B, T\)"),
    "floats": (ON + FROM, {"input_ids": [[5.0]]}, "integer input_ids"),
    "out of range": (ON + FROM, {"input_ids": [[V]]}, rf"input_ids in \[0, {V}\), got {V}"),
    "no source": (FROM, {"input_ids": None}, r"input_ids \(B, S\), the source, got None"),
    "a mask of another shape": (ON + FROM, {"attention_mask": [[1]]}, r"attention_mask \(1, 2\) of 0 and 1"),
    "a mask of other numbers": (ON + FROM, {"attention_mask": [[0.5, 1]]}, r"attention_mask \(1, 2\) of 0 and 1"),
    "an empty row": (ON + FROM, {"attention_mask": [[0, 0]]}, "a token in each row, got none in row 0"),
    "over the context": (("gpt2", "llama", "bart"), {"max_new_tokens": 20}, f"a length of at most {CONTEXT} tokens"),
    "within the prompt": (ON, {"max_length": 2}, "a max_length over the 2 tokens of the prompt, got 2"),
    "a list of ids": (ON + FROM, {"input_ids": [5, 6]}, r"input_ids \(B, T\), not empty, got \(2,\): one row is \[\["),
    "unequal rows": (ON + FROM, {"input_ids": [[5, 6], [7]]}, "input_ids in rows of one length"),
    "unequal masks": (ON + FROM, {"attention_mask": [[1, 1], [1]]}, "attention_mask in rows of one length"),
    "a row of padding": (ON, {"input_ids": [[5, 6], [PAD, PAD]]}, "a token beside pad_token_id = 0 .* in row 1"),
    "a mask of nothing": (ON, {"input_ids": None, "attention_mask": [[1, 1]]}, "no attention_mask without input_ids"),
    "a mask of no token": (
        ON, {"input_ids": np.zeros((1, 0), int), "attention_mask": [[1]]}, "no attention_mask without input_ids",
    ),
    "no streamer": (ON + FROM, {"streamer": 3}, "a streamer with put and end, or a callable, got int"),
    "two names": (ON + FROM, {"inputs": [[5]]}, "inputs or input_ids, two names of one thing, got both"),
    "no processors": (ON + FROM, {"logits_processor": 3}, "logits_processor as a list of callables, got int"),
    "no criteria": (ON + FROM, {"stopping_criteria": [3]}, "stopping_criteria as a list of callables, got list"),
    "too many ends": (
        ON + FROM, {"num_beams": 2, "eos_token_id": list(range(V))},
        f"a vocabulary of at least {V + 1} tokens for num_beams = 2 beside {V} end tokens, got {V}",
    ),
    "nothing left": (ON + FROM, {"suppress_tokens": list(range(V))}, "a token that may come, got suppress_tokens"),
    "two chances": (ON + FROM, {"seed": 1, "rng": np.random.default_rng(1)}, "seed or rng, got both"),
    "no seed": (ON, {"seed": "a"}, "seed as a whole number of at least 0, got 'a'"),
    "no generator": (ON, {"rng": 3}, "rng as an np.random.Generator, got int"),
    "no config": (ON, {"generation_config": {}}, "a numtx GenerationConfig, got dict"),
    "an answer before": (ON, {"decoder_input_ids": [[3]]}, "no decoder_input_ids"),
    "no start": (("t5",), {"decoder_start_token_id": None}, "a decoder_start_token_id or a bos_token_id"),
    "too few starts": (FROM, {"decoder_start_token_id": [1, 2]}, "a decoder_start_token_id for each of the 1 rows"),
    "other rows": (FROM, {"decoder_input_ids": [[3], [4]]}, r"decoder_input_ids of 1 rows, got \(2, 1\)"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "call", "message"),
    [pytest.param(family, *case[1:], id=f"{name}, {family}") for name, case in REFUSED.items() for family in case[0]],
)
def test_what_cannot_be_generated_is_refused_in_one_line(models, family, call, message):
    call = {"input_ids": [[5, 6]], **call}
    with pytest.raises(ValueError, match=rf"^\w+\.generate: expected {message}[^\n]*$"):
        models[family].generate(**call)


def test_nothing_to_start_from(models):
    with pytest.raises(ValueError, match=r"^GPT2LMHeadModel\.generate: expected a prompt, or a bos_token_id"):
        models["gpt2"].generate(bos_token_id=None)


def test_an_unknown_setting(models):
    with pytest.raises(ValueError, match=r"got 'max_new_token'; the nearest is 'max_new_tokens'$"):
        models["gpt2"].generate([[5]], max_new_token=3)


@each_family
def test_the_settings_of_a_model_are_kept_and_saved(randomized, family, tmp_path):
    model = make(family)
    randomized(model, seed=1)
    assert model.generation_config.eos_token_id == EOS
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=np.float64)
    assert again.generation_config == model.generation_config
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again.generate([[5, 6]], eos_token_id=None).shape[1] == (5 if family in ON else 4)


def test_a_model_without_settings_saves_none(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=5, n_positions=8, n_embd=4, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("family", ON)
def test_the_prompt_is_the_source_of_a_decoder_only_model(models, family):
    ids = np.array([[3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 3, 4]])
    new = models[family].generate(ids, max_new_tokens=6, encoder_no_repeat_ngram_size=1)[:, 6:]
    for row, prompt in zip(new, ids, strict=True):
        assert not set(row) & set(prompt)
    settings = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_scores": True}
    plain = models[family].generate(ids, **settings).scores[0]
    likelier = models[family].generate(ids, **settings, encoder_repetition_penalty=2.0).scores[0]
    there = np.zeros((2, V), bool)
    np.put_along_axis(there, ids, True, axis=1)
    np.testing.assert_allclose(likelier, np.where(there, np.where(plain < 0, plain / 2, plain * 2), plain))


@pytest.mark.parametrize("family", ON)
def test_what_is_padding_where_nobody_says(models, family):
    model = models[family]

    def same(ids, mask, **settings):
        """Whether a mask is what is inferred."""
        settings |= {"max_new_tokens": 2, "return_dict_in_generate": True, "output_logits": True}
        inferred, said = model.generate(ids, **settings), model.generate(ids, attention_mask=mask, **settings)
        return np.allclose(inferred.logits, said.logits, rtol=1e-9, atol=1e-12)

    ids = np.array([[3, 3, 5], [6, 7, 8]])
    padded, full = (ids != 3).astype(int), np.ones_like(ids)
    for pad in (3, None, 4):
        settings = {"pad_token_id": pad, "eos_token_id": None}
        assert (same(ids, padded, **settings), same(ids, full, **settings)) == (pad == 3, pad != 3)
    # A token that ends is none of padding, though it is what stands behind an end.
    ends = {"pad_token_id": 3, "eos_token_id": [3, 2], "min_new_tokens": 2}
    assert (same(ids, padded, **ends), same(ids, full, **ends)) == (False, True)
    # Nor is it where there is no other.
    assert same(np.full((2, 3), 3), full, pad_token_id=3)


@each_family
def test_functions_of_the_user(models, family):
    ids, seen = np.array([[5, 6], [7, 8]]), []

    def nothing_but_nine(ids, scores):
        seen.append(ids.shape)
        return np.where(np.arange(V) == 9, scores, -np.inf)

    settings = {"max_new_tokens": 6, "eos_token_id": None, "do_sample": True, "top_k": 1}
    got = models[family].generate(
        inputs=ids,
        logits_processor=[nothing_but_nine],
        stopping_criteria=[lambda ids: np.full(len(ids), ids.shape[1] >= 5)],
        **settings,
    )
    start = 2 if family in ON else 1
    assert got.shape == (2, 5)
    assert (got[:, start:] == 9).all()
    assert seen == [(2, length) for length in range(start, 5)]


@each_family
def test_a_tiny_temperature_is_greedy(models, family):
    ids = np.array([[5, 6], [7, 8]])
    got = models[family].generate(ids, max_new_tokens=6, do_sample=True, temperature=1e-320, seed=0)
    np.testing.assert_array_equal(got, models[family].generate(ids, max_new_tokens=6))


@each_family
def test_warnings_name_the_line_that_asked(models, family):
    with pytest.warns(UserWarning, match="temperature = 0.5 has no effect") as told:
        models[family].generate([[5, 6]], max_new_tokens=1, temperature=0.5)
    assert [one.filename for one in told] == [__file__]


def test_settings_that_cannot_be_written_leave_no_weights(models, tmp_path):
    model = make("gpt2")
    model.generation_config.sequence_bias = {(3,): -np.inf}
    with pytest.raises(ValueError, match=r"generation_config\.json"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="expected a numtx GenerationConfig as generation_config, got dict"):
        model.generation_config = {}
