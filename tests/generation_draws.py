"""Drawn settings of generate, prompts, and small random models of every family that writes, beside Transformers.

theirs, ours = writers("gpt2")          # a model of Transformers in float64, and the same opened by numtx
draw = draw_case("gpt2", seed)          # .inputs, .settings: what both generate functions take
compare(theirs, ours, draw)
"""

import functools
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import transformers
from family_parity import in_double, random_model, replaced
from their_version import OLD

from numtx import models

VOCAB, CONTEXT = 23, 48
PAD, BOS, EOS = 0, 1, 2
FIRST = 6  # ordinary tokens are those from here on; 3, 4 and 5 may be made end tokens or be forced
TOKENS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
TWO_SIDES = {
    f"{side}_{size}": number
    for side in ("encoder", "decoder")
    for size, number in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 10))
}
FAMILIES = {
    "gpt2": (
        "GPT2LMHeadModel",
        transformers.GPT2Config,
        {"vocab_size": VOCAB, "n_positions": CONTEXT, "n_embd": 12, "n_layer": 2, "n_head": 2, **TOKENS},
    ),
    "llama": (
        "LlamaForCausalLM",
        transformers.LlamaConfig,
        {
            "vocab_size": VOCAB,
            "hidden_size": 12,
            "intermediate_size": 10,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": CONTEXT,
            "head_dim": 4,
            **TOKENS,
        },
    ),
    "bart": (
        "BartForConditionalGeneration",
        transformers.BartConfig,
        {
            "vocab_size": VOCAB,
            "d_model": 12,
            "max_position_embeddings": CONTEXT,
            "decoder_start_token_id": EOS,
            "forced_eos_token_id": None,
            **TWO_SIDES,
            **TOKENS,
        },
    ),
    "marian": (
        "MarianMTModel",
        transformers.MarianConfig,
        {
            "vocab_size": VOCAB,
            "d_model": 12,
            "max_position_embeddings": CONTEXT,
            "decoder_start_token_id": PAD,
            "forced_eos_token_id": EOS,
            "scale_embedding": True,
            **TWO_SIDES,
            **TOKENS,
        },
    ),
    "t5": (
        "T5ForConditionalGeneration",
        transformers.T5Config,
        {
            "vocab_size": VOCAB,
            "d_model": 12,
            "d_kv": 4,
            "d_ff": 10,
            "num_layers": 2,
            "num_heads": 2,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "decoder_start_token_id": PAD,
            **TOKENS,
        },
    ),
}
DECODER_ONLY = ("gpt2", "llama")


@contextmanager
def exact_frequencies():
    """Transformers makes Llama's table of frequencies in float32, whatever the dtype; for the time of a `with`, not."""
    from transformers import modeling_rope_utils
    from transformers.models.llama import modeling_llama

    def exact(function):
        def made(*inputs, **settings):
            with in_double():
                return function(*inputs, **settings)

        return made

    with pytest.MonkeyPatch.context() as patch:
        for kind, function in list(modeling_rope_utils.ROPE_INIT_FUNCTIONS.items()):
            patch.setitem(modeling_rope_utils.ROPE_INIT_FUNCTIONS, kind, exact(function))
        rotary = modeling_llama.LlamaRotaryEmbedding
        if hasattr(rotary, "compute_default_rope_parameters"):  # Transformers 5
            before = rotary.compute_default_rope_parameters
            patch.setattr(rotary, "compute_default_rope_parameters", staticmethod(exact(before)))
        yield


@functools.cache
def writers(family, std=0.7):
    """A small random model of Transformers, in float64, and the same opened by numtx."""
    name, config, settings = FAMILIES[family]
    with exact_frequencies():
        theirs = random_model(getattr(transformers, name), config(**settings), std=std, seed=len(family))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 4.57 tells that settings move from one file to the other
        theirs.save_pretrained(folder)
        ours = getattr(models, name).from_pretrained(folder, dtype=np.float64)
        for _, array in ours.named_arrays():  # out of the folder's files
            array[...] = np.array(array)
        ours.generation_config  # noqa: B018 - read now
    return theirs, ours


@dataclass
class Case:
    """What both generate functions are given; `inputs` are arrays, which PyTorch gets as tensors."""

    inputs: dict
    settings: dict

    def __repr__(self):
        return f"{ ({k: v.tolist() for k, v in self.inputs.items()}) } {self.settings}"


def draw_case(family, seed, *, sampling=False, beams=False):
    """Draw prompts, padded or not, and any combination of settings that go together."""
    rng = np.random.default_rng([seed, sampling, beams])
    decodes = family in DECODER_ONLY
    inputs = _inputs(rng, decodes)
    prompt = inputs["input_ids"].shape[1] if decodes else inputs.get("decoder_input_ids", np.zeros((1, 1))).shape[1]
    padding = _padding(rng, decodes, inputs)
    pad = padding.get("pad_token_id", PAD)
    padded = "attention_mask" in inputs or (inputs["input_ids"] == pad).any()
    longest = prompt if decodes and OLD else 3  # in 4.57 the row is no sequence's beginning if it is no longer
    settings = padding | _lengths(rng, prompt) | _ends(rng) | _words(rng, longest) | _penalties(rng, decodes, padded)
    if "exponential_decay_length_penalty" in settings:  # of the smallest number it would make infinity
        settings.pop("remove_invalid_values", None)
    if beams:
        settings |= _beams(rng)
    if sampling:
        settings |= _warpers(rng)
        if not beams and rng.random() < 0.5:
            settings["num_return_sequences"] = int(rng.integers(1, 4))
    return Case(inputs, settings)


def _maybe(rng, values, share=0.35):
    """The entries of a dict, each with some probability; values are made when they are drawn."""
    return {name: make() for name, make in values.items() if rng.random() < share}


