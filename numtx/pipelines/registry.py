"""The tasks by their names: the class that does each, and the model that Transformers 4 named for it."""

import importlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from numtx.functional.door import nearest


class Task(NamedTuple):
    """Where a task's pipeline stands, and its default model on the hub with the commit that is meant."""

    module: str
    pipeline: str
    model: str
    revision: str


ALIASES = {"ner": "token-classification", "sentiment-analysis": "text-classification"}
TASKS = {
    "feature-extraction": Task(
        "feature_extraction", "FeatureExtractionPipeline", "distilbert/distilbert-base-cased", "6ea8117"
    ),
    "fill-mask": Task("fill_mask", "FillMaskPipeline", "distilbert/distilroberta-base", "fb53ab8"),
    "question-answering": Task(
        "question_answering",
        "QuestionAnsweringPipeline",
        "distilbert/distilbert-base-cased-distilled-squad",
        "564e9b5",
    ),
    "summarization": Task("text2text_generation", "SummarizationPipeline", "sshleifer/distilbart-cnn-12-6", "a4f8f3e"),
    "text-classification": Task(
        "text_classification",
        "TextClassificationPipeline",
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
        "714eb0f",
    ),
    "text-generation": Task("text_generation", "TextGenerationPipeline", "openai-community/gpt2", "607a30d"),
    "text2text-generation": Task("text2text_generation", "Text2TextGenerationPipeline", "google-t5/t5-base", "a9723ea"),
    "token-classification": Task(
        "token_classification",
        "TokenClassificationPipeline",
        "dbmdz/bert-large-cased-finetuned-conll03-english",
        "4c53496",
    ),
    "translation": Task("text2text_generation", "TranslationPipeline", "google-t5/t5-base", "a9723ea"),
    "zero-shot-classification": Task(
        "zero_shot_classification", "ZeroShotClassificationPipeline", "facebook/bart-large-mnli", "d7645e1"
    ),
}
LANGUAGES = re.compile(r"translation_(?P<source>\w+)_to_(?P<target>\w+)", re.ASCII)
# The pairs of languages that the default model of translation was trained on.
_DEFAULT_PAIRS = ("translation_en_to_de", "translation_en_to_fr", "translation_en_to_ro")

# The end of the name of a model's class -> the task that a folder of this class is opened for.
_OF_CLASS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
    "ForQuestionAnswering": "question-answering",
    "ForConditionalGeneration": "text2text-generation",
    "MTModel": "translation",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "Model": "feature-extraction",
}


def task_name(name: str) -> str:
    """Return the entry of `TASKS` that a name means.

    Raises
    ------
    ValueError
        If there is none; the message lists those that there are, and the nearest.

    Examples
    --------
    >>> task_name("ner"), task_name("translation_en_to_fr")
    ('token-classification', 'translation')
    """
    known = (*TASKS, *ALIASES, "translation_xx_to_yy")
    if isinstance(name, str):
        if LANGUAGES.fullmatch(name) and name != "translation_xx_to_yy":
            return "translation"
        if (found := ALIASES.get(name, name)) in TASKS:
            return found
    if name == "translation_xx_to_yy":
        raise ValueError(
            "pipeline: expected languages in place of xx and yy in translation_xx_to_yy, as in translation_en_to_de"
        )
    near = nearest(str(name).lower().replace("_", "-"), known)
    raise ValueError(f"pipeline: expected a task of {', '.join(sorted(known))}, got {name!r}{near}")


def pipeline_class(task: str) -> Any:
    """Return the class of an entry of `TASKS`."""
    return getattr(importlib.import_module(f"numtx.pipelines.{TASKS[task].module}"), TASKS[task].pipeline)


def default_model(name: str, heads: Sequence[str] = ()) -> Task:
    """Return the entry of a task whose default model serves it.

    Parameters
    ----------
    name : str
    heads : sequence of str
        Those that the model may have. Questions that are answered in writing go to the model of text2text-generation.

    Raises
    ------
    ValueError
        If none does: translation has one for some pairs of languages alone.
    """
    if task_name(name) == "translation" and name not in _DEFAULT_PAIRS:
        pairs = ", ".join(_DEFAULT_PAIRS)
        raise ValueError(f"pipeline: {name} has no default model (those of {pairs} have): pass model=NAME_OR_FOLDER")
    writes = task_name(name) == "question-answering" and "seq2seq-lm" in heads
    return TASKS["text2text-generation" if writes else task_name(name)]


def task_of_class(architecture: str | None) -> str | None:
    """Return the task that a model of this class is made for, if its name says so.

    Examples
    --------
    >>> task_of_class("BertForMaskedLM"), task_of_class("GPT2LMHeadModel"), task_of_class(None)
    ('fill-mask', 'text-generation', None)
    """
    return next((task for end, task in _OF_CLASS.items() if (architecture or "").endswith(end)), None)
