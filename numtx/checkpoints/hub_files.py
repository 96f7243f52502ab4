"""Which files of a repository of the hub are needed: never twins of the weights for other frameworks."""

from typing import NamedTuple


class Wanted(NamedTuple):
    """Which files of a repository are fetched.

    Attributes
    ----------
    needed : tuple of str
        Files that must be there.
    optional : tuple of str
        Files that may be lacking.
    first_of : tuple of tuples of str
        Sets of files, the best first: of the first set whose first file is there, all that is there. Of an index of
        shards also the shards that it names.
    must : bool
        Whether one of the sets must be there.
    """

    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    first_of: tuple[tuple[str, ...], ...] = ()
    must: bool = True


CONFIG_FILES = (Wanted(("config.json",)),)
MODEL_FILES = (
    Wanted(
        ("config.json",),
        ("generation_config.json",),
        (
            ("model.safetensors",),
            ("model.safetensors.index.json",),
            ("pytorch_model.bin",),
            ("pytorch_model.bin.index.json",),
        ),
    ),
)
# A tokenizer's files, the best form first; all files of a form must be there.
TOKENIZER_FORMS = (
    ("source.spm", "target.spm", "vocab.json"),
    ("tokenizer.json",),
    ("spiece.model",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
)
# What else is fetched where a form's first file is there: the rest of it may be lacking, or the family another.
_BESIDE = {"source.spm": ("target_vocab.json", "tokenizer.json"), "vocab.json": ("vocab.txt",)}
TOKENIZER_FILES = (
    Wanted(
        (),
        (
            "config.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "chat_template.jinja",
            "chat_template.json",
        ),
        tuple((*form, *_BESIDE.get(form[0], ())) for form in TOKENIZER_FORMS),
    ),
)
# A model with its tokenizer, if there is one.
ALL_FILES = (*MODEL_FILES, TOKENIZER_FILES[0]._replace(must=False))
