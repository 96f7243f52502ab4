"""Models that write: the settings of `generate`, and going on after a prompt."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from numtx import generation

SAMPLING = tuple(field.name for field in fields(generation.Sampler))


def writing_options(component, settings, *, max_new_tokens, eos_token_id):
    """Turn what the user of `component` said into the settings of `generation.stream`.

    Parameters
    ----------
    component : str
        Who refuses what is unknown.
    settings : dict
        max_new_tokens, seed, eos_token_id, and those of `generation.Sampler`.
    max_new_tokens, eos_token_id
        What holds where nothing is said. None for the end token counts as nothing said; () means that there is none.

    Examples
    --------
    >>> writing_options("Model", {"top_k": 5}, max_new_tokens=20, eos_token_id=2)["sampler"].top_k
    5
    """
    known = ("max_new_tokens", "seed", "eos_token_id", *SAMPLING)
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"{component}.generate: expected the settings {', '.join(known)}, got {', '.join(unknown)}")
    said = settings.get("eos_token_id")
    return {
        "max_new_tokens": settings.get("max_new_tokens", max_new_tokens),
        "sampler": generation.Sampler(**{name: settings[name] for name in SAMPLING if name in settings}),
        "rng": np.random.default_rng(settings.get("seed")),
        "eos_token_id": eos_token_id if said is None else said,
    }


class Streams:
    """What a decoder-only model has besides its forward: it goes on after a prompt, sliding over its context.

    The model has a `config` with `context` and `eos_token_id`, and `_decoding`, which gives a fresh step as
    `numtx.generation.stream` wants it.
    """

    config: Any
    _decoding: Any

    def stream(self, input_ids, **settings) -> Iterator[np.ndarray]:
        """Yield the next id of each row, (B,), one step at a time.

        Parameters
        ----------
        input_ids : (B, T) integer array
            All rows of one length, without padding. Of a prompt longer than the context only the end is read, and a
            text that grows over it slides.
        max_new_tokens : int
            20 if nothing is said.
        do_sample, temperature, top_k, top_p
            How the next id is chosen; see `generation.Sampler`. Default: the likeliest.
        seed : int, np.random.Generator or None
            For sampling.
        eos_token_id : int, several, or None
            Where a row ends. None: that of the config; (): nowhere.

        Raises
        ------
        ValueError
            If a setting is out of range or none of these, or the ids are no integers (B, T) of the vocabulary.
        """
        return generation.stream(self._decoding, input_ids, **self._options(settings))

    def _options(self, settings):
        """Return the settings of `generate` as those of `generation.stream`."""
        name, config = type(self).__name__, self.config
        said = writing_options(name, settings, max_new_tokens=20, eos_token_id=config.eos_token_id)
        return {**said, "context": config.context}


class WritesOn(Streams):
    """`generate` of the small models that are made here, by the rules of `stream`."""

    def generate(self, input_ids, **settings) -> np.ndarray:
        """Write on after a prompt: ids (B, T) -> (B, T + new), the prompt included; the arguments are `stream`'s."""
        return generation.generate(self._decoding, input_ids, **self._options(settings))
