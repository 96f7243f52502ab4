"""Text: tokenizers, numtx's own and those of pretrained models, corpora, datasets, collators, and batches."""

from numtx.text.answer_spans import SpanAnswer, span_answers, span_features
from numtx.text.auto import AutoTokenizer
from numtx.text.batch_order import BatchOrder, collator_rng, length_grouped_indices, row_lengths
from numtx.text.batches import TokenBatches, windows
from numtx.text.blocks import group_texts
from numtx.text.collators import (
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    DefaultDataCollator,
    default_data_collator,
)
from numtx.text.corpus import python_topics, read_corpus, split_corpus
from numtx.text.data_files import read_csv, read_data, read_json_rows, read_text_rows
from numtx.text.datasets import Dataset, as_dataset
from numtx.text.encoding import BatchEncoding
from numtx.text.labels import check_labels, encode_labels
from numtx.text.lengths import EncodingOptions
from numtx.text.marian import MarianTokenizer
from numtx.text.masking import DataCollatorForLanguageModeling
from numtx.text.pretrained import PretrainedTokenizer
from numtx.text.splits import split_rows
from numtx.text.tokenizers import ByteTokenizer, CharTokenizer, TextDecoder, Tokenizer, load_tokenizer
from numtx.text.tokenizers_backend import TokenizersBackend
from numtx.text.word_labels import encode_words, token_labels

__all__ = [
    "AutoTokenizer",
    "BatchEncoding",
    "BatchOrder",
    "ByteTokenizer",
    "CharTokenizer",
    "DataCollatorForLanguageModeling",
    "DataCollatorForSeq2Seq",
    "DataCollatorForTokenClassification",
    "DataCollatorWithPadding",
    "Dataset",
    "DefaultDataCollator",
    "EncodingOptions",
    "MarianTokenizer",
    "PretrainedTokenizer",
    "SpanAnswer",
    "TextDecoder",
    "TokenBatches",
    "Tokenizer",
    "TokenizersBackend",
    "as_dataset",
    "check_labels",
    "collator_rng",
    "default_data_collator",
    "encode_labels",
    "encode_words",
    "group_texts",
    "length_grouped_indices",
    "load_tokenizer",
    "python_topics",
    "read_corpus",
    "read_csv",
    "read_data",
    "read_json_rows",
    "read_text_rows",
    "row_lengths",
    "span_answers",
    "span_features",
    "split_corpus",
    "split_rows",
    "token_labels",
    "windows",
]
