"""What a model asks of its batch at the door, in the model's own name, before anything is computed."""

import functools
import inspect

import numpy as np

from numtx import functional as F
from numtx.functional.door import integers
from numtx.models.loss import IGNORE_INDEX, shift_right

SHOWN = ("output_hidden_states", "output_attentions")  # what a call may ask for that bears on no number


def known_arguments(owner, forward, inputs, settings):
    """Return the arguments of a call by their names, if a model's `forward` takes them and they hold a source.

    Examples
    --------
    >>> known_arguments("Model", lambda self, input_ids, attention_mask=None: None, ([[1]],), {})
    {'input_ids': [[1]]}
    """
    positional, named, whatever = _parameters(forward)
    if len(inputs) > len(positional):
        got = f"{len(inputs)} without a name"
        raise ValueError(f"{owner}: expected arguments {', '.join(positional)}, got {got}")
    given = dict(zip(positional, inputs, strict=False))
    if twice := [name for name in settings if name in given]:
        raise ValueError(f"{owner}: expected each argument once, got {', '.join(twice)} by place and by name")
    if not whatever and (unknown := [name for name in settings if name not in named]):
        raise ValueError(f"{owner}: expected arguments among {', '.join(named)}, got {', '.join(unknown)}")
    given |= settings
    if given.get("input_ids") is None and given.get("encoder_outputs") is None:
        raise ValueError(f"{owner}: expected input_ids (B, T), got none")
    return given


@functools.lru_cache(maxsize=256)
def _parameters(forward):
    """Names of the arguments of a forward: by place, all but `keep` (which is not a call's), whether any will do."""
    found = list(inspect.signature(forward).parameters.values())[1:]
    by_place = tuple(one.name for one in found if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD))
    every = tuple(one.name for one in found if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD))
    named = tuple(name for name in every if name != "keep")
    return by_place, named, any(one.kind == one.VAR_KEYWORD for one in found)


def split_batch(owner, batch, arguments, label_names=("labels", "shift_labels")):
    """Split a batch into the arguments of `forward` and the labels; entries that are None are not there.

    What only shows (`SHOWN`) is left out: a loss does not return it.

    Returns
    -------
    inputs : dict
    labels : dict
        One entry or more; of `labels` and `shift_labels`, which say the same, one.

    Examples
    --------
    >>> split_batch("Model", {"input_ids": [[1]], "labels": [[2]], "attention_mask": None}, ("input_ids",))
    ({'input_ids': [[1]]}, {'labels': [[2]]})
    """
    expected = f"{owner}: expected a batch of {', '.join(arguments)} and {' or '.join(label_names)}"
    if not hasattr(batch, "items"):
        raise ValueError(f"{expected}, got {type(batch).__name__}")
    inputs = {name: value for name, value in batch.items() if value is not None and name not in SHOWN}
    labels = {name: inputs.pop(name) for name in label_names if name in inputs}
    both = {"labels", "shift_labels"} <= set(labels)
    if not labels or both or "input_ids" not in inputs or set(inputs) - set(arguments):
        raise ValueError(f"{expected}, got {', '.join(sorted(batch)) or 'nothing'}")
    return inputs, labels


def as_array(owner, name, given):
    """Return rows as an array; lists of unequal length are refused in one line.

    Examples
    --------
    >>> as_array("Model", "input_ids", [[1, 2], [3]])
    Traceback (most recent call last):
    ValueError: Model: expected input_ids in rows of one length (padding=True pads them), got rows of unequal length
    """
    try:
        return np.asarray(given)
    except ValueError:
        raise ValueError(
            f"{owner}: expected {name} in rows of one length (padding=True pads them), got rows of unequal length"
        ) from None


def known_ids(owner, name, ids, vocab_size, *, context=None, old=0):
    """Require ids (B, T), not empty, of the vocabulary, and no more than `context` = (name, number) with the old ones.

    A `context` of None has no limit.

    Examples
    --------
    >>> known_ids("Model", "input_ids", [[1, 2]], 3, context=("max_length", 8))
    array([[1, 2]])
    """
    ids = as_array(owner, name, ids)
    if ids.ndim != 2 or not ids.size:
        got = "None" if ids.dtype == object and ids.ndim == 0 and ids.item() is None else ids.shape
        one = ": one row is [[...]]" if ids.ndim == 1 and ids.size else ""
        raise ValueError(f"{owner}: expected {name} (B, T), not empty, got {got}{one}")
    if context is not None and old + ids.shape[1] > context[1]:
        raise too_long(owner, f"{name} of at most {context[0]} = {context[1]} tokens", old + ids.shape[1], context[1])
    try:
        return integers(owner, name, ids, vocab_size)
    except ValueError as error:
        if ids.dtype.kind not in "iu" or ids.max() < vocab_size or not name.endswith("input_ids"):
            raise
        raise ValueError(f"{error} (is this the model's tokenizer?)") from None


def too_long(owner, expected, got, most):
    """The error of a sequence that is too long, and what helps.

    Examples
    --------
    >>> too_long("Model", "input_ids of at most max_length = 8 tokens", 9, 8).args[0].partition(": cut it ")[2]
    'with the tokenizer (truncation=True, max_length=8)'
    """
    return ValueError(
        f"{owner}: expected {expected}, got {got}: cut it with the tokenizer (truncation=True, max_length={most})"
    )


