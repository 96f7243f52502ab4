"""Classic mistakes of the masks."""

from __future__ import annotations

import numpy as np

from numtx.functional.masks import causal_mask, padding_mask, sliding_window_mask
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


def _decoding() -> Case:
    return Case({}, {"tq": 2, "tk": 5})


def _window() -> Case:
    return Case({}, {"tq": 3, "tk": 6, "window": 2, "causal": True})


def _both_sides() -> Case:
    return Case({}, {"tq": 5, "tk": 5, "window": 2, "causal": False})


def _padded() -> Case:
    return Case({"attention_mask": np.array([[1, 1, 0, 0], [1, 0, 0, 0]])})


def _two_masks() -> Case:
    first, second = np.tri(3, dtype=bool)[None, None], np.array([True, True, False])[None, None, None]
    return Case({"first": first, "second": second, "third": None})


def _top_left(tq, tk=None):
    return np.tri(tq, tq if tk is None else tk, dtype=bool)[None, None]


def _strict(tq, tk=None):
    tk = tq if tk is None else tk
    return np.tri(tq, tk, tk - tq - 1, dtype=bool)[None, None]


def _inverted(tq, tk=None):
    return ~causal_mask(tq, tk)


def _into_the_future(tq, tk=None):
    tk = tq if tk is None else tk
    return ~np.tri(tq, tk, tk - tq - 1, dtype=bool)[None, None]


def _window_wide(tq, tk=None, *, window, causal=True):
    return sliding_window_mask(tq, tk, window=window + 1, causal=causal)


def _window_top_left(tq, tk=None, *, window, causal=True):
    size = max(tq, tq if tk is None else tk)
    return sliding_window_mask(size, window=window, causal=causal)[:, :, :tq, : tq if tk is None else tk]


def _window_both_sides(tq, tk=None, *, window, causal=True):
    return sliding_window_mask(tq, tk, window=window, causal=False)


def _window_causal(tq, tk=None, *, window, causal=True):
    return sliding_window_mask(tq, tk, window=window, causal=True)


def _padding_inverted(attention_mask):
    return ~padding_mask(attention_mask)


def _any_of(*masks):
    given = [mask for mask in masks if mask is not None]
    joined = given[0] if given else None
    for mask in given[1:]:
        joined = joined | mask
    return joined


def _last_of(*masks):
    given = [mask for mask in masks if mask is not None]
    return np.broadcast_to(given[-1], np.broadcast_shapes(*(mask.shape for mask in given))).copy() if given else None


MISTAKES = [
    Mistake(
        name="causal mask aligned top-left",
        of="causal_mask",
        why="np.tri(Tq, Tk) is right for Tq = Tk; with a cache the queries are the last ones, not the first.",
        hint="What may the last query see when there are more keys than queries?",
        forward=_top_left,
        witness=_decoding,
    ),
    Mistake(
        name="causal mask hiding the query's own key",
        of="causal_mask",
        why="`<` for `<=`: the first query then sees nothing.",
        hint="What may the first of three queries see among three keys?",
        forward=_strict,
        witness=_decoding,
    ),
    Mistake(
        name="causal mask with True where hidden",
        of="causal_mask",
        why="nn.Transformer's masks say where one may NOT attend.",
        hint="What does True mean here?",
        forward=_inverted,
        witness=_decoding,
    ),
    Mistake(
        name="causal mask looking into the future",
        of="causal_mask",
        why="Upper and lower triangle are exchanged.",
        hint="Are rows queries or keys?",
        forward=_into_the_future,
        witness=_decoding,
    ),
    Mistake(
        name="sliding window one key too wide",
        of="sliding_window_mask",
        why="`<=` for `<`: the query's own key is one of the window.",
        hint="How many keys does a query see with a window of 1?",
        forward=_window_wide,
        witness=_window,
    ),
    Mistake(
        name="sliding window aligned top-left",
        of="sliding_window_mask",
        why="Distances are taken between row and column numbers, as if the first query were the first key.",
        hint="What may the last query see when there are more keys than queries?",
        forward=_window_top_left,
        witness=_window,
    ),
    Mistake(
        name="sliding window that sees the future",
        of="sliding_window_mask",
        why="|i - j| < w is the encoder's window; a decoder must not look ahead.",
        hint="Is any key after the query's own allowed?",
        forward=_window_both_sides,
        witness=_window,
    ),
    Mistake(
        name="sliding window always causal",
        of="sliding_window_mask",
        why="The setting is not looked at.",
        hint="What does an encoder see to the right?",
        forward=_window_causal,
        witness=_both_sides,
    ),
    Mistake(
        name="padding mask with True at the padding",
        of="padding_mask",
        why="PyTorch's `key_padding_mask` says where the padding is.",
        hint="What does True mean here?",
        forward=_padding_inverted,
        witness=_padded,
    ),
    Mistake(
        name="masks joined with or",
        of="combine_masks",
        why="Where True means hidden, or is right; here True means visible.",
        hint="May a key be seen that one of the masks hides?",
        forward=_any_of,
        witness=_two_masks,
    ),
    Mistake(
        name="only the last mask counts",
        of="combine_masks",
        why="A loop assigns where it should combine.",
        hint="May a key be seen that one of the masks hides?",
        forward=_last_of,
        witness=_two_masks,
    ),
]
