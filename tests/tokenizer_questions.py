"""What numtx's tokenizers and Transformers' are both asked: texts, options, and one form for the answers."""

import warnings
from pathlib import Path

import numpy as np

# Small tokenizers, and Transformers' answers; `golden/make_golden_tokenizers.py` makes both.
FOLDERS = Path(__file__).parent / "golden" / "tokenizers"
NAMES = ("bert", "bert_json", "distilbert_cased", "gpt2", "roberta", "bart", "t5", "llama", "marian", "marian_separate")
SLOW = ("marian", "marian_separate")  # no spans, no windows

TEXTS = (
    "",
    " ",
    "Hello, world!",
    "  two  spaces \n new line\t and tab ",
    "naïve café Ünïcode ﬁ ½ ß",
    "中文字符 日本語 한국어",
    "שלום עולם مرحبا",
    "emoji 😀👩\u200d👧 🏳️\u200d🌈",
    "a\x00b\x1b\u200b\ufeff\u2028 z\u00a0y",
    "don't 's ' s n't . , ! ?",
    "## #version # # ###",
    "<s> </s> <unk> <pad> x<mask> [CLS] y[SEP] [MASK] <|endoftext|> <extra_id_0> <tool> <call>",
    ">>fra<< Bonjour le monde",
    ">>deu<<hi >>fra<<",
    "1234567890 3.14",
    "▁under ▁ x",
    "The assert statement is a convenient way to insert debugging assertions. " * 3,
    "tail   ",
)
FIRST, SECOND = list(TEXTS[2:6]), list(TEXTS[4:8])
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is 1 < 2 & 'so' on?"},
    {"role": "assistant", "content": "Yes. "},
]
ATTRIBUTES = (
    "vocab_size",
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "all_special_tokens",
    "all_special_ids",
    "pad_token_id",
    "eos_token_id",
    "bos_token",
    "cls_token",
    "sep_token_id",
    "mask_token_id",
    "unk_token_id",
)


def lengths():
    """Every setting of padding and truncation that is worth a question."""
    for padding in (False, True, "max_length"):
        for truncation in (None, True, "only_first", "only_second"):
            for max_length in (None, 7, 16):
                if padding == "max_length" and max_length is None:
                    continue
                yield {"padding": padding, "truncation": truncation, "max_length": max_length}
    for more in ({"pad_to_multiple_of": 8}, {"padding_side": "left"}, {"padding_side": "right"}, {"stride": 2}):
        yield {"padding": True, "truncation": True, "max_length": 16, **more}
        yield {"padding": True, "truncation": "only_second", "max_length": 16, **more}
        yield {"padding": True, **more}


def questions(name):
    """Yield (kind, argument, options) for a folder."""
    for attribute in ATTRIBUTES:
        yield "attribute", attribute, {}
    yield "special", False, {}
    yield "special", True, {}
    spans = {"return_special_tokens_mask": True, "return_length": True}
    if name not in SLOW:
        spans |= {"return_offsets_mapping": True, "return_token_type_ids": True}
    for text in TEXTS:
        yield "call", [text], {}
        yield "call", [text, "a second text"], {}
        yield "call", [text], spans if name not in SLOW else {}
        yield "call", [text], {"add_special_tokens": False}
        yield "tokenize", text, {}
        yield "decode", text, {}
        yield "decode", text, {"skip_special_tokens": True}
    windows = {"return_overflowing_tokens": True, "return_offsets_mapping": True}
    for options in lengths():
        yield "call", [FIRST], options
        yield "call", [FIRST, SECOND], options
        if name not in SLOW and options.get("max_length") == 16:
            yield "call", [TEXTS[16]], options | windows
            yield "call", [FIRST, SECOND], options | windows
    yield "call", [TEXTS[2], ""], {}
    yield "call", [[TEXTS[2]], [""]], {}
    yield "call", [[["Hello", "world's"], ["a"]]], {"is_split_into_words": True}
    for options in ({}, {"padding": "max_length", "max_length": 60}, {"pad_to_multiple_of": 8, "padding_side": "left"}):
        yield "pad", FIRST, options
    yield "target", [FIRST, SECOND], {}
    yield "tokens", ["the", "no such token", "</s>", "[SEP]"], {}
    if name == "llama":
        for options in ({}, {"add_generation_prompt": True}, {"tokenize": False}):
            yield "chat", CHAT, options
        yield "chat", CHAT, {"tokenize": False, "continue_final_message": True}
        yield "chat", [CHAT, CHAT[1:]], {"padding": True}


def prepare(tokenizer):
    """Give the families without a padding token one, as their users do."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def answer(tokenizer, kind, argument, options):
    """Return what a tokenizer answers, in JSON's types; ["error"] where it refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _plain(_ask(tokenizer, kind, argument, options))
    except Exception:
        return ["error"]
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the tokenizers package
            raise
        return ["error"]


def _ask(tokenizer, kind, argument, options):
    if kind == "attribute":
        return getattr(tokenizer, argument)
    if kind == "special":
        return tokenizer.num_special_tokens_to_add(pair=argument)
    if kind == "call":
        return dict(tokenizer(*argument, **options))
    if kind == "tokenize":
        return tokenizer.tokenize(argument)
    if kind == "decode":
        return tokenizer.decode(tokenizer(argument)["input_ids"], **options)
    if kind == "pad":
        return dict(tokenizer.pad([dict(tokenizer(text)) for text in argument], **options))
    if kind == "target":
        return dict(tokenizer(argument[0], text_target=argument[1]))
    if kind == "tokens":
        ids = tokenizer.convert_tokens_to_ids(argument)
        tokens = tokenizer.convert_ids_to_tokens([0, 5, 7])
        return [ids, tokens, tokenizer.convert_tokens_to_string(tokens)]
    shown = tokenizer.apply_chat_template(argument, **options)
    return shown if options.get("tokenize") is False else dict(shown)


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