def known_labels(owner, name, labels, shape, limit):
    """Require integer labels of a shape, each under `limit` or -100.

    Examples
    --------
    >>> known_labels("Model", "labels", [[1, -100]], (1, 2), 3)
    array([[   1, -100]])
    """
    labels = as_array(owner, name, labels)
    if labels.shape != shape:
        raise ValueError(f"{owner}: expected {name} {shape}, got {labels.shape}")
    integers(owner, name, labels[labels != IGNORE_INDEX], limit)
    return labels


def read_late(owner, config, ids):
    """Return what a decoder reads to be asked for ids (B, T): the start token, then each id but the last.

    A -100 is read as padding.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> read_late("Model", SimpleNamespace(decoder_start_token_id=2, pad_token_id=0), np.array([[5, -100, 6]]))
    array([[2, 5, 0]])
    """
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:
        raise ValueError(
            f"{owner}: expected decoder_input_ids, or a config with decoder_start_token_id and pad_token_id to make "
            f"them, got {start} and {pad}"
        )
    return shift_right(ids, start, pad)


def padding(owner, name, attention_mask, shape):
    """Turn an attention mask (B, T), 1 for a token and 0 for padding, into one of four axes; None stays None.

    Examples
    --------
    >>> padding("Model", "attention_mask", [[1, 1, 0]], (1, 3))
    array([[[[ True,  True, False]]]])
    """
    if attention_mask is None:
        return None
    attention_mask = as_array(owner, name, attention_mask)
    if attention_mask.shape != shape:
        raise ValueError(f"{owner}: expected {name} (B, T) = {shape}, got {attention_mask.shape}")
    return F.padding_mask(attention_mask)


def known_memory(owner, encoder_outputs, width=None, dtype=None, ids=None):
    """Return what an encoder gave before: memory (B, Ts, width), hidden states and attentions, the last two or None.

    Parameters
    ----------
    owner : str
    encoder_outputs : array, tuple or list that begins with it, or outputs with `last_hidden_state`
        Of the outputs of an encoder-decoder, `encoder_last_hidden_state` counts.
    width, dtype : int and dtype, or None
        What the memory must be.
    ids : (B, Ts) array or None
        The source, where it is given too.

    Examples
    --------
    >>> known_memory("Model", [np.ones((1, 2, 3))], 3, np.float64)[0].shape
    (1, 2, 3)
    """
    memory, states, attentions = encoder_outputs, None, None
    if isinstance(encoder_outputs, (tuple, list)):
        memory, states, attentions = [*encoder_outputs, None, None, None][:3]
    for prefix in ("encoder_", ""):
        if (last := getattr(encoder_outputs, f"{prefix}last_hidden_state", None)) is not None:
            memory = last
            states, attentions = (
                getattr(encoder_outputs, prefix + one, None) for one in ("hidden_states", "attentions")
            )
            break
    if not isinstance(memory, np.ndarray):
        got = type(encoder_outputs if memory is None else memory).__name__
        raise ValueError(
            f"{owner}: expected encoder_outputs as an array (B, Ts, C), a tuple that begins with it, or outputs "
            f"with last_hidden_state, got {got}"
        )
    shape = (*memory.shape[:2], memory.shape[-1] if width is None else width)
    if memory.ndim != 3 or memory.shape != shape or memory.dtype != (dtype or memory.dtype):
        expected = f"{dtype or 'floating'} (B, Ts, {width or 'C'})"
        raise ValueError(f"{owner}: expected encoder_outputs {expected}, got {memory.dtype} {memory.shape}")
    if ids is not None and ids.shape != memory.shape[:2]:
        raise ValueError(f"{owner}: expected encoder_outputs of input_ids {ids.shape}, got {memory.shape}")
    return memory, states, attentions


def incoming_fields(owner, doutputs, expected):
    """Return the gradients of a model's outputs out of what its backward was given; absent means zero.

    Parameters
    ----------
    owner : str
    doutputs : dict
    expected : dict
        {field: (shape, dtype)}.

    Examples
    --------
    >>> incoming_fields("Model", {}, {"logits": ((1, 2), np.float64)})
    {'logits': array([[0., 0.]])}
    """
    fields = ", ".join(expected)
    if not isinstance(doutputs, dict):
        raise ValueError(f"{owner}: expected a dict of gradients of {fields}, got {type(doutputs).__name__}")
    if unknown := sorted(set(doutputs) - set(expected)):
        raise ValueError(f"{owner}: expected gradients of {fields}, got {', '.join(map(str, unknown))}")
    gradients = {}
    for field, (shape, dtype) in expected.items():
        given = doutputs.get(field)
        gradients[field] = gradient = np.zeros(shape, dtype) if given is None else np.asarray(given)
        if (gradient.shape, gradient.dtype) != (shape, dtype):
            got = f"{gradient.dtype} {gradient.shape}"
            raise ValueError(f"{owner}: expected the gradient of {field}, {dtype} {shape}, got {got}")
    return gradients
