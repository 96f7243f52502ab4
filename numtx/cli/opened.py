"""A run, or any language model, as the commands that use one open it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numtx.text import Tokenizer
    from numtx.training import Run


def opened_run(folder: Path) -> tuple[Run, Tokenizer]:
    """Return a run and its tokenizer.

    Raises
    ------
    ValueError
        If the run is not whole, or has no tokenizer.
    """
    from numtx.cli.finetune_settings import FILE
    from numtx.training import load_run

    if (folder / FILE).exists():
        raise ValueError(
            f"run: expected a run of numtx train, got '{folder}' of numtx finetune; "
            "numtx evaluate perplexity --model measures it if it writes"
        )
    run = load_run(folder)
    if run.tokenizer is None:
        raise ValueError(f"run: expected a run with a tokenizer, got '{folder}' without tokenizer.json")
    return run, run.tokenizer


def refuse_adapter(command: str, name: str | os.PathLike[str], way: str) -> None:
    """Refuse the folder of an adapter where a whole model is needed, and say of which model it is and what to do.

    Raises
    ------
    ValueError
    """
    from numtx.checkpoints.adapter_folder import base_of, is_adapter

    if is_adapter(name):
        base = base_of(command, name)
        raise ValueError(f"{command}: expected a whole model, got the adapter '{name}' of '{base}'; {way}")


def opened_writer(name: str) -> tuple[Any, Any]:
    """Return what goes on after a prompt, with its tokenizer: a run, or a causal language model of any family.

    An adapter's folder is opened over its base.

    Raises
    ------
    ValueError
        If there is nothing of this name, it is not whole, or it does not write.
    """
    from numtx.checkpoints.adapter_folder import is_adapter
    from numtx.checkpoints.gguf_format import is_gguf
    from numtx.cli.finetune_settings import FILE
    from numtx.training.run_folder import LOG, SETTINGS

    path = Path(name)
    of_a_run = any((path / file).exists() for file in (SETTINGS, LOG)) and not (path / FILE).exists()
    no_model = (path.is_dir() and not (path / "config.json").exists()) or (path.is_file() and not is_gguf(path))
    if (of_a_run or no_model) and not is_adapter(path):
        run, tokenizer = opened_run(path)
        return run.model, tokenizer
    from numtx.models.auto import AutoModelForCausalLM
    from numtx.text import AutoTokenizer
    from numtx.text.fitting import require_fit

    try:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        require_fit("generate", tokenizer, model)
        return model, tokenizer
    except (ValueError, ImportError) as error:
        if path.exists():
            raise
        raise ValueError(f"generate: '{name}' does not exist here, and as a name on the hub: {error}") from None
