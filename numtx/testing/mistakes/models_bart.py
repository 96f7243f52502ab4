"""Classic mistakes in BART and Marian: positions, scales, norms, what a sequence is read from, shared gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from numtx import functional as F
from numtx.models import bart, bart_body, marian
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case
from numtx.testing.specs.models_bart import ARGUMENTS, END, START, build, build_inputs

INPUTS = "numtx.models.bart_body.BartInputs"
BODY = "numtx.models.bart_body.BartModel"
SINES = "numtx.models.marian.MarianPositions"
SEQUENCE = "numtx.models.bart.BartForSequenceClassification"

X = np.random.default_rng(4).standard_normal((2, 3, 4))
right_inputs, right_inputs_backward = bart_body.BartInputs.forward, bart_body.BartInputs.backward
right_forward, right_backward = bart_body.BartModel.forward, bart_body.BartModel.backward
right_sines = marian.MarianPositions.forward

OPTIONS = {
    "translates": False,
    "vocab_size": 5,
    "pad_token_id": 4,
    "decoder_start_token_id": START,
    "eos_token_id": END,
    "max_position_embeddings": 6,
    "d_model": 4,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 3,
    "decoder_ffn_dim": 3,
    "activation_function": "gelu",
    "scale_embedding": False,
    "tie_word_embeddings": True,
    "dropout": 0.0,
}
IDS = np.array([[2, 0, 3, 1], [3, 1, 2, 0]])


def inputs_case(**options: Any) -> Case:
    """Two rows of three tokens before a stack."""
    given = {"width": 4, "learned": True, "normed": True, "scale": 2.0, "dropout": 0.0, **options}
    return component_case(build_inputs, Draft(given, {"x": X}, {"positions": None, "rng": None}))


def sines_case() -> Case:
    """Positions alone."""
    return component_case(
        lambda dtype, **options: marian.MarianPositions(**options, dtype=dtype),
        Draft({"num_positions": 4, "width": 4}, {"x": X}, {"positions": None}),
    )


def model_case(kind: Any, target: Any = None, mask: Any = None) -> Case:
    """Two sources of four tokens."""
    given = {"input_ids": IDS, "attention_mask": mask, "decoder_input_ids": target, "decoder_attention_mask": None}
    return component_case(build(kind), Draft(OPTIONS, given, {"rng": None, "keep": "all"}))


# --- what a stack reads ----------------------------------------------------------------------------------------------


def scaled_twice(self: Any, x: Any, *, positions: Any = None, rng: Any = None) -> Any:
    return right_inputs(self, self.scale * x, positions=positions, rng=rng)


def scaled_twice_backward(self: Any, dy: Any, cache: Any) -> Any:
    dx, grads = right_inputs_backward(self, dy, cache)
    return self.scale * dx, grads


def position_scaled_too(self: Any, x: Any, *, positions: Any = None, rng: Any = None) -> Any:
    h, placed = self.positions.forward(x, positions=positions)
    h, norm = (self.scale * h, None) if self.norm is None else self.norm.forward(self.scale * h)
    y, drop = self.dropout.forward(h, rng=rng)
    return y, (placed, norm, drop)


def position_scaled_too_backward(self: Any, dy: Any, cache: Any) -> Any:
    placed, norm, drop = cache
    dh, _ = self.dropout.backward(dy, drop)
    dh, g_norm = (dh, {}) if self.norm is None else self.norm.backward(dh, norm)
    dx, g_positions = self.positions.backward(self.scale * dh, placed)
    grads = {"positions": g_positions, "norm": g_norm}
    return dx, {name: part for name, part in grads.items() if part}


def norm_before_the_position(self: Any, x: Any, *, positions: Any = None, rng: Any = None) -> Any:
    h, norm = (self.scale * x, None) if self.norm is None else self.norm.forward(self.scale * x)
    h, placed = self.positions.forward(h, positions=positions)
    y, drop = self.dropout.forward(h, rng=rng)
    return y, (placed, norm, drop)


def norm_before_the_position_backward(self: Any, dy: Any, cache: Any) -> Any:
    placed, norm, drop = cache
    dh, _ = self.dropout.backward(dy, drop)
    dh, g_positions = self.positions.backward(dh, placed)
    dh, g_norm = (dh, {}) if self.norm is None else self.norm.backward(dh, norm)
    grads = {"positions": g_positions, "norm": g_norm}
    return self.scale * dh, {name: part for name, part in grads.items() if part}


def scale_without_gradient(self: Any, dy: Any, cache: Any) -> Any:
    dx, grads = right_inputs_backward(self, dy, cache)
    return dx / self.scale, grads


def sine_beside_cosine(self: Any, x: Any, *, positions: Any = None) -> Any:
    rows = np.arange(x.shape[1]) if positions is None else positions
    table = F.sinusoidal_positions(*self.weight.shape, layout="interleaved").astype(x.dtype)
    return x + table[rows], ()


def sines_from_two(self: Any, x: Any, *, positions: Any = None) -> Any:
    rows = np.arange(x.shape[1]) if positions is None else positions
    table = F.sinusoidal_positions(*self.weight.shape, layout="half", offset=bart_body.POSITION_OFFSET)
    return x + table.astype(x.dtype)[rows], ()


# --- the body --------------------------------------------------------------------------------------------------------


@contextmanager
def from_row(self: Any, offset: int) -> Iterator[None]:
    """Positions that begin at another row of the table for a moment."""
    tables = [inputs.positions for inputs in (self.encoder_inputs, self.decoder_inputs)]
    before = [table.offset for table in tables]
    for table in tables:
        table.offset = offset
    try:
        yield
    finally:
        for table, old in zip(tables, before, strict=True):
            table.offset = old


def rows_from(offset: int) -> Callable[..., Any]:
    """A forward whose positions begin at that row."""

    def forward(self: Any, *inputs: Any, **settings: Any) -> Any:
        with from_row(self, offset):
            return right_forward(self, *inputs, **settings)

    return forward


def rows_from_backward(offset: int) -> Callable[..., Any]:
    def backward(self: Any, doutputs: Any, cache: Any) -> Any:
        with from_row(self, offset):
            return right_backward(self, doutputs, cache)

    return backward


def memory_not_masked(self: Any, ids: Any, mask: Any = None, target: Any = None, *others: Any, **settings: Any) -> Any:
    shown = {name: settings[name] for name in ("rng", "keep") if name in settings}
    if mask is None:
        return right_forward(self, ids, mask, target, *others, **settings)
    right_decode = self._decode
    self._decode = lambda *given, **kept: right_decode(*given, **{**kept, "memory_mask": None})
    try:
        return right_forward(self, ids, mask, target, *others, **shown)
    finally:
        del self._decode


def target_table_alone(self: Any, doutputs: Any, cache: Any) -> Any:
    _, grads = right_backward(self, doutputs, cache)
    if self.config.one_table:
        target, decoder_inputs, decoder = cache[1]
        (dx, *_), _ = self.decoder.backward(doutputs["last_hidden_state"], decoder)
        _, grads["embedding"] = self.embedding.backward(self.decoder_inputs.backward(dx, decoder_inputs)[0], target)
    return None, grads


def memory_without_gradient(self: Any, doutputs: Any, cache: Any) -> Any:
    right_stack = self.decoder.backward

    def backward(dy: Any, kept: Any) -> Any:
        (dx, dmemory, dbias), grads = right_stack(dy, kept)
        return (dx, np.zeros_like(dmemory), dbias), grads

    self.decoder.backward = backward
    try:
        return right_backward(self, doutputs, cache)
    finally:
        del self.decoder.backward


# --- heads -----------------------------------------------------------------------------------------------------------


def last_token(self: Any, inputs: Any, settings: Any) -> Any:
    return {}


def first_end(self: Any, inputs: Any, settings: Any) -> Any:
    ends = self._ends(inputs, settings)
    return {"mask": F.padding_mask(ends & (np.cumsum(ends, axis=1) == 1))}


def reads_by(masks: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The classifier's forward, reading another place."""
    right = getattr(bart.BartForSequenceClassification, name)

    def forward(self: Any, *inputs: Any, **settings: Any) -> Any:
        self._masks = lambda given, kept: masks(self, given, kept)
        try:
            return right(self, *inputs, **settings)
        finally:
            del self._masks

    return forward


