"""Classic mistakes of rotary positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numtx.functional.rotary import rotary, rotary_backward, rotary_frequencies
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case

LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
X = np.random.default_rng(0).standard_normal((2, 3, 3, 8))  # (B, H, T, D)


def _witness(**changed: Any) -> Case:
    positions = changed.pop("positions", np.array([4, 5, 6]))
    settings = {"layout": "half", "base": 100.0, "width": None, "scaling": None}
    return Case({"x": X, "positions": positions}, {**settings, **changed})


def _frequencies_witness(scaling: dict[str, Any] | None = None) -> Case:
    return Case({}, {"width": 8, "base": 100.0, "scaling": scaling, "dtype": np.float64})


def _with(**change: Callable[..., Any]) -> Callable[..., Any]:
    """The right forward with some arguments changed: each is a function of all of them."""

    def forward(x, positions=None, *, layout, base=10000.0, width=None, scaling=None):
        given = {"positions": positions, "layout": layout, "base": base, "width": width, "scaling": scaling}
        return rotary(x, **{**given, **{name: function(x=x, **given) for name, function in change.items()}})

    return forward


def _later(x, positions, **_):
    return np.arange(x.shape[2]) + 1 if positions is None else positions + 1


def _one_back_after_a_cache(positions, **_):
    return positions - 1 if positions is not None and positions.min() > 0 else positions


def _first_row(positions, **_):
    return positions[0] if positions is not None and positions.ndim == 2 else positions


def _over_the_head(x, base, width, **_):
    return base if width is None else base ** (width / x.shape[3])


def _inverse_factor(scaling, **_):
    return scaling if scaling is None else {**scaling, "factor": 1 / scaling["factor"]}


def _back(cache):
    """The cache of a turn by the same angles the other way."""
    turns, layout = cache
    return turns.conj(), layout


def _other_way(x, positions=None, **settings):
    cache = rotary(x, positions, **settings)[1]
    return rotary_backward(x, cache), _back(cache)


def _swapped(x, positions=None, **settings):
    turns, layout = rotary(x, positions, **settings)[1]
    swapped = 1j * turns.conj()  # sin + i cos
    return rotary_backward(x, (swapped.conj(), layout)), (swapped, layout)


def _mirror(x, cache):
    """x cos + |J| x sin, where J x sin, with its minus, is half of what the turns there and back differ by."""
    there, back = rotary_backward(x, _back(cache)), rotary_backward(x, cache)
    across = (there - back) / 2
    width, layout = 2 * cache[0].shape[-1], cache[1]
    if layout == "half":
        across[..., : width // 2] *= -1
    else:
        across[..., :width:2] *= -1
    return (there + back) / 2 + across


def _without_minus(x, positions=None, **settings):
    cache = rotary(x, positions, **settings)[1]
    return _mirror(x, cache), cache


def _by_head(x, positions=None, **settings):
    y, (turns, layout) = rotary(x.swapaxes(1, 2), None, **settings)
    return y.swapaxes(1, 2), (turns[:, None], layout)


def _by_head_backward(dy, cache):
    turns, layout = cache
    return rotary_backward(dy.swapaxes(1, 2), (turns[:, 0], layout)).swapaxes(1, 2)


def _last_numbers(x, positions=None, *, width=None, **settings):
    first = 0 if width is None else x.shape[3] - width
    y, cache = rotary(x[..., first:], positions, **settings)
    return np.concatenate([x[..., :first], y], axis=-1), (first, cache)


def _last_numbers_backward(dy, cache):
    first, cache = cache
    return np.concatenate([dy[..., :first], rotary_backward(dy[..., first:], cache)], axis=-1)


def _turned_part_only(dy, cache):
    dx = rotary_backward(dy, cache)
    dx[..., 2 * cache[0].shape[-1] :] = 0
    return dx


def _inverted(width, *, base=10000.0, scaling=None, dtype=np.float32):
    return rotary_frequencies(width, base=1 / base, scaling=scaling, dtype=dtype)


def _exponent(width, *, base=10000.0, scaling=None, dtype=np.float32):
    return rotary_frequencies(width, base=base**0.5, scaling=scaling, dtype=dtype)


def _stretched(width, *, base=10000.0, scaling=None, dtype=np.float32):
    return rotary_frequencies(width, base=base, scaling=_inverse_factor(scaling), dtype=dtype)


def _as_trained(width, *, base=10000.0, scaling=None, dtype=np.float32):
    return rotary_frequencies(width, base=base, dtype=dtype)


def _llama3(mix_of: Callable[..., Any]) -> Callable[..., Any]:
    """The frequencies with another share of the unscaled one, from turns in the old context."""

    def forward(width, *, base=10000.0, scaling=None, dtype=np.float32):
        if scaling is None or scaling.get("rope_type") != "llama3":
            return rotary_frequencies(width, base=base, scaling=scaling, dtype=dtype)
        frequency = rotary_frequencies(width, base=base, dtype=dtype)
        turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
        mix = mix_of(turns, scaling["low_freq_factor"], scaling["high_freq_factor"])
        return (1 - mix) * frequency / scaling["factor"] + mix * frequency

    return forward


def _reversed(turns, low, high):
    return 1 - np.clip((turns - low) / (high - low), 0, 1)


def _no_ramp(turns, low, high):
    return np.where(turns > low, 1.0, 0.0)


def _no_bands(turns, low, high):
    return (turns - low) / (high - low)


def _mistake(name: str, why: str, hint: str, witness: Callable[[], Case] = _witness, **functions: Any) -> Mistake:
    return Mistake(name=name, of="rotary", why=why, hint=hint, witness=witness, **functions)


def _of_frequencies(
    name: str, why: str, hint: str, scaling: dict[str, Any] | None, forward: Callable[..., Any]
) -> Mistake:
    return Mistake(
        name=name,
        of="rotary_frequencies",
        why=why,
        hint=hint,
        forward=forward,
        witness=lambda: _frequencies_witness(scaling),
    )


MISTAKES = [
    _of_frequencies(
        "rotary frequencies with exponent p for 2p",
        "The paper counts pairs from 1 to width / 2 and doubles; over half of the width, nothing is doubled.",
        "Which power of the base should the last pair have?",
        None,
        _exponent,
    ),
    _of_frequencies(
        "rotary frequencies turned upside down",
        "base^(2p / width) is what the position is divided by; it is easily multiplied.",
        "The first pair turns by one radian a position. Does the last one turn faster or slower?",
        None,
        _inverted,
    ),
    _of_frequencies(
        "rotary scaling multiplied by its factor",
        "Positions are divided by the factor, and wavelengths multiplied; frequencies go with the positions.",
        "In a context four times as long, how far should the last position turn, beside the old last one?",
        LINEAR,
        _stretched,
    ),
    _of_frequencies(
        "rotary scaling left out",
        "An entry of the config that older models do not have; short texts look right without it.",
        "Compare the frequencies with and without the scaling.",
        LLAMA3,
        _as_trained,
    ),
    _of_frequencies(
        "rotary llama3 bands exchanged",
        "High frequency factors bound short wavelengths; the two are easily taken for each other.",
        "Should the first pair, which turns fastest, be scaled?",
        LLAMA3,
        _llama3(_reversed),
    ),
    _of_frequencies(
        "rotary llama3 without the band between",
        "Two cases are written down, and the third, the ramp between them, is left out.",
        "Take a pair that turns twice in the old context.",
        LLAMA3,
        _llama3(_no_ramp),
    ),
    _of_frequencies(
        "rotary llama3 with the ramp outside its band",
        "The ramp is written down, and where it begins and ends is left out.",
        "What becomes of the first pair, which turns many times in the old context?",
        LLAMA3,
        _llama3(_no_bands),
    ),
    _mistake(
        "rotary in the other layout",
        "Meta's files and GPT-J pair neighbours, Transformers' Llama pairs halves; shapes and norms are the same.",
        "Turn a head that is 1 in its first number and 0 elsewhere: where does the sine go?",
        forward=_with(layout=lambda layout, **_: "half" if layout == "interleaved" else "interleaved"),
    ),
    _mistake(
        "rotary turned the other way",
        "With both queries and keys turned the wrong way, scores are off only where their weights were trained.",
        "Turn the pair (1, 0) by a small angle: should its second number be positive?",
        forward=_other_way,
    ),
    _mistake(
        "rotary with sin and cos swapped",
        "The two tables come in one tuple, and libraries differ in which is first.",
        "What should become of position 0?",
        forward=_swapped,
    ),
    _mistake(
        "rotary without the minus",
        "The halves are exchanged, and the sign of one of them is forgotten.",
        "A turn does not change the length of a head.",
        forward=_without_minus,
        backward=_mirror,
    ),
    _mistake(
        "rotary turned the wrong way in backward",
        "Backward repeats the forward; but the transpose of a turn is the turn back.",
        "Send the result itself back: a turn there and back gives the input.",
        backward=lambda dy, cache: rotary_backward(dy, _back(cache)),
    ),
    _mistake(
        "rotary left out in backward",
        "Nothing is learned there, so nothing seems to be due.",
        "Does the gradient at position 0 differ from those at others?",
        backward=lambda dy, cache: dy.copy(),
    ),
    _mistake(
        "rotary backward loses what was not turned",
        "The gradient is made for the turned part, and the rest of the head stays at zero.",
        "Turn two of the numbers of a head only, and look at the gradient of the others.",
        lambda: _witness(width=4),
        backward=_turned_part_only,
    ),
    _mistake(
        "rotary counted from one",
        "Scores depend on distances alone, so counting from one changes no score, as long as all do it.",
        "What should become of position 0?",
        forward=_with(positions=_later),
    ),
    _mistake(
        "rotary starting over after a cache",
        "In decoding one new token arrives at a time, and each is given position 0.",
        "Give positions that do not begin at 0.",
        forward=_with(positions=lambda **_: None),
    ),
    _mistake(
        "rotary position off by one after a cache",
        "The number of keys in the cache is the new token's position, not that of the last old one.",
        "Compare a sequence in one piece with the same in two.",
        forward=_with(positions=_one_back_after_a_cache),
    ),
    _mistake(
        "rotary with the first row's positions for all",
        "The table of angles is looked up once for the batch; padding on the left makes the rows differ.",
        "Give each row of the batch other positions.",
        lambda: _witness(positions=np.array([[0, 1, 2], [0, 0, 1]])),
        forward=_with(positions=_first_row),
    ),
    _mistake(
        "rotary by head instead of by token",
        "Some keep heads as (B, T, H, D): with as many heads as tokens the table fits either way.",
        "Give equal tokens: should two heads of one token differ?",
        lambda: _witness(positions=None),
        forward=_by_head,
        backward=_by_head_backward,
    ),
    _mistake(
        "rotary with the base fixed at 10000",
        "The constant stands in the paper, and the argument is not used; Llama 3 has 500000.",
        "Try another base.",
        forward=_with(base=lambda **_: 10000.0),
    ),
    _mistake(
        "rotary of a part with the whole head's exponents",
        "The exponent is over the width that is turned, which is the head's own in most models.",
        "Turn four numbers of a head of eight: which power of the base should the second pair have?",
        lambda: _witness(width=4),
        forward=_with(base=_over_the_head),
    ),
    _mistake(
        "rotary of the last numbers for the first",
        "Models that turn a part of the head differ in which part; NeoX turns the first.",
        "Which numbers of the head stay as they are?",
        lambda: _witness(width=4),
        forward=_last_numbers,
        backward=_last_numbers_backward,
    ),
    _mistake(
        "rotary of the whole head where a part is due",
        "The share of the head that is turned stands in the config, and is not handed on.",
        "Which numbers of the head should stay as they are?",
        lambda: _witness(width=4),
        forward=_with(width=lambda **_: None),
    ),
    _mistake(
        "rotary with its scaling forgotten",
        "The scaling stands in the config, and is not handed on; short texts look right without it.",
        "Compare the result with and without the scaling.",
        lambda: _witness(scaling=LINEAR),
        forward=_with(scaling=lambda **_: None),
    ),
]
