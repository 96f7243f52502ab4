"""Text to text: summaries, translations, and whatever else an encoder-decoder was trained to answer."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from numtx.pipelines.base import Piece
from numtx.pipelines.generating import GeneratingPipeline, Writing


@dataclass(frozen=True)
class Options:
    """The settings of a call beside those of `generate`, with their defaults."""

    return_tensors: bool | None = None
    return_text: bool | None = None
    clean_up_tokenization_spaces: bool = False
    truncation: bool | str = False
    stop_sequence: str | None = None
    src_lang: str | None = None
    tgt_lang: str | None = None


@dataclass(frozen=True)
class Chosen:
    """What a call asks for."""

    options: Options
    writing: Writing


class Text2TextGenerationPipeline(GeneratingPipeline):
    """Answers a text with a text: ``[{"generated_text": ...}]``, one dict for each of `num_return_sequences`.

    A list of texts has a list of dicts, or of lists of them where one text has several answers. What the model's config
    names as the task's `prefix` is put before each text.

    Parameters
    ----------
    return_tensors : bool
        The ids, (T,) arrays, as ``generated_token_ids`` instead of text.
    clean_up_tokenization_spaces : bool
        Take out spaces before punctuation.
    truncation : bool or str
        As in the tokenizer's call; without it a text over the model's context is an error.
    stop_sequence : str
        Its first token ends an answer, as in Transformers; for a string that ends it see `stop_strings`.
    seed, rng, streamer, generation_config, **settings
        As in the model's `generate`. Four beams and 256 new tokens, if nobody says otherwise. Where chance decides, a
        seed gives the same texts for the same list and `batch_size` alone.
    """

    name = "text2text-generation"
    heads = ("seq2seq-lm",)
    generation_defaults: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 256, "num_beams": 4}
    answer_name: ClassVar[str] = "generated"
    own_options: ClassVar[tuple[str, ...]] = tuple(one.name for one in fields(Options))[:-2]

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """Answer a text, or many of them; see `Pipeline.answer`."""
        answers = self.answer(inputs, **settings)
        if isinstance(inputs, (list, tuple)) and all(len(one) == 1 for one in answers):
            return [one[0] for one in answers]
        return answers

    def decide(self, **settings: Any) -> Chosen:
        options = Options(**{name: settings.pop(name) for name in self.own_options if name in settings})
        if options.stop_sequence is not None:
            ids = self.tokenizer.encode(options.stop_sequence, add_special_tokens=False)
            if len(ids) != 1:
                warnings.warn(
                    f"{type(self).__name__}: of the {len(ids)} tokens in stop_sequence {options.stop_sequence!r} the"
                    " first alone ends an answer (stop_strings takes it whole)",
                    stacklevel=4,
                )
            settings["eos_token_id"] = ids[:1]
        return Chosen(options, self.writing(settings, self.own_options))

    def preprocess(self, text: Any, chosen: Chosen) -> list[Piece]:
        if not isinstance(text, str):
            raise ValueError(f"{type(self).__name__}: expected a text, got {type(text).__name__}")
        return [Piece(self.encoded(self.own_prefix + text, chosen.options.truncation))]

    def said_to_cut(self, options: Mapping[str, Any]) -> str:
        return "truncation=True"

    def encoded(self, text: str, truncation: bool | str) -> dict[str, list[int]]:
        """Return the ids of a source and their mask."""
        lengths: dict[str, Any] = {"truncation": truncation}
        context = self.model.config.context
        if truncation not in (False, None, "do_not_truncate") and context is not None:
            lengths["max_length"] = min(context, self.tokenizer.model_max_length)
        encoded = self.tokenizer(text, **self.quiet, **lengths)
        return {name: encoded[name] for name in ("input_ids", "attention_mask") if name in encoded}

    def forward(self, rows: Sequence[Mapping[str, Any]], chosen: Chosen) -> list[np.ndarray]:
        return self.write(rows, chosen.writing)

    def postprocess(self, pieces: Sequence[Piece], results: Sequence[np.ndarray], chosen: Chosen) -> list[dict]:
        if chosen.options.return_tensors:
            return [{f"{self.answer_name}_token_ids": ids} for ids in results[0]]
        clean = bool(chosen.options.clean_up_tokenization_spaces)
        return [{f"{self.answer_name}_text": self.text_of(ids, clean=clean)} for ids in results[0]]


class SummarizationPipeline(Text2TextGenerationPipeline):
    """Says shorter what a text says: ``[{"summary_text": ...}]``; its settings are those of text2text-generation."""

    name = "summarization"
    answer_name = "summary"


class TranslationPipeline(Text2TextGenerationPipeline):
    """Translates: ``[{"translation_text": ...}]``; its settings are those of text2text-generation.

    The task is translation_xx_to_yy, whose prefix the model's config names, or translation for a model of one pair.

    Parameters
    ----------
    src_lang, tgt_lang : str
        Accepted; they bear on none of the families that are here, whose language the prefix or the text says.
    """

    name = "translation"
    answer_name = "translation"
    own_options: ClassVar[tuple[str, ...]] = tuple(one.name for one in fields(Options))
