"""What the pipelines that write, and the one that finds answers, are asked: models of seeds, texts, settings.

folders = make_folders(path)
for task, model, settings, inputs, options in questions(): pipeline(task, folders[model], **settings)(inputs, **options)
"""

import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
from pipeline_questions import ODD, TOKENIZERS, WORD_PIECE, WORDS, draw, long_texts, texts

from numtx import models
from numtx.checkpoints import read_json, write_json

TASKS = (
    "question-answering",
    "text-generation",
    "text2text-generation",
    "summarization",
    "translation",
    "translation_en_to_de",
)
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_ENCODER |= {"max_position_embeddings": 514, "type_vocab_size": 2}
_BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 512, "vocab_size": 500}
_BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
_BART |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "eos_token_id": 5, "bos_token_id": 5}
_MARIAN = _BART | {"vocab_size": 281, "pad_token_id": 280, "decoder_start_token_id": 280, "eos_token_id": 0}
_MARIAN |= {"bos_token_id": None, "bad_words_ids": [[280]], "max_length": 24, "num_beams": 3}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 320}
_T5 |= {"decoder_start_token_id": 0}
TASK_PARAMS = {
    "summarization": {
        "prefix": "sum up: ",
        "max_length": 12,
        "min_length": 5,
        "no_repeat_ngram_size": 2,
        "num_beams": 3,
    },
    "translation_en_to_de": {"prefix": "English to German: ", "early_stopping": True, "max_length": 14, "num_beams": 2},
}
_LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA |= {"num_key_value_heads": 2, "vocab_size": 562, "bos_token_id": 1, "eos_token_id": 2}

# A model -> its class, its tokenizer, its settings.
MODELS = {
    "spans": ("BertForQuestionAnswering", "bert", _ENCODER | {"vocab_size": 400}),
    "spans_bytes": ("RobertaForQuestionAnswering", "roberta", _ENCODER | {"vocab_size": 500, "pad_token_id": 1}),
    "spans_bart": ("BartForQuestionAnswering", "bart", _BART),
    "spans_gpt2": ("GPT2ForQuestionAnswering", "gpt2", _GPT2 | {"vocab_size": 500}),
    "gpt2": ("GPT2LMHeadModel", "gpt2", _GPT2 | {"vocab_size": 500}),
    "llama": ("LlamaForCausalLM", "llama", _LLAMA),
    "t5": ("T5ForConditionalGeneration", "t5", _T5 | {"task_specific_params": TASK_PARAMS}),
    "bart": ("BartForConditionalGeneration", "bart", _BART | {"max_length": 12, "no_repeat_ngram_size": 3}),
    "marian": ("MarianMTModel", "marian", _MARIAN),
    "gpt2_long": ("GPT2LMHeadModel", "gpt2", _GPT2 | {"vocab_size": 500, "n_positions": 1024}),
}
GREEDY = {"do_sample": False}
ENDS = list(range(3, 90, 3))  # so many that most answers end before they must


def make_folders(path: Path, names=MODELS) -> dict[str, Path]:
    """Write models, each drawn of a seed of its own, beside their tokenizers, and return the folders by name."""
    folders = {}
    for seed, (name, (kind, tokenizer, settings)) in enumerate(MODELS.items()):
        if name not in names:
            continue
        made = getattr(models, kind)
        known = {one.name for one in fields(made.config_class)}
        model = made(made.config_class(**{key: value for key, value in settings.items() if key in known}))
        model.config.other |= {key: value for key, value in settings.items() if key not in known}
        draw(model, 100 + seed)
        folders[name] = path / name
        model.save_pretrained(folders[name])
        for file in (TOKENIZERS / tokenizer).iterdir():
            shutil.copy(file, folders[name])
        config = read_json(folders[name] / "tokenizer_config.json")
        config |= {"clean_up_tokenization_spaces": tokenizer in WORD_PIECE}
        if tokenizer == "llama":
            config["pad_token"] = "</s>"  # without one, no batches
        write_json(folders[name] / "tokenizer_config.json", config)
    return folders


def questions(number: int = 54, tasks=TASKS):
    """Yield (task, model, settings of the pipeline, inputs, settings of the call)."""
    asked = {
        "question-answering": question_answering,
        "text-generation": text_generation,
        "text2text-generation": text2text_generation,
        "summarization": summarization,
        "translation": translation,
        "translation_en_to_de": translation_of_a_pair,
    }
    for task in tasks:
        for model, settings, inputs, options in asked[task](number):
            yield task, model, settings, inputs, options


def asked_of(contexts, seed):
    """Return dicts of a question, drawn, and a context."""
    rng = np.random.default_rng([19, seed])
    return [{"question": " ".join(rng.choice(WORDS, size=rng.integers(1, 6))), "context": one} for one in contexts]


