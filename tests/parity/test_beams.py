"""Beam search beside Transformers: the same ids, scores and origins for drawn settings, decoder-only and
encoder-decoder, in float64, where ties do not flip. Runs on Transformers 4.57 and 5.
"""

import functools
import tempfile
import warnings

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
import torch
import transformers
from family_parity import in_double, random_model
from generation_draws import exact_frequencies
from their_version import OLD

import numtx

VOCAB, PAD, ENDS = 23, 1, (2, 5, 7)
TOKENS = {"pad_token_id": PAD, "bos_token_id": 3, "eos_token_id": ENDS[0]}
SIDES = {f"{side}_{size}": n for side in ("encoder", "decoder") for size, n in (("layers", 2), ("attention_heads", 2))}
BART = {"d_model": 12, "encoder_ffn_dim": 10, "decoder_ffn_dim": 10, "max_position_embeddings": 40, **SIDES}
BART |= {"decoder_start_token_id": ENDS[0], "forced_eos_token_id": None, **TOKENS}
LLAMA = {"hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "bart": ("BartForConditionalGeneration", transformers.BartConfig, BART),
    "marian": ("MarianMTModel", transformers.MarianConfig, BART | {"decoder_vocab_size": VOCAB}),
    "t5": (
        "T5ForConditionalGeneration",
        transformers.T5Config,
        {"d_model": 12, "d_kv": 5, "d_ff": 10, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0, **TOKENS},
    ),
    "gpt2": ("GPT2LMHeadModel", transformers.GPT2Config, {"n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 40}),
    "llama": ("LlamaForCausalLM", transformers.LlamaConfig, LLAMA | {"num_key_value_heads": 1, **TOKENS}),
}
CLOSE = 1e-8
NOTHING = -1e8  # a score below: so many did not end, or could not be chosen, and what fills their place is all one
ENCODE = ("bart", "marian", "t5")


@functools.cache
def both(family):
    """The same model twice: theirs and ours, in float64."""
    name, config, settings = FAMILIES[family]
    settings = {**settings, **(TOKENS if family == "gpt2" else {})}
    with exact_frequencies():
        theirs = random_model(getattr(transformers, name), config(vocab_size=VOCAB, **settings), seed=len(family))
    if family == "t5":  # whose logits would be all but equal
        with torch.no_grad():
            theirs.shared.weight.mul_(4)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = getattr(numtx.models, name).from_pretrained(folder, dtype=np.float64)
    return theirs, ours


def draw_settings(rng, encodes):
    """Settings of a search; each of the rarer ones is there in a third of the draws."""

    def sometimes(**choices):
        return {name: choice[rng.integers(len(choice))] for name, choice in choices.items() if rng.random() < 0.33}

    beams = int(rng.integers(2, 6))
    settings = {"num_beams": beams, "num_return_sequences": int(rng.integers(1, beams + 1))}
    settings |= {"max_new_tokens": int(rng.integers(1, 14)), "length_penalty": float(rng.choice([-1, 0, 0.6, 1, 2.5]))}
    settings |= {"early_stopping": (True, False, "never")[rng.integers(3)]}
    settings |= {"eos_token_id": (ENDS[0], list(ENDS[:2]), list(ENDS))[rng.integers(3)]}
    settings |= {"pad_token_id": (PAD, 0)[rng.integers(2)]}
    settings |= sometimes(
        repetition_penalty=(0.8, 1.3, 2.0),
        no_repeat_ngram_size=(1, 2, 3),
        bad_words_ids=([[4], [6, 8]], [[9, 10, 11], [12]]),
        min_new_tokens=(1, 3, 30),
        suppress_tokens=([4, 9, 11],),
        begin_suppress_tokens=([8, 9],),
        forced_eos_token_id=(ENDS[0],),
        renormalize_logits=(True,),
        encoder_no_repeat_ngram_size=(1, 2),
    )
    settings["min_new_tokens"] = min(settings.get("min_new_tokens", 0), settings["max_new_tokens"])
    if encodes:
        settings |= sometimes(forced_bos_token_id=(13,))
    if not OLD:  # which does not repeat the source for several rows
        settings |= sometimes(encoder_repetition_penalty=(0.7, 1.5))
    return settings


def draw_prompt(rng, encodes):
    """Ids and a mask of padding: on the left of prompts, on either side of sources; every second draw has none."""
    rows, length = int(rng.integers(1, 4)), int(rng.integers(1, 8))
    ids = rng.integers(8, VOCAB, (rows, length))
    mask = np.ones_like(ids)
    if rng.random() < 0.5:
        for row in mask:
            padding = int(rng.integers(0, length))
            row[: padding if not encodes or rng.random() < 0.5 else 0] = 0
            row[length - padding if row.all() and encodes else length :] = 0
    return {"input_ids": np.where(mask == 1, ids, PAD), "attention_mask": mask}


def run_theirs(theirs, prompt, settings):
    settings = settings | {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    tensors = {name: torch.from_numpy(array) for name, array in prompt.items()}
    with torch.no_grad(), in_double(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return theirs.generate(**tensors, **settings)


def compare(family, seed):
    rng = np.random.default_rng([seed, len(family)])
    theirs, ours = both(family)
    settings = draw_settings(rng, family in ENCODE) | {"do_sample": False}
    prompt = draw_prompt(rng, family in ENCODE)
    if OLD and family not in ENCODE and "repetition_penalty" in settings:  # which counted padding
        prompt = {"input_ids": rng.integers(8, VOCAB, prompt["input_ids"].shape)}
        prompt["attention_mask"] = np.ones_like(prompt["input_ids"])
    if family in ENCODE and rng.random() < 0.3:
        start = np.full((len(prompt["input_ids"]), 1), theirs.config.decoder_start_token_id)
        prompt["decoder_input_ids"] = np.concatenate([start, rng.integers(8, VOCAB, (len(start), 2))], axis=1)
    expected = run_theirs(theirs, prompt, settings)
    got = ours.generate(**prompt, **settings, return_dict_in_generate=True, output_scores=True, output_logits=True)
    said = f"{family} {seed} {settings}"
    assert got.sequences.shape == expected.sequences.shape, said
    there = got.sequences_scores > NOTHING
    np.testing.assert_array_equal(got.sequences[there], expected.sequences.numpy()[there], said)
    np.testing.assert_allclose(got.sequences_scores, expected.sequences_scores.numpy(), rtol=0, atol=CLOSE)
    assert len(got.scores) == len(expected.scores), said
    if "forced_bos_token_id" in settings:  # the beams are the same then, in an order that nothing says
        return
    np.testing.assert_array_equal(got.beam_indices[there], expected.beam_indices.numpy()[there], said)
    for mine, reference in ((got.scores, expected.scores), (got.logits, expected.logits)):
        for one, other in zip(mine, reference, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=CLOSE, err_msg=said)


class SameDraws:
    """Stands for `torch.multinomial`: draws with the numbers that a generator of ours gives to a search of ours.

    It gives the likeliest of what it drew first: the order that Transformers itself puts them into since 5.24. Before,
    those that came first were taken for the best.
    """

    def __init__(self, seed):
        self.rng, self.has_chosen_nothing = np.random.default_rng(seed), False

    def __call__(self, probabilities, num_samples):
        with np.errstate(divide="ignore"):
            logs = np.log(probabilities.numpy())
        chosen = np.argsort(-(logs - np.log(-np.log(self.rng.random(logs.shape)))), axis=1)[:, :num_samples]
        self.has_chosen_nothing |= bool(np.isinf(np.take_along_axis(logs, chosen, axis=1)).any())
        best = np.argsort(-np.take_along_axis(logs, chosen, axis=1), axis=1, kind="stable")
        return torch.from_numpy(np.take_along_axis(chosen, best, axis=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_beam_sampling_with_the_same_draws(family, monkeypatch):
    compared = 0
    for seed in range(24):
        rng = np.random.default_rng([seed, len(family)])
        theirs, ours = both(family)
        beams = int(rng.integers(2, 4))
        settings = {"do_sample": True, "num_beams": beams, "num_return_sequences": beams, "max_new_tokens": 9}
        settings |= {"temperature": float(rng.choice([0.7, 1.0, 1.8])), "top_k": int(rng.choice([9, 16, 50]))}
        settings |= [{}, {"top_p": 0.9}, {"min_p": 0.02}, {"typical_p": 0.9}, {"renormalize_logits": True}][seed % 5]
        settings |= {"length_penalty": float(rng.choice([0, 1, 2])), "early_stopping": (True, False, "never")[seed % 3]}
        prompt = draw_prompt(rng, family in ENCODE)
        draws = SameDraws(seed)
        monkeypatch.setattr(torch, "multinomial", draws)
        expected = run_theirs(theirs, prompt, settings)
        if draws.has_chosen_nothing:  # there was too little to draw from: what is drawn then cannot be told
            continue
        got = ours.generate(**prompt, **settings, seed=seed, return_dict_in_generate=True, output_scores=True)
        there = got.sequences_scores > NOTHING
        np.testing.assert_array_equal(got.sequences[there], expected.sequences.numpy()[there], f"{seed} {settings}")
        np.testing.assert_allclose(got.sequences_scores, expected.sequences_scores.numpy(), rtol=0, atol=CLOSE)
        for one, other in zip(got.scores, expected.scores, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=CLOSE)
        compared += 1
    assert compared >= 8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", range(0, 60, 20))
def test_ids_scores_and_origins_are_those_of_transformers(family, start):
    for seed in range(start, start + 20):
        compare(family, seed)
