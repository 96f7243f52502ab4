"""Opens the model of a pipeline, and refuses one that lacks the head that the task needs."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numtx.models import auto
from numtx.models.config import PretrainedConfig
from numtx.models.files import open_config, open_model
from numtx.models.opening import classes_of, with_base
from numtx.models.pretrained import PretrainedModel

_WRITING = ("seq2seq-lm", "causal-lm")


def open_with_head(
    task: str, heads: tuple[str, ...], name_or_folder: Any, *, dtype: Any, config: Any = None, **hub: Any
) -> Any:
    """Open a folder, a GGUF file or a name on the hub as a model with a head; an adapter's folder over its base.

    Parameters
    ----------
    task : str
        For errors.
    heads : tuple of str
        Names of heads as in `numtx.models.auto.FAMILIES`; the first that the family has is meant.
    name_or_folder : str or path
    dtype : np.float32 or np.float64
    config : PretrainedConfig, folder or name, optional
        What counts in place of the model's own `config.json`.
    **hub
        As in `numtx.checkpoints.resolve`.

    Raises
    ------
    ValueError
        If the family has no such head, or its weights are not in the file: they would have to be drawn.
    """
    base, adapter = with_base("pipeline", name_or_folder)
    checkpoint, where = open_model(base, **hub)
    entries = checkpoint.config if config is None else _entries(config, hub)
    said = entries.get("architectures")
    names = [str(name) for name in said] if isinstance(said, list) else []
    found = ", ".join(names) or f"a model of type {entries.get('model_type')!r}"
    _, _, classes = auto.family_of("pipeline", entries)
    head = next((head for head in heads if head in classes), None)
    if head is None:
        able = ", ".join(kind for kind, (_, _, theirs) in auto.FAMILIES.items() if set(heads) & set(theirs))
        raise ValueError(
            f"pipeline: {task} expects a model with a head for {' or '.join(heads)} (families {able}), got {found} in"
            f" {where}{_advice(heads, names)}"
        )
    untrained = (
        f"pipeline: {task} expects a model with a trained head for {head} ({classes[head]}), got {found} in {where},"
        f" whose weights have none{_advice(heads, names)}"
    )
    if classes[head] not in names and _advice(heads, names):
        raise ValueError(untrained)  # whatever the arrays of the other class are called
    openers: list[type[auto.AutoModel]] = [auto.AutoModel, *auto.AutoModel.__subclasses__()]
    kind = next(opener.of(entries) for opener in openers if opener.task == head)
    with warnings.catch_warnings():
        # A head, or a pooler, that the file lacks is drawn with a warning. An answer of drawn weights would be noise;
        # of a body alone the hidden states are used, which no such part bears on.
        warnings.filterwarnings("ignore" if head == "base" else "error", message=".*drawn anew", category=UserWarning)
        try:
            read = kind.config_class.from_dict(entries)
            read = read.changed(**classes_of(kind, read, adapter))
            model = kind.from_arrays(read, checkpoint.arrays, dtype=dtype, where=where, filled_later=adapter)
        except UserWarning:
            raise ValueError(untrained) from None
    return model.load_adapter(name_or_folder) if adapter else model


def require_head(task: str, heads: tuple[str, ...], model: Any) -> None:
    """Require a model in memory to have one of the heads.

    Raises
    ------
    ValueError
        If it has another or none; the message says which class it is.
    """
    wanted = [classes[head] for _, _, classes in auto.FAMILIES.values() for head in heads if head in classes]
    names = {kind.__name__ for kind in type(model).__mro__}
    if isinstance(model, PretrainedModel) and ("base" in heads or names & set(wanted)):
        return
    raise ValueError(
        f"pipeline: {task} expects a model with a head for {' or '.join(heads)} ({', '.join(wanted)}), got"
        f" {type(model).__name__}{_advice(heads, names)}"
    )


def _entries(config: Any, hub: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a `config.json` that was given in place of the model's own."""
    if is_name(config):
        return open_config(config, **hub)
    if isinstance(config, PretrainedConfig):
        return config.to_dict()
    raise ValueError(f"pipeline: expected config as a config of numtx, a folder or a name, got {type(config).__name__}")


def _advice(heads: Sequence[str], found: Iterable[str]) -> str:
    """Return what helps where a model that writes was to find answers in a text, or nothing."""
    writers = {kinds[head] for _, _, kinds in auto.FAMILIES.values() for head in _WRITING if head in kinds}
    if "question-answering" in heads and writers & set(found):
        return "; mode='open' or mode='closed' has it write answers"
    return ""


def is_name(model: Any) -> bool:
    """Return whether this names a model or a tokenizer, and is not one itself."""
    return isinstance(model, (str, os.PathLike))
