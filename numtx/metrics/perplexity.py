"""How surprised a language model is by text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from numtx.metrics.metric import Measured, Metric

FEATURES = {"predictions": "string"}
IGNORED = -100


class Window(NamedTuple):
    """What a model reads at once: tokens [begin, end), of which those from `first` on are to be predicted."""

    begin: int
    first: int
    end: int


def strided_windows(tokens: int, length: int, stride: int) -> Iterator[Window]:
    """Yield windows of `length` tokens, `stride` apart, that predict every token but the first of a text once.

    Parameters
    ----------
    tokens : int, N
    length : int
        Of a window.
    stride : int
        New tokens in a window; the others are read as what came before. As long as the window: then nothing came
        before the first new token in it.

    Examples
    --------
    >>> list(strided_windows(7, length=4, stride=2))
    [Window(begin=0, first=0, end=4), Window(begin=2, first=4, end=6), Window(begin=4, first=6, end=7)]
    """
    done = 0
    for begin in range(0, tokens, stride):
        end = min(begin + length, tokens)
        yield Window(begin, done, end)
        done = end
        if end == tokens:
            return


class Perplexity(Metric):
    """exp of the mean negative log-likelihood of a token, of a model on texts.

    Each text is cut into windows that overlap, so that a token is predicted from at least length - stride others.

    Notes
    -----
    ``weighting="hf"`` is what the loop in Transformers' documentation computes: it weights the mean of a window by one
    token fewer than it has new ones, which is right for the first window alone, where nothing predicts the first token.
    With a stride as long as the window it leaves out the first token of every window; ``"exact"`` lets the window
    reach back one token there. Windows that the loop gives no weight are left out.
    """

    name = "perplexity"
    description = (
        "exp of the mean negative log-likelihood of a token: of all texts (perplexity), of each (perplexities), and the"
        " mean of these (mean_perplexity). Texts longer than the model's context are read in strided windows, every"
        " token but the first predicted once (weighting='exact'), or weighted as the loop in Transformers'"
        " documentation does ('hf')."
    )
    features = FEATURES

    def measure(
        self,
        predictions,
        references,
        model: Any = None,
        tokenizer: Any = None,
        stride: int | None = None,
        max_length: int | None = None,
        weighting: str = "exact",
        add_start_token: bool = False,
        batch_size: int = 8,
    ):
        """Go through texts.

        Parameters
        ----------
        predictions : list of str, or of (T,) integer arrays
            Texts, or their tokens.
        model : a causal language model, its folder, or its name on the hub
        tokenizer : tokenizer, its folder or name, optional
            Default: the model's, where that is a folder or a name. Special tokens are those it adds itself.
        stride : int, optional
            New tokens in a window. Default: half of it.
        max_length : int, optional
            Tokens in a window. Default: the context of the model.
        weighting : "exact" or "hf"
        add_start_token : bool
            Put the tokenizer's bos token in front, so that the first token of a text is predicted too.
        batch_size : int
            Windows of a text that are computed at once; it changes the result by rounding only.
        """
        model, tokenizer = _opened(self.name, model, tokenizer)
        texts = [_ids(self.name, k, one, tokenizer, add_start_token) for k, one in enumerate(predictions)]
        length, stride = _lengths(self.name, model, max_length, stride, max(map(len, texts)))
        if weighting not in ("exact", "hf"):
            raise ValueError(f"{self.name}: expected weighting exact or hf, got {weighting!r}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"{self.name}: expected batch_size of at least 1, got {batch_size!r}")
        sums = np.zeros((2, len(texts)))  # weighted nats, and their weight
        for k, ids in enumerate(texts):
            for windows, weight in _groups(len(ids), length, stride, weighting == "exact", batch_size):
                nats, predicted = _nats(model, ids, windows)
                sums[:, k] += nats / predicted * weight, weight
            if not sums[1, k]:
                raise ValueError(
                    f"{self.name}: expected a text with a token to predict, at least 2 tokens, got {len(ids)} in text"
                    f" {k}: add_start_token=True makes one more"
                )
        each = _exp(sums[0] / sums[1])

        def score(times):
            loss = float(times @ sums[0] / (times @ sums[1]))
            return {
                "perplexity": float(_exp(loss)),
                "mean_perplexity": float(times @ each / times.sum()),
                "loss": loss,
            }

        facts = {"perplexities": each.tolist(), "tokens": round(float(sums[1].sum()))}
        return Measured(len(texts), score, facts)


def _exp(nats):
    with np.errstate(over="ignore"):
        return np.exp(nats)


def _groups(tokens: int, length: int, stride: int, exact: bool, batch: int) -> Iterator[tuple[list[Window], float]]:
    """Yield windows of one length and one kind, at most `batch`, and what their losses together weigh."""
    group: list[Window] = []
    kind: tuple[int, int, int] | None = None
    weight = 0
    for begin, first, end in strided_windows(tokens, length, stride):
        if exact and begin == first > 0:
            begin -= 1  # the first new token is predicted too; the last is not read, so this is no longer
        new = end - first
        predicted = end - max(first, begin + 1)
        counted = predicted if exact else new - 1
        if not predicted or not counted:
            continue
        window = (end - begin, predicted, counted)
        if group and (window != kind or len(group) == batch):
            yield group, weight
            group, weight = [], 0
        kind = window
        group.append(Window(begin, end - predicted, end))
        weight += counted
    if group:
        yield group, weight


def _nats(model: Any, ids: np.ndarray, windows: list[Window]) -> tuple[float, int]:
    """Return the summed negative log-likelihood of the new tokens of windows of one length, and their number."""
    read = np.stack([ids[begin : end - 1] for begin, _, end in windows])  # (B, T)
    labels = np.stack([ids[begin + 1 : end] for begin, _, end in windows])
    for row, (begin, first, _) in zip(labels, windows, strict=True):
        row[: first - begin - 1] = IGNORED
    predicted = int(np.count_nonzero(labels != IGNORED))
    loss = model.loss({"input_ids": read, "shift_labels": labels}, num_items=predicted)
    return float(loss) * predicted, predicted


def _opened(name: str, model: Any, tokenizer: Any) -> tuple[Any, Any]:
    if model is None:
        raise ValueError(f"{name}: expected a model, got none: pass model=, a causal language model or its folder")
    where = model
    if isinstance(model, (str, os.PathLike)):
        from numtx.models.auto import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(where)
        tokenizer = where if tokenizer is None else tokenizer
    if not hasattr(model, "stream") or not hasattr(getattr(model, "config", None), "context"):
        raise ValueError(f"{name}: expected a causal language model, got {type(model).__name__}")
    if isinstance(tokenizer, (str, os.PathLike)):
        from numtx.text import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    return model, tokenizer


def _ids(name: str, k: int, text: Any, tokenizer: Any, start: bool) -> np.ndarray:
    """Return the tokens of a text, (T,)."""
    if isinstance(text, str):
        if tokenizer is None:
            raise ValueError(f"{name}: expected a tokenizer for texts, got none: pass tokenizer=, or token ids")
        # Longer than the model takes is no mistake here: windows are what for.
        quiet = {"verbose": False} if hasattr(tokenizer, "model_max_length") else {}
        ids = np.asarray(tokenizer.encode(text, **quiet), np.int64).reshape(-1)
    else:
        ids = np.asarray(text)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ValueError(
                f"{name}: expected a text or integer ids (T,) as prediction {k}, got {ids.dtype} {ids.shape}"
            )
        ids = ids.astype(np.int64)
    if start:
        bos = getattr(tokenizer, "bos_token_id", None)
        if bos is None:
            raise ValueError(f"{name}: expected a tokenizer with a bos token for add_start_token, got none")
        if not len(ids) or ids[0] != bos:
            ids = np.concatenate([[bos], ids])
    return ids


def _lengths(name: str, model: Any, length: Any, stride: Any, longest: int) -> tuple[int, int]:
    """Return the length of a window and the stride."""
    context = model.config.context
    if length is None:
        length = max(2, longest) if context is None else context
    for what, value, least in (("max_length", length, 2), ("stride", 1 if stride is None else stride, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name}: expected {what} of at least {least}, got {value!r}")
    if context is not None and length > context:
        raise ValueError(f"{name}: expected max_length up to the context of the model, {context}, got {length}")
    stride = max(1, length // 2) if stride is None else stride
    if stride > length:
        raise ValueError(f"{name}: expected stride up to the length of a window, {length}, got {stride}")
    return int(length), int(stride)
