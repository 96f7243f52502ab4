"""The settings of `generate`, for all models that write."""

from dataclasses import fields

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
