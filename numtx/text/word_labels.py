"""Token classification: the labels of words become labels of tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numtx.text.labels import IGNORED


def token_labels(
    word_ids: Sequence[int | None], labels: Sequence[int], *, continuation: Callable[[int], int] | None = None
) -> list[int]:
    """Return a label for each token: its word's at the first token of a word, -100 at further ones and special ones.

    Parameters
    ----------
    word_ids : sequence of int or None
        The word of each token, of `BatchEncoding.word_ids`.
    labels : sequence of int
        One a word. What truncation has cut off is not looked at.
    continuation : callable, optional
        What the further tokens of a word are labelled with, given the word's label: the same (``lambda label: label``),
        or I-X for B-X.

    Raises
    ------
    ValueError
        If a word has no label.

    Examples
    --------
    >>> token_labels([None, 0, 1, 1, 2, None], [3, 0, 5])
    [-100, 3, 0, -100, 5, -100]
    >>> token_labels([None, 0, 1, 1, 2, None], [3, 0, 5], continuation=lambda label: label)
    [-100, 3, 0, 0, 5, -100]
    """
    made, before = [], None
    for word in word_ids:
        if word is not None and word >= len(labels):
            raise ValueError(f"token_labels: expected a label for each word, got {len(labels)}, and word {word}")
        if word is None:
            made.append(IGNORED)
        elif word != before:
            made.append(int(labels[word]))
        else:
            made.append(IGNORED if continuation is None else int(continuation(labels[word])))
        before = word
    return made


def require_words_apart(owner: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that reads a list of words as one: no space stands before any, as in a plain byte-level BPE.

    Its tokens inside a word and at its beginning are others, so words would be read as what they are not.
    """
    ids = tokenizer(["a", "a"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
    if len(tokenizer.decode(ids).split()) == 1:
        raise ValueError(
            f"{owner}: expected a tokenizer that keeps words apart for lists of words, got one that joins them "
            "(open it with add_prefix_space=True, which puts a space before each)"
        )


def encode_words(
    columns: Mapping[str, Any],
    tokenizer: Any,
    *,
    words: str = "tokens",
    labels: str = "labels",
    max_length: int | None = None,
    continuation: Callable[[int], int] | None = None,
) -> dict[str, Any]:
    """Encode rows of words with their labels, for `Dataset.map` with ``batched=True``.

    Parameters
    ----------
    columns : dict of lists
        ``{words: lists of str, labels: lists of int}``, one label a word.
    tokenizer : PretrainedTokenizer
        One of the package ``tokenizers``, which knows which word a token is of.
    words, labels : str
        The columns' names.
    max_length : int, optional
        Default: the model's own limit.
    continuation : callable, optional
        As in `token_labels`.

    Returns
    -------
    dict of lists
        What the tokenizer returns, and ``labels``.

    Raises
    ------
    ValueError
        If a column is missing, a row has more words than labels, or the tokenizer knows no words or joins them.
    """
    for name in (words, labels):
        if name not in columns:
            there = ", ".join(columns)
            raise ValueError(f"encode_words: expected a column {name}, got a dataset with the columns {there}")
    if not getattr(tokenizer, "is_fast", False):
        got = type(tokenizer).__name__
        raise ValueError(f"encode_words: expected a tokenizer of the tokenizers package, got {got}")
    for row, (text, given) in enumerate(zip(columns[words], columns[labels], strict=True)):
        if isinstance(text, str) or len(text) != len(given):
            got = "a text" if isinstance(text, str) else f"{len(given)} labels for {len(text)} words"
            raise ValueError(f"encode_words: expected a list of words and a label for each in row {row}, got {got}")
    require_words_apart("encode_words", tokenizer)
    encoded = tokenizer(list(columns[words]), is_split_into_words=True, truncation=True, max_length=max_length)
    made = [
        token_labels(encoded.word_ids(row), given, continuation=continuation)
        for row, given in enumerate(columns[labels])
    ]
    return {**encoded, "labels": made}
