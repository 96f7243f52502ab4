"""Classic mistakes between ids and the first layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.models.token_embedding import TokenEmbedding
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case
from numtx.testing.specs.models_embedding import build

OWNER = "numtx.models.token_embedding.TokenEmbedding"
right_forward, right_backward = TokenEmbedding.forward, TokenEmbedding.backward


def embedding_case(rng: int | None = None, **changed: Any) -> Case:
    """Two sequences of three tokens, one of which comes twice."""
    options = {"vocab_size": 4, "width": 4, "max_length": 5, "positions": "sinusoidal", "scale": True, "dropout": 0.0}
    ids = np.array([[1, 3, 2], [2, 2, 1]])
    return component_case(build, Draft({**options, **changed}, {"ids": ids}, {"positions": None, "rng": rng}))


def scaled_positions(self: Any, ids: Any, *, positions: Any = None, rng: Any = None) -> Any:
    x, embedded = self.embedding.forward(ids)
    x, placed = self.positions.forward(x, positions=positions)
    y, drop = self.dropout.forward(self.scale * x, rng=rng)
    return y, (embedded, placed, drop)


def scaled_positions_backward(self: Any, dy: Any, cache: Any) -> Any:
    embedded, placed, drop = cache
    dx, g_positions = self.positions.backward(self.scale * self.dropout.backward(dy, drop)[0], placed)
    _, g_embedding = self.embedding.backward(dx, embedded)
    return None, {"embedding": g_embedding} | ({"positions": g_positions} if g_positions else {})


def scale_forgotten(self: Any, dy: Any, cache: Any) -> Any:
    _, grads = right_backward(self, dy, cache)
    return None, {**grads, "embedding": {"weight": grads["embedding"]["weight"] / self.scale}}


def dropped_before_positions(self: Any, ids: Any, *, positions: Any = None, rng: Any = None) -> Any:
    x, embedded = self.embedding.forward(ids)
    x, drop = self.dropout.forward(self.scale * x, rng=rng)
    y, placed = self.positions.forward(x, positions=positions)
    return y, (embedded, placed, drop)


def dropped_before_positions_backward(self: Any, dy: Any, cache: Any) -> Any:
    embedded, placed, drop = cache
    dx, g_positions = self.positions.backward(dy, placed)
    dx, _ = self.dropout.backward(dx, drop)
    _, g_embedding = self.embedding.backward(self.scale * dx, embedded)
    return None, {"embedding": g_embedding} | ({"positions": g_positions} if g_positions else {})


def never_dropped(self: Any, ids: Any, *, positions: Any = None, rng: Any = None) -> Any:
    return right_forward(self, ids, positions=positions)


MISTAKES = [
    Mistake(
        name="positions scaled along with the embedding",
        of="TokenEmbedding",
        why="The factor √C of section 3.4 belongs to the embedding, before the positions of section 3.5 are added.",
        hint="Look at the input of the first layer with a table of zeros.",
        forward=scaled_positions,
        backward=scaled_positions_backward,
        witness=embedding_case,
        owner=OWNER,
    ),
    Mistake(
        name="embedding's scale forgotten in backward",
        of="TokenEmbedding",
        why="A constant factor has no parameter and no module, and so no line in backward.",
        hint="Compare the table's gradient with a difference quotient.",
        backward=scale_forgotten,
        witness=embedding_case,
        owner=OWNER,
    ),
    Mistake(
        name="embedding dropped out before the positions are added",
        of="TokenEmbedding",
        why="Dropout stands in the embedding's line; in section 5.4 it is on the sum of embedding and position.",
        hint="With a rate near one, what is left of the positions?",
        forward=dropped_before_positions,
        backward=dropped_before_positions_backward,
        witness=lambda: embedding_case(rng=1, dropout=0.5),
        owner=OWNER,
    ),
    Mistake(
        name="generator not handed on to the embedding's dropout",
        of="TokenEmbedding",
        why="Every layer is given the generator; the embedding, which has no layer, is forgotten.",
        hint="Is the first layer's input the same in training as it is afterwards?",
        forward=never_dropped,
        witness=lambda: embedding_case(rng=1, dropout=0.5),
        owner=OWNER,
    ),
]
