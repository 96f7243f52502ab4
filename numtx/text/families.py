"""What a tokenizer's family takes for granted where the folder does not say it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """Defaults of one family of tokenizers.

    Parameters
    ----------
    special : dict
        Named special tokens.
    model_input_names : tuple of str
        What a call returns by default.
    padding_side : str
    settings : dict
        Entries of ``tokenizer_config.json`` that building from plain vocabulary files reads.
    model_max_length : int, optional
    """

    special: dict[str, str] = field(default_factory=dict)
    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    padding_side: str = "right"
    settings: dict[str, Any] = field(default_factory=dict)
    model_max_length: int | None = None


_BERT = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_GPT2 = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
_WORD_PIECE = {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None}

FAMILIES = {
    "bert": Family(_BERT, ("input_ids", "token_type_ids", "attention_mask"), settings=_WORD_PIECE),
    "distilbert": Family(_BERT, settings=_WORD_PIECE),
    "roberta": Family(_ROBERTA, settings={"add_prefix_space": False, "trim_offsets": True}),
    "bart": Family(_ROBERTA, settings={"add_prefix_space": False, "trim_offsets": True}),
    "gpt2": Family(_GPT2, settings={"add_prefix_space": False}),
    "t5": Family({"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}, settings={"extra_ids": 100}),
    "llama": Family(
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        padding_side="left",
        settings={"add_bos_token": True, "add_eos_token": False, "add_prefix_space": True, "legacy": False},
    ),
    "marian": Family({"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}, model_max_length=512),
}

_OF_CLASS = {
    "BertTokenizer": "bert",
    "DistilBertTokenizer": "distilbert",
    "RobertaTokenizer": "roberta",
    "BartTokenizer": "bart",
    "GPT2Tokenizer": "gpt2",
    "T5Tokenizer": "t5",
    "LlamaTokenizer": "llama",
    "MarianTokenizer": "marian",
}


def family_name(tokenizer_class: str | None, model_type: str | None) -> str | None:
    """Return which family a folder is of, or None: the class of its tokenizer counts, else the model's type.

    Examples
    --------
    >>> family_name("BertTokenizerFast", None), family_name(None, "t5"), family_name("PreTrainedTokenizerFast", "bert")
    ('bert', 't5', None)
    """
    if tokenizer_class:
        return _OF_CLASS.get(tokenizer_class.removesuffix("Fast"))
    return model_type if model_type in FAMILIES else None
