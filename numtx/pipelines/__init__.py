"""Text in, answer out: `pipeline(task, model)` opens a model with its tokenizer and does a task with it.

Tasks, arguments and answers are those of Transformers 4, the tasks that its next version removed among them.
"""

import importlib
import os
from typing import Any

from numtx.pipelines.accepted import SettingError, checking_settings, others, working
from numtx.pipelines.base import Piece, Pipeline
from numtx.pipelines.registry import ALIASES, TASKS, default_model, pipeline_class, task_name, task_of_class

__all__ = [
    "ALIASES",
    "TASKS",
    "Piece",
    "Pipeline",
    "SettingError",
    "pipeline",
    *sorted({task.pipeline for task in TASKS.values()}),
]


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    dtype: Any = None,
    **settings: Any,
) -> Any:
    """Open a model and its tokenizer, and return what does the task with them.

    Parameters
    ----------
    task : str, optional
        A key of `TASKS`, one of `ALIASES`, or translation_xx_to_yy. Default: what the model's class was made for.
    model : str, path or PretrainedModel, optional
        A folder, a GGUF file, a name on the hub, or a model. Default: the one that Transformers 4 names for the task.
    config : PretrainedConfig, str or path, optional
        For a model that is opened: what counts in place of its own `config.json`.
    tokenizer : str, path or PretrainedTokenizer, optional
        Default: the one that lies with the model.
    revision, token, cache_dir, local_files_only
        As in `numtx.checkpoints.resolve`.
    dtype : "auto", float32 or float64, of NumPy or PyTorch or as a text; `torch_dtype` is its older name
        Default, and "auto": float32, whatever the file holds.
    **settings
        `batch_size`, `progress` and the task's own, as its pipeline names them; a call may give others. Of what else
        Transformers takes, this is accepted and changes nothing: `use_fast`, `num_workers`, and
        ``device=None, -1 or "cpu"``, ``device_map="auto"``, ``framework="pt" or "np"``, ``trust_remote_code=False``.

    Returns
    -------
    Pipeline

    Raises
    ------
    ValueError
        If the task is unknown, the model is not there or lacks the head; a `SettingError`, if a setting is wrong.

    Examples
    --------
    >>> pipeline("text-clasification")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: pipeline: expected a task of feature-extraction, ..., got 'text-clasification'; the nearest is ...
    """
    from numtx.pipelines.opening import is_name, open_with_head

    with checking_settings():
        dtype = working(dtype, settings.pop("torch_dtype", None))
        settings = others("pipeline", settings)
    _check_config(config, model, tokenizer)
    hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    if task is None:
        task = _task_for(model, hub)
    kind = pipeline_class(task_name(task))
    with checking_settings():
        heads = kind.heads_for(settings)
    if model is None:
        chosen = default_model(task, heads)
        hub["revision"] = revision or chosen.revision
        model = name = chosen.model
        try:
            model = open_with_head(task, heads, name, dtype=dtype, config=config, **hub)
            tokenizer = name if tokenizer is None else tokenizer
            tokenizer = _tokenizer(tokenizer, hub) if is_name(tokenizer) else tokenizer
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"pipeline: the default model of {task}, {name}, does not open ({error}); pass model=FOLDER, a folder"
                " with config.json, weights and tokenizer"
            ) from None
    elif is_name(model):
        tokenizer = model if tokenizer is None else tokenizer
        model = open_with_head(task, heads, model, dtype=dtype, config=config, **hub)
    if tokenizer is None:
        raise ValueError(f"pipeline: expected a tokenizer with a model in memory ({type(model).__name__}), got none")
    if is_name(tokenizer):
        tokenizer = _tokenizer(tokenizer, hub)
    return kind(model, tokenizer, task=task, **settings)


def _check_config(config: Any, model: Any, tokenizer: Any) -> None:
    """Refuse a config where it cannot count, and a tokenizer at its place."""
    from numtx.pipelines.opening import is_name

    if tokenizer is None and hasattr(config, "get_vocab"):
        raise ValueError(
            f"pipeline: expected a config as third argument, as in Transformers, got {type(config).__name__}; pass"
            " tokenizer=..."
        )
    if config is None or model is None or is_name(model):
        return
    if config != getattr(model, "config", None):
        raise ValueError("pipeline: expected no config with a model in memory, which has its own, got another")


def _tokenizer(name: Any, hub: dict[str, Any]) -> Any:
    from numtx.text import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, **hub)


def _task_for(model: Any, hub: dict[str, Any]) -> str:
    """Return the task that a model was made for, by the name of its class."""
    from numtx.models.files import open_config
    from numtx.pipelines.opening import is_name

    if model is None:
        raise ValueError(f"pipeline: expected a task ({', '.join(sorted(TASKS))}) or a model, got neither")
    named = (open_config(model, **hub).get("architectures") or [None])[0] if is_name(model) else type(model).__name__
    task = task_of_class(named)
    if task is None:
        raise ValueError(f"pipeline: expected a task ({', '.join(sorted(TASKS))}), got none for a model {named}")
    return task


def __getattr__(name: str) -> Any:
    for task in TASKS.values():
        if task.pipeline == name:
            return getattr(importlib.import_module(f"numtx.pipelines.{task.module}"), name)
    raise AttributeError(f"module 'numtx.pipelines' has no attribute {name!r}")
