"""Text: tokenizers that Transformers opens too, corpora, and batches that depend on nothing but seed and step."""

from numtx.text.batches import TokenBatches, windows
from numtx.text.corpus import python_topics, read_corpus, split_corpus
from numtx.text.tokenizers import ByteTokenizer, CharTokenizer, TextDecoder, Tokenizer, load_tokenizer

__all__ = [
    "ByteTokenizer",
    "CharTokenizer",
    "TextDecoder",
    "TokenBatches",
    "Tokenizer",
    "load_tokenizer",
    "python_topics",
    "read_corpus",
    "split_corpus",
    "windows",
]