def _pick(rng, *values):
    return lambda: values[rng.integers(len(values))]


def _inputs(rng, decodes):
    rows, length = int(rng.integers(1, 4)), int(rng.integers(1, 8))
    ids = rng.integers(FIRST, VOCAB, (rows, length))
    inputs = {"input_ids": ids}
    if rng.random() < 0.5:
        mask = np.ones_like(ids)
        for row in mask:
            row[: rng.integers(0, length)] = 0
        ids[mask == 0] = PAD
        if not decodes and rng.random() < 0.7:  # a source is padded on the right, as a rule
            ids, mask = ids[:, ::-1].copy(), mask[:, ::-1].copy()
        inputs = {"input_ids": ids} | ({} if decodes and rng.random() < 0.3 else {"attention_mask": mask})
    if not decodes and rng.random() < 0.25:
        inputs["decoder_input_ids"] = rng.integers(FIRST, VOCAB, (rows, int(rng.integers(1, 3))))
    return inputs


def _padding(rng, decodes, inputs):
    """Which token is that of padding, if it is said; and put end tokens and those of padding into prompts, in place."""
    ids = inputs["input_ids"]
    if decodes and rng.random() < 0.4:
        special = rng.random(ids.shape) < 0.3
        special[:, -1] = False  # padding on the right is told, and nothing is promised for it
        ids[special] = rng.choice([PAD, EOS, 3, 5], special.sum())
    return _maybe(rng, {"pad_token_id": _pick(rng, EOS, EOS, 3, 5, None)}, 0.4)


def _lengths(rng, prompt):
    most = int(rng.integers(2, 12))
    limits = [{"max_new_tokens": most}, {"max_length": prompt + 1 + most}, {}]
    settings = dict(limits[rng.choice(3, p=[0.6, 0.35, 0.05])])
    lengths = {"min_new_tokens": lambda: int(rng.integers(0, most)), "min_length": lambda: int(rng.integers(0, most))}
    return settings | _maybe(rng, lengths, 0.3)


def _ends(rng):
    several = [EOS, int(rng.integers(3, VOCAB))]
    made = {
        "eos_token_id": _pick(rng, several, int(rng.integers(3, VOCAB)), [5, 9, 13]),
        "forced_eos_token_id": _pick(rng, EOS, 3),
        "forced_bos_token_id": _pick(rng, 4, 5),
    }
    if not OLD:  # 4.57 makes NaN of a forbidden end
        made["exponential_decay_length_penalty"] = lambda: (int(rng.integers(0, 4)), float(rng.uniform(1, 1.6)))
    return _maybe(rng, made, 0.3)


def _words(rng, longest):
    def some(n):
        return [int(i) for i in rng.integers(FIRST, VOCAB, n)]

    return _maybe(
        rng,
        {
            "bad_words_ids": lambda: [some(rng.integers(1, min(3, longest) + 1)) for _ in range(rng.integers(1, 8))],
            "sequence_bias": lambda: [
                [some(rng.integers(1, min(2, longest) + 1)), float(rng.normal(0, 3))] for _ in range(5)
            ],
            "suppress_tokens": lambda: some(3),
            "begin_suppress_tokens": lambda: some(4),
            "renormalize_logits": lambda: True,
            "remove_invalid_values": lambda: True,
        },
        0.25,
    )


def _penalties(rng, decodes, padded):
    made = {name: lambda: int(rng.integers(1, 4)) for name in ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size")}
    if not OLD or not (decodes and padded):  # 4.57 penalises the token of padding too
        made["repetition_penalty"] = lambda: float(rng.choice([0.6, 1.2, 1.9]))
    if not OLD:  # 4.57 does not repeat the source for several rows
        made["encoder_repetition_penalty"] = lambda: float(rng.choice([0.7, 1.5]))
    return _maybe(rng, made)


def _warpers(rng):
    keeps = {
        "temperature": lambda: float(rng.uniform(0.3, 2.5)),
        "top_k": lambda: int(rng.integers(0, 12)),
        "top_p": lambda: float(rng.uniform(0.2, 1)),
        "min_p": lambda: float(rng.uniform(0, 0.5)),
        "typical_p": lambda: float(rng.uniform(0.2, 0.99)),
        "epsilon_cutoff": lambda: float(rng.uniform(0, 0.1)),
        "eta_cutoff": lambda: float(rng.uniform(0, 0.1)),
    }
    return {"do_sample": True} | _maybe(rng, keeps, 0.45)


def _beams(rng):
    beams = int(rng.integers(2, 6))
    return {"num_beams": beams} | _maybe(
        rng,
        {
            "length_penalty": _pick(rng, -1.0, 0.0, 0.5, 2.0),
            "early_stopping": _pick(rng, True, False, "never"),
            "num_return_sequences": lambda: int(rng.integers(1, beams + 1)),
        },
        0.6,
    )


def tensors(inputs):
    return {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}


def ask(ours, case, **more):
    """What numtx writes, with scores and logits."""
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings without effect, which are drawn too
        return ours.generate(**case.inputs, **case.settings, **wanted, **more)


def ask_theirs(theirs, case, chosen=None):
    """What Transformers writes, in float64 throughout; `chosen` (R, new) are the tokens that it draws, one by one."""
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    columns = iter(() if chosen is None else torch.from_numpy(chosen).T[..., None])
    drawn = {} if chosen is None else {"multinomial": lambda probs, num_samples: next(columns)}
    with in_double(), torch.no_grad(), warnings.catch_warnings(), replaced(torch, **drawn):
        warnings.simplefilter("ignore")
        return theirs.generate(**tensors(case.inputs), **case.settings, **wanted)