MISTAKES = [
    Mistake(
        name="embeddings scaled twice",
        of="BartInputs",
        why="The table is multiplied when it is opened, and the product written in the forward stays.",
        hint="Take a table of ones: what stands in x before the position?",
        forward=scaled_twice,
        backward=scaled_twice_backward,
        witness=inputs_case,
        owner=INPUTS,
    ),
    Mistake(
        name="position scaled with the embedding",
        of="BartInputs",
        why="Both are rows of tables, and s (x + p) is one product like s x + p.",
        hint="Set x to zero: is what comes out the position?",
        forward=position_scaled_too,
        backward=position_scaled_too_backward,
        witness=inputs_case,
        owner=INPUTS,
    ),
    Mistake(
        name="embedding norm before the position",
        of="BartInputs",
        why="It is called the norm of the embedding, and the position is added to what the embedding gives.",
        hint="What is the mean of a row that goes into the first layer, at norm weights of one and biases of zero?",
        forward=norm_before_the_position,
        backward=norm_before_the_position_backward,
        witness=inputs_case,
        owner=INPUTS,
    ),
    Mistake(
        name="scale of the embeddings without its gradient",
        of="BartInputs",
        why="The scale is a constant; that it stands before x, which is not, is forgotten.",
        hint="Move x a little: by how much does the sum move?",
        backward=scale_without_gradient,
        witness=inputs_case,
        owner=INPUTS,
    ),
    Mistake(
        name="Marian's sines beside their cosines",
        of="MarianPositions",
        why="So the paper has it, and so do all others.",
        hint="Row 1 of width 8 begins with .8415 .0998 .01 .001.",
        forward=sine_beside_cosine,
        witness=sines_case,
        owner=SINES,
    ),
    Mistake(
        name="Marian's positions from two on",
        of="MarianPositions",
        why="The model is BART's, and BART's positions begin at row 2.",
        hint="What is added to the first token? Sines of 0 are 0.",
        forward=sines_from_two,
        witness=sines_case,
        owner=SINES,
    ),
    Mistake(
        name="BART's positions from row 0",
        of="BartModel",
        why="The table has two rows more than there are positions, and nothing complains if they are used.",
        hint="Which rows of the table of positions have a gradient?",
        forward=rows_from(0),
        backward=rows_from_backward(0),
        witness=lambda: model_case(bart.BartModel, IDS[:, :3]),
        owner=BODY,
    ),
    Mistake(
        name="BART's positions from the row behind padding",
        of="BartModel",
        why="RoBERTa's begin behind its padding id; BART's padding is 1 too, and the offset is taken for it.",
        hint="Which rows of the table of positions have a gradient?",
        forward=rows_from(1),
        backward=rows_from_backward(1),
        witness=lambda: model_case(bart.BartModel, IDS[:, :3]),
        owner=BODY,
    ),
    Mistake(
        name="padding of the source seen by the decoder",
        of="BartModel",
        why="The mask goes to the encoder, and the decoder has one of its own, of the target.",
        hint="Change a token of the source that is padding: which states move?",
        forward=memory_not_masked,
        witness=lambda: model_case(bart.BartModel, IDS[:, :3], np.array([[1, 1, 0, 0], [1, 1, 1, 1]])),
        owner=BODY,
    ),
    Mistake(
        name="shared table's gradient from the target alone",
        of="BartModel",
        why="The table is used on both sides; the gradient of one is written over that of the other.",
        hint="Take a token that only the source has. Does its row learn?",
        backward=target_table_alone,
        witness=lambda: model_case(bart.BartModel, IDS[:, :3]),
        owner=BODY,
    ),
    Mistake(
        name="no gradient through the memory",
        of="BartModel",
        why="The decoder's backward ends at what it read, and the encoder is trained by nobody.",
        hint="Does any weight of the encoder have a gradient?",
        backward=memory_without_gradient,
        witness=lambda: model_case(bart.BartModel, IDS[:, :3]),
        owner=BODY,
    ),
    Mistake(
        name="sequence read from its last token, not its last end",
        of="BartForSequenceClassification",
        why="Decoders are read at their last token; that padding follows the end token here is forgotten.",
        hint="Add padding on the right: the scores must not change.",
        forward=reads_by(last_token, "forward"),
        witness=lambda: model_case(bart.BartForSequenceClassification),
        owner=SEQUENCE,
    ),
    Mistake(
        name="sequence read from its first end",
        of="BartForSequenceClassification",
        why="Where is the end token? The first one found is taken; pairs of sentences have several.",
        hint="Give a pair: an end token stands between its two parts as well.",
        forward=reads_by(first_end, "forward"),
        witness=lambda: component_case(
            build(bart.BartForSequenceClassification),
            Draft(
                OPTIONS,
                {"input_ids": np.array([[2, 0, 3, 0], [0, 1, 0, 2]]), **dict.fromkeys(ARGUMENTS[1:])},
                {"rng": None, "keep": "all"},
            ),
        ),
        owner=SEQUENCE,
    ),
]
