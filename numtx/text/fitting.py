"""Whether a tokenizer and a model fit together."""

from typing import Any


def require_fit(owner: str, tokenizer: Any, model: Any) -> None:
    """Require every id that a tokenizer gives to have a row in the model's embedding. Spare rows are usual.

    Parameters
    ----------
    owner : str
        For errors.
    tokenizer : PretrainedTokenizer
    model : PretrainedModel
        Its config's `vocab_size` counts, and its `vocabulary` where the target's side has its own.

    Raises
    ------
    ValueError
        If there is none for the largest.
    """
    config = model.config
    sides = [("vocab_size", tokenizer.get_vocab, config.vocab_size)]
    if getattr(tokenizer, "separate_vocabs", False):
        sides.append(("decoder_vocab_size", tokenizer.get_target_vocab, config.vocabulary))
    for setting, vocabulary, rows in sides:
        largest, token = max(((index, token) for token, index in vocabulary().items()), default=(-1, ""))
        if largest >= rows:
            raise ValueError(
                f"{owner}: expected a tokenizer with ids below {setting} = {rows} of {type(model).__name__}, got id "
                f"{largest} ({token!r}) in that of '{tokenizer.name_or_path}': is it this model's?"
            )
