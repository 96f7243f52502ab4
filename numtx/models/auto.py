"""Auto classes: the family and its class are found from the `model_type` of a `config.json`."""

import importlib
from typing import Any, ClassVar

import numpy as np

from numtx.models.config import PretrainedConfig, shortened
from numtx.models.files import open_config
from numtx.models.opening import known_settings, open_pretrained, split_settings
from numtx.models.pretrained import PretrainedModel

# model_type -> its module, the name of its config, and of its class for each task.
FAMILIES: dict[str, tuple[str, str, dict[str, str]]] = {
    "bart": (
        "bart",
        "BartConfig",
        {
            "base": "BartModel",
            "seq2seq-lm": "BartForConditionalGeneration",
            "sequence-classification": "BartForSequenceClassification",
            "question-answering": "BartForQuestionAnswering",
        },
    ),
    "bert": (
        "bert",
        "BertConfig",
        {
            "base": "BertModel",
            "masked-lm": "BertForMaskedLM",
            "sequence-classification": "BertForSequenceClassification",
            "token-classification": "BertForTokenClassification",
            "question-answering": "BertForQuestionAnswering",
        },
    ),
    "distilbert": (
        "distilbert",
        "DistilBertConfig",
        {
            "base": "DistilBertModel",
            "masked-lm": "DistilBertForMaskedLM",
            "sequence-classification": "DistilBertForSequenceClassification",
            "token-classification": "DistilBertForTokenClassification",
            "question-answering": "DistilBertForQuestionAnswering",
        },
    ),
    "gpt2": (
        "gpt2",
        "GPT2Config",
        {
            "base": "GPT2Model",
            "causal-lm": "GPT2LMHeadModel",
            "sequence-classification": "GPT2ForSequenceClassification",
            "token-classification": "GPT2ForTokenClassification",
            "question-answering": "GPT2ForQuestionAnswering",
        },
    ),
    "llama": (
        "llama",
        "LlamaConfig",
        {
            "base": "LlamaModel",
            "causal-lm": "LlamaForCausalLM",
            "sequence-classification": "LlamaForSequenceClassification",
            "token-classification": "LlamaForTokenClassification",
            "question-answering": "LlamaForQuestionAnswering",
        },
    ),
    "marian": ("marian", "MarianConfig", {"base": "MarianModel", "seq2seq-lm": "MarianMTModel"}),
    "roberta": (
        "roberta",
        "RobertaConfig",
        {
            "base": "RobertaModel",
            "masked-lm": "RobertaForMaskedLM",
            "sequence-classification": "RobertaForSequenceClassification",
            "token-classification": "RobertaForTokenClassification",
            "question-answering": "RobertaForQuestionAnswering",
        },
    ),
    "t5": (
        "t5",
        "T5Config",
        {
            "base": "T5Model",
            "seq2seq-lm": "T5ForConditionalGeneration",
            "sequence-classification": "T5ForSequenceClassification",
            "token-classification": "T5ForTokenClassification",
            "question-answering": "T5ForQuestionAnswering",
        },
    ),
}


def family_of(owner: str, entries: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """Return the family that the entries of a `config.json` name."""
    kind = entries.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"{owner}: expected a model_type of {', '.join(FAMILIES)}, got {shortened(kind)}")
    return FAMILIES[kind]


def named_class(entries: dict[str, Any]) -> type[PretrainedModel] | None:
    """Return the class that the entries of a `config.json` name in `architectures`, None where there is none here."""
    module, _, classes = family_of("AutoModel", entries)
    named = entries.get("architectures") or [None]
    return _load(module, named[0]) if named[0] in classes.values() else None


def _load(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"numtx.models.{module}"), name)