def question_answering(number):
    contexts = [text for text in texts(5, number + 1, longest=60) if text]
    every, long = asked_of(contexts, 0), asked_of(long_texts(5), 1)
    drawn = every[len(ODD) :]  # of some words, where there are as many answers as are asked for
    for model in ("spans", "spans_bytes", "spans_bart"):
        yield model, {}, [*every, *long], {}
        yield model, {}, [*every[:4], *drawn[:12], *long], {"handle_impossible_answer": True}
        yield model, {}, [*drawn[:12], *long], {"top_k": 3}
        yield model, {}, [*drawn[:12], *long], {"align_to_words": False, "max_answer_len": 4}
        yield model, {}, long, {"max_seq_len": 60, "doc_stride": 20, "top_k": 5, "handle_impossible_answer": True}
        yield model, {"max_seq_len": 48, "doc_stride": 0, "max_answer_len": 1}, long, {"top_k": 2}
        yield model, {"batch_size": 4}, [*drawn[:20], *long], {}
    yield "spans_gpt2", {}, [*drawn, *long], {}
    yield "spans", {"top_k": 2}, drawn[0], {}
    yield "spans", {}, drawn[:1], {}
    yield "spans", {}, drawn[1], {"align_to_words": False, "handle_impossible_answer": True, "top_k": 20}


def text_generation(number):
    every = texts(6, number, longest=12)
    few = {**GREEDY, "max_new_tokens": 8}
    for model in ("gpt2", "llama"):
        yield model, {}, every, few
        yield model, few, every[2:8], {"return_full_text": False}
        yield model, few, every[2:4], {"return_tensors": True}
        yield model, few, every[2], {"clean_up_tokenization_spaces": False}
        yield model, few, every[2], {"skip_special_tokens": False}
        yield model, few, every[14:20], {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": ENDS}
        yield model, few, every[14:20], {"eos_token_id": ENDS, "return_tensors": True}
        yield model, few, every[14:20], {"prefix": "Now then: "}
        yield model, few, every[2:5], {"add_special_tokens": True, "repetition_penalty": 1.3}
        yield model, few, every[14:20], {"stop_sequence": " a"}
        yield model, {**GREEDY, "max_length": 60}, every[14:18], {}
        yield model, {**GREEDY, "max_length": 60, "prefix": "Now: "}, every[14:18], {"min_length": 55}
        yield model, few, every[14], {"max_length": 5}
        yield model, few, every[15], {"truncation": True, "tokenizer_encode_kwargs": {"max_length": 6}}
        yield model, GREEDY, every[16], {}  # 256 new tokens
        yield model, few, [text for text in every if text][:20], {"batch_size": 4} if model == "llama" else {}
    yield "gpt2_long", few, [every[2], "a b c " * 450], {"handle_long_generation": "hole", **few}
    chats = [[{"role": "user", "content": text}] for text in every if text.strip()]
    system = [{"role": "system", "content": "Be short."}, *chats[4], {"role": "assistant", "content": "Well,"}]
    yield "llama", {}, chats[:30], few
    yield "llama", few, chats[3], {"return_full_text": False}
    yield "llama", few, system, {}
    yield "llama", few, system, {"return_full_text": False}
    yield "llama", few, system, {"continue_final_message": False}


def text2text_generation(number):
    every = texts(7, number, longest=20)
    few = {"max_new_tokens": 6, "num_beams": 2}
    for model in ("t5", "bart"):
        yield model, {}, every, {"max_new_tokens": 5}  # and four beams
        yield model, few, every[2:8], {"num_beams": 1, "eos_token_id": ENDS}
        yield model, few, every[14:18], {"num_return_sequences": 2, "eos_token_id": ENDS}
        yield model, few, every[2], {"return_tensors": True}
        yield model, few, every[2:4], {"return_tensors": True, "eos_token_id": ENDS}
        yield model, {"max_length": 8}, every[2:4], {"clean_up_tokenization_spaces": True}
        yield model, few, every[2:10], {"encoder_no_repeat_ngram_size": 2, "batch_size": 5}
        yield model, {**few, "batch_size": 5}, every[:24], {"length_penalty": 0.5, "num_beams": 3}
        yield model, few, every[5], {"stop_sequence": " of a"}
        yield model, few, every[2:4], {"min_new_tokens": 4, "eos_token_id": ENDS}
    yield "t5", {}, every[2], {"max_length": 10, "num_beams": 1}  # of a call: does not count where 256 new tokens do
    yield "t5", few, long_texts(7, 1), {"truncation": True}


def summarization(number):
    every = texts(8, number, longest=40)
    yield "t5", {"max_new_tokens": 6}, [*every, *long_texts(8, 1)], {}
    yield "t5", {"num_beams": 1, "max_new_tokens": 6}, every[3], {"num_beams": 2}
    yield "t5", {}, every[3], {"num_beams": 1}  # 256 new tokens, for all that task_specific_params says
    yield "bart", {}, every[:20], {}  # its own max_length
    yield "bart", {}, every[3:6], {"max_length": 9, "min_length": 6, "eos_token_id": ENDS}
    yield "bart", {"num_beams": 2}, every[3:6], {"early_stopping": True, "num_return_sequences": 2}
    yield "bart", {}, every[3:6], {"return_tensors": True}


def translation(number):
    every = texts(9, number, longest=20)
    yield "marian", {"max_length": 10}, every, {}
    yield "marian", {}, every[2:5], {}
    yield "marian", {"max_length": 12}, every[2:9], {"num_beams": 1, "src_lang": "en", "tgt_lang": "de"}
    yield "marian", {}, every[2], {"num_return_sequences": 2}


def translation_of_a_pair(number):
    every = texts(10, number, longest=20)
    yield "t5", {"max_new_tokens": 6}, every, {}
    yield "t5", {"max_new_tokens": 10}, every[2:6], {"num_beams": 3, "eos_token_id": ENDS, "early_stopping": False}
