"""Encoded texts one after another, cut into blocks of one length: rows of a language model, without padding."""

from collections.abc import Mapping
from typing import Any

from numtx.functional.door import count


def group_texts(columns: Mapping[str, Any], block_size: int) -> dict[str, list[list[int]]]:
    """Join rows and cut them into blocks of `block_size` tokens; the rest behind the last whole block is left out.

    For `Dataset.map`, with ``batched=True``: of each batch a rest is lost, so a large `batch_size` loses less.

    Parameters
    ----------
    columns : dict of lists of lists
        ``input_ids`` and what else the tokenizer returned, all of the same lengths.
    block_size : int

    Raises
    ------
    ValueError
        If a column differs from another in length. Where there are too few tokens for one block, none comes back.

    Examples
    --------
    >>> group_texts({"input_ids": [[1, 2, 3], [4, 5], [6, 7]]}, block_size=3)
    {'input_ids': [[1, 2, 3], [4, 5, 6]]}
    """
    count("group_texts", 1, block_size=block_size)
    joined = {}
    for name, rows in columns.items():
        if any(isinstance(row, str) or not hasattr(row, "__len__") for row in rows):
            raise ValueError(f"group_texts: expected lists of ids in {name} (remove_columns takes other columns out)")
        joined[name] = [token for row in rows for token in row]
    lengths = {name: len(tokens) for name, tokens in joined.items()}
    if len(set(lengths.values())) != 1:
        got = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "no columns"
        raise ValueError(f"group_texts: expected as many entries in every column, got {got}")
    whole = min(lengths.values()) // block_size * block_size
    return {
        name: [tokens[start : start + block_size] for start in range(0, whole, block_size)]
        for name, tokens in joined.items()
    }
