"""numtx: the transformer you can check. Every component, forward and hand-derived backward, in plain NumPy.

The maths stands in `numtx.functional`, the components in `numtx.nn`, whole models in `numtx.models`, the loop that
trains them in `numtx.training`, and what checks gradients, yours too, in `numtx.testing`.
"""

import importlib

from numtx._version import __version__

# Loaded when first asked for, so that `import numtx` costs next to nothing.
_ROOMS = (
    "checkpoints",
    "functional",
    "generation",
    "metrics",
    "models",
    "nn",
    "pipelines",
    "testing",
    "text",
    "training",
)
_NAMES = {
    "AutoConfig": "models.auto",
    "AutoModel": "models.auto",
    "AutoModelForCausalLM": "models.auto",
    "AutoModelForMaskedLM": "models.auto",
    "AutoModelForQuestionAnswering": "models.auto",
    "AutoModelForSeq2SeqLM": "models.auto",
    "AutoModelForSequenceClassification": "models.auto",
    "AutoModelForTokenClassification": "models.auto",
    "AutoTokenizer": "text",
    "DataCollatorForLanguageModeling": "text",
    "DataCollatorForSeq2Seq": "text",
    "DataCollatorForTokenClassification": "text",
    "DataCollatorWithPadding": "text",
    "Dataset": "text",
    "DecoderOnlyTransformer": "models",
    "EarlyStoppingCallback": "training",
    "EncoderDecoderTransformer": "models",
    "EncoderOnlyTransformer": "models",
    "GPT2Config": "models",
    "GPT2LMHeadModel": "models",
    "GenerationConfig": "generation",
    "LoraConfig": "models",
    "Seq2SeqTrainer": "training",
    "Seq2SeqTrainingArguments": "training",
    "Trainer": "training",
    "TrainerCallback": "training",
    "TrainingArguments": "training",
    "Transformer": "models",
    "default_data_collator": "text",
    "get_num_threads": "functional.threads",
    "load_run": "training",
    "pipeline": "pipelines",
    "set_num_threads": "functional.threads",
    "trace": "nn",
}

__all__ = ["__version__", *_NAMES, *_ROOMS]


def __getattr__(name):
    if name in _ROOMS:
        return importlib.import_module(f"numtx.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"numtx.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'numtx' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