class AutoConfig:
    """The settings of a model of any family: `AutoConfig.from_pretrained(name_or_folder)`."""

    @classmethod
    def from_pretrained(cls, name_or_folder, **settings) -> PretrainedConfig:
        """Read the `config.json` of a folder, or of a name on the hub; of an adapter's folder that of its base.

        `settings` as in `AutoModel.from_pretrained`: those of the hub, and those to be other than the file says.
        """
        hub, changes = split_settings(settings)
        config = cls.from_dict(open_config(name_or_folder, **hub))
        known_settings(cls.__name__, type(config), changes)
        return config.changed(**changes)

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> PretrainedConfig:
        """Make the config that the entries of a `config.json` describe.

        Examples
        --------
        >>> sizes = {"vocab_size": 5, "n_positions": 8, "n_embd": 4, "n_layer": 1, "n_head": 2}
        >>> others = {"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
        >>> AutoConfig.from_dict({"model_type": "gpt2", **sizes, **others}).n_embd
        4
        """
        module, config, _ = family_of(cls.__name__, entries)
        return _load(module, config).from_dict(entries)


class AutoModel:
    """The body of a model of any family, without head: `AutoModel.from_pretrained(name_or_folder)`.

    Examples
    --------
    >>> from numtx.models import BertConfig
    >>> config = BertConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> type(AutoModel.from_config(config)).__name__
    'BertModel'
    """

    task: ClassVar[str] = "base"

    @classmethod
    def from_pretrained(cls, name_or_folder, *, config=None, dtype=np.float32, rng=0, **settings) -> PretrainedModel:
        """Open a model; see `PretrainedModel.from_pretrained`."""
        return open_pretrained(cls.of, cls.__name__, name_or_folder, config, settings, dtype=dtype, rng=rng)

    @classmethod
    def from_config(cls, config: PretrainedConfig, *, rng=None, dtype=np.float32) -> PretrainedModel:
        """Make a model with drawn weights."""
        return cls.of({"model_type": config.model_type})(config, rng=rng, dtype=dtype)  # type: ignore[call-arg]

    @classmethod
    def of(cls, entries: dict[str, Any]) -> type[PretrainedModel]:
        """Return the class for the entries of a `config.json`."""
        module, _, classes = family_of(cls.__name__, entries)
        if cls.task not in classes:
            able = [kind for kind, (_, _, tasks) in FAMILIES.items() if cls.task in tasks]
            raise ValueError(
                f"{cls.__name__}: expected a family with this head ({', '.join(able)}), got {entries['model_type']!r}"
            )
        return _load(module, classes[cls.task])


class AutoModelForCausalLM(AutoModel):
    """A decoder-only language model of any family.

    Examples
    --------
    >>> from numtx.models import GPT2Config
    >>> config = GPT2Config(vocab_size=5, n_embd=8, n_layer=1, n_head=2)
    >>> type(AutoModelForCausalLM.from_config(config)).__name__
    'GPT2LMHeadModel'
    """

    task = "causal-lm"


class AutoModelForMaskedLM(AutoModel):
    """A masked language model of any family.

    Examples
    --------
    >>> from numtx.models import BertConfig
    >>> config = BertConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> type(AutoModelForMaskedLM.from_config(config)).__name__
    'BertForMaskedLM'
    """

    task = "masked-lm"


class AutoModelForSeq2SeqLM(AutoModel):
    """An encoder-decoder language model of any family.

    Examples
    --------
    >>> from numtx.models import T5Config
    >>> config = T5Config(vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    >>> type(AutoModelForSeq2SeqLM.from_config(config)).__name__
    'T5ForConditionalGeneration'
    """

    task = "seq2seq-lm"


class AutoModelForSequenceClassification(AutoModel):
    """A classifier of sequences, or a regression, of any family.

    Examples
    --------
    >>> from numtx.models import BertConfig
    >>> config = BertConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> type(AutoModelForSequenceClassification.from_config(config)).__name__
    'BertForSequenceClassification'
    """

    task = "sequence-classification"


class AutoModelForTokenClassification(AutoModel):
    """A classifier of tokens of any family.

    Examples
    --------
    >>> from numtx.models import BertConfig
    >>> config = BertConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> type(AutoModelForTokenClassification.from_config(config)).__name__
    'BertForTokenClassification'
    """

    task = "token-classification"


class AutoModelForQuestionAnswering(AutoModel):
    """What marks the span of an answer, of any family.

    Examples
    --------
    >>> from numtx.models import BertConfig
    >>> config = BertConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> type(AutoModelForQuestionAnswering.from_config(config)).__name__
    'BertForQuestionAnswering'
    """

    task = "question-answering"
